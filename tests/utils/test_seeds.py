import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from noah_tf.utils.seeds import derived_seed, normal_per_example, uniform_per_example

pytestmark = pytest.mark.one_stack


def neighbors(count, epoch=3):
    """Returns the seeds of examples that follow each other in an epoch."""
    return np.stack([np.full(count, derived_seed(0, epoch, 1)), np.arange(count)], -1)


def splitmix64(state, count):
    """The generator as its authors write it, on Python's integers."""
    results = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        results.append(z ^ (z >> 31))
    return results


def test_numbers_are_those_of_splitmix64(monkeypatch):
    # Seed 0 of the published test vectors.
    assert splitmix64(0, 2) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    # The state is a mixed sum of both halves of the seed, and 0 of both is mixed to 0.
    got = uniform_per_example(tf.constant([[0, 5]], tf.int64), 0, 4)
    mixed = splitmix64((5 - 0x9E3779B97F4A7C15) % 2**64, 1)[0]
    want = [(bits >> 11) * 2.0**-53 for bits in splitmix64(mixed, 4)]
    np.testing.assert_array_equal(got[0], want)


def test_distributions():
    uniforms = uniform_per_example(neighbors(400), 7, 250).numpy()
    normals = normal_per_example(neighbors(400), 7, 251).numpy()
    assert uniforms.min() >= 0 and uniforms.max() < 1 and normals.dtype == np.float32
    for numbers, cdf in ((uniforms, stats.uniform.cdf), (normals, stats.norm.cdf)):
        assert stats.kstest(numbers.ravel(), cdf).pvalue > 1e-3
        for axis in (0, 1):  # over the examples, and over the positions
            means = cdf(numbers).mean(axis)
            deviation = math.sqrt(1 / 12 / numbers.shape[axis])
            assert stats.kstest((means - 0.5) / deviation, stats.norm.cdf).pvalue > 1e-3


@pytest.mark.parametrize("draw", [uniform_per_example, normal_per_example])
def test_seeds_positions_and_purposes_are_uncorrelated(draw):
    rows = draw(neighbors(2000), 1, 8).numpy()
    others = [draw(neighbors(2000, epoch=4), 1, 4), draw(neighbors(2000), 2, 4)]
    columns = [*rows.T, *(column for other in others for column in other.numpy().T)]
    columns.append(np.roll(rows[:, 0], 1))  # the neighbors of the first column
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 4.5 / math.sqrt(2000)


@pytest.mark.parametrize("draw", [uniform_per_example, normal_per_example])
def test_numbers_do_not_depend_on_the_batch(draw):
    whole = draw(neighbors(10), 1, 6)
    traced = tf.function(lambda seeds: draw(seeds, 1, 6))
    # Kernels compute the last elements of a tensor one by one, and round them differently.
    got = traced(tf.constant(neighbors(10)[4:6]))
    np.testing.assert_allclose(got, whole[4:6], rtol=1e-6)


def test_bits_are_the_same_under_xla():
    function = tf.function(lambda seeds: uniform_per_example(seeds, 1, 6), jit_compile=True)
    np.testing.assert_array_equal(
        function(tf.constant(neighbors(4))), uniform_per_example(neighbors(4), 1, 6)
    )
