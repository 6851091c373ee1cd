import math

import numpy as np
import pytest
import tensorflow as tf
from pil_reference import ENHANCE, FILL, MOVES, difference, photo, pil
from scipy import stats

from noah_tf.images import rand_augment
from noah_tf.images.rand_augment import RandAugment
from noah_tf.utils.seeds import uniform

pytestmark = pytest.mark.one_stack


@pytest.mark.parametrize(
    ("increasing", "magnitude", "want"),
    [
        (False, 9, {"Posterize": 3, "Solarize": 230, "Color": 1.72, "Sharpness": 1.72}),
        (True, 9, {"Posterize": 1, "Solarize": 26, "Contrast": 1.81, "Brightness": 1.81}),
        (False, 0, {"Posterize": 0, "Solarize": 0, "Color": 0.1, "SolarizeAdd": 0, "Rotate": 0}),
        (True, 0, {"Posterize": 4, "Solarize": 256, "Color": 1.0, "ShearX": 0}),
        (True, 10, {"Posterize": 0, "Solarize": 0, "SolarizeAdd": 110, "Rotate": 30}),
        (False, 30, {"Posterize": 8, "Solarize": 256, "SolarizeAdd": 128, "Color": 5.5}),
        (True, 9, {**MOVES, "SolarizeAdd": 99}),
    ],
)
def test_strengths(increasing, magnitude, want):
    share = tf.constant(magnitude / 10, tf.float64)
    strengths = rand_augment._STRENGTHS[increasing]
    got = {name: float(strengths[name](share, 1.0)) for name in want}
    assert got == pytest.approx(want)


def test_negative_strengths():
    share, down = tf.constant(0.9, tf.float64), tf.constant(-1.0, tf.float64)
    strengths = rand_augment._STRENGTHS[True]
    for name, value in MOVES.items():
        assert float(strengths[name](share, down)) == pytest.approx(-value)
    for name in ENHANCE:
        assert float(strengths[name](share, down)) == pytest.approx(0.19)
        assert float(strengths[name](2 * share, down)) == pytest.approx(0.1)  # the smallest factor
    assert float(strengths["SolarizeAdd"](share, down)) == 99


@pytest.mark.parametrize(
    ("text", "interpolation"),
    [
        pytest.param("rand-m9-mstd0.5-inc1", "random", marks=pytest.mark.slow),
        pytest.param("rand-m9-mstd0.5-inc1", "bicubic", marks=pytest.mark.slow),
        ("rand-m5-n3-p1", "bilinear"),
    ],
)
def test_result_agrees_with_pil_for_the_same_draws(text, interpolation):
    augment = RandAugment.parse(text)
    image = photo(48, 40)
    function = tf.function(lambda seed: augment(image, seed, FILL, interpolation))
    names = set()
    for index in range(60):
        seed = tf.constant([5, index], tf.int64)
        op_index, is_applied, magnitude, sign, bicubic = (x.numpy() for x in augment._draw(seed))
        want = image
        for i in range(augment.num_ops):
            if not is_applied[i]:
                continue
            name = augment.op_names[op_index[i]]
            names.add(name)
            strength = rand_augment._STRENGTHS[augment.increasing][name]
            arguments = () if strength is None else (float(strength(magnitude[i] / 10, sign[i])),)
            chosen = (
                ("bicubic" if bicubic[i] else "bilinear") if interpolation == "random" else None
            )
            want = pil(name, want, *arguments, interpolation=chosen or interpolation)
        got = function(seed)
        assert got.dtype == tf.uint8
        # Equalize and similar operations can amplify a difference of 1.
        assert np.mean(difference(got, want) > 0) < 0.05, index
        assert np.mean(difference(got, want)) < 0.1, index
    assert len(names) > 12


def draws(text, count=4000):
    augment = RandAugment.parse(text)
    signature = (tf.int32, tf.bool, tf.float64, tf.float64, tf.bool)
    sample = tf.function(
        lambda: tf.map_fn(
            lambda index: augment._draw(tf.stack([12, index])),
            tf.range(count, dtype=tf.int64),
            fn_output_signature=signature,
        )
    )
    return [x.numpy() for x in sample()]


def test_distribution_of_draws():
    op_index, is_applied, magnitude, sign, bicubic = draws("rand-m9-mstd0.5-inc1")
    assert op_index.shape == (4000, 2)
    counts = np.bincount(op_index.ravel(), minlength=15)
    assert len(counts) == 15
    assert stats.chisquare(counts).pvalue > 1e-3
    # Operations are drawn with replacement, so both of a photo are the same once in 15.
    assert np.mean(op_index[:, 0] == op_index[:, 1]) == pytest.approx(1 / 15, abs=0.012)
    for value in (is_applied, sign > 0, bicubic):
        assert value.mean() == pytest.approx(0.5, abs=0.02)
    assert set(np.unique(sign)) == {-1.0, 1.0}
    assert magnitude.max() == 10
    unclipped = magnitude[magnitude < 10]
    assert np.mean(magnitude == 10) == pytest.approx(stats.norm.sf(2), abs=0.006)
    expected = stats.truncnorm(-18, 2, loc=9, scale=0.5)
    assert stats.kstest(unclipped, expected.cdf).pvalue > 1e-3
    # The draws are uncorrelated.
    columns = np.stack(
        [x[:, i] for x in (op_index, is_applied, magnitude, sign, bicubic) for i in (0, 1)]
    )
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 0.07


