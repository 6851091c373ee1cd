"""Pixel operations of PIL as TensorFlow ops.

They map uint8 (H, W, 3) to uint8 (H, W, 3) and round like PIL, because the paper's recipes were
tuned with PIL.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def to_uint8(image: Any) -> tf.Tensor:
    """Rounds and clips values to uint8."""
    image = tf.convert_to_tensor(image)
    if image.dtype == tf.uint8:
        return image
    return tf.cast(tf.clip_by_value(tf.round(tf.cast(image, tf.float32)), 0.0, 255.0), tf.uint8)


@functools.cache
def compiled(operation: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """Returns an operation compiled by XLA, which takes a third to a tenth of its time.

    XLA does the passes of an operation over the pixels at once, and it compiles it anew for each
    size of the image.

    Args:
        operation: a function of this module, from an image and other tensors to an image.

    Returns:
        A function of the same tensors, and of the same Python values.
    """
    if operation is equalize:
        # XLA has no fast histogram on CPUs.
        return lambda image: compiled(look_up)(image, equalizing_table(image))
    return tf.function(operation, jit_compile=True, autograph=False)


def auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0..255, like `PIL.ImageOps.autocontrast`."""
    low = tf.cast(tf.reduce_min(image, [0, 1]), tf.float64)
    high = tf.cast(tf.reduce_max(image, [0, 1]), tf.float64)
    scale = 255.0 / tf.maximum(high - low, 1.0)
    # The table of all 256 values is in float64, because float32 would round some differently.
    values = tf.range(256, dtype=tf.float64)[:, None]
    stretched = tf.clip_by_value(tf.floor(values * scale - low * scale), 0.0, 255.0)
    return look_up(image, tf.cast(tf.where(high > low, stretched, values), tf.uint8))


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Equalizes the histogram of each channel, like `PIL.ImageOps.equalize`."""
    return look_up(image, equalizing_table(image))


def equalizing_table(image: tf.Tensor) -> tf.Tensor:
    """Returns what each value of each channel becomes if `equalize` is applied: uint8 (256, 3)."""
    channels = tf.unstack(tf.cast(tf.reshape(image, [-1, 3]), tf.int32), axis=1)
    counts = tf.stack(
        [
            tf.raw_ops.HistogramFixedWidth(values=channel, value_range=[0, 256], nbins=256)
            for channel in channels
        ]
    )  # (3, 256)
    brightest = 255 - tf.argmax(tf.reverse(counts > 0, [1]), 1, output_type=tf.int32)
    below = tf.cumsum(counts, axis=1, exclusive=True)
    # All pixels that are not of the brightest value are below it.
    step = tf.gather(below, brightest, axis=1, batch_dims=1)[:, None] // 255
    spread = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    return tf.cast(tf.transpose(tf.where(step > 0, spread, tf.range(256))), tf.uint8)


def look_up(image: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Replaces each value v of channel c by table[v, c].

    Args:
        image: uint8 (H, W, 3).
        table: uint8 (256, 3).
    """
    return tf.gather(tf.reshape(table, [-1]), tf.cast(image, tf.int32) * 3 + tf.range(3))


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
    image: tf.Tensor, degrees: tf.Tensor, fill: tf.Tensor, bicubic: bool = False
) -> tf.Tensor:
    """Rotates a photo counterclockwise about its center.

    Args:
        image: uint8 (H, W, 3).
        degrees: the angle, a number.
        fill: uint8 (3,), the color outside the photo.
        bicubic: whether to interpolate bicubically instead of bilinearly.
    """
    angle = -tf.cast(degrees, tf.float64) * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    y, x = _centers(image)
    middle_y, middle_x = (tf.shape(image)[axis] / 2 for axis in (0, 1))  # float64
    down, right = y - middle_y, x - middle_x
    x = cos * right + sin * down + middle_x
    y = cos * down - sin * right + middle_y
    return _warp(image, y, x, fill, bicubic)


def shear_x(
    image: tf.Tensor, factor: tf.Tensor, fill: tf.Tensor, bicubic: bool = False
) -> tf.Tensor:
    """Moves row y to the left by `factor` * y pixels; see `rotate` for the other arguments."""
    y, x = _centers(image)
    return _warp(image, y, x + factor * y, fill, bicubic, along="x")


