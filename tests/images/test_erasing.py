import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from seeded import seeds

from noah_tf.images.erasing import random_erasing

pytestmark = pytest.mark.one_stack


def rectangles(height, width, count, **options):
    """Returns (top, left, height, width) of the erased rectangle of each image; zeros if none."""
    images = tf.ones([count, height, width, 3])
    erased = random_erasing(images, seeds(count), mode="const", **options).numpy()[..., 0] == 0
    rows, columns = erased.any(2), erased.any(1)
    sides = rows.sum(1), columns.sum(1)
    np.testing.assert_array_equal(erased.sum((1, 2)), sides[0] * sides[1])
    return np.stack([rows.argmax(1), columns.argmax(1), *sides], 1)


def rectangles_with_numpy(height, width, count, area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3)):
    """Draws rectangles one after the other, following the paper's description."""
    rng, results = np.random.default_rng(0), []
    for _ in range(count):
        for _ in range(10):
            share = rng.uniform(*area) * height * width
            shape = np.exp(rng.uniform(*np.log(ratio)))
            h, w = round(math.sqrt(share * shape)), round(math.sqrt(share / shape))
            if h < height and w < width:
                top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
                results.append((top, left, h, w))
                break
    return np.array(results)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (30, 100)])
def test_distribution_of_rectangles(height, width):
    got = rectangles(height, width, 2500, probability=1)
    want = rectangles_with_numpy(height, width, 20000)
    for measure in (
        *(lambda r, i=i: r[:, i] for i in range(4)),
        lambda r: r[:, 2] * r[:, 3],
        lambda r: r[:, 2] / r[:, 3],
        lambda r: r[:, 0] + r[:, 2],
    ):
        assert stats.ks_2samp(measure(got), measure(want)).pvalue > 1e-3
    share = got[:, 2] * got[:, 3] / (height * width)
    assert 0.015 < share.min() < 0.04 and 0.3 < share.max() < 0.35


def test_erasing_options():
    got = rectangles(50, 50, 1500, probability=0.25)
    assert np.mean(got[:, 2] > 0) == pytest.approx(0.25, abs=0.035)
    assert not rectangles(20, 20, 20, probability=0).any()
    squares = rectangles(100, 100, 50, probability=1, area=(0.25, 0.25), ratio=(1, 1))
    np.testing.assert_array_equal(squares[:, 2:], np.full((50, 2), 50))
    tall = rectangles(100, 100, 50, probability=1, area=(0.04, 0.04), ratio=(4, 4))
    np.testing.assert_array_equal(tall[:, 2:], np.broadcast_to([40, 10], (50, 2)))
    # No rectangle of this area is smaller than the image in both directions.
    assert not rectangles(20, 20, 20, probability=1, area=(1, 1)).any()


def test_erased_pixels():
    images = np.full((8, 100, 100, 3), 7, np.float32)
    results = random_erasing(images, seeds(8), 1.0).numpy()
    black = random_erasing(images, seeds(8), 1.0, "const").numpy()
    patches = []
    for result, blackened in zip(results, black, strict=True):
        inside = np.any(result != 7, -1)
        assert np.all(result[~inside] == 7)
        patches.append(result[inside])
        np.testing.assert_array_equal(np.all(blackened == 0, -1), inside)  # the same rectangle
    values = np.concatenate(patches)
    assert stats.kstest(values.ravel(), stats.norm.cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() < 0.05
    assert not np.array_equal(patches[0][:50], patches[1][:50])


@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.bfloat16])
def test_an_image_is_a_function_of_its_seed(dtype):
    images = tf.cast(np.random.default_rng(0).normal(size=(12, 40, 50, 3)), dtype)
    whole = random_erasing(images, seeds(12), 0.8)
    assert whole.dtype == dtype
    whole = tf.cast(whole, tf.float32).numpy()
    function = tf.function(lambda x, s: random_erasing(x, s, 0.8))
    for start, stop in ((0, 12), (3, 4), (5, 12)):
        got = function(images[start:stop], tf.constant(seeds(12)[start:stop]))
        np.testing.assert_array_equal(
            tf.cast(got, tf.float32), tf.cast(whole, tf.float32)[start:stop]
        )
    assert len({tf.cast(x, tf.float32).numpy().tobytes() for x in whole}) == 12


def test_an_unknown_batch_size():
    images = np.zeros((3, 8, 8, 1), np.float32)
    function = tf.function(
        lambda x, s: random_erasing(x, s, 1.0),
        input_signature=[tf.TensorSpec([None, 8, 8, 1]), tf.TensorSpec([None, 2], tf.int64)],
    )
    got = function(images, seeds(3))
    assert got.shape == (3, 8, 8, 1) and np.any(got)
    assert function(images[:0], seeds(0)).shape == (0, 8, 8, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probability": 1.5}, "probability must be a number, from 0 to 1, got 1.5"),
        ({"mode": "rand"}, "mode must be one of pixel, const, got 'rand'"),
        ({"area": (0.5, 0.1)}, "area must be two numbers, 0 < smallest <= largest <= 1"),
        ({"area": (0.5, 1.1)}, "area must be two numbers"),
        ({"ratio": (0, 1)}, "ratio must be two numbers"),
        ({"ratio": 0.3}, "ratio must be two numbers"),
    ],
)
def test_bad_erasing_raises(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_erasing(tf.zeros([1, 8, 8, 3]), seeds(1), **{"probability": 0.5, **arguments})
