import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance
from scipy import stats
from seeded import assert_same_in_pipeline, batch, over_seeds, seeds

from noah_tf.images import augmentation, erasing, mixing, rand_augment
from noah_tf.images.augmentation import Augmentation, color_jitter
from noah_tf.images.erasing import random_erasing
from noah_tf.images.mixing import mix_batch
from noah_tf.images.rand_augment import RandAugment
from noah_tf.images.random_crop import crop_draws
from noah_tf.utils.seeds import uniform

pytestmark = pytest.mark.one_stack

FILL = (124, 116, 104)


def photo(height=40, width=50):
    """Returns a smooth picture with some grain, like a photo: float32, whole numbers."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([y * 150 / height, x * 200 / width, (x + y) * 90 / height], -1) + 30
    return np.round(picture + np.random.default_rng(1).normal(0, 4, picture.shape)).astype("f4")


# --- color_jitter


def jitter_with_pil(image, brightness, contrast, saturation, order):
    """Applies the three enhancements of PIL in this order."""
    picture = Image.fromarray(image.astype(np.uint8))
    changes = (
        (ImageEnhance.Brightness, brightness),
        (ImageEnhance.Contrast, contrast),
        (ImageEnhance.Color, saturation),
    )
    for i in order:
        enhance, factor = changes[i]
        picture = enhance(picture).enhance(factor)
    return np.asarray(picture)


def test_jitter_agrees_with_pil_in_random_order():
    image, orders = photo(), list(itertools.permutations(range(3)))
    function = tf.function(lambda seed: color_jitter(image, seed, 0.4, 0.5, 1.5))
    counts = np.zeros(len(orders))
    for seed in seeds(150):
        low, high = np.array([0.6, 0.5, 0.0]), np.array([1.4, 1.5, 2.5])
        factors = low + uniform(seed, augmentation._JITTER, [2, 4]).numpy()[0, :3] * (high - low)
        results = [jitter_with_pil(image, *factors, order) for order in orders]
        same = [np.array_equal(function(tf.constant(seed)), result) for result in results]
        assert any(same), seed
        counts += np.array(same) / sum(same)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_jitter_factors_are_uniform():
    gray = np.full((4, 4, 3), 100, np.float32)
    for amount, low, high in ((0.4, 60, 140), (1.0, 0, 200)):
        values = over_seeds(
            lambda s: color_jitter(gray, s, brightness=amount)[0, 0, 0],  # noqa: B023
            1500,
            tf.uint8,
        )
        assert stats.kstest(values + 0.5, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_hue_rotates():
    red = np.broadcast_to(np.float32([200, 40, 40]), (4, 4, 3))
    values = over_seeds(lambda s: color_jitter(red, s, hue=0.5)[0, 0], 600, tf.uint8)
    # The largest and the smallest channel keep their values.
    np.testing.assert_array_equal(values.max(-1), 200)
    np.testing.assert_array_equal(values.min(-1), 40)
    assert np.bincount(values.argmax(-1)).min() > 150
    small = over_seeds(lambda s: color_jitter(red, s, hue=0.05)[0, 0], 300, tf.uint8)
    assert np.all(small[:, 0] == 200)
    assert 40 + 160 * 0.28 < small[:, 1:].max() <= 40 + 160 * 0.3
    # A third of the circle turns red into green or blue.
    for rotation, want in ((1 / 3, [40, 200, 40]), (-1 / 3, [40, 40, 200]), (0.5, [40, 200, 200])):
        np.testing.assert_array_equal(augmentation._rotate_hue(red, rotation)[0, 0], want)


def test_hue_is_close_to_pil():
    image = photo()
    for rotation in (-0.1, 0.03, 0.25):
        hsv = np.array(Image.fromarray(image.astype(np.uint8)).convert("HSV"))
        hsv[..., 0] += np.int32(rotation * 255).astype(np.uint8)
        want = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB")).astype(int)
        difference = np.abs(
            augmentation._rotate_hue(image.astype(np.uint8), rotation).numpy() - want
        )
        assert difference.mean() < 2 and difference.max() < 10


def test_jitter_is_the_same_eagerly_and_in_graphs():
    assert_same_in_pipeline(lambda image, s: color_jitter(image, s, 0.4, 0.4, 0.4, 0.1), photo())
    unknown = tf.function(
        lambda image: color_jitter(image, (2, 3), 0.4, 0.4, 0.4, 0.1),
        input_signature=[tf.TensorSpec([None, None, 3])],
    )
    np.testing.assert_array_equal(
        unknown(photo()), color_jitter(photo(), (2, 3), 0.4, 0.4, 0.4, 0.1)
    )
    one, other = (color_jitter(photo(), (2, i), 0.4).numpy().astype(int) for i in range(2))
    assert np.abs(one - other).mean() > 1
    image = photo()
    assert color_jitter(image, (0, 0)) is image


@pytest.mark.parametrize(
    "arguments", [{"brightness": -0.1}, {"hue": 0.6}, {"contrast": "1"}, {"saturation": math.inf}]
)
def test_bad_jitter_raises(arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"^{name} must be a number, .*, got {value!r}"):
        color_jitter(photo(), (0, 0), **arguments)


# --- Augmentation


def test_inputs_are_unchanged_if_all_is_off():
    images, targets = batch()
    image = photo()
    for off in (
        Augmentation(),
        Augmentation(color_jitter=0, mixup=1.0, mix_probability=0),
        Augmentation(color_jitter=(0, 0, 0, 0)),
    ):
        assert off.image(image, (0, 0), FILL) is image
        assert off.erase(images, seeds(6)) is images
        assert not off.mixes
        got = off.mix(images, targets, seeds(6))
        assert got[0] is images and got[1] is targets


@pytest.mark.slow
def test_jitter_and_rand_augment_options():
    image, seed = photo(), (3, 4)
    text = "rand-m9-n1-p1-inc1"
    jittered = color_jitter(image, seed, 0.4, 0.3, 0.2, 0.1)
    got = Augmentation(color_jitter=(0.4, 0.3, 0.2, 0.1)).image(image, seed, FILL)
    np.testing.assert_array_equal(got, jittered)
    for number in (0.4, (0.4, 0.4, 0.4), [0.4, 0.4, 0.4, 0]):
        got = Augmentation(color_jitter=number).image(image, seed, FILL)
        np.testing.assert_array_equal(got, color_jitter(image, seed, 0.4, 0.4, 0.4))
    both = Augmentation(color_jitter=(0.4, 0.3, 0.2, 0.1), rand_augment=text)
    np.testing.assert_array_equal(
        both.image(image, seed, FILL), RandAugment.parse(text)(jittered, seed, FILL)
    )
    alone = Augmentation(rand_augment=text, interpolation="bicubic")
    np.testing.assert_array_equal(
        alone.image(image, seed, FILL), RandAugment.parse(text)(image, seed, FILL, "bicubic")
    )
    assert_same_in_pipeline(lambda x, s: both.image(x, s, FILL), image)


def test_erasing_and_mixing_options():
    images, targets = batch()
    for mode in ("pixel", "const"):
        np.testing.assert_array_equal(
            Augmentation(erasing=0.9, erasing_mode=mode).erase(images, seeds(6)),
            random_erasing(images, seeds(6), 0.9, mode),
        )
    options = {"mixup": 0.3, "cutmix": 0.7}
    augmentation = Augmentation(**options, mix_probability=0.8, mix_switch=0.4)
    assert augmentation.mixes
    first = seeds(1)[0]
    want = mix_batch(images, targets, first, **options, probability=0.8, switch_probability=0.4)
    for a, b in zip(augmentation.mix(images, targets, seeds(6)), want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("group", "sizes"), [(2, [2, 2, 2]), (4, [4, 2]), (6, [6]), (9, [6])])
def test_groups_are_mixed_by_their_first_seeds(group, sizes):
    images, targets = batch()
    got = Augmentation(mixup=1.0, mix_group=group).mix(images, targets, seeds(6))
    starts = np.cumsum([0, *sizes[:-1]])
    wanted = [
        mix_batch(images[i : i + n], targets[i : i + n], seeds(6)[i], mixup=1.0)
        for i, n in zip(starts, sizes, strict=True)
    ]
    for value, parts in zip(got, zip(*wanted, strict=True), strict=True):
        np.testing.assert_array_equal(value, np.concatenate(parts))
    assert len({float(part[1].numpy().max()) for part in wanted}) == len(sizes)


def test_purposes_of_one_seed_are_uncorrelated():
    purposes = (
        augmentation._JITTER,
        erasing._ERASE,
        erasing._NOISE,
        mixing._PURPOSE,
        rand_augment._PURPOSE,
    )
    draws = over_seeds(lambda s: tf.stack([uniform(s, p, [3]) for p in purposes]), 2000, tf.float64)
    correlation = np.corrcoef(draws.reshape(2000, -1).T) - np.eye(15)
    assert np.abs(correlation).max() < 4.5 / math.sqrt(2000)


def test_random_ops_never_share_a_seed(monkeypatch):
    # Two ops with the same seed would draw the same numbers, for jitter and mixing for instance.
    given = []
    for module, name in (
        (tf.random, "stateless_uniform"),
        (tf.raw_ops, "StatelessRandomUniform"),
    ):
        draw = getattr(module, name)

        def recording(*args, draw=draw, **options):
            given.append(tuple(np.array(options["seed"] if "seed" in options else args[1])))
            return draw(*args, **options)

        monkeypatch.setattr(module, name, recording)
    seed = (3, 4)
    crop_draws(seed)
    color_jitter(photo(), seed, 0.4)
    RandAugment()(photo(), seed, FILL)
    mix_batch(*batch(), seed, mixup=0.8)
    assert len(given) == 4 == len(set(given))


def test_equality_and_hash():
    one, other = Augmentation(color_jitter=[0.4, 0.4, 0.4]), Augmentation(color_jitter=0.4)
    assert one == other and hash(one) == hash(other)
    assert one.color_jitter == (0.4, 0.4, 0.4, 0.0)
    assert one != Augmentation()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color_jitter": -1}, "None, a number.*, got -1"),
        ({"color_jitter": (0.4, 0.4)}, r"three or four numbers.*got \(0.4, 0.4\)"),
        ({"color_jitter": (0, 0, 0, 0.6)}, "the hue at most 0.5"),
        ({"color_jitter": "0.4"}, "got '0.4'"),
        ({"color_jitter": True}, "got True"),
        ({"rand_augment": "rand-q1"}, "'q1' in 'rand-q1' is unknown; known are m, n"),
        ({"rand_augment": 9}, "starts with 'rand'.*got 9"),
        ({"interpolation": "nearest"}, "bilinear, bicubic, random, got 'nearest'"),
        ({"erasing": 1.2}, "from 0 to 1, got 1.2"),
        ({"erasing_mode": "rand"}, "pixel, const, got 'rand'"),
        ({"mixup": -0.1}, "0 or more, got -0.1"),
        ({"cutmix": math.nan}, "0 or more, got nan"),
        ({"mix_probability": "1"}, "from 0 to 1, got '1'"),
        ({"mix_switch": 2}, "from 0 to 1, got 2"),
    ],
)
def test_options_are_checked(options, message):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name}.*{message}"):
        Augmentation(**options)
