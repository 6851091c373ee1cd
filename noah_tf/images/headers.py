"""Reads the headers of photos: whether one may be decoded, and where its first frame is.

Everything here consists of TensorFlow ops on the encoded bytes. It therefore also runs inside an
exported SavedModel, before a decoder allocates any memory.
"""

import tensorflow as tf

from noah_tf.images.encoded_bytes import JPEG, as_single_op, read_integers, starts_with, substring

# TensorFlow versions with this op also read WebP in `tf.io.decode_image`.
DECODES_WEBP = hasattr(tf.raw_ops, "DecodeWebP")
FORMATS = ("JPEG", "PNG", "GIF", "BMP", *(["WebP"] if DECODES_WEBP else []))
# Each scan of a JPEG updates all of its pixels and can be as short as 12 bytes, so a file of one
# megabyte could occupy a CPU for minutes. Encoders write about ten scans.
MAX_SCANS = 100
# The message for a photo with a valid header that the decoder rejects.
UNDECODABLE = "it cannot be decoded: the file is truncated or corrupt"
_MAX_STEPS = 10_000  # loop iterations over the blocks of a GIF, 20 microseconds each
_MAX_RUN = 4096  # blocks of a GIF per iteration
PNG, _GIF = b"\x89PNG\r\n\x1a\n", b"GIF8"
_TRUNCATED = "it ends inside its header"
_NO_FRAME = "its first frame is missing or not whole"
_MANY_BLOCKS = f"its first frame ends after more than {_MAX_STEPS} blocks of different lengths"


def problem(image_bytes: tf.Tensor, max_pixels: tf.Tensor | int) -> tf.Tensor:
    """Returns why a photo must not be decoded, according to its header.

    A photo without a problem here can still be corrupt, which its decoder reports. Decoding it
    takes at most 11 bytes per pixel (for a progressive CMYK JPEG; 3 to 7 are usual), and up to
    400 MB for the tables of a lossless WebP.

    Args:
        image_bytes: string scalar.
        max_pixels: the largest allowed width times height.

    Returns:
        String scalar: empty if the photo may be decoded, otherwise a clause that says what the
        photo has and what is allowed.

    Raises:
        tf.errors.InvalidArgumentError: when it runs, for a JPEG whose header libjpeg rejects.

    Example:

    >>> problem(b"hello", 2**25).numpy()
    b'it is not a JPEG, PNG, GIF or BMP file: it begins with 68 65 6c 6c 6f'
    """
    image_bytes = tf.convert_to_tensor(image_bytes, tf.string)
    max_pixels = tf.cast(max_pixels, tf.int64)
    message = tf.cond(
        starts_with(image_bytes, JPEG),
        lambda: _jpeg_problem(image_bytes, max_pixels),
        lambda: _other_problem(image_bytes, max_pixels),
    )
    return tf.convert_to_tensor(message)  # In eager mode, tf.cond can return a Python string.


def first_frame(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns a GIF with the first frame only; other files are unchanged.

    TensorFlow would decode all frames before it selects the first one. Extensions are removed too:
    there can be many, and TensorFlow uses none. Decoding the result gives the same pixels as
    decoding the whole file, unless later frames are larger than the first: TensorFlow would then
    pad the first one.

    Args:
        image_bytes: string scalar.

    Returns:
        String scalar.

    Raises:
        tf.errors.InvalidArgumentError: when it runs, for a GIF without a complete first frame.
    """
    image_bytes = tf.convert_to_tensor(image_bytes, tf.string)

    def extract():
        begin, end, message = _gif_frame(image_bytes)
        is_valid = tf.debugging.Assert(message == "", ["Invalid GIF:", message])
        with tf.control_dependencies([is_valid]):
            frame = substring(image_bytes, begin, end - begin)
        header = substring(image_bytes, 0, _gif_header_size(image_bytes))
        return tf.strings.join([header, frame, b";"])

    return tf.cond(starts_with(image_bytes, _GIF), extract, lambda: image_bytes)


def is_webp(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns whether a file is a WebP that this version of TensorFlow decodes, a bool scalar."""
    if not DECODES_WEBP:
        return tf.constant(False)
    return starts_with(image_bytes, b"RIFF") & (substring(image_bytes, 8, 4) == b"WEBP")


# --- problems of each format


def _jpeg_problem(image_bytes, max_pixels):
    height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(image_bytes, tf.int64))
    # A scan has at least 12 bytes, so a small file has few scans, and scans of a small photo take
    # little time. Most photos therefore need no search for scans, which costs 3% of the decoding.
    harmless_length = 12 * MAX_SCANS
    length = tf.maximum(tf.cast(tf.strings.length(image_bytes), tf.int64), harmless_length)
    return tf.cond(
        length * height * width <= harmless_length * max_pixels,
        lambda: "",
        lambda: _large_jpeg_problem(image_bytes, height, width, max_pixels),
    )


