"""Pixel operations as TensorFlow ops that agree with PIL.

They take and give uint8 (H, W, 3) and round as PIL does, because the recipes of `rand_augment` and
`augment` were tuned with PIL's.
"""

import math

import tensorflow as tf


def to_uint8(image):
    """Rounds values to uint8, and clips them to 0..255."""
    image = tf.convert_to_tensor(image)
    if image.dtype == tf.uint8:
        return image
    return tf.cast(tf.clip_by_value(tf.round(tf.cast(image, tf.float32)), 0.0, 255.0), tf.uint8)


def auto_contrast(image):
    """Stretches each channel to 0..255, as `PIL.ImageOps.autocontrast`."""
    low = tf.cast(tf.reduce_min(image, [0, 1]), tf.float64)
    high = tf.cast(tf.reduce_max(image, [0, 1]), tf.float64)
    scale = 255.0 / tf.maximum(high - low, 1.0)
    # A table of all values: in float64, where float32 would round some to the other side.
    values = tf.range(256, dtype=tf.float64)[:, None]
    stretched = tf.clip_by_value(tf.floor(values * scale - low * scale), 0.0, 255.0)
    return _look_up(image, tf.where(high > low, stretched, values))


def equalize(image):
    """Spreads the values of each channel evenly, as `PIL.ImageOps.equalize`."""
    channels = tf.transpose(tf.reshape(tf.cast(image, tf.int32), [-1, 3]))
    counts = tf.math.bincount(channels, minlength=256, maxlength=256, axis=-1)  # (3, 256)
    brightest = tf.gather(counts, tf.reduce_max(channels, 1), axis=1, batch_dims=1)
    step = (tf.shape(channels)[1] - brightest)[:, None] // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    spread = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    return _look_up(image, tf.transpose(tf.where(step > 0, spread, tf.range(256))))


def invert(image):
    """The negative."""
    return 255 - image


def posterize(image, bits):
    """Keeps the highest `bits` of each value: 0 (black) to 8 (no change)."""
    mask = 256 - tf.bitwise.left_shift(1, 8 - tf.cast(bits, tf.int32))
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def solarize(image, threshold):
    """Inverts the values that are at least `threshold`, an int 0..256."""
    bright = tf.cast(image, tf.int32) >= tf.cast(threshold, tf.int32)
    # 255 - v is v with all its bits turned; tf.where would cost five times as much.
    return tf.bitwise.bitwise_xor(image, 255 * tf.cast(bright, tf.uint8))


def solarize_add(image, amount):
    """Adds `amount`, an int 0..128, to the values below 128."""
    return image + tf.cast(image < 128, tf.uint8) * tf.cast(amount, tf.uint8)


def color(image, factor):
    """Saturation: 0 is gray, 1 no change, 2 twice as colourful, as `PIL.ImageEnhance.Color`."""
    return _blend(_luma(image), image, factor)


def contrast(image, factor):
    """Contrast: 0 is the mean gray, 1 no change, as `PIL.ImageEnhance.Contrast`."""
    # Whole numbers up to 2^31 / 255 pixels: exact, where a float32 sum would not be.
    luma = tf.cast(_luma(image), tf.int32)
    mean = tf.reduce_sum(luma) / tf.size(luma)  # float64
    return _blend(tf.cast(tf.floor(mean + 0.5), tf.float32), image, factor)


def brightness(image, factor):
    """Brightness: 0 is black, 1 no change, as `PIL.ImageEnhance.Brightness`."""
    return _blend(0.0, image, factor)


def sharpness(image, factor):
    """Sharpness: 0 is blurred, 1 no change, as `PIL.ImageEnhance.Sharpness`."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    values = tf.cast(image, tf.float32)
    padded = tf.pad(values, [[1, 1], [1, 1], [0, 0]])
    threes = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    smooth = (threes[:-2] + threes[1:-1] + threes[2:] + 4 * values) / 13
    # PIL leaves the outermost pixels as they are.
    inner = _inner(height)[:, None, None] & _inner(width)[:, None]
    return tf.where(inner, _blend(tf.floor(smooth + 0.5), image, factor), image)


def rotate(image, degrees, fill, bicubic):
    """Rotates counter-clockwise about the centre.

    Args:
        image: uint8 (H, W, 3).
        degrees: a number.
        fill: uint8 (3,), the colour outside the photo.
        bicubic: bool, interpolate bicubically, not bilinearly; may be a tensor.
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    angle = -tf.cast(degrees, tf.float64) * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    middle_y, middle_x = height / 2, width / 2  # float64
    down, right = _count(height)[:, None] + 0.5 - middle_y, _count(width) + 0.5 - middle_x
    x = cos * right + sin * down + middle_x
    y = cos * down - sin * right + middle_y
    inside = _within(x, width) & _within(y, height)
    left, x_fraction = _whole_and_fraction(x - 0.5)
    top, y_fraction = _whole_and_fraction(y - 0.5)
    values = tf.reshape(tf.cast(image, tf.float32), [-1, 3])

    def sampled(places):
        columns = [tf.clip_by_value(left + place, 0, width - 1) for place in places]
        lines = [tf.clip_by_value(top + place, 0, height - 1) * width for place in places]
        rows = [
            _interpolate([tf.gather(values, line + c) for c in columns], x_fraction[..., None])
            for line in lines
        ]
        return _interpolate(rows, y_fraction[..., None])

    return tf.where(inside[..., None], _either(bicubic, sampled), fill)


