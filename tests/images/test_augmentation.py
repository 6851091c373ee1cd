import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy import stats

from noah_tf.images import augmentation as augment
from noah_tf.images.augmentation import Augmentation, color_jitter, mix_batch, random_erasing
from noah_tf.images.rand_augment import RandAugment
from noah_tf.images.random_crop import crop_draws
from noah_tf.utils.seeds import uniform

FILL = (124, 116, 104)


def photo(height=40, width=50):
    """Smooth, with some grain, as photos are: float32, whole numbers."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([y * 150 / height, x * 200 / width, (x + y) * 90 / height], -1) + 30
    return np.round(picture + np.random.default_rng(1).normal(0, 4, picture.shape)).astype("f4")


def seeds(number, first=21):
    return np.stack([np.full(number, first), np.arange(number)], -1)


def over_seeds(function, number, signature=tf.float32):
    """What `function` gives for many seeds, each result stacked."""
    mapped = tf.function(lambda x: tf.map_fn(function, x, fn_output_signature=signature))
    return tf.nest.map_structure(lambda t: t.numpy(), mapped(tf.constant(seeds(number))))


def check_pipeline(function, *inputs):
    """`function` gives the same eagerly and inside tf.data, for ten seeds."""
    dataset = tf.data.Dataset.from_tensor_slices(seeds(10)).map(lambda s: function(*inputs, s))
    for seed, got in zip(seeds(10), dataset, strict=True):
        want = function(*inputs, seed)
        tf.nest.map_structure(np.testing.assert_array_equal, got, want)
        again = function(*inputs, seed)
        tf.nest.map_structure(np.testing.assert_array_equal, again, want)


# --- color_jitter


def jitter_with_pil(image, brightness, contrast, saturation, order):
    """PIL's three enhancements in this order."""
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


def test_jitter_is_that_of_pil_in_random_order():
    image, orders = photo(), list(itertools.permutations(range(3)))
    function = tf.function(lambda seed: color_jitter(image, seed, 0.4, 0.5, 1.5))
    found = np.zeros(len(orders))
    for seed in seeds(150):
        low, high = np.array([0.6, 0.5, 0.0]), np.array([1.4, 1.5, 2.5])
        factors = low + uniform(seed, augment._JITTER, [2, 4]).numpy()[0, :3] * (high - low)
        results = [jitter_with_pil(image, *factors, order) for order in orders]
        same = [np.array_equal(function(tf.constant(seed)), result) for result in results]
        assert any(same), seed
        found += np.array(same) / sum(same)
    assert stats.chisquare(found).pvalue > 1e-3


def test_jitter_factors_are_uniform():
    gray = np.full((4, 4, 3), 100, np.float32)
    for amount, low, high in ((0.4, 60, 140), (1.0, 0, 200)):
        values = over_seeds(lambda s: color_jitter(gray, s, brightness=amount)[0, 0, 0], 1500)  # noqa: B023
        assert stats.kstest(values + 0.5, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_jitter_of_the_hue():
    red = np.broadcast_to(np.float32([200, 40, 40]), (4, 4, 3))
    values = over_seeds(lambda s: color_jitter(red, s, hue=0.5)[0, 0], 600)
    # Highest and lowest channel stay what they are; the hue goes round.
    np.testing.assert_array_equal(values.max(-1), 200)
    np.testing.assert_array_equal(values.min(-1), 40)
    assert np.bincount(values.argmax(-1)).min() > 150
    small = over_seeds(lambda s: color_jitter(red, s, hue=0.05)[0, 0], 300)
    assert np.all(small[:, 0] == 200)
    assert 40 + 160 * 0.28 < small[:, 1:].max() <= 40 + 160 * 0.3
    # A third of the circle turns red into green or blue.
    for turn, want in ((1 / 3, [40, 200, 40]), (-1 / 3, [40, 40, 200]), (0.5, [40, 200, 200])):
        np.testing.assert_array_equal(augment._turn_hue(red, turn)[0, 0], want)


def test_jitter_of_the_hue_is_near_pils():
    image = photo()
    for turn in (-0.1, 0.03, 0.25):
        hsv = np.array(Image.fromarray(image.astype(np.uint8)).convert("HSV"))
        hsv[..., 0] += np.int32(turn * 255).astype(np.uint8)
        want = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB")).astype(int)
        difference = np.abs(augment._turn_hue(image.astype(np.uint8), turn).numpy() - want)
        assert difference.mean() < 2 and difference.max() < 10


def test_jitter_everywhere():
    check_pipeline(lambda image, s: color_jitter(image, s, 0.4, 0.4, 0.4, 0.1), photo())
    unknown = tf.function(
        lambda image: color_jitter(image, (2, 3), 0.4, 0.4, 0.4, 0.1),
        input_signature=[tf.TensorSpec([None, None, 3])],
    )
    np.testing.assert_array_equal(
        unknown(photo()), color_jitter(photo(), (2, 3), 0.4, 0.4, 0.4, 0.1)
    )
    one, other = (color_jitter(photo(), (2, i), 0.4) for i in range(2))
    assert np.abs(one - other).mean() > 1
    image = photo()
    assert color_jitter(image, (0, 0)) is image


@pytest.mark.parametrize(
    "arguments", [{"brightness": -0.1}, {"hue": 0.6}, {"contrast": "1"}, {"saturation": math.inf}]
)
def test_jitter_refuses(arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"^{name} must be a number, .*, got {value!r}"):
        color_jitter(photo(), (0, 0), **arguments)


# --- random_erasing


def rectangles(height, width, number, **options):
    """(top, left, height, width) of what was erased, one row a photo; zeros where nothing was."""

    def corners(seed):
        image = tf.ones([height, width, 3])
        erased = random_erasing(image, seed, mode="const", **options)[..., 0] == 0
        rows, columns = (tf.cast(tf.reduce_any(erased, axis), tf.float32) for axis in (1, 0))
        top, left = tf.argmax(rows), tf.argmax(columns)
        sizes = tf.stack([tf.reduce_sum(rows), tf.reduce_sum(columns)])
        area = tf.reduce_sum(tf.cast(erased, tf.float32))
        tf.debugging.assert_equal(area, tf.reduce_prod(sizes))  # a rectangle indeed
        return tf.concat([tf.cast([top, left], tf.float32), sizes], 0)

    return over_seeds(corners, number)


def erasing_of_the_description(height, width, number, area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3)):
    """The same with numpy, one try after the other."""
    rng, found = np.random.default_rng(0), []
    for _ in range(number):
        for _ in range(10):
            share = rng.uniform(*area) * height * width
            shape = np.exp(rng.uniform(*np.log(ratio)))
            h, w = round(math.sqrt(share * shape)), round(math.sqrt(share / shape))
            if h < height and w < width:
                top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
                found.append((top, left, h, w))
                break
    return np.array(found)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (30, 100)])
