"""Helpers for tests of functions of a seed."""

import numpy as np
import tensorflow as tf


def seeds(count, first=21):
    """Returns `count` seeds (first, 0), (first, 1), ..., int64 (count, 2)."""
    return np.stack([np.full(count, first), np.arange(count)], -1)


def over_seeds(function, count, signature=tf.float32):
    """Returns the stacked results of `function` for `count` seeds."""
    mapped = tf.function(lambda x: tf.map_fn(function, x, fn_output_signature=signature))
    return tf.nest.map_structure(lambda t: t.numpy(), mapped(tf.constant(seeds(count))))


def assert_same_in_pipeline(function, *inputs):
    """Asserts that `function` of inputs and a seed is the same eagerly, again, and in tf.data."""
    dataset = tf.data.Dataset.from_tensor_slices(seeds(10)).map(lambda s: function(*inputs, s))
    for seed, got in zip(seeds(10), dataset, strict=True):
        want = function(*inputs, seed)
        tf.nest.map_structure(np.testing.assert_array_equal, got, want)
        again = function(*inputs, seed)
        tf.nest.map_structure(np.testing.assert_array_equal, again, want)


def batch(size=6, side=16):
    """Returns images of noise and one-hot targets."""
    images = np.random.default_rng(0).normal(size=(size, side, side + 4, 3)).astype(np.float32)
    return images, np.eye(size, dtype=np.float32)
