"""What the header of a photo says: whether it may be decoded, and where its first frame is.

Everything here is TensorFlow ops on the encoded bytes, so that it also runs inside an exported
SavedModel, before a decoder takes any memory.
"""

import tensorflow as tf

from noah_tf.images.encoded_bytes import JPEG, part, rarely, starts_with, words

# TensorFlow versions that have this op read WebP in `tf.io.decode_image` as well.
DECODES_WEBP = hasattr(tf.raw_ops, "DecodeWebP")
FORMATS = ("JPEG", "PNG", "GIF", "BMP", *(["WebP"] if DECODES_WEBP else []))
# Every scan of a JPEG goes over all of its pixels and may take 12 bytes: a file of a megabyte could
# keep a processor for minutes. Encoders write about ten scans.
MAX_SCANS = 100
# What is said of a photo that has a good header, when its decoder gives it up.
UNDECODABLE = "it cannot be decoded: the file is truncated or corrupt"
_MAX_STEPS = 10_000  # through the blocks of a GIF, 20 microseconds each
_MAX_RUN = 4096  # blocks of a GIF in a step
_PNG, _GIF = b"\x89PNG\r\n\x1a\n", b"GIF8"
_SHORT = "it ends inside its header"
_NO_FRAME = "its first frame is missing or not whole"
_MANY_BLOCKS = f"its first frame ends after more than {_MAX_STEPS} blocks of different lengths"


def problem(image_bytes, max_pixels):
    """Says why a photo may not be decoded, from its header.

    A photo that passes may still be broken, which its decoder finds out. Decoding it takes at most
    11 bytes a pixel (a progressive CMYK JPEG; 3 to 7 in the ordinary case), and a lossless WebP up
    to 400 MB for its tables.

    Args:
        image_bytes: string scalar.
        max_pixels: the largest width times height.

    Returns:
        String scalar: empty where the photo may be decoded, else a clause with what it has and what
        is allowed.

    Raises:
        tf.errors.InvalidArgumentError: when it runs, for a JPEG whose header libjpeg refuses.

    Example:

    >>> problem(b"hello", 2**25).numpy()
    b'it is not a JPEG, PNG, GIF or BMP file: it begins with 68 65 6c 6c 6f'
    """
    image_bytes = tf.convert_to_tensor(image_bytes, tf.string)
    max_pixels = tf.cast(max_pixels, tf.int64)
    found = tf.cond(
        starts_with(image_bytes, JPEG),
        lambda: _jpeg_problem(image_bytes, max_pixels),
        lambda: _other_problem(image_bytes, max_pixels),
    )
    return tf.convert_to_tensor(found)  # eagerly, a branch gives what it was given


def first_frame(image_bytes):
    """A GIF's first frame as a file of its own; other files as they are.

    TensorFlow decodes all frames before it takes the first. Extensions are left out as well: they
    can be many, and hold nothing that it uses. The pixels are those that it finds in the whole
    file, except where later frames are larger than the first, which it then pads to their size.

    Args:
        image_bytes: string scalar.

    Returns:
        String scalar.

    Raises:
        tf.errors.InvalidArgumentError: when it runs, for a GIF without a whole first frame.
    """
    image_bytes = tf.convert_to_tensor(image_bytes, tf.string)

    def cut():
        begin, end, wrong = _gif_frame(image_bytes)
        with tf.control_dependencies([tf.debugging.Assert(wrong == "", ["Invalid GIF:", wrong])]):
            frame = part(image_bytes, begin, end - begin)
        colours = part(image_bytes, 0, _gif_header(image_bytes))
        return tf.strings.join([colours, frame, b";"])

    return tf.cond(starts_with(image_bytes, _GIF), cut, lambda: image_bytes)


def is_webp(image_bytes):
    """Whether a file is a WebP that this TensorFlow can decode.

    Args:
        image_bytes: string scalar.

    Returns:
        bool scalar.
    """
    if not DECODES_WEBP:
        return tf.constant(False)
    return starts_with(image_bytes, b"RIFF") & (part(image_bytes, 8, 4) == b"WEBP")


# --- what is wrong


def _jpeg_problem(image_bytes, max_pixels):
    height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(image_bytes, tf.int64))
    # A scan takes 12 bytes or more, so that with few bytes or few pixels they can do no harm. That
    # spares most photos the search through all their bytes, a thirtieth of the time of decoding.
    allowed = 12 * MAX_SCANS
    length = tf.maximum(tf.cast(tf.strings.length(image_bytes), tf.int64), allowed)
    return tf.cond(
        length * height * width <= allowed * max_pixels,
        lambda: "",
        lambda: _large_jpeg_problem(image_bytes, height, width, max_pixels),
    )


