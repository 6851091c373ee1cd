"""Operations on one photo: decode, orient, mirror, resize."""

import tensorflow as tf

from noah_tf.images.encoded_bytes import as_single_op, starts_with
from noah_tf.images.headers import PNG, bmp_palette, bmp_problem, first_frame, is_webp

INTERPOLATIONS = ("bilinear", "bicubic")
_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}
_PLAIN_RESIZE = {"bilinear": tf.raw_ops.ResizeBilinear, "bicubic": tf.raw_ops.ResizeBicubic}


def decode(image_bytes: tf.Tensor, channels: int = 3) -> tf.Tensor:
    """Decodes a photo.

    It reads JPEG (also grayscale and CMYK), PNG (also 16 bits, palettes, and alpha, which is
    dropped), GIF (the first frame), BMP, and WebP if this version of TensorFlow can. It does not
    limit the size of the photo; `headers.problem` does.

    Args:
        image_bytes: string scalar.
        channels: 3, or 4 for red, green, blue and alpha, which only PNG files have.

    Returns:
        uint8 (H, W, channels).

    Raises:
        tf.errors.InvalidArgumentError: when it runs, if the bytes are corrupt or no such file.
    """
    image_bytes = tf.convert_to_tensor(image_bytes, tf.string)
    if channels == 4:
        is_png = starts_with(image_bytes, PNG)
        message = "it is not a PNG file, which four channels need"
        with tf.control_dependencies([tf.debugging.Assert(is_png, [message])]):
            return tf.ensure_shape(tf.io.decode_png(image_bytes, channels=4), (None, None, 4))
    start = tf.strings.substr(image_bytes, 0, 1)
    image = tf.cond(
        (start == b"\xff") | (start == b"\x89"),  # JPEG or PNG
        lambda: tf.image.decode_image(image_bytes, channels=3, expand_animations=False),
        lambda: _decode_other(image_bytes),
    )
    return tf.ensure_shape(image, (None, None, 3))


