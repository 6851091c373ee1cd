import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from seeded import batch, over_seeds, seeds

from noah_tf.images import mixing
from noah_tf.images.mixing import mix_batch

pytestmark = pytest.mark.one_stack


def shares(count=4000, **options):
    """Returns lambda of many batches, read from the targets."""
    images, targets = tf.zeros([2, 30, 30, 1]), tf.eye(2)
    return over_seeds(lambda s: mix_batch(images, targets, s, **options)[1][0, 0], count)


def test_mixup_of_images_and_targets():
    images, targets = batch()
    for seed in seeds(5):
        got, mixed = (x.numpy() for x in mix_batch(images, targets, seed, mixup=0.8))
        share = mixed[0, 0]
        np.testing.assert_allclose(mixed, share * targets + (1 - share) * targets[::-1], atol=1e-6)
        np.testing.assert_allclose(got, share * images + (1 - share) * images[::-1], atol=1e-5)


def test_cutmix_of_images_and_targets():
    images, targets = batch()
    for seed in seeds(12):
        got, mixed = (x.numpy() for x in mix_batch(images, targets, seed, cutmix=1.0))
        replaced = np.any(got != images, -1)
        np.testing.assert_array_equal(got[replaced], images[::-1][replaced])
        # One rectangle, the same in all images.
        assert np.all(replaced == replaced[0])
        rows, columns = replaced[0].any(1), replaced[0].any(0)
        np.testing.assert_array_equal(replaced[0], rows[:, None] & columns)
        assert np.all(np.abs(np.diff(rows.astype(int))).sum() <= 2)
        share = 1 - replaced[0].mean()
        np.testing.assert_allclose(mixed, share * targets + (1 - share) * targets[::-1], atol=1e-6)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.8, 1.0, 3.0])
def test_mixup_draws_from_the_beta_distribution(alpha):
    got, beta = shares(mixup=alpha), stats.beta(alpha, alpha)
    assert np.all(np.isfinite(got)) and got.min() >= 0 and got.max() <= 1
    # float32 rounds numbers near 0 and 1 to them.
    inner = np.linspace(1e-3, 1 - 1e-3, 400)
    distance = np.abs(np.searchsorted(np.sort(got), inner) / len(got) - beta.cdf(inner)).max()
    assert distance < stats.kstwobign.isf(1e-3) / math.sqrt(len(got))
    assert got.mean() == pytest.approx(0.5, abs=4 * beta.std() / math.sqrt(len(got)))
    assert got.var() == pytest.approx(beta.var(), rel=0.08)


