"""The state that training changes."""

import tensorflow as tf

import noah_tf
from noah_tf.training.optimizer_settings import OptimizerSettings, make_optimizer
from noah_tf.training.param_groups import layer_starts
from noah_tf.training.state import TrainState


def optimizer_of(model, starts=()):
    return make_optimizer(OptimizerSettings(), lambda step: 0.1, model, starts)


def test_backbone_is_frozen_until_the_optimizer_starts_its_weights():
    inputs = tf.keras.Input((6, 6, 3))
    x = tf.keras.layers.Conv2D(8, 3, use_bias=False)(inputs)
    norm = tf.keras.layers.BatchNormalization(center=False, scale=False)
    model = noah_tf.attach_noah(tf.keras.Model(inputs, norm(x)), num_classes=3)
    starts = layer_starts(model, frozen_steps=4)
    state = TrainState(model, optimizer_of(model, starts), layer_starts=starts)
    head = tuple(range(1, 5))
    for step, indices in ((0, head), (3, head), (4, (0, *head)), (9, (0, *head))):
        assert state.freeze_until_start(step) == indices
        # A layer without trainable weights is frozen, too, for the statistics of BatchNorm.
        assert all(layer.trainable == (step >= 4) for layer, _ in starts)
        assert len(state.variables) == 5 and len(state.statistics) == 2


def test_state_without_frozen_steps_trains_all_weights():
    inputs = tf.keras.Input((6, 6, 3))
    backbone = tf.keras.Model(inputs, tf.keras.layers.Conv2D(8, 3)(inputs))
    model = noah_tf.attach_noah(backbone, num_classes=3)
    state = TrainState(model, optimizer_of(model))
    assert state.freeze_until_start(0) == tuple(range(6))
    assert all(layer.trainable for layer in model.layers)


def test_frozen_layers_are_never_trained():
    inputs = tf.keras.Input((6, 6, 3))
    x = tf.keras.layers.Conv2D(4, 3, name="stem")(inputs)
    x = tf.keras.layers.Conv2D(8, 3, name="last")(x)
    model = noah_tf.attach_noah(tf.keras.Model(inputs, x), num_classes=3)
    starts = layer_starts(model, frozen_steps=4, frozen_layers=("st*",))
    state = TrainState(model, optimizer_of(model, starts), layer_starts=starts)
    assert state.freeze_until_start(0) == (4, 5, 6, 7)
    assert state.freeze_until_start(4) == state.freeze_until_start(10**12) == (2, 3, 4, 5, 6, 7)
    assert not model.get_layer("stem").trainable and model.get_layer("last").trainable
