"""Weights, gradients and learning rates of some steps of an optimizer."""

import numpy as np
import tensorflow as tf

SHAPES = ((3, 2), (2,), (2, 2, 4))
NAMES = ("kernel", "bias", "table")
DECAYED = (True, False, True)
DECAY = 0.1
STEPS = 20


def rate_of(step):
    """Returns a learning rate that changes with every step."""
    return 0.05 * (1 + step % 5)


def schedule(step):
    return rate_of(tf.cast(step, tf.float32))


def start_values():
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]


def gradient_values(step):
    rng = np.random.default_rng(100 + step)
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]


def variables():
    """Returns weights that a Keras layer made."""
    layer = tf.keras.layers.Layer(name="layer")
    weights = [
        layer.add_weight(name=name, shape=shape) for name, shape in zip(NAMES, SHAPES, strict=True)
    ]
    for weight, value in zip(weights, start_values(), strict=True):
        weight.assign(value)
    return weights


def values(weights):
    return [tf.convert_to_tensor(weight).numpy() for weight in weights]


def assert_same(results, references, rtol=2e-5):
    for step, (ours, theirs) in enumerate(zip(results, references, strict=True)):
        for our, their in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(our, their, rtol=rtol, atol=rtol, err_msg=f"step {step}")
