"""Pixel operations of PIL as TensorFlow ops.

They map uint8 (H, W, 3) to uint8 (H, W, 3) and round like PIL, because the paper's recipes were
tuned with PIL.
"""

import math
from typing import Any

import tensorflow as tf


def to_uint8(image: Any) -> tf.Tensor:
    """Rounds and clips values to uint8."""
    image = tf.convert_to_tensor(image)
    if image.dtype == tf.uint8:
        return image
    return tf.cast(tf.clip_by_value(tf.round(tf.cast(image, tf.float32)), 0.0, 255.0), tf.uint8)


def auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0..255, like `PIL.ImageOps.autocontrast`."""
    low = tf.cast(tf.reduce_min(image, [0, 1]), tf.float64)
    high = tf.cast(tf.reduce_max(image, [0, 1]), tf.float64)
    scale = 255.0 / tf.maximum(high - low, 1.0)
    # The table of all 256 values is in float64, because float32 would round some differently.
    values = tf.range(256, dtype=tf.float64)[:, None]
    stretched = tf.clip_by_value(tf.floor(values * scale - low * scale), 0.0, 255.0)
    return _look_up(image, tf.where(high > low, stretched, values))


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Equalizes the histogram of each channel, like `PIL.ImageOps.equalize`."""
    channels = tf.transpose(tf.reshape(tf.cast(image, tf.int32), [-1, 3]))
    counts = tf.math.bincount(channels, minlength=256, maxlength=256, axis=-1)  # (3, 256)
    brightest = tf.gather(counts, tf.reduce_max(channels, 1), axis=1, batch_dims=1)
    step = (tf.shape(channels)[1] - brightest)[:, None] // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    spread = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    return _look_up(image, tf.transpose(tf.where(step > 0, spread, tf.range(256))))


def invert(image: tf.Tensor) -> tf.Tensor:
    """Inverts all values."""
    return 255 - image


