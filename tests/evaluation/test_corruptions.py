"""Damaged pictures: as strong as they should be, and the same for every model."""

import numpy as np
import pytest
import tensorflow as tf
from photos import noise, smooth
from scipy import ndimage

from noah_tf.datasets.batch_options import BatchOptions
from noah_tf.datasets.pipeline import eval_batches
from noah_tf.datasets.registry import open_source
from noah_tf.evaluation.corruptions import KINDS, STRENGTHS, Corruption, named_corruptions
from noah_tf.images.preprocessing import Preprocessing

PICTURE = (smooth(48, 40) // 2 + noise(48, 40) // 4 + 40).astype(np.uint8)


def damaged(kind, strength, image=PICTURE, place=0, seed=0):
    return Corruption(kind, strength, seed)(tf.constant(image), place).numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [32, 64, 224])
def test_a_higher_strength_does_more_damage(kind, side):
    image = np.array(tf.image.resize(PICTURE, (side, side))).astype(np.uint8)
    errors = []
    for strength in STRENGTHS:
        found = damaged(kind, strength, image)
        assert found.shape == image.shape and found.dtype == np.uint8
        errors.append(np.mean((found.astype(float) - image) ** 2))
    assert errors[0] > 0 and (np.diff(errors) > 0).all()


def test_strengths_are_those_of_the_two_benchmarks():
    assert [Corruption("blur", s).value(32) for s in STRENGTHS] == [0.4, 0.6, 0.7, 0.8, 1.0]
    assert [Corruption("jpeg", s).value(224) for s in STRENGTHS] == [25, 18, 15, 10, 7]
    assert Corruption("contrast", 1).value(128) == pytest.approx((0.75 + 0.4) / 2)
    assert Corruption("noise", 5).value(600) == 0.38 and Corruption("noise", 5).value(8) == 0.1


def test_noise_has_its_deviation_and_belongs_to_the_seed_and_the_place():
    grey = np.full((64, 64, 3), 128, np.uint8)
    corruption = Corruption("noise", 2)
    found = corruption(tf.constant(grey), 5).numpy().astype(float) - 128
    assert found.std() == pytest.approx(255 * corruption.value(64), rel=0.03)
    assert abs(found.mean()) < 0.5
    np.testing.assert_array_equal(damaged("noise", 2, grey, 5), found + 128)
    assert (damaged("noise", 2, grey, 6) != found + 128).mean() > 0.9
    assert (damaged("noise", 2, grey, 5, seed=1) != found + 128).mean() > 0.9


@pytest.mark.parametrize("image", [PICTURE, noise(7, 5), noise(100, 100)])
def test_blur_is_the_gaussian_of_scipy(image):
    for strength in (1, 5):
        sigma = Corruption("blur", strength).value(min(image.shape[:2]))
        expected = ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="reflect")
        assert np.abs(damaged("blur", strength, image) - expected).max() < 0.51


def test_contrast_shrinks_differences_from_the_mean_colour():
    found = damaged("contrast", 3).astype(float)
    mean = PICTURE.mean(axis=(0, 1))
    value = Corruption("contrast", 3).value(40)
    assert np.abs(found - (mean + value * (PICTURE - mean))).max() < 0.51


def test_all_is_every_kind_at_every_strength():
    every = named_corruptions(["all"], seed=3)
    assert [(c.kind, c.strength) for c in every] == [(k, s) for k in KINDS for s in STRENGTHS]
    assert {c.seed for c in every} == {3}
    assert [c.kind for c in named_corruptions(["jpeg", "blur", "jpeg"])] == ["jpeg"] * 5 + [
        "blur"
    ] * 5
    assert named_corruptions([]) == []
    with pytest.raises(ValueError, match="no corruption 'fog': give some of noise, .*, or all"):
        named_corruptions(["noise", "fog"])
    with pytest.raises(ValueError, match="must be 1 to 5; received 6"):
        Corruption("blur", 6)
    with pytest.raises(ValueError, match="one of noise, .*; received 'fog'"):
        Corruption("fog", 1)


def test_a_set_is_damaged_picture_by_picture_whatever_the_batch(shapes):
    source = open_source("folder", "test", data_dir=shapes)
    preprocessing = Preprocessing(32)
    corruption = Corruption("noise", 3, seed=1)
    found = {}
    for size, on_corrupt in ((4, "error"), (10, "skip")):
        batches = eval_batches(
            source,
            preprocessing,
            BatchOptions(size, on_corrupt=on_corrupt),
            pixel_transform=corruption,
        )
        images, masks = zip(*((images, mask) for images, _, mask in batches), strict=True)
        found[size] = np.concatenate(images)[np.concatenate(masks) > 0]
    np.testing.assert_array_equal(found[4], found[10])
    for place, example in enumerate(source.examples()):
        picture = tf.cast(
            preprocessing.center_crop(preprocessing.decode(example["image"])), tf.uint8
        )
        expected = preprocessing.normalize(corruption(picture, place))
        np.testing.assert_allclose(found[4][place], expected, atol=1e-5)
