"""Corruptions: their severity, and that every model sees the same corrupted images."""

import numpy as np
import pytest
import tensorflow as tf
from photos import noise, smooth
from scipy import ndimage

from noah_tf.datasets.batch_options import BatchOptions
from noah_tf.datasets.pipeline import eval_batches
from noah_tf.datasets.registry import open_source
from noah_tf.evaluation.corruptions import KINDS, SEVERITIES, Corruption, named_corruptions
from noah_tf.images.preprocessing import Preprocessing

IMAGE = (smooth(48, 40) // 2 + noise(48, 40) // 4 + 40).astype(np.uint8)


def corrupted(kind, severity, image=IMAGE, index=0, seed=0):
    return Corruption(kind, severity, seed)(tf.constant(image), index).numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [32, 64, 224])
def test_error_grows_with_severity(kind, side):
    image = np.array(tf.image.resize(IMAGE, (side, side))).astype(np.uint8)
    errors = []
    for severity in SEVERITIES:
        result = corrupted(kind, severity, image)
        assert result.shape == image.shape and result.dtype == np.uint8
        errors.append(np.mean((result.astype(float) - image) ** 2))
    assert errors[0] > 0 and (np.diff(errors) > 0).all()


def test_severitys_are_those_of_the_two_benchmarks():
    assert [Corruption("blur", s).value(32) for s in SEVERITIES] == [0.4, 0.6, 0.7, 0.8, 1.0]
    assert [Corruption("jpeg", s).value(224) for s in SEVERITIES] == [25, 18, 15, 10, 7]
    assert Corruption("contrast", 1).value(128) == pytest.approx((0.75 + 0.4) / 2)
    assert Corruption("noise", 5).value(600) == 0.38 and Corruption("noise", 5).value(8) == 0.1


def test_noise_has_the_standard_deviation_and_depends_on_seed_and_index():
    gray = np.full((64, 64, 3), 128, np.uint8)
    corruption = Corruption("noise", 2)
    added = corruption(tf.constant(gray), 5).numpy().astype(float) - 128
    assert added.std() == pytest.approx(255 * corruption.value(64), rel=0.03)
    assert abs(added.mean()) < 0.5
    np.testing.assert_array_equal(corrupted("noise", 2, gray, 5), added + 128)
    assert (corrupted("noise", 2, gray, 6) != added + 128).mean() > 0.9
    assert (corrupted("noise", 2, gray, 5, seed=1) != added + 128).mean() > 0.9


@pytest.mark.parametrize("image", [IMAGE, noise(7, 5), noise(100, 100)])
def test_blur_is_the_gaussian_of_scipy(image):
    for severity in (1, 5):
        sigma = Corruption("blur", severity).value(min(image.shape[:2]))
        expected = ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="reflect")
        assert np.abs(corrupted("blur", severity, image) - expected).max() < 0.51


def test_contrast_shrinks_differences_from_the_mean_color():
    result = corrupted("contrast", 3).astype(float)
    mean = IMAGE.mean(axis=(0, 1))
    value = Corruption("contrast", 3).value(40)
    assert np.abs(result - (mean + value * (IMAGE - mean))).max() < 0.51


def test_all_stands_for_every_kind_at_every_severity():
    every = named_corruptions(["all"], seed=3)
    assert [(c.kind, c.severity) for c in every] == [(k, s) for k in KINDS for s in SEVERITIES]
    assert {c.seed for c in every} == {3}
    assert [c.kind for c in named_corruptions(["jpeg", "blur", "jpeg"])] == ["jpeg"] * 5 + [
        "blur"
    ] * 5
    assert named_corruptions([]) == []
    with pytest.raises(ValueError, match="corruptions must be among noise, .* and all, got 'fog'"):
        named_corruptions(["noise", "fog"])
    with pytest.raises(ValueError, match="severity must be an integer from 1 to 5, got 6"):
        Corruption("blur", 6)
    with pytest.raises(ValueError, match="kind must be one of noise, .*, got 'fog'"):
        Corruption("fog", 1)


def test_corruption_does_not_depend_on_the_batch_size(shapes):
    source = open_source("folder", "test", data_dir=shapes)
    preprocessing = Preprocessing(32)
    corruption = Corruption("noise", 3, seed=1)
    images_by_batch_size = {}
    for size, on_corrupt in ((4, "error"), (10, "skip")):
        batches = eval_batches(
            source,
            preprocessing,
            BatchOptions(size, on_corrupt=on_corrupt),
            pixel_transform=corruption,
        )
        images, masks = zip(*((images, mask) for images, _, mask in batches), strict=True)
        images_by_batch_size[size] = np.concatenate(images)[np.concatenate(masks) > 0]
    np.testing.assert_array_equal(images_by_batch_size[4], images_by_batch_size[10])
    for index, example in enumerate(source.examples()):
        image = tf.cast(preprocessing.center_crop(preprocessing.decode(example["image"])), tf.uint8)
        expected = preprocessing.normalize(corruption(image, index))
        np.testing.assert_allclose(images_by_batch_size[4][index], expected, atol=1e-5)