def posterize(image: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Keeps the highest `bits` of each value: 0 (black) to 8 (no change)."""
    mask = 256 - tf.bitwise.left_shift(1, 8 - tf.cast(bits, tf.int32))
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def solarize(image: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Inverts the values that are at least `threshold`, an int 0..256."""
    bright = tf.cast(image, tf.int32) >= tf.cast(threshold, tf.int32)
    # 255 - v has the inverted bits of v; tf.where would cost five times as much.
    return tf.bitwise.bitwise_xor(image, 255 * tf.cast(bright, tf.uint8))


def solarize_add(image: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    """Adds `amount`, an int 0..128, to the values below 128."""
    return image + tf.cast(image < 128, tf.uint8) * tf.cast(amount, tf.uint8)


def color(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales the saturation: 0 is gray, 1 is no change, like `PIL.ImageEnhance.Color`."""
    return _blend(_luma(image), image, factor)


def contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales the contrast: 0 is the mean gray, 1 is no change, like `PIL.ImageEnhance.Contrast`."""
    # The integer sum is exact up to 2^31 / 255 pixels; a float32 sum would not be.
    luma = tf.cast(_luma(image), tf.int32)
    mean = tf.reduce_sum(luma) / tf.size(luma)  # float64
    return _blend(tf.cast(tf.floor(mean + 0.5), tf.float32), image, factor)


def brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales the brightness: 0 is black, 1 is no change, like `PIL.ImageEnhance.Brightness`."""
    return _blend(0.0, image, factor)


def sharpness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Changes the sharpness: 0 is blurred, 1 is no change, like `PIL.ImageEnhance.Sharpness`."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    values = tf.cast(image, tf.float32)
    padded = tf.pad(values, [[1, 1], [1, 1], [0, 0]])
    row_sums = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    smooth = (row_sums[:-2] + row_sums[1:-1] + row_sums[2:] + 4 * values) / 13
    # PIL does not change the outermost pixels.
    is_inner = _is_inner(height)[:, None, None] & _is_inner(width)[:, None]
    return tf.where(is_inner, _blend(tf.floor(smooth + 0.5), image, factor), image)


def rotate(
    image: tf.Tensor, degrees: tf.Tensor, fill: tf.Tensor, bicubic: tf.Tensor | bool
) -> tf.Tensor:
    """Rotates a photo counterclockwise about its center.

    Args:
        image: uint8 (H, W, 3).
        degrees: the angle, a number.
        fill: uint8 (3,), the color outside the photo.
        bicubic: bool or bool scalar, whether to interpolate bicubically instead of bilinearly.
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    angle = -tf.cast(degrees, tf.float64) * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    middle_y, middle_x = height / 2, width / 2  # float64
    down, right = _range(height)[:, None] + 0.5 - middle_y, _range(width) + 0.5 - middle_x
    x = cos * right + sin * down + middle_x
    y = cos * down - sin * right + middle_y
    is_inside = _is_within(x, width) & _is_within(y, height)
    left, x_fraction = _whole_and_fraction(x - 0.5)
    top, y_fraction = _whole_and_fraction(y - 0.5)
    values = tf.reshape(tf.cast(image, tf.float32), [-1, 3])

    def sample(offsets):
        columns = [tf.clip_by_value(left + offset, 0, width - 1) for offset in offsets]
        row_starts = [tf.clip_by_value(top + offset, 0, height - 1) * width for offset in offsets]
        rows = [
            _interpolate(
                [tf.gather(values, start + column) for column in columns], x_fraction[..., None]
            )
            for start in row_starts
        ]
        return _interpolate(rows, y_fraction[..., None])

    return tf.where(is_inside[..., None], _interpolated(bicubic, sample), fill)


def shear_x(
    image: tf.Tensor, factor: tf.Tensor, fill: tf.Tensor, bicubic: tf.Tensor | bool
) -> tf.Tensor:
    """Moves row y to the left by `factor` * y pixels; see `rotate` for the other arguments."""
    return _shift_rows(image, factor * (_range(tf.shape(image)[0]) + 0.5), fill, bicubic)


def shear_y(
    image: tf.Tensor, factor: tf.Tensor, fill: tf.Tensor, bicubic: tf.Tensor | bool
) -> tf.Tensor:
    """Moves column x up by `factor` * x pixels; see `rotate` for the other arguments."""
    return _transposed(shear_x, image, factor, fill, bicubic)


def translate_x(
    image: tf.Tensor, share: tf.Tensor, fill: tf.Tensor, bicubic: tf.Tensor | bool
) -> tf.Tensor:
    """Moves a photo to the left by a share of its width; see `rotate` for the other arguments."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    shift = share * tf.cast(width, tf.float64)
    return _shift_rows(image, tf.fill([height], shift), fill, bicubic)


def translate_y(
    image: tf.Tensor, share: tf.Tensor, fill: tf.Tensor, bicubic: tf.Tensor | bool
) -> tf.Tensor:
    """Moves a photo up by a share of its height; see `rotate` for the other arguments."""
    return _transposed(translate_x, image, share, fill, bicubic)


def _shift_rows(image, shift, fill, bicubic):
    """Moves each row y to the left by shift[y] pixels; `shift` is float64 (H,)."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    whole, fraction = _whole_and_fraction(shift)
    centers = _range(width) + 0.5 + shift[:, None]
    pixels = tf.reshape(image, [-1, 3])

    def sample(offsets):
        columns = tf.range(offsets[0], width + offsets[-1]) + whole[:, None]
        columns = tf.clip_by_value(columns, 0, width - 1)
        rows = tf.gather(pixels, tf.range(height)[:, None] * width + columns)
        rows = tf.cast(rows, tf.float32)
        neighbors = [rows[:, i : i + width] for i in range(len(offsets))]
        return _interpolate(neighbors, fraction[:, None, None])

    return tf.where(_is_within(centers, width)[..., None], _interpolated(bicubic, sample), fill)


def _interpolated(bicubic, sample):
    """Returns `sample(offsets)` as uint8, with the four offsets of bicubic or two of bilinear."""

    def as_pixels(offsets):
        # PIL truncates the decimals.
        return tf.cast(tf.clip_by_value(sample(offsets), 0.0, 255.0), tf.uint8)

    def four_neighbors():
        return as_pixels(range(-1, 3))

    def two_neighbors():
        return as_pixels(range(2))

    if isinstance(bicubic, bool):
        return four_neighbors() if bicubic else two_neighbors()
    return tf.cond(bicubic, four_neighbors, two_neighbors)


def _interpolate(neighbors, fraction):
    """Interpolates two values linearly, or the inner two of four with PIL's cubic (a = -1)."""
    # These formulas keep constant areas exactly.
    if len(neighbors) == 2:
        return neighbors[0] + fraction * (neighbors[1] - neighbors[0])
    v0, v1, v2, v3 = neighbors
    first = v2 - v0
    second = 2 * (v0 - v1) + v2 - v3
    third = v1 - v0 + v3 - v2
    return v1 + fraction * (first + fraction * (second + fraction * third))


def _whole_and_fraction(values):
    whole = tf.floor(values)
    return tf.cast(whole, tf.int32), tf.cast(values - whole, tf.float32)


def _is_within(values, size):
    return (values >= 0) & (values < tf.cast(size, tf.float64))


def _range(size):
    return tf.range(tf.cast(size, tf.float64))


def _is_inner(size):
    """Returns which of the indices 0..size-1 have a neighbor on both sides: bool (size,)."""
    indices = tf.range(size)
    return (indices > 0) & (indices < size - 1)


def _transposed(operation, image, *arguments):
    return tf.transpose(operation(tf.transpose(image, [1, 0, 2]), *arguments), [1, 0, 2])


def _luma(image):
    """Returns PIL's gray values of a photo: float32 (H, W, 1), whole numbers."""
    # float32 sums of whole numbers below 2^24 are exact.
    values = tf.cast(image, tf.float32)
    red, green, blue = values[..., :1], values[..., 1:2], values[..., 2:]
    return tf.floor((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536)


def _blend(other, image, factor):
    """Blends two images of uint8 values like `PIL.Image.blend`, which truncates the decimals."""
    blended = other + tf.cast(factor, tf.float32) * (tf.cast(image, tf.float32) - other)
    return tf.cast(tf.clip_by_value(blended, 0.0, 255.0), tf.uint8)


def _look_up(image, table):
    """Replaces each value v of channel c by table[v, c]."""
    indices = tf.cast(image, tf.int32) * 3 + tf.range(3)
    return tf.gather(tf.reshape(tf.cast(table, tf.uint8), [-1]), indices)
