"""Which way up a photo is stored, as TensorFlow ops on its encoded bytes."""

import tensorflow as tf

from noah_tf.images.encoded_bytes import JPEG, part, starts_with, words

_MAX_STEPS = 10_000  # through the segments of a JPEG, 20 microseconds each


def orientation(image_bytes):
    """Which way up a JPEG is stored, as its EXIF data say.

    Args:
        image_bytes: string scalar.

    Returns:
        int32 scalar, 1 to 8, which `image_ops.orient` takes; 1, upright, where nothing is said,
        where the EXIF data are malformed, and for other formats.
    """
    image_bytes = tf.convert_to_tensor(image_bytes, tf.string)

    def of_jpeg():
        tiff = _exif(image_bytes)
        return tf.cond(tiff == b"", lambda: 1, lambda: _tiff_orientation(tiff))

    return tf.convert_to_tensor(tf.cond(starts_with(image_bytes, JPEG), of_jpeg, lambda: 1))


def _exif(image_bytes):
    """The TIFF data in the first EXIF segment of a JPEG, a string; empty where there are none."""

    def step(at, tiff, going):
        marker, length = tf.unstack(words(image_bytes, at, 4, tf.uint16, little_endian=False))
        filler = marker == 0xFFFF
        found = (marker == 0xFFE1) & (part(image_bytes, at + 4, 6) == b"Exif\0\0")
        tiff = tf.where(found, part(image_bytes, at + 10, tf.maximum(length - 8, 0)), "")
        # The pixels begin at 0xFFDA; the few markers below it have no length.
        before = (marker >= 0xFFC0) & ((marker < 0xFFD0) | (marker > 0xFFDA)) & (length >= 2)
        at += tf.where(tf.logical_not(filler), 2 + length, 1)
        return at, tiff, tf.logical_not(found) & (filler | before)

    _, tiff, _ = tf.while_loop(
        lambda at, tiff, going: going,
        step,
        (tf.constant(2, tf.int64), tf.constant(""), tf.constant(True)),
        maximum_iterations=_MAX_STEPS,
    )
    return tiff


def _tiff_orientation(tiff):
    little = tf.strings.substr(tiff, 0, 4) == b"II*\0"

    def ordered(numbers):
        return tf.where(little, numbers // 256 + numbers % 256 * 256, numbers)

    def read():
        header = ordered(words(tiff, 4, 4, tf.uint16, little_endian=False))
        at = tf.where(little, header[0] + header[1] * 65536, header[0] * 65536 + header[1])
        claimed = ordered(words(tiff, at, 2, tf.uint16, little_endian=False))[0]
        there = (tf.cast(tf.strings.length(tiff), tf.int64) - at - 2) // 12
        count = tf.maximum(tf.minimum(claimed, there), 0)
        # An entry is its tag, its type, two words of how many, two words of value. The op that
        # reads them cannot read none.
        entries = words(tiff, at + 2, 12 * tf.maximum(count, 1), tf.uint16, little_endian=False)
        entries = tf.reshape(ordered(entries), [-1, 6])[:count]
        values = tf.gather(entries[:, 4], tf.where((entries[:, 0] == 0x112) & (entries[:, 1] == 3)))
        value = tf.concat([tf.reshape(values, [-1]), [1]], 0)[0]
        return tf.cast(tf.where((value >= 1) & (value <= 8), value, 1), tf.int32)

    return tf.cond(little | (tf.strings.substr(tiff, 0, 4) == b"MM\0*"), read, lambda: 1)