@as_single_op
def _large_jpeg_problem(image_bytes, height, width, max_pixels):
    def scans_problem():
        # Coded pixels cannot contain this marker: there, the byte 255 is followed by 0 or 208-215.
        segments = tf.raw_ops.StringSplitV2(
            input=[image_bytes], sep=b"\xff\xda\x00", maxsplit=MAX_SCANS + 1
        )
        num_scans = tf.size(segments.values) - 1
        message = f"it has more than the {MAX_SCANS} scans allowed"
        return tf.where(num_scans > MAX_SCANS, message, "")

    message = _size_problem(width, height, max_pixels)
    return tf.cond(message == "", scans_problem, lambda: message)


@as_single_op
def _other_problem(image_bytes, max_pixels):
    length = tf.strings.length(image_bytes)

    def png():
        sides = read_integers(image_bytes, 16, 8, tf.int32, little_endian=False) & 0xFFFFFFFF
        message = _size_problem(sides[0], sides[1], max_pixels)
        # The format allows no other chunk before the header, but the decoder accepts some.
        has_header = substring(image_bytes, 8, 8) == b"\0\0\0\rIHDR"
        return tf.where(has_header, message, "it has no header")

    def gif():
        canvas = read_integers(image_bytes, 6, 4, tf.uint16)
        begin, _, message = _gif_frame(image_bytes)
        frame = read_integers(image_bytes, begin + 5, 4, tf.uint16)
        canvas_message = _size_problem(canvas[0], canvas[1], max_pixels)
        frame_message = _size_problem(frame[0], frame[1], max_pixels, "its first frame has")
        message = tf.where(message == "", frame_message, message)
        return tf.where(canvas_message == "", message, canvas_message)

    def bmp():
        sides = read_integers(image_bytes, 18, 8, tf.int32)
        # The height is negative if the rows are stored from top to bottom.
        message = _size_problem(sides[0], tf.abs(sides[1]), max_pixels)
        return tf.where(message == "", bmp_problem(image_bytes), message)

    def webp():
        chunk = substring(image_bytes, 12, 4)
        lossy = read_integers(image_bytes, 26, 4, tf.uint16) & 0x3FFF
        packed = read_integers(image_bytes, 21, 4, tf.int32)[0] & 0xFFFFFFFF
        lossless = tf.stack([packed & 0x3FFF, packed // (1 << 14) & 0x3FFF]) + 1
        canvas = tf.reshape(read_integers(image_bytes, 24, 6, tf.uint8), [2, 3])
        canvas = tf.reduce_sum(canvas * [1, 1 << 8, 1 << 16], axis=1) + 1
        is_lossy, is_lossless, is_extended = chunk == b"VP8 ", chunk == b"VP8L", chunk == b"VP8X"
        sides = tf.where(is_lossy, lossy, tf.where(is_lossless, lossless, canvas))
        is_animated = is_extended & (read_integers(image_bytes, 20, 1, tf.uint8)[0] & 2 > 0)
        return tf.case(
            [
                (
                    is_animated,
                    lambda: "it is an animated WebP file, and only still ones are decoded",
                ),
                (
                    is_lossy | is_lossless | is_extended,
                    lambda: _size_problem(sides[0], sides[1], max_pixels),
                ),
            ],
            lambda: "it is a WebP file without a picture",
        )

    def with_header(header_size, check):
        return tf.cond(length < header_size, lambda: _TRUNCATED, check)

    cases = [
        (length == 0, lambda: "it is empty"),
        (starts_with(image_bytes, PNG), lambda: with_header(33, png)),
        (starts_with(image_bytes, _GIF), lambda: with_header(13, gif)),
        (starts_with(image_bytes, b"BM"), lambda: with_header(34, bmp)),
        (is_webp(image_bytes), lambda: with_header(30, webp)),
    ]
    return tf.case(cases, lambda: _unknown_problem(image_bytes))


def _unknown_problem(image_bytes):
    start = tf.io.decode_raw(tf.strings.substr(image_bytes, 0, 8), tf.uint8)
    digits = tf.constant([f"{value:02x}" for value in range(256)])
    hex_bytes = tf.strings.reduce_join(tf.gather(digits, tf.cast(start, tf.int32)), separator=" ")
    names = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    return tf.strings.join([f"it is not a {names} file: it begins with ", hex_bytes])


def _size_problem(width, height, max_pixels, subject="it has"):
    # Clipping the sides avoids an overflow: a side above the limit is too large in any case.
    sides = tf.minimum(tf.stack([width, height]), max_pixels + 1)
    fits = (sides[0] > 0) & (sides[1] > 0) & (sides[0] <= max_pixels // tf.maximum(sides[1], 1))
    limit = tf.where(
        (width > 0) & (height > 0),
        tf.strings.join([", more than the ", tf.strings.as_string(max_pixels), " allowed"]),
        ", where both sides must be 1 or more",
    )
    width_text, height_text = (tf.strings.as_string(side) for side in (width, height))
    return tf.where(
        fits, "", tf.strings.join([subject, " ", width_text, " x ", height_text, " pixels", limit])
    )


# --- BMP


def bmp_problem(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns why TensorFlow cannot decode this kind of BMP.

    Args:
        image_bytes: string scalar.

    Returns:
        String scalar: empty, or a clause that says what the file has and what can be decoded.
    """
    bits = read_integers(image_bytes, 28, 2, tf.uint16)[0]
    compression = read_integers(image_bytes, 30, 4, tf.int32)[0]
    # Compression 3 stores the positions of the colors in the 32 bits of a pixel.
    is_plain = tf.where(bits == 32, (compression == 0) | (compression == 3), compression == 0)
    is_plain &= (bits == 8) | (bits == 24) | (bits == 32)
    has = ["it is a BMP of ", tf.strings.as_string(bits), " bits a pixel, in the compression "]
    wanted = ", where 8, 24 or 32 without compression are decoded"
    return tf.where(
        is_plain, "", tf.strings.join([*has, tf.strings.as_string(compression), wanted])
    )


def bmp_palette(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the palette of a BMP with 8 bits per pixel.

    Args:
        image_bytes: string scalar.

    Returns:
        uint8 (number of colors, 3), red, green and blue.
    """
    begin = 14 + read_integers(image_bytes, 14, 4, tf.int32)[0]
    end = read_integers(image_bytes, 10, 4, tf.int32)[0]
    data = substring(image_bytes, begin, tf.clip_by_value(end - begin, 0, 1024))
    data = tf.io.decode_raw(data, tf.uint8)
    return tf.reshape(data[: tf.size(data) // 4 * 4], [-1, 4])[:, 2::-1]


# --- GIF


def _gif_header_size(image_bytes):
    """Returns the number of bytes before the first record: the header and the global palette."""
    return 13 + _palette_size(read_integers(image_bytes, 10, 1, tf.uint8)[0])


def _palette_size(flags):
    """Returns the number of bytes of the palette that these flags announce."""
    return tf.where(flags & 0x80 > 0, tf.bitwise.left_shift(tf.constant(6, tf.int64), flags & 7), 0)


def _gif_frame(image_bytes):
    """Finds the first frame: returns its begin, its end (int64), and a message or an empty string.

    A GIF is a sequence of records, extensions and frames. Each has a header, which is followed by
    blocks; the first byte of a block is its length, and a block of length 0 ends the record.
    """
    data = tf.io.decode_raw(image_bytes, tf.uint8)
    size = tf.size(data, tf.int64)
    records, extension, frame, done, broken = range(5)

    def skip_header(offset):
        """Returns the offset after a record's header, and whether it is an extension or a frame."""
        kind = data[offset]
        flags = tf.cast(data[tf.minimum(offset + 9, size - 1)], tf.int64)
        is_frame = kind == ord(",")
        state = tf.where(is_frame, frame, tf.where(kind == ord("!"), extension, broken))
        # One byte for the code size follows the palette of the frame.
        return offset + tf.where(is_frame, 11 + _palette_size(flags), 2), state

    def skip_blocks(offset, state):
        """Returns the offset after a run of blocks of the same length; most frames are one run."""
        length = data[offset]
        stride = tf.cast(length, tf.int64) + 1
        lengths = data[offset : offset + _MAX_RUN * stride : stride]
        other = tf.where(lengths != length)[:1, 0]
        count = tf.concat([other, [tf.size(lengths, tf.int64)]], 0)[0]
        ended = tf.where(state == frame, done, records)
        is_last = length == 0
        offset += tf.where(is_last, stride, count * stride)
        return offset, tf.where(is_last, ended, state)

    def step(offset, begin, state):
        begin = tf.where(state == records, offset, begin)
        offset, state = tf.cond(
            state == records, lambda: skip_header(offset), lambda: skip_blocks(offset, state)
        )
        # The file is broken if it ends before the frame is complete.
        return offset, begin, tf.where((offset >= size) & (state != done), broken, state)

    begin = _gif_header_size(image_bytes)
    end, begin, state = tf.while_loop(
        lambda offset, begin, state: state < done,
        step,
        (begin, begin, tf.where(begin < size, records, broken)),
        maximum_iterations=_MAX_STEPS,
    )
    message = tf.where(state == done, "", tf.where(state == broken, _NO_FRAME, _MANY_BLOCKS))
    return begin, end, message
