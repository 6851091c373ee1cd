import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from photos import in_pipeline
from pil_reference import ENHANCE, FILL, MOVES, RESAMPLE, difference, images, noise, pil

from noah_tf.images import rand_augment

pytestmark = pytest.mark.one_stack


def ours(name, image, *arguments, interpolation="bilinear"):
    operation = rand_augment._OPERATIONS[name]
    arguments = [tf.constant(a, tf.float64) for a in arguments]
    if name in MOVES:
        arguments += [tf.constant(FILL, tf.uint8), interpolation == "bicubic"]
    return operation(tf.convert_to_tensor(image), *arguments)


VALUES = [
    *[(name,) for name in ("AutoContrast", "Equalize", "Invert")],
    *[("Posterize", bits) for bits in (0, 1, 4, 7, 8)],
    *[("Solarize", threshold) for threshold in (0, 26, 128, 256)],
    *[("SolarizeAdd", amount) for amount in (0, 50, 99, 128)],
    *[(name, factor) for name in ENHANCE for factor in (0.1, 0.5, 1.0, 1.37, 1.9)],
]


@pytest.mark.parametrize("call", VALUES, ids=str)
def test_pointwise_operations_equal_pil(call):
    name, *arguments = call
    for kind, image in images().items():
        want = pil(name, image, *arguments)
        np.testing.assert_array_equal(ours(name, image, *arguments), want, kind)
        got = in_pipeline(lambda x: ours(name, x, *arguments), image)
        np.testing.assert_array_equal(got, want, kind)


@pytest.mark.parametrize("interpolation", RESAMPLE)
@pytest.mark.parametrize("name", MOVES)
def test_geometric_operations_agree_with_pil(name, interpolation):
    angle = name == "Rotate"
    for kind, image in images().items():
        for value in (0.0, 27.0, -13.3, 30.0, -4.19) if angle else (0.0, 0.27, -0.133, 0.45, -0.3):
            want = pil(name, image, value, interpolation=interpolation)
            got = ours(name, image, value, interpolation=interpolation)
            # PIL truncates decimals, so rounding errors of a float64 can change a value by one.
            assert difference(got, want).max() <= 1, (kind, value)
            assert np.mean(difference(got, want) > 0) < 0.08, (kind, value)
    value = MOVES[name] * 0.97  # noisy magnitudes are no round numbers
    want = pil(name, noise(), value, interpolation=interpolation)
    got = in_pipeline(lambda x: ours(name, x, value, interpolation=interpolation), noise())
    assert np.mean(difference(got, want) > 0) < 0.003
    np.testing.assert_array_equal(got, ours(name, noise(), value, interpolation=interpolation))


def test_known_translations():
    image = noise(6, 10)
    got = ours("TranslateXRel", image, 0.3).numpy()
    np.testing.assert_array_equal(got[:, :7], image[:, 3:])
    np.testing.assert_array_equal(got[:, 7:], np.broadcast_to(FILL, (6, 3, 3)))
    got = ours("TranslateYRel", image, -0.5, interpolation="bicubic").numpy()
    np.testing.assert_array_equal(got[3:], image[:3])
    np.testing.assert_array_equal(got[:3], np.broadcast_to(FILL, (3, 10, 3)))


def test_known_values():
    image = np.array([[[0, 100, 128], [200, 255, 27]]], np.uint8)
    known = {
        ("Invert",): [[[255, 155, 127], [55, 0, 228]]],
        ("Posterize", 2): [[[0, 64, 128], [192, 192, 0]]],
        ("Solarize", 128): [[[0, 100, 127], [55, 0, 27]]],
        ("SolarizeAdd", 110): [[[110, 210, 128], [200, 255, 137]]],
        ("Brightness", 0.5): [[[0, 50, 64], [100, 127, 13]]],
    }
    for (name, *arguments), want in known.items():
        np.testing.assert_array_equal(ours(name, image, *arguments), want, name)


@settings(max_examples=60, deadline=None)
@given(
    image=st_numpy.arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30), st.just(3))),
    call=st.sampled_from(VALUES),
)
def test_pointwise_operations_equal_pil_on_any_image(image, call):
    name, *arguments = call
    np.testing.assert_array_equal(ours(name, image, *arguments), pil(name, image, *arguments))
