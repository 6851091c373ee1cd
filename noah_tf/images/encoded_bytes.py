"""TensorFlow ops that read encoded photos, also inside an exported SavedModel."""

import functools

import tensorflow as tf

JPEG = b"\xff\xd8\xff"  # how every file of it begins


def starts_with(image_bytes, magic):
    """Whether a file has a format's first bytes.

    Args:
        image_bytes: string scalar.
        magic: bytes, a constant.

    Returns:
        bool scalar.
    """
    return tf.strings.substr(image_bytes, 0, len(magic)) == magic


def part(image_bytes, at, count):
    """A part of a string, as far as there is one.

    Args:
        image_bytes: string scalar.
        at: int scalar, where it begins.
        count: int scalar, of bytes.

    Returns:
        String scalar.
    """
    at = tf.minimum(tf.cast(at, tf.int64), tf.cast(tf.strings.length(image_bytes), tf.int64))
    return tf.strings.substr(image_bytes, at, tf.cast(count, tf.int64))


def words(image_bytes, at, count, dtype, little_endian=True):
    """The numbers in a part of a string; what is not there is zero.

    Args:
        image_bytes: string scalar.
        at: int scalar, where they begin.
        count: int scalar, of bytes.
        dtype: what they are stored as.
        little_endian: their byte order.

    Returns:
        int64 vector.
    """
    found = part(image_bytes, at, count)
    found = tf.io.decode_raw(found, dtype, little_endian, fixed_length=tf.cast(count, tf.int32))
    return tf.cast(found, tf.int64)


def rarely(function):
    """Makes one op of a function of tensors, as a decorator.

    A graph visits each op of a branch that is not taken: the many ops for rare formats would take
    a twentieth of the time of decoding a small photo.

    Args:
        function: from tensors to tensors.

    Returns:
        The function, which in a graph is one op on the CPU.
    """
    apart = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})

    @functools.wraps(function)
    def call(*args):
        # Errors from within a function are long to read, and eagerly there is nothing to save.
        if tf.executing_eagerly():
            return function(*args)
        with tf.device("CPU:0"):  # where the ops for strings are
            return apart(*args)

    return call
