"""The `optimizer` section of a recipe."""

import numpy as np
import pytest
import tensorflow as tf
from optimizer_steps import assert_same, values

import noah_tf
from noah_tf.training.optimizer import Optimizer
from noah_tf.training.optimizer_settings import OptimizerSettings, make_optimizer
from noah_tf.training.param_groups import layer_starts
from noah_tf.training.update_rules import LAMB, SGD, AdamW


def make_by_settings(model, frozen_steps=0, **options):
    settings = OptimizerSettings(**{"name": "adamw", "weight_decay": 0.05, **options})
    starts = layer_starts(model, frozen_steps)
    return make_optimizer(settings, lambda step: tf.constant(0.4), model, starts)


@pytest.fixture(scope="module")
def small_model():
    inputs = tf.keras.Input((6, 6, 3))
    features = tf.keras.layers.Conv2D(8, 3, name="features")(inputs)
    return noah_tf.attach_noah(tf.keras.Model(inputs, features), num_classes=3)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"name": "sgd", "nesterov": True}, SGD(0.9, True)),
        ({"name": "adamw", "beta_1": 0.8}, AdamW(0.8, 0.999, 1e-8)),
        ({"name": "lamb", "epsilon": 1e-6}, LAMB(0.9, 0.999, 1e-6)),
    ],
)
def test_make_optimizer_uses_the_settings(small_model, options, rule):
    optimizer = make_by_settings(small_model, 14, **options, clip_norm=1.0, layer_decay=0.5)
    before = values(small_model.trainable_variables)
    assert float(optimizer.learning_rate) == pytest.approx(0.4)
    assert optimizer.start_steps == [14, 14, 0, 0, 0, 0]
    # An optimizer with explicit arguments makes the same step.
    twins = [tf.Variable(value) for value in before]
    mask = [True, False, True, False, True, False]
    twin = Optimizer(
        twins,
        rule,
        lambda step: tf.constant(0.4),
        0.05,
        mask,
        lr_factors=[0.5, 0.5, 1, 1, 1, 1],
        clip_norm=1.0,
    )
    rng = np.random.default_rng(0)
    gradients = [tf.constant(rng.normal(size=value.shape), tf.float32) for value in before]
    optimizer.iterations.assign(14)
    optimizer.apply(gradients)
    twin.apply(gradients)
    assert_same([values(small_model.trainable_variables)], [values(twins)], rtol=1e-7)
    for variable, value in zip(small_model.trainable_variables, before, strict=True):
        variable.assign(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "adam"}, "must be one of sgd, adamw, lamb, or one of Keras .*, got 'adam'"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay must be at least 0, got -1.0"),
        ({"name": "sgd", "momentum": 1.0}, r"optimizer.momentum must be in \[0, 1\), got 1.0"),
        ({"name": "sgd", "momentum": 0.0, "nesterov": True}, "nesterov needs optimizer.momentum"),
        ({"beta_2": 1.0}, r"optimizer.beta_2 must be in \[0, 1\), got 1.0"),
        ({"epsilon": 0.0}, "optimizer.epsilon must be above 0, got 0.0"),
        ({"clip_norm": 0.0}, "optimizer.clip_norm must be None or above 0, got 0.0"),
        ({"layer_decay": 1.5}, r"optimizer.layer_decay must be None or in \(0, 1\], got 1.5"),
        ({"layer_decay": 0.5, "layer_decay_groups": 0}, "optimizer.layer_decay_groups must be a"),
        ({"exempt": ("pos_embed/*",)}, "matches no weight"),
    ],
)
def test_invalid_values_raise(small_model, options, message):
    with pytest.raises(ValueError, match=message):
        make_by_settings(small_model, **options)
