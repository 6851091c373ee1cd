"""The EXIF orientation of a photo, as TensorFlow ops on its encoded bytes."""

import tensorflow as tf

from noah_tf.images.encoded_bytes import JPEG, read_integers, starts_with, substring

_MAX_STEPS = 10_000  # the most segments of a JPEG that are read, 20 microseconds each


def orientation(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the orientation of a JPEG from its EXIF data.

    Args:
        image_bytes: string scalar.

    Returns:
        int32 scalar, 1 to 8, for `ops.orient`. It is 1 (upright) if the EXIF data are missing or
        malformed, and for other formats.
    """
    image_bytes = tf.convert_to_tensor(image_bytes, tf.string)

    def of_jpeg():
        tiff = _exif(image_bytes)
        return tf.cond(tiff == b"", lambda: 1, lambda: _tiff_orientation(tiff))

    return tf.convert_to_tensor(tf.cond(starts_with(image_bytes, JPEG), of_jpeg, lambda: 1))


def _exif(image_bytes):
    """Returns the TIFF data in the first EXIF segment of a JPEG, or an empty string."""

    def read_segment(start, tiff, proceed):
        marker, length = tf.unstack(
            read_integers(image_bytes, start, 4, tf.uint16, little_endian=False)
        )
        is_filler = marker == 0xFFFF
        is_exif = (marker == 0xFFE1) & (substring(image_bytes, start + 4, 6) == b"Exif\0\0")
        data = substring(image_bytes, start + 10, tf.maximum(length - 8, 0))
        tiff = tf.where(is_exif, data, "")
        # The pixels follow the marker 0xFFDA. The markers 0xFFD0 to 0xFFD9 have no length.
        has_next = (marker >= 0xFFC0) & ((marker < 0xFFD0) | (marker > 0xFFDA)) & (length >= 2)
        start += tf.where(tf.logical_not(is_filler), 2 + length, 1)
        return start, tiff, tf.logical_not(is_exif) & (is_filler | has_next)

    _, tiff, _ = tf.while_loop(
        lambda start, tiff, proceed: proceed,
        read_segment,
        (tf.constant(2, tf.int64), tf.constant(""), tf.constant(True)),
        maximum_iterations=_MAX_STEPS,
    )
    return tiff


def _tiff_orientation(tiff):
    """Returns the orientation in the first directory of TIFF data, or 1."""
    little_endian = tf.strings.substr(tiff, 0, 4) == b"II*\0"

    def read_uint16(start, length):
        numbers = read_integers(tiff, start, length, tf.uint16, little_endian=False)
        return tf.where(little_endian, numbers // 256 + numbers % 256 * 256, numbers)

    def read_orientation():
        low, high = tf.unstack(read_uint16(4, 4))
        start = tf.where(little_endian, low + high * 65536, low * 65536 + high)
        claimed = read_uint16(start, 2)[0]
        available = (tf.cast(tf.strings.length(tiff), tf.int64) - start - 2) // 12
        count = tf.maximum(tf.minimum(claimed, available), 0)
        # An entry has six 16-bit words: its tag, its type, two words for the number of values, and
        # two for the value. The op cannot read zero bytes, so it reads at least one entry.
        entries = read_uint16(start + 2, 12 * tf.maximum(count, 1))
        entries = tf.reshape(entries, [-1, 6])[:count]
        values = tf.gather(entries[:, 4], tf.where((entries[:, 0] == 0x112) & (entries[:, 1] == 3)))
        value = tf.concat([tf.reshape(values, [-1]), [1]], 0)[0]
        return tf.cast(tf.where((value >= 1) & (value <= 8), value, 1), tf.int32)

    return tf.cond(
        little_endian | (tf.strings.substr(tiff, 0, 4) == b"MM\0*"), read_orientation, lambda: 1
    )