def test_beta_is_finite_for_extreme_draws():
    draws = itertools.product((0.0, 2.0**-32, 0.5, 1 - 2.0**-32), (0.0, 0.25, 0.5, 1 - 2.0**-32))
    for alpha in (0.01, 0.1, 1.0, 50.0):
        for pair in draws:
            value = float(mixing._symmetric_beta(alpha, tf.constant(pair, tf.float64)))
            assert 0 <= value <= 1


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    share=st.floats(0, 1),
    center=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
)
def test_cutmix_replaces_a_box_clipped_at_the_borders(height, width, share, center):
    images = tf.stack([tf.zeros([height, width, 1]), tf.ones([height, width, 1])])
    got, corrected = mixing._replace_box(
        images, tf.constant(share, tf.float64), tf.constant(center, tf.float64)
    )
    want = np.zeros((height, width))
    sides = [int(side * math.sqrt(1 - share)) for side in (height, width)]
    y, x = int(center[0] * height), int(center[1] * width)
    half_y, half_x = (side // 2 for side in sides)
    want[max(y - half_y, 0) : y + half_y, max(x - half_x, 0) : x + half_x] = 1
    np.testing.assert_array_equal(got[0, ..., 0], want)
    np.testing.assert_array_equal(got[1, ..., 0], 1 - want)
    assert float(corrected) == pytest.approx(1 - want.mean())


def test_distribution_of_cutmix_areas():
    rng = np.random.default_rng(0)
    want = []
    for _ in range(20000):
        half = int(30 * math.sqrt(1 - rng.beta(1, 1))) // 2
        spans = [
            np.clip(c + half, 0, 30) - np.clip(c - half, 0, 30) for c in rng.integers(0, 30, 2)
        ]
        want.append(1 - np.prod(spans) / 900)
    got = shares(cutmix=1.0).astype(float)
    assert stats.ks_2samp(np.round(got, 4), np.round(want, 4)).pvalue > 1e-3


def test_frequencies_of_mixup_and_cutmix():
    images, targets = tf.reshape(tf.constant([0.0, 1.0]), [2, 1, 1, 1]), tf.eye(2)
    images = tf.tile(images, [1, 16, 16, 1])

    def measure(seed, **options):
        got, mixed = mix_batch(images, targets, seed, **options)
        is_mixup = tf.reduce_any((got > 0) & (got < 1))
        return tf.stack([tf.cast(is_mixup, tf.float32), tf.cast(mixed[0, 0] < 1, tf.float32)])

    def frequencies(**options):
        return over_seeds(lambda s: measure(s, **options), 1500).mean(0)

    mixup_share, mixed_share = frequencies(mixup=1.0, cutmix=1.0, probability=0.6)
    assert mixup_share == pytest.approx(0.3, abs=0.04)
    # CutMix with a box of less than two pixels changes nothing: up to 1/64 of the boxes.
    assert mixed_share == pytest.approx(0.6, abs=0.045)
    mixup_share, mixed_share = frequencies(mixup=1.0, cutmix=1.0, switch_probability=0.2)
    assert mixup_share == pytest.approx(0.8, abs=0.04)
    assert frequencies(mixup=1.0, probability=0.3)[1] == pytest.approx(0.3, abs=0.04)
    assert frequencies(cutmix=1.0)[0] == 0
    np.testing.assert_array_equal(frequencies(mixup=1.0, cutmix=1.0, probability=0), [0, 0])


def test_mixing_is_the_same_eagerly_and_in_graphs():
    images, targets = batch()
    options = {"mixup": 0.8, "cutmix": 1.0, "probability": 0.9}
    function = tf.function(
        lambda x, y, s: mix_batch(x, y, s, **options),
        input_signature=[
            tf.TensorSpec([None, None, None, 3]),
            tf.TensorSpec([None, 6]),
            tf.TensorSpec([2], tf.int64),
        ],
    )
    dataset = tf.data.Dataset.from_tensor_slices(seeds(10))
    dataset = dataset.map(lambda s: mix_batch(images, targets, s, **options))
    assert [spec.shape for spec in dataset.element_spec] == [images.shape, targets.shape]
    results = []
    for seed, got in zip(seeds(10), dataset, strict=True):
        for want in (mix_batch(images, targets, seed, **options), function(images, targets, seed)):
            np.testing.assert_allclose(got[0], want[0], atol=1e-6)
            np.testing.assert_allclose(got[1], want[1], atol=1e-6)
        results.append(got[0].numpy())
    distinct = {result.tobytes() for result in results}
    assert len(distinct) >= 8  # one batch in ten is not mixed


def test_half_precision_and_odd_batches():
    images, targets = batch(5)
    for dtype in (tf.bfloat16, tf.float16):
        got = mix_batch(tf.cast(images, dtype), targets, (21, 1), mixup=0.8)
        want = mix_batch(images, targets, (21, 1), mixup=0.8)
        assert got[0].dtype == dtype and got[1].dtype == tf.float32
        np.testing.assert_allclose(tf.cast(got[0], tf.float32), want[0], atol=0.05)
        np.testing.assert_array_equal(got[1], want[1])
    np.testing.assert_allclose(
        want[0][2], images[2], atol=1e-6
    )  # the middle image is its own partner


def test_bad_arguments_raise():
    images, targets = batch()
    for name in ("mixup", "cutmix"):
        with pytest.raises(ValueError, match=f"^{name} must be a number, 0 or more, got -1"):
            mix_batch(images, targets, (0, 0), **{name: -1})
    for name in ("probability", "switch_probability"):
        with pytest.raises(ValueError, match=f"^{name} must be .* from 0 to 1, got 2"):
            mix_batch(images, targets, (0, 0), **{name: 2})
    with pytest.raises(TypeError, match="targets must be of a floating type, got int32"):
        mix_batch(images, tf.range(6), (0, 0), mixup=1.0)
    with pytest.raises(TypeError, match="images must be of a floating type, got uint8"):
        mix_batch(tf.zeros([6, 2, 2, 3], tf.uint8), targets, (0, 0), mixup=1.0)
