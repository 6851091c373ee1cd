"""What is done to one photo: decode, turn, mirror, scale."""

import tensorflow as tf

from noah_tf.images.encoded_bytes import rarely, starts_with
from noah_tf.images.headers import bmp_palette, bmp_problem, first_frame, is_webp

INTERPOLATIONS = ("bilinear", "bicubic")
_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}
_PLAIN_RESIZE = {"bilinear": tf.raw_ops.ResizeBilinear, "bicubic": tf.raw_ops.ResizeBicubic}


def decode(image_bytes):
    """Decodes a photo.

    JPEG (grayscale and CMYK too), PNG (16 bit, palette and alpha too; alpha is dropped), GIF (its
    first frame), BMP, and with TensorFlow versions that can, WebP. Broken or foreign bytes are an
    InvalidArgumentError when it runs. How large the photo is does not matter here: that is what
    `image_headers.problem` is for.

    Args:
        image_bytes: string scalar.

    Returns:
        uint8 (H, W, 3).
    """
    image_bytes = tf.convert_to_tensor(image_bytes, tf.string)
    start = tf.strings.substr(image_bytes, 0, 1)
    image = tf.cond(
        (start == b"\xff") | (start == b"\x89"),  # JPEG or PNG
        lambda: tf.image.decode_image(image_bytes, channels=3, expand_animations=False),
        lambda: _decode_other(image_bytes),
    )
    return tf.ensure_shape(image, (None, None, 3))


def orient(image, orientation):
    """Turns and mirrors a photo upright.

    Args:
        image: (H, W, 3), as it is stored.
        orientation: int scalar, 1 to 8, as `exif.orientation` gives it and EXIF numbers
            them: 1 upright; 2 mirrored left-right; 3 upside down; 4 mirrored top-bottom; 5 to 8
            those four with rows and columns swapped, so that 6 is to be turned right and 8 left.

    Returns:
        (H, W, 3), or (W, H, 3) where the orientation is 5 or more.
    """
    orientation = tf.convert_to_tensor(orientation)
    image = tf.cond(orientation > 4, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    bottom_up, right_left = _mirrors(orientation)
    return tf.raw_ops.Reverse(tensor=image, dims=tf.stack([bottom_up, right_left, False]))


def stored_window(window, size, orientation):
    """Where a part of the upright photo is in the photo as it is stored.

    Args:
        window: int (4,): top, left, height, width in the upright photo.
        size: int (2,): height and width of the upright photo.
        orientation: int scalar, see `orient`, which turns the part upright.

    Returns:
        int (4,): the same in the stored photo.
    """
    begin, sides = window[:2], window[2:]
    begin = tf.where(tf.stack(_mirrors(orientation)), size - begin - sides, begin)
    swapped = orientation > 4
    return tf.concat([tf.where(swapped, x[::-1], x) for x in (begin, sides)], 0)


def mirror(image, draw, flip):
    """The image, mirrored left-right where `flip` is set and the draw is below a half."""
    if not flip:
        return image
    # This op takes the question whether to mirror as an input: a tf.cond costs more than its work.
    return tf.raw_ops.Reverse(tensor=image, dims=tf.stack([False, draw < 0.5, False]))


def resize(image, size, interpolation):
    """Antialiased resize to float32 (h, w, 3), values 0..255; exact where nothing changes.

    The numbers are those of `tf.image.resize(..., antialias=True)`, to the last bit. Bilinear ones
    may leave 0..255 by a rounding error.
    """
    size = tf.convert_to_tensor(size, tf.int32)
    # The op adds whole rows in vectors, but columns pixel by pixel, which takes four times as long:
    # so both directions are scaled as rows.
    columns_first = tf.transpose(_scale_rows(image, size[0], interpolation), [1, 0, 2])
    scaled = tf.transpose(_scale_rows(columns_first, size[1], interpolation), [1, 0, 2])
    # Bicubic overshoots at edges.
    return tf.clip_by_value(scaled, 0.0, 255.0) if interpolation == "bicubic" else scaled


def plain_resize(image, size, interpolation):
    """Resize without antialiasing, for images at most about twice as large as the output.

    Up to there every pixel is among the two by two that bilinear interpolation takes.

    Args:
        image: uint8 (H, W, 3).
        size: (height, width) of the output.
        interpolation: "bilinear" or "bicubic".

    Returns:
        float32 (height, width, 3), values 0..255.
    """
    # The op takes bytes and gives floats; tf.image.resize would make floats of them first.
    scaled = _PLAIN_RESIZE[interpolation](
        images=tf.expand_dims(image, 0), size=size, half_pixel_centers=True
    )
    scaled = tf.reshape(scaled, (*size, 3))
    return tf.clip_by_value(scaled, 0.0, 255.0) if interpolation == "bicubic" else scaled


def _scale_rows(image, height, interpolation):
    """Scales (h, w, 3) to float32 (height, w, 3)."""
    shape = tf.shape(image)
    rows = tf.reshape(image, [1, shape[0], 1, -1])
    scaled = tf.raw_ops.ScaleAndTranslate(
        images=rows,
        size=tf.stack([height, 1]),
        scale=tf.stack([tf.cast(height, tf.float32) / tf.cast(shape[0], tf.float32), 1.0]),
        translation=[0.0, 0.0],
        kernel_type=_KERNELS[interpolation],
        antialias=True,
    )
    return tf.reshape(scaled, tf.stack([height, shape[1], 3]))


def _mirrors(orientation):
    """Whether `orient` mirrors top-bottom, and whether left-right, after it has swapped."""
    turn = (orientation - 1) % 4
    return turn >= 2, (turn == 1) | (turn == 2)


@rarely
def _decode_other(image_bytes):
    def decode_webp():
        # decode_image takes as many channels as there are, and does not drop alpha.
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
        # decode_image wants to be told how many channels a BMP has: 1, 3 or 4.
        pixels = tf.io.decode_bmp(image_bytes)

    def of_palette():
        return tf.gather(bmp_palette(image_bytes), tf.cast(pixels[..., 0], tf.int32))

    return tf.cond(tf.shape(pixels)[-1] == 1, of_palette, lambda: pixels[..., :3])