@rarely
def _large_jpeg_problem(image_bytes, height, width, max_pixels):
    def scans_problem():
        # No coded pixels have these bytes: a byte of 255 among them is followed by 0 or 208-215.
        parts = tf.raw_ops.StringSplitV2(
            input=[image_bytes], sep=b"\xff\xda\x00", maxsplit=MAX_SCANS + 1
        )
        found = tf.size(parts.values) - 1
        return tf.where(found > MAX_SCANS, f"it has more than the {MAX_SCANS} scans allowed", "")

    wrong = _size_problem(width, height, max_pixels)
    return tf.cond(wrong == "", scans_problem, lambda: wrong)


@rarely
def _other_problem(image_bytes, max_pixels):
    length = tf.strings.length(image_bytes)

    def png():
        sides = words(image_bytes, 16, 8, tf.int32, little_endian=False) & 0xFFFFFFFF
        wrong = _size_problem(sides[0], sides[1], max_pixels)
        # Other chunks may not come first, but the decoder lets some pass.
        return tf.where(part(image_bytes, 8, 8) == b"\0\0\0\rIHDR", wrong, "it has no header")

    def gif():
        canvas = words(image_bytes, 6, 4, tf.uint16)
        begin, _, wrong = _gif_frame(image_bytes)
        frame = words(image_bytes, begin + 5, 4, tf.uint16)
        wrong_canvas = _size_problem(canvas[0], canvas[1], max_pixels)
        wrong_frame = _size_problem(frame[0], frame[1], max_pixels, "its first frame has")
        wrong = tf.where(wrong == "", wrong_frame, wrong)
        return tf.where(wrong_canvas == "", wrong, wrong_canvas)

    def bmp():
        sides = words(image_bytes, 18, 8, tf.int32)
        # Rows from the top down are counted below zero.
        wrong = _size_problem(sides[0], tf.abs(sides[1]), max_pixels)
        return tf.where(wrong == "", bmp_problem(image_bytes), wrong)

    def webp():
        kind = part(image_bytes, 12, 4)
        lossy = words(image_bytes, 26, 4, tf.uint16) & 0x3FFF
        packed = words(image_bytes, 21, 4, tf.int32)[0] & 0xFFFFFFFF
        lossless = tf.stack([packed & 0x3FFF, packed // (1 << 14) & 0x3FFF]) + 1
        canvas = tf.reshape(words(image_bytes, 24, 6, tf.uint8), [2, 3])
        canvas = tf.reduce_sum(canvas * [1, 1 << 8, 1 << 16], axis=1) + 1
        is_lossy, is_lossless, is_extended = kind == b"VP8 ", kind == b"VP8L", kind == b"VP8X"
        sides = tf.where(is_lossy, lossy, tf.where(is_lossless, lossless, canvas))
        animated = is_extended & (words(image_bytes, 20, 1, tf.uint8)[0] & 2 > 0)
        return tf.case(
            [
                (animated, lambda: "it is an animated WebP file, and only still ones are decoded"),
                (
                    is_lossy | is_lossless | is_extended,
                    lambda: _size_problem(sides[0], sides[1], max_pixels),
                ),
            ],
            lambda: "it is a WebP file without a picture",
        )

    def whole(header, check):
        return tf.cond(length < header, lambda: _SHORT, check)

    cases = [
        (length == 0, lambda: "it is empty"),
        (starts_with(image_bytes, _PNG), lambda: whole(33, png)),
        (starts_with(image_bytes, _GIF), lambda: whole(13, gif)),
        (starts_with(image_bytes, b"BM"), lambda: whole(34, bmp)),
        (is_webp(image_bytes), lambda: whole(30, webp)),
    ]
    return tf.case(cases, lambda: _unknown_problem(image_bytes))


def _unknown_problem(image_bytes):
    start = tf.io.decode_raw(tf.strings.substr(image_bytes, 0, 8), tf.uint8)
    digits = tf.constant([f"{value:02x}" for value in range(256)])
    shown = tf.strings.reduce_join(tf.gather(digits, tf.cast(start, tf.int32)), separator=" ")
    names = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    return tf.strings.join([f"it is not a {names} file: it begins with ", shown])


def _size_problem(width, height, max_pixels, subject="it has"):
    # No product overflows: a side that is larger than the limit is one pixel too many already.
    sides = tf.minimum(tf.stack([width, height]), max_pixels + 1)
    fits = (sides[0] > 0) & (sides[1] > 0) & (sides[0] <= max_pixels // tf.maximum(sides[1], 1))
    limit = tf.where(
        (width > 0) & (height > 0),
        tf.strings.join([", more than the ", tf.strings.as_string(max_pixels), " allowed"]),
        ", where both sides must be 1 or more",
    )
    found = [tf.strings.as_string(side) for side in (width, height)]
    return tf.where(
        fits, "", tf.strings.join([subject, " ", found[0], " x ", found[1], " pixels", limit])
    )


# --- BMP


def bmp_problem(image_bytes):
    """Says why TensorFlow would not find the pixels of a BMP.

    Args:
        image_bytes: string scalar.

    Returns:
        String scalar: empty, or a clause with what it has and what is decoded.
    """
    bits = words(image_bytes, 28, 2, tf.uint16)[0]
    packing = words(image_bytes, 30, 4, tf.int32)[0]
    # 3 says where the colours are within a pixel's 32 bits.
    plain = tf.where(bits == 32, (packing == 0) | (packing == 3), packing == 0)
    plain &= (bits == 8) | (bits == 24) | (bits == 32)
    has = ["it is a BMP of ", tf.strings.as_string(bits), " bits a pixel, in the compression "]
    wanted = ", where 8, 24 or 32 without compression are decoded"
    return tf.where(plain, "", tf.strings.join([*has, tf.strings.as_string(packing), wanted]))


def bmp_palette(image_bytes):
    """The colours that the pixels of a BMP of 8 bits a pixel stand for.

    Args:
        image_bytes: string scalar.

    Returns:
        uint8 (N, 3), red, green and blue.
    """
    begin = 14 + words(image_bytes, 14, 4, tf.int32)[0]
    end = words(image_bytes, 10, 4, tf.int32)[0]
    data = part(image_bytes, begin, tf.clip_by_value(end - begin, 0, 1024))
    data = tf.io.decode_raw(data, tf.uint8)
    return tf.reshape(data[: tf.size(data) // 4 * 4], [-1, 4])[:, 2::-1]


# --- GIF


def _gif_header(image_bytes):
    """How many bytes come before the first record: the header and the colours of all frames."""
    return 13 + _colours(words(image_bytes, 10, 1, tf.uint8)[0])


def _colours(flags):
    """How many bytes the colours take that follow these flags."""
    return tf.where(flags & 0x80 > 0, tf.bitwise.left_shift(tf.constant(6, tf.int64), flags & 7), 0)


def _gif_frame(image_bytes):
    """Where the first frame is: its begin and end, int64, and what is wrong, or an empty string."""
    data = tf.io.decode_raw(image_bytes, tf.uint8)
    size = tf.size(data, tf.int64)
    records, extension, frame, done, broken = range(5)

    def record(at):
        """What begins here: an extension, a frame, or nothing of use."""
        kind = data[at]
        flags = tf.cast(data[tf.minimum(at + 9, size - 1)], tf.int64)
        is_frame = kind == ord(",")
        state = tf.where(is_frame, frame, tf.where(kind == ord("!"), extension, broken))
        # Behind the frame's own colours is one byte for how it is packed.
        return at + tf.where(is_frame, 11 + _colours(flags), 2), state

    def blocks(at, state):
        """Behind the equally long blocks that follow each other here, most often all but one."""
        length = data[at]
        step = tf.cast(length, tf.int64) + 1
        lengths = data[at : at + _MAX_RUN * step : step]
        other = tf.where(lengths != length)[:1, 0]
        count = tf.concat([other, [tf.size(lengths, tf.int64)]], 0)[0]
        ended = tf.where(state == frame, done, records)
        last = length == 0
        return at + tf.where(last, step, count * step), tf.where(last, ended, state)

    def step(at, begin, state):
        begin = tf.where(state == records, at, begin)
        at, state = tf.cond(state == records, lambda: record(at), lambda: blocks(at, state))
        # The end of a file is no place for anything but what is complete.
        return at, begin, tf.where((at >= size) & (state != done), broken, state)

    begin = _gif_header(image_bytes)
    at, begin, state = tf.while_loop(
        lambda at, begin, state: state < done,
        step,
        (begin, begin, tf.where(begin < size, records, broken)),
        maximum_iterations=_MAX_STEPS,
    )
    return (
        begin,
        at,
        tf.where(state == done, "", tf.where(state == broken, _NO_FRAME, _MANY_BLOCKS)),
    )