def test_distribution_of_other_settings():
    assert np.all(draws("rand-m7", 50)[2] == 7)
    assert np.all(draws("rand-m15", 50)[2] == 10)
    assert np.all(draws("rand-m15-mmax20", 50)[2] == 15)
    magnitudes = draws("rand-m8-mstd101", 1000)[2].ravel()
    assert stats.kstest(magnitudes, stats.uniform(0, 8).cdf).pvalue > 1e-3
    assert draws("rand-m1-mstd5", 500)[2].min() == 0
    assert draws("rand-p0.2-n3", 2000)[1].mean() == pytest.approx(0.2, abs=0.02)
    assert draws("rand-n3", 10)[0].shape == (10, 3)


@pytest.mark.slow
def test_result_is_a_function_of_the_seed():
    augment = RandAugment.parse("rand-m9-p1-inc1")
    function = tf.function(lambda seed: augment(photo(), seed, FILL, "random"))
    results = [function(tf.constant([1, i], tf.int64)).numpy() for i in range(8)]
    for index, result in enumerate(results):
        np.testing.assert_array_equal(function(tf.constant([1, index], tf.int64)), result)
        assert all(difference(result, other).mean() > 0.5 for other in results[:index])
    np.testing.assert_array_equal(augment(photo(), (1, 3), FILL, "random"), results[3])
    assert difference(function(tf.constant([2, 0], tf.int64)), results[0]).mean() > 0.5


@pytest.mark.slow
def test_result_is_the_same_in_a_pipeline_and_with_unknown_size():
    augment = RandAugment.parse("rand-m9-n1-mstd0.5-inc1-p1")
    pixels = photo().astype(np.float32)
    unknown = tf.function(
        lambda image, seed: augment(image, seed, FILL, "random"),
        input_signature=[tf.TensorSpec([None, None, 3]), tf.TensorSpec([2], tf.int64)],
    )

    def known(image, seed):
        result = augment(image, seed, FILL, "random")
        assert result.shape == (61, 80, 3)
        return result

    inputs = (np.stack([pixels] * 15), np.stack([np.full(15, 9), np.arange(15)], -1))
    dataset = tf.data.Dataset.from_tensor_slices(inputs)
    for index, result in enumerate(dataset.map(known)):
        seed = tf.constant([9, index], tf.int64)
        np.testing.assert_array_equal(result, unknown(pixels, seed))
        if index < 5:
            np.testing.assert_array_equal(result, augment(pixels, seed, FILL, "random"))


def test_values_are_rounded_without_an_operation():
    image = tf.constant([[[0.4, 0.6, 254.7], [-3.0, 300.0, 17.0]]])
    got = RandAugment(probability=0)(image, (0, 0), FILL)
    np.testing.assert_array_equal(got, [[[0, 1, 255], [0, 255, 17]]])


def test_random_numbers_are_the_same_under_xla():
    function = tf.function(lambda s: uniform(s, 7, [50]), jit_compile=True)
    seed = tf.constant([3, 2**40], tf.int64)
    want = uniform(seed, 7, [50])
    np.testing.assert_array_equal(function(seed), want)
    assert np.all((want >= 0) & (want < 1))
    assert not np.any(np.isclose(want, uniform(seed, 8, [50])))


# --- parse


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("rand", RandAugment()),
        ("rand-m9-mstd0.5-inc1", RandAugment(9, 2, 0.5, 10, True, 0.5)),
        ("rand-m6-n3-mstd1.0-inc1", RandAugment(6, 3, 1.0, 10, True, 0.5)),
        ("rand-inc0-mstd0.5-m7", RandAugment(7, magnitude_std=0.5)),
        ("rand-m15-mmax20-p0.3", RandAugment(15, max_magnitude=20, probability=0.3)),
        ("rand-mstd101", RandAugment(magnitude_std=math.inf)),
        ("rand-mstdinf", RandAugment(magnitude_std=math.inf)),
        ("rand-mstd100", RandAugment(magnitude_std=100.0)),
    ],
)
def test_parse(text, want):
    assert RandAugment.parse(text) == want


def test_both_forms_have_all_operations():
    augment = RandAugment()
    assert len(set(augment.op_names)) == 15
    assert set(augment.op_names) == set(rand_augment._OPERATIONS)
    assert RandAugment(increasing=True).op_names == augment.op_names


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("rand-m9-q3", ["'q3'", "m, n, p, mstd, mmax, inc"]),
        ("rand-m9-w0", ["'w0'", "not supported"]),
        ("rand-m", ["'m'", "must be an integer"]),
        ("rand-m9.5", ["'m9.5'", "an integer", "got '9.5'"]),
        ("rand-mstd0.5x", ["'mstd0.5x'", "a number"]),
        ("rand-inc2", ["'inc2'", "0 or 1"]),
        ("rand-m9-m8", ["'m8'", "repeats"]),
        ("rand-n0", ["num_ops", "positive integer", "got 0"]),
        ("rand-p1.5", ["probability", "got 1.5"]),
        ("rand-mmax0", ["max_magnitude", "got 0"]),
        ("rand-", ["''", "unknown"]),
        ("original-mstd0.5", ["starts with 'rand'"]),
        ("", ["starts with 'rand'"]),
        (9, ["starts with 'rand'", "got 9"]),
    ],
)
def test_bad_text_raises(text, parts):
    with pytest.raises(ValueError) as error:
        RandAugment.parse(text)
    for part in [*parts, repr(text)]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"magnitude": -1},
        {"magnitude": "9"},
        {"magnitude": math.inf},
        {"num_ops": 1.5},
        {"num_ops": True},
        {"magnitude_std": -0.1},
        {"magnitude_std": math.nan},
        {"max_magnitude": math.inf},
        {"increasing": 1},
        {"probability": 1.1},
    ],
)
def test_bad_arguments_raise(arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"^{name} must be .*, got {value!r}"):
        RandAugment(**arguments)


def test_bad_interpolation_raises():
    with pytest.raises(ValueError, match="bilinear, bicubic, random, got 'nearest'"):
        RandAugment()(photo(), (0, 0), FILL, "nearest")