def orient(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns and mirrors a photo so that it is upright.

    Args:
        image: (H, W, C), as stored.
        orientation: int scalar, the EXIF orientation from `exif.orientation`. 1: upright; 2:
            mirrored left-right; 3: upside down; 4: mirrored top-bottom; 5 to 8: the same four with
            rows and columns swapped. A photo of orientation 6 is turned right, one of 8 left.

    Returns:
        (H, W, C), or (W, H, C) for an orientation of 5 or more.
    """
    orientation = tf.convert_to_tensor(orientation)
    image = tf.cond(orientation > 4, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    top_bottom, left_right = _mirrored_axes(orientation)
    return tf.raw_ops.Reverse(tensor=image, dims=tf.stack([top_bottom, left_right, False]))


def stored_window(window: tf.Tensor, size: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Returns where a window of the upright photo lies in the photo as stored.

    Args:
        window: int (4,): top, left, height, width in the upright photo.
        size: int (2,): height and width of the upright photo.
        orientation: int scalar, see `orient`, which turns the pixels of the window upright.

    Returns:
        int (4,): top, left, height, width in the stored photo.
    """
    begin, sides = window[:2], window[2:]
    begin = tf.where(tf.stack(_mirrored_axes(orientation)), size - begin - sides, begin)
    is_swapped = orientation > 4
    return tf.concat([tf.where(is_swapped, x[::-1], x) for x in (begin, sides)], 0)


def mirror(image: tf.Tensor, draw: tf.Tensor, flip: bool) -> tf.Tensor:
    """Mirrors an image (H, W, C) left-right if `flip` is True and `draw` is below 0.5."""
    if not flip:
        return image
    # The op takes the decision as an input; a tf.cond would cost more than the mirroring.
    return tf.raw_ops.Reverse(tensor=image, dims=tf.stack([False, draw < 0.5, False]))


def resize(image: tf.Tensor, size: tf.Tensor | tuple[int, int], interpolation: str) -> tf.Tensor:
    """Resizes an image with antialiasing. An image that has the size already is unchanged.

    The result is that of `tf.image.resize(..., antialias=True)` to the last bit.

    Args:
        image: (H, W, C), values 0..255.
        size: (height, width) of the output.
        interpolation: "bilinear" or "bicubic".

    Returns:
        float32 (height, width, C), values 0..255; bilinear ones up to rounding errors.
    """
    size = tf.convert_to_tensor(size, tf.int32)
    # The op vectorizes the interpolation of rows but not of columns, which takes four times as
    # long. The columns are therefore transposed and resized as rows.
    columns_first = tf.transpose(_resize_rows(image, size[0], interpolation), [1, 0, 2])
    resized = tf.transpose(_resize_rows(columns_first, size[1], interpolation), [1, 0, 2])
    # Bicubic interpolation overshoots at edges.
    return tf.clip_by_value(resized, 0.0, 255.0) if interpolation == "bicubic" else resized


def plain_resize(image: tf.Tensor, size: tuple[int, int], interpolation: str) -> tf.Tensor:
    """Resizes without antialiasing, for images at most about twice as large as the output.

    Up to this factor, bilinear interpolation uses every pixel of the image.

    Args:
        image: uint8 (H, W, C).
        size: (height, width) of the output.
        interpolation: "bilinear" or "bicubic".

    Returns:
        float32 (height, width, C), values 0..255.
    """
    # The op reads bytes directly, while tf.image.resize would convert the image to floats first.
    resized = _PLAIN_RESIZE[interpolation](
        images=tf.expand_dims(image, 0), size=size, half_pixel_centers=True
    )
    resized = tf.reshape(resized, (*size, image.shape[-1]))
    return tf.clip_by_value(resized, 0.0, 255.0) if interpolation == "bicubic" else resized


def _resize_rows(image, height, interpolation):
    """Resizes (h, w, C) to float32 (height, w, C)."""
    # Each op takes about a microsecond, so there are few of them.
    old_height, _, channels = tf.unstack(tf.shape(image))
    factor = tf.cast(height, tf.float32) / tf.cast(old_height, tf.float32)
    resized = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(image, tf.stack([1, old_height, 1, -1])),
        size=tf.stack([height, 1]),
        scale=tf.stack([factor, 1.0]),
        translation=[0.0, 0.0],
        kernel_type=_KERNELS[interpolation],
        antialias=True,
    )
    return tf.reshape(resized, tf.stack([height, -1, channels]))


def _mirrored_axes(orientation):
    """Returns whether `orient` mirrors top-bottom and left-right, after swapping the axes."""
    turn = (orientation - 1) % 4
    return turn >= 2, (turn == 1) | (turn == 2)


@as_single_op
def _decode_other(image_bytes):
    def decode_webp():
        # For WebP, decode_image cannot drop the alpha channel.
        return tf.image.decode_image(image_bytes, expand_animations=False)[..., :3]

    def decode_gif():
        frame = first_frame(image_bytes)
        return tf.image.decode_image(frame, channels=3, expand_animations=False)

    return tf.case(
        [
            (starts_with(image_bytes, b"BM"), lambda: _decode_bmp(image_bytes)),
            (is_webp(image_bytes), decode_webp),
        ],
        decode_gif,
    )


def _decode_bmp(image_bytes):
    problem = bmp_problem(image_bytes)
    with tf.control_dependencies([tf.debugging.Assert(problem == "", ["Invalid BMP:", problem])]):
        # decode_bmp finds out whether there are 1, 3 or 4 channels, which decode_image does not.
        pixels = tf.io.decode_bmp(image_bytes)

    def look_up_palette():
        return tf.gather(bmp_palette(image_bytes), tf.cast(pixels[..., 0], tf.int32))

    return tf.cond(tf.shape(pixels)[-1] == 1, look_up_palette, lambda: pixels[..., :3])