def shear_y(
    image: tf.Tensor, factor: tf.Tensor, fill: tf.Tensor, bicubic: bool = False
) -> tf.Tensor:
    """Moves column x up by `factor` * x pixels; see `rotate` for the other arguments."""
    y, x = _centers(image)
    return _warp(image, y + factor * x, x, fill, bicubic, along="y")


def translate_x(
    image: tf.Tensor, share: tf.Tensor, fill: tf.Tensor, bicubic: bool = False
) -> tf.Tensor:
    """Moves a photo to the left by a share of its width; see `rotate` for the other arguments."""
    y, x = _centers(image)
    return _warp(image, y, x + share * _float64_size(image, 1), fill, bicubic, along="x")


def translate_y(
    image: tf.Tensor, share: tf.Tensor, fill: tf.Tensor, bicubic: bool = False
) -> tf.Tensor:
    """Moves a photo up by a share of its height; see `rotate` for the other arguments."""
    y, x = _centers(image)
    return _warp(image, y + share * _float64_size(image, 0), x, fill, bicubic, along="y")


def _warp(image, y, x, fill, bicubic, along="xy"):
    """Samples a photo at other positions, like `PIL.Image.transform`.

    Args:
        image: uint8 (H, W, 3).
        y: float64, broadcastable to (H, W): where each pixel of the result lies in the photo, in
            pixels from its upper edge. The middle of the first row is 0.5.
        x: likewise, from its left edge.
        fill: uint8 (3,), the color outside the photo.
        bicubic: whether to interpolate bicubically instead of bilinearly.
        along: the axes along which the positions lie between the middles of pixels.

    Returns:
        uint8 (H, W, 3).
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    pixels = tf.reshape(image, [-1, 3])

    def neighbors(positions, size, is_between):
        """Returns the indices of the pixels to interpolate, and the fraction between them."""
        if not is_between:
            return [tf.cast(tf.floor(positions), tf.int32)], None
        first = tf.floor(positions - 0.5)
        fraction = tf.cast(positions - 0.5 - first, tf.float32)[..., None]
        offsets = range(-1, 3) if bicubic else range(2)
        first = tf.cast(first, tf.int32)
        return [tf.clip_by_value(first + offset, 0, size - 1) for offset in offsets], fraction

    rows, y_fraction = neighbors(y, height, "y" in along)
    columns, x_fraction = neighbors(x, width, "x" in along)
    values = [
        _interpolate(
            [tf.cast(tf.gather(pixels, row * width + column), tf.float32) for column in columns],
            x_fraction,
        )
        for row in rows
    ]
    # PIL truncates the decimals.
    sampled = tf.clip_by_value(_interpolate(values, y_fraction), 0.0, 255.0)
    is_inside = _is_within(y, height) & _is_within(x, width)
    return tf.where(is_inside[..., None], tf.cast(sampled, tf.uint8), fill)


def _interpolate(neighbors, fraction):
    """Interpolates two values linearly, or the inner two of four with PIL's cubic (a = -1)."""
    if fraction is None:
        return neighbors[0]
    # These formulas keep constant areas exactly.
    if len(neighbors) == 2:
        return neighbors[0] + fraction * (neighbors[1] - neighbors[0])
    v0, v1, v2, v3 = neighbors
    first = v2 - v0
    second = 2 * (v0 - v1) + v2 - v3
    third = v1 - v0 + v3 - v2
    return v1 + fraction * (first + fraction * (second + fraction * third))


def _centers(image):
    """Returns where the middles of the pixels lie: y (H, 1) and x (1, W), float64."""
    y, x = (tf.range(_float64_size(image, axis)) + 0.5 for axis in (0, 1))
    return y[:, None], x[None]


def _float64_size(image, axis):
    return tf.cast(tf.shape(image)[axis], tf.float64)


def _is_within(values, size):
    return (values >= 0) & (values < tf.cast(size, tf.float64))


def _is_inner(size):
    """Returns which of the indices 0..size-1 have a neighbor on both sides: bool (size,)."""
    indices = tf.range(size)
    return (indices > 0) & (indices < size - 1)


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
