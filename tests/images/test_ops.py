import io

import numpy as np
import pytest
import tensorflow as tf
from photos import encoded, in_pipeline, noise, smooth
from PIL import Image

from noah_tf.images.headers import DECODES_WEBP
from noah_tf.images.ops import (
    INTERPOLATIONS,
    decode,
    orient,
    plain_resize,
    resize,
    stored_window,
)

# --- decode


@pytest.mark.parametrize(
    ("file_format", "mode"),
    [
        ("PNG", None),
        ("PNG", "RGBA"),
        ("BMP", None),
        ("BMP", "RGBA"),
        ("BMP", "P"),
        ("GIF", "P"),
        ("PNG", "P"),
    ],
)
def test_decode_keeps_lossless_pixels(file_format, mode):
    image = np.repeat(np.repeat(noise(3, 4), 4, 0), 4, 1)  # few colors, for the palettes
    data = encoded(image, file_format, mode)
    want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data), want)
    np.testing.assert_array_equal(in_pipeline(decode, data), want)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "JPEG"])
def test_decode_grayscale(file_format):
    image = smooth(20, 30)[..., 0]
    got = decode(encoded(image, file_format)).numpy()
    assert got.shape == (20, 30, 3)
    np.testing.assert_allclose(got, np.repeat(image[..., None], 3, -1), atol=3)


def test_decode_16_bit_png():
    image = noise(9, 7, 0).astype(np.uint16) * 257
    got = decode(encoded(image, "PNG")).numpy()
    np.testing.assert_array_equal(got, np.repeat((image // 257)[..., None], 3, -1))


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_decode_jpeg(mode):
    image = smooth(40, 50)
    got = decode(encoded(image, "JPEG", mode, quality=95)).numpy()
    assert np.abs(got.astype(int) - image).mean() < 3


def test_decode_returns_the_first_gif_frame():
    first, second = (Image.fromarray(np.full((8, 8), v, np.uint8)) for v in (40, 200))
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=[second])
    np.testing.assert_array_equal(decode(buffer.getvalue()), np.full((8, 8, 3), 40))


@pytest.mark.skipif(not DECODES_WEBP, reason="no WebP in TensorFlow")
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_decode_webp(mode):
    data = encoded(noise(9, 7), "WEBP", mode, lossless=True)
    np.testing.assert_array_equal(decode(data), noise(9, 7))
    np.testing.assert_array_equal(in_pipeline(decode, data), noise(9, 7))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, this is text",
        b"BM",
        encoded(smooth(40, 40), "JPEG")[:200],
        encoded(noise(40, 40), "PNG")[:300],
    ],
    ids=["empty", "text", "magic only", "truncated JPEG", "truncated PNG"],
)
def test_decode_of_corrupt_bytes_raises(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(data)
    with pytest.raises(tf.errors.InvalidArgumentError):
        in_pipeline(decode, data)


def test_decode_error_is_one_line():
    # It is shown next to the name of the photo if data.on_corrupt is "error".
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        decode(b"hello, this is text")
    assert "Unknown image file format" in error.value.message
    assert "\n" not in error.value.message


# --- orient

# How PIL turns a photo of each orientation upright.
TURNS = [
    None,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orient_agrees_with_pil(orientation):
    picture = Image.fromarray(noise(5, 7))
    turn = TURNS[orientation - 1]
    want = np.asarray(picture if turn is None else picture.transpose(turn))
    np.testing.assert_array_equal(orient(noise(5, 7), orientation), want)
    graph = tf.function(orient).get_concrete_function(
        tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.int32)
    )
    np.testing.assert_array_equal(graph(noise(5, 7), tf.constant(orientation)), want)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_window(orientation):
    stored = noise(9, 13)
    upright = orient(stored, orientation).numpy()
    for window in ((0, 0, 1, 1), (2, 1, 5, 7), (0, 3, 9, 6), (1, 0, 8, 9)):
        top, left, height, width = window
        want = upright[top : top + height, left : left + width]
        got = stored_window(tf.constant(window), upright.shape[:2], tf.constant(orientation))
        top, left, height, width = got.numpy()
        pixels = stored[top : top + height, left : left + width]
        np.testing.assert_array_equal(orient(pixels, orientation), want)


# --- resize


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(300, 270), (100, 150), (224, 300), (1, 5), (500, 3)])
def test_resize_equals_tensorflow(interpolation, shape):
    # `resize` is a faster implementation of the same numbers, to the last bit.
    image = noise(*shape)
    want = tf.image.resize(image, (40, 56), interpolation, antialias=True)
    got = resize(image, (40, 56), interpolation)
    np.testing.assert_array_equal(tf.clip_by_value(got, 0, 255), tf.clip_by_value(want, 0, 255))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("shape", [(80, 112), (61, 70), (20, 30), (40, 56)])
def test_plain_resize(interpolation, shape):
    image = noise(*shape)
    want = tf.clip_by_value(tf.image.resize(image, (40, 56), interpolation), 0, 255)
    np.testing.assert_array_equal(plain_resize(tf.constant(image), (40, 56), interpolation), want)
    graph = tf.function(lambda x: plain_resize(x, (40, 56), interpolation))
    got = graph.get_concrete_function(tf.TensorSpec([None, None, 3], tf.uint8))(image)
    np.testing.assert_allclose(got, want, atol=1e-3)


def test_plain_resize_by_two_is_the_mean_of_four_pixels():
    image = noise(16, 12)
    got = plain_resize(tf.constant(image), (8, 6), "bilinear")
    np.testing.assert_array_equal(got, image.reshape(8, 2, 6, 2, 3).mean((1, 3)))