def test_distribution_of_rectangles(height, width):
    got = rectangles(height, width, 2500, probability=1)
    want = erasing_of_the_description(height, width, 20000)
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
    image = photo(100, 100) * 0 + 7
    patches = []
    for seed in seeds(8):
        result = random_erasing(image, seed, 1.0).numpy()
        inside = np.any(result != 7, -1)
        np.testing.assert_array_equal(result[~inside], image[~inside])
        patches.append(result[inside])
        black = random_erasing(image, seed, 1.0, "const").numpy()
        np.testing.assert_array_equal(np.all(black == 0, -1), inside)  # the same place
    values = np.concatenate(patches)
    assert stats.kstest(values.ravel(), stats.norm.cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() < 0.05
    assert not np.array_equal(patches[0][:50], patches[1][:50])


def test_erasing_everywhere():
    check_pipeline(lambda image, s: random_erasing(image, s, 0.8), photo())
    unknown = tf.function(
        lambda image: random_erasing(image, (2, 3), 1.0),
        input_signature=[tf.TensorSpec([None, None, 3])],
    )
    np.testing.assert_array_equal(unknown(photo()), random_erasing(photo(), (2, 3), 1.0))
    dataset = tf.data.Dataset.from_tensors(photo()).map(lambda x: random_erasing(x, (2, 3), 0.5))
    assert dataset.element_spec.shape == (40, 50, 3)


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
def test_erasing_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_erasing(photo(), (0, 0), **{"probability": 0.5, **arguments})


# --- mix_batch


def batch(size=6, side=16):
    images = np.random.default_rng(0).normal(size=(size, side, side + 4, 3)).astype(np.float32)
    return images, np.eye(size, dtype=np.float32)


def shares(number=4000, **options):
    """lambda of many batches, read from the targets."""
    images, targets = tf.zeros([2, 30, 30, 1]), tf.eye(2)
    return over_seeds(lambda s: mix_batch(images, targets, s, **options)[1][0, 0], number)


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
    got, law = shares(mixup=alpha), stats.beta(alpha, alpha)
    assert np.all(np.isfinite(got)) and got.min() >= 0 and got.max() <= 1
    # float32 makes 0 or 1 of what is near them.
    inner = np.linspace(1e-3, 1 - 1e-3, 400)
    distance = np.abs(np.searchsorted(np.sort(got), inner) / len(got) - law.cdf(inner)).max()
    assert distance < stats.kstwobign.isf(1e-3) / math.sqrt(len(got))
    assert got.mean() == pytest.approx(0.5, abs=4 * law.std() / math.sqrt(len(got)))
    assert got.var() == pytest.approx(law.var(), rel=0.08)


def test_beta_at_the_ends_of_the_draws():
    draws = itertools.product((0.0, 2.0**-32, 0.5, 1 - 2.0**-32), (0.0, 0.25, 0.5, 1 - 2.0**-32))
    for alpha in (0.01, 0.1, 1.0, 50.0):
        for pair in draws:
            value = float(augment._symmetric_beta(alpha, tf.constant(pair, tf.float64)))
            assert 0 <= value <= 1


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    share=st.floats(0, 1),
    place=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
)
def test_cutmix_rectangle(height, width, share, place):
    """The area is that of the description: a box of 1 - lambda, cut off at the borders."""
    images = tf.stack([tf.zeros([height, width, 1]), tf.ones([height, width, 1])])
    got, corrected = augment._mix_by_box(
        images, tf.constant(share, tf.float64), tf.constant(place, tf.float64)
    )
    want = np.zeros((height, width))
    sides = [int(side * math.sqrt(1 - share)) for side in (height, width)]
    y, x = int(place[0] * height), int(place[1] * width)
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


