"""Schedules, weight decay and loss scaling."""

import numpy as np
import pytest
import tensorflow as tf
from recipes import quickstart

from noah_tf import optim
from noah_tf.distribute import precision


def optimizer_config(**values):
    config = quickstart().optimizer
    config.update(values)
    return config


def variables():
    """Weights as layers make them, of either Keras: a kernel and a scale."""
    layer = tf.keras.layers.Layer()
    shapes = {"kernel": (3, 2), "gamma": (2,)}
    return [
        layer.add_weight(name=name, shape=shape, initializer="ones")
        for name, shape in shapes.items()
    ]


def test_schedule_warms_up_and_ends_at_zero():
    schedule = optim.warmup_cosine(0.4, total_steps=110, warmup_steps=10)
    rates = np.array([float(schedule(step)) for step in range(111)])
    assert 0 < rates[0] < 0.05
    assert rates[10] == pytest.approx(0.4)
    assert rates[60] == pytest.approx(0.2)
    assert rates[110] == pytest.approx(0, abs=1e-7)
    assert (np.diff(rates[:11]) > 0).all() and (np.diff(rates[10:]) < 0).all()


def test_schedule_without_warm_up_starts_at_its_peak():
    schedule = optim.warmup_cosine(0.4, total_steps=100)
    assert float(schedule(0)) == pytest.approx(0.4)
    assert float(schedule(50)) == pytest.approx(0.2)


def test_adamw_decays_kernels_alone():
    kernel, gamma = variables()
    config = optimizer_config(name="adamw", learning_rate=0.1, weight_decay=0.5, warmup_epochs=0)
    optimizer = optim.make_optimizer(config, [kernel, gamma], 100, 10)
    optimizer.apply_gradients([(tf.zeros((3, 2)), kernel), (tf.zeros(2), gamma)])
    np.testing.assert_allclose(tf.convert_to_tensor(kernel), np.full((3, 2), 1 - 0.1 * 0.5))
    np.testing.assert_array_equal(tf.convert_to_tensor(gamma), np.ones(2))


def test_sgd_puts_its_decay_into_the_gradient():
    kernel, gamma = variables()
    config = optimizer_config(name="sgd", weight_decay=0.5)
    assert float(optim.l2_loss(config, [kernel, gamma])) == pytest.approx(0.5 * 6 / 2)
    kernel.assign(3 * np.ones((3, 2)))  # its gradient is 0.5 * 3: a half of the squares' growth
    assert float(optim.l2_loss(config, [kernel, gamma])) == pytest.approx(0.5 * 6 * 9 / 2)
    assert optim.l2_loss(optimizer_config(name="adamw"), [kernel]) == 0


def test_biases_of_any_rank_are_not_decayed():
    head_bias = tf.Variable(np.ones((4, 10), np.float32), name="value_bias")
    assert not optim.is_decayed(head_bias)


def test_a_layer_with_bias_in_its_name_is_decayed():
    layer = tf.keras.layers.Dense(3, name="debias")
    layer.build((None, 4))
    assert [optim.is_decayed(weight) for weight in layer.weights] == [True, False]


def test_nothing_to_decay_is_no_loss():
    config = optimizer_config(name="sgd", weight_decay=0.5)
    assert optim.l2_loss(config, [variables()[1]]) == 0


def test_float16_scales_losses_and_unscales_gradients():
    kernel, gamma = variables()
    config = optimizer_config(name="sgd", learning_rate=1.0, momentum=0.0, warmup_epochs=0)
    with precision("mixed_float16"):
        optimizer = optim.make_optimizer(config, [kernel, gamma], 100, 10)
    scale = float(optim.scale_loss(optimizer, tf.constant(1.0)))
    assert scale > 1
    gradients = optim.unscale_gradients(
        optimizer, [tf.fill((3, 2), 0.25 * scale), tf.fill((2,), 0.5 * scale)]
    )
    optimizer.apply_gradients(zip(gradients, [kernel, gamma], strict=True))
    np.testing.assert_allclose(tf.convert_to_tensor(kernel), np.full((3, 2), 0.75))
    np.testing.assert_allclose(tf.convert_to_tensor(gamma), np.full(2, 0.5))


def test_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="'lamb'"):
        optim.make_optimizer(optimizer_config(name="lamb"), variables(), 100, 10)