def shear_x(image, factor, fill, bicubic):
    """Row y shows what is `factor` * y further right; see `rotate`."""
    return _shift_rows(image, factor * (_count(tf.shape(image)[0]) + 0.5), fill, bicubic)


def shear_y(image, factor, fill, bicubic):
    """Column x shows what is `factor` * x further down; see `rotate`."""
    return _transposed(shear_x, image, factor, fill, bicubic)


def translate_x(image, share, fill, bicubic):
    """Shows what is `share` of the width further right; see `rotate`."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    shift = share * tf.cast(width, tf.float64)
    return _shift_rows(image, tf.fill([height], shift), fill, bicubic)


def translate_y(image, share, fill, bicubic):
    """Shows what is `share` of the height further down; see `rotate`."""
    return _transposed(translate_x, image, share, fill, bicubic)


def _shift_rows(image, shift, fill, bicubic):
    """Pixel (y, x) of the result is the image at (y, x + shift[y]); `shift` is float64 (H,)."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    whole, fraction = _whole_and_fraction(shift)
    centres = _count(width) + 0.5 + shift[:, None]
    pixels = tf.reshape(image, [-1, 3])

    def sampled(places):
        columns = tf.range(places[0], width + places[-1]) + whole[:, None]
        columns = tf.clip_by_value(columns, 0, width - 1)
        rows = tf.gather(pixels, tf.range(height)[:, None] * width + columns)
        rows = tf.cast(rows, tf.float32)
        taps = [rows[:, i : i + width] for i in range(len(places))]
        return _interpolate(taps, fraction[:, None, None])

    return tf.where(_within(centres, width)[..., None], _either(bicubic, sampled), fill)


def _either(bicubic, sampled):
    """What `sampled` gives from four neighbours in each direction, or from two, as uint8."""

    def pixels(places):
        # PIL cuts the decimals off.
        return tf.cast(tf.clip_by_value(sampled(places), 0.0, 255.0), tf.uint8)

    four, two = (lambda: pixels(range(-1, 3))), (lambda: pixels(range(2)))
    if isinstance(bicubic, bool):
        return four() if bicubic else two()
    return tf.cond(bicubic, four, two)


def _interpolate(taps, fraction):
    """Between two values linearly, or between the inner two of four by PIL's cubic (a = -1)."""
    # In this form flat areas stay exactly as they are.
    if len(taps) == 2:
        return taps[0] + fraction * (taps[1] - taps[0])
    before, here, there, after = taps
    first = there - before
    second = 2 * (before - here) + there - after
    third = here - before + after - there
    return here + fraction * (first + fraction * (second + fraction * third))


def _whole_and_fraction(values):
    whole = tf.floor(values)
    return tf.cast(whole, tf.int32), tf.cast(values - whole, tf.float32)


def _within(values, size):
    return (values >= 0) & (values < tf.cast(size, tf.float64))


def _count(size):
    return tf.range(tf.cast(size, tf.float64))


def _inner(size):
    """Which of `size` places have a neighbour on both sides: bool (size,)."""
    places = tf.range(size)
    return (places > 0) & (places < size - 1)


def _transposed(operation, image, *arguments):
    return tf.transpose(operation(tf.transpose(image, [1, 0, 2]), *arguments), [1, 0, 2])


def _luma(image):
    """PIL's gray of a photo: float32 (H, W, 1), whole numbers."""
    # Sums of whole numbers below 2^24 are exact in float32.
    values = tf.cast(image, tf.float32)
    red, green, blue = values[..., :1], values[..., 1:2], values[..., 2:]
    return tf.floor((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536)


def _blend(other, image, factor):
    """`PIL.Image.blend` of uint8: decimals are cut off."""
    blended = other + tf.cast(factor, tf.float32) * (tf.cast(image, tf.float32) - other)
    return tf.cast(tf.clip_by_value(blended, 0.0, 255.0), tf.uint8)


def _look_up(image, table):
    """Replaces each value v of channel c by table[v, c]."""
    places = tf.cast(image, tf.int32) * 3 + tf.range(3)
    return tf.gather(tf.reshape(tf.cast(table, tf.uint8), [-1]), places)