def test_which_mixing_is_applied():
    images, targets = tf.reshape(tf.constant([0.0, 1.0]), [2, 1, 1, 1]), tf.eye(2)
    images = tf.tile(images, [1, 16, 16, 1])

    def kind(seed, **options):
        got, mixed = mix_batch(images, targets, seed, **options)
        values = tf.reduce_any((got > 0) & (got < 1))
        return tf.stack([tf.cast(values, tf.float32), tf.cast(mixed[0, 0] < 1, tf.float32)])

    def frequencies(**options):
        return over_seeds(lambda s: kind(s, **options), 1500).mean(0)

    summed, mixed = frequencies(mixup=1.0, cutmix=1.0, probability=0.6)
    assert summed == pytest.approx(0.3, abs=0.04)
    # A box of less than two pixels is none: up to 1/64 of the boxes, here of 0.3.
    assert mixed == pytest.approx(0.6, abs=0.045)
    summed, mixed = frequencies(mixup=1.0, cutmix=1.0, switch_probability=0.2)
    assert summed == pytest.approx(0.8, abs=0.04)
    assert frequencies(mixup=1.0, probability=0.3)[1] == pytest.approx(0.3, abs=0.04)
    assert frequencies(cutmix=1.0)[0] == 0
    np.testing.assert_array_equal(frequencies(mixup=1.0, cutmix=1.0, probability=0), [0, 0])


def test_mixing_everywhere():
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
    assert len(distinct) >= 8  # one batch in ten is left as it is


def test_mixing_of_other_types_and_odd_batches():
    images, targets = batch(5)
    for dtype in (tf.bfloat16, tf.float16):
        got = mix_batch(tf.cast(images, dtype), targets, (21, 1), mixup=0.8)
        want = mix_batch(images, targets, (21, 1), mixup=0.8)
        assert got[0].dtype == dtype and got[1].dtype == tf.float32
        np.testing.assert_allclose(tf.cast(got[0], tf.float32), want[0], atol=0.05)
        np.testing.assert_array_equal(got[1], want[1])
    np.testing.assert_allclose(want[0][2], images[2], atol=1e-6)  # its own partner


def test_mixing_refuses():
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


# --- Augmentation


def test_nothing_is_done_where_all_is_off():
    images, targets = batch()
    image = photo()
    for off in (
        Augmentation(),
        Augmentation(color_jitter=0, mixup=1.0, mix_probability=0),
        Augmentation(color_jitter=(0, 0, 0, 0)),
    ):
        assert off.image(image, (0, 0), FILL) is image
        assert off.erase(image, (0, 0)) is image
        assert not off.mixes
        got = off.mix(images, targets, (0, 0))
        assert got[0] is images and got[1] is targets


def test_each_option_does_its_part():
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
    check_pipeline(lambda x, s: both.image(x, s, FILL), image)


def test_erasing_and_mixing_options():
    image, seed = photo(), (3, 4)
    for mode in ("pixel", "const"):
        np.testing.assert_array_equal(
            Augmentation(erasing=0.9, erasing_mode=mode).erase(image, seed),
            random_erasing(image, seed, 0.9, mode),
        )
    options = {"mixup": 0.3, "cutmix": 0.7}
    augmentation = Augmentation(**options, mix_probability=0.8, mix_switch=0.4)
    assert augmentation.mixes
    want = mix_batch(*batch(), seed, **options, probability=0.8, switch_probability=0.4)
    for a, b in zip(augmentation.mix(*batch(), seed), want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_seed_gives_unrelated_numbers():
    purposes = (augment._JITTER, augment._ERASE, augment._NOISE, augment._MIX)
    draws = over_seeds(lambda s: tf.stack([uniform(s, p, [3]) for p in purposes]), 2000, tf.float64)
    correlation = np.corrcoef(draws.reshape(2000, -1).T) - np.eye(12)
    assert np.abs(correlation).max() < 4.5 / math.sqrt(2000)


def test_each_random_op_has_a_seed_of_its_own(monkeypatch):
    # Two that shared one would draw the same numbers, for instance where to erase and how to mix.
    given = []
    for module, name in (
        (tf.random, "stateless_uniform"),
        (tf.random, "stateless_normal"),
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
    random_erasing(photo(), seed, 1.0)  # where, and what
    mix_batch(*batch(), seed, mixup=0.8)
    assert len(given) == 6 == len(set(given))


def test_an_augmentation_can_be_compared_and_hashed():
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
