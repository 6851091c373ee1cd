"""Averages of features instead of values: the same numbers as from the values."""

import numpy as np
import pytest
import tensorflow as tf

from noah_tf.head import feature_averages, poca

BATCH, POSITIONS, CHANNELS, OUTPUTS = 2, 7, 3, 5


def tensors(*shapes):
    rng = np.random.default_rng(0)
    return [tf.constant(rng.normal(size=shape)) for shape in shapes]


def averages(keys, flat, kernel):
    """Returns the weights, the features with ones, their sums, and what `attend` returns."""
    weights = tf.exp(keys)
    features = feature_averages.append_ones(flat, (BATCH, POSITIONS))
    sums = feature_averages.feature_sums(weights, features)
    return weights, features, sums, *feature_averages.attend(sums, kernel)


def test_sums_averages_and_gradients_equal_those_of_the_values():
    keys, flat, kernel, upstream = sources = tensors(
        (BATCH, POSITIONS, OUTPUTS),
        (BATCH * POSITIONS, CHANNELS),
        (CHANNELS, OUTPUTS),
        (BATCH, 1, OUTPUTS),
    )
    with tf.GradientTape() as tape:
        tape.watch(sources)
        values = poca.project(flat, kernel, BATCH, POSITIONS)
        expected = poca.attend(tf.exp(keys), values)
        loss = tf.reduce_sum(upstream * expected[1])
    weights, features, sums, *actual = averages(keys, flat, kernel)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    gradients = feature_averages.gradients(upstream, features, kernel, weights, sums, *actual)
    for a, b in zip(gradients, tape.gradient(loss, [keys, flat, kernel]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(
    ("positions", "dropout", "dtype", "faster"),
    [
        (2 * CHANNELS, 0.0, tf.float32, True),
        (2 * CHANNELS - 1, 0.0, tf.float32, False),
        (2 * CHANNELS, 0.1, tf.float32, False),
        (2 * CHANNELS, 0.0, tf.float64, False),
    ],
)
def test_few_channels_without_dropout_in_one_precision_are_averaged(
    positions, dropout, dtype, faster
):
    features, kernel = tf.zeros((1, positions, 2 * CHANNELS)), tf.zeros((1, CHANNELS, 2))
    assert feature_averages.is_faster(features, kernel, dropout, dtype) == faster


def test_unknown_positions_are_not_averaged():
    choices = []

    @tf.function(input_signature=[tf.TensorSpec((None, None, 2 * CHANNELS))])
    def trace(features):
        kernel = tf.zeros((1, CHANNELS, 2))
        choices.append(feature_averages.is_faster(features, kernel, 0.0, tf.float32))

    trace.get_concrete_function()
    assert choices == [False]
