import re

import numpy as np
import pytest
import tensorflow as tf
from hostile_images import exif
from photos import encoded, smooth

from noah_tf.images.ops import orient
from noah_tf.images.preprocessing import Preprocessing, decode
from noah_tf.images.random_crop import RandomCrop, crop_draws, decode_random_window, random_window

pytestmark = pytest.mark.one_stack


def crop_boxes(height, width, count=400, **options):
    """Returns (top, left, bottom, right) of random crops, read from an image of coordinates."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    data = encoded(np.stack([rows, columns, 0 * rows], -1), "PNG")
    preprocessing = Preprocessing(64)
    crop = RandomCrop(flip=False, **options)

    def box(seed):
        view = preprocessing.random_crop(data, [5, seed], crop)
        view = tf.cast(view, tf.float32)
        low, high = tf.reduce_min(view, (0, 1)), tf.reduce_max(view, (0, 1))
        return tf.stack([low[0], low[1], high[0] + 1, high[1] + 1])

    seeds = tf.data.Dataset.range(count)
    return np.stack(list(seeds.map(box, num_parallel_calls=2).as_numpy_iterator()))


@pytest.mark.slow
def test_crop_distribution():
    boxes = crop_boxes(200, 240, crop_scale=(0.1, 0.6), crop_ratio=(0.5, 2.0))
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share, ratio = height * width / (200 * 240), width / height
    assert share.min() > 0.09 and share.max() < 0.61
    assert share.mean() == pytest.approx(0.35, abs=0.03)
    assert ratio.min() > 0.48 and ratio.max() < 2.1
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.08), "log-uniform"
    center = ((boxes[:, 0] + boxes[:, 2]) / 400).mean(), ((boxes[:, 1] + boxes[:, 3]) / 480).mean()
    assert center == (pytest.approx(0.5, abs=0.03), pytest.approx(0.5, abs=0.03))
    assert boxes.min() >= 0 and boxes[:, 2].max() > 190 and boxes[:, 3].max() > 230


def test_full_crop_of_a_square_is_the_photo():
    boxes = crop_boxes(100, 100, count=5, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    np.testing.assert_allclose(boxes, [[0, 0, 100, 100]] * 5, atol=1.0)


def test_crop_that_never_fits_is_centered():
    # No square has the area of a 20 x 200 strip.
    boxes = crop_boxes(20, 200, count=5, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    np.testing.assert_allclose(boxes, [[0, 90, 20, 110]] * 5, atol=1.0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_window_of_the_upright_photo(orientation):
    jpeg = encoded(smooth(90, 130), "JPEG", quality=95, subsampling=0)
    data = jpeg[:2] + exif(orientation) + jpeg[2:]
    upright = orient(decode(jpeg), orientation).numpy()
    for seed in range(6):
        draws, crop = crop_draws((7, seed)), RandomCrop()
        top, left, height, width = random_window(upright.shape[:2], draws, crop).numpy()
        want = upright[top : top + height, left : left + width]
        got = decode_random_window(data, draws, crop, exif_rotation=True)
        np.testing.assert_array_equal(got, want)
        stored = decode_random_window(data, draws, crop).numpy()
        np.testing.assert_array_equal(stored, decode_random_window(jpeg, draws, crop))
        if orientation > 1:
            assert stored.shape != want.shape or (stored != want).any()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_shrunk_window_of_the_upright_photo(orientation):
    jpeg = encoded(smooth(160, 240), "JPEG", quality=95, subsampling=0)
    data = jpeg[:2] + exif(orientation) + jpeg[2:]
    upright = encoded(orient(decode(jpeg), orientation).numpy(), "PNG")
    # The image size refers to the upright photo.
    preprocessing = Preprocessing((30, 20), exif_rotation=True)
    for seed in range(4):
        views = [
            preprocessing.random_crop(
                x, (3, seed), RandomCrop((0.5, 1.0), crop_antialias=False)
            ).numpy()
            for x in (data, upright)
        ]
        # The window of a shrunk photo starts at one of its pixels, which are up to 4 x 4 larger.
        assert np.abs(views[0].astype(int) - views[1]).mean() < 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_scale": (0.5, 0.2)}, "crop_scale must be two numbers"),
        ({"crop_scale": (0.0, 1.0)}, "got (0.0, 1.0)"),
        ({"crop_scale": (0.5, 1.5)}, "got (0.5, 1.5)"),
        ({"crop_scale": 0.5}, "got 0.5"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio must be two numbers"),
        ({"pad": -1}, "pad must be an integer of at least 0, got -1"),
        ({"pad": 1.5}, "got 1.5"),
        ({"crop_antialias": 1}, "crop_antialias must be True or False, got 1"),
        ({"crop_interpolation": "area"}, "one of same, random, got 'area'"),
    ],
)
def test_bad_options_raise(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        RandomCrop(**options)
