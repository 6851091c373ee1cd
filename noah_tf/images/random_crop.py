"""Random crops of photos, as functions of a seed."""

import dataclasses
import functools
import math

import tensorflow as tf

from noah_tf.images.encoded_bytes import as_single_op
from noah_tf.images.exif import orientation
from noah_tf.images.ops import decode, orient, resize, stored_window
from noah_tf.utils.validation import check_choice, check_int, check_range

CROP_INTERPOLATIONS = ("same", "random")
_CROP_TRIES = 10


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """The options of a random crop, its mirroring and its translation.

    Attributes:
        crop_scale: the crop's share of the photo's area, (smallest, largest). None takes the center
            crop of the evaluation instead, which is not random.
        crop_ratio: the crop's width / height, (smallest, largest), drawn log-uniformly.
        crop_interpolation: "same" resizes with the interpolation of the `Preprocessing`; "random"
            draws bilinear or bicubic, like timm's "random".
        crop_antialias: True resizes as PIL does. False is faster: large crops are shrunk while they
            are decoded, and then resized without antialiasing by a factor below two. On ImageNet
            the mean difference from PIL is about 1.1 of 255, compared with 0.3 for True.
        flip: mirror left-right with probability 1/2.
        pad: translate by up to this many pixels in each direction, with black borders; 4 is the
            custom for CIFAR.

    Raises:
        ValueError: an option is out of its range.
    """

    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_interpolation: str = "same"
    crop_antialias: bool = True
    flip: bool = True
    pad: int = 0

    def __post_init__(self) -> None:
        """Checks the options, and makes tuples of lists."""
        if self.crop_scale is not None:
            check_range("crop_scale", self.crop_scale, 1)
            check_range("crop_ratio", self.crop_ratio)
        check_int("pad", self.pad, minimum=0)
        check_choice("crop_interpolation", self.crop_interpolation, CROP_INTERPOLATIONS)
        for name in ("crop_antialias", "flip"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        # object.__setattr__ is how a frozen dataclass sets its own fields.
        for name in ("crop_scale", "crop_ratio"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))


def crop_draws(seed: tf.Tensor) -> tf.Tensor:
    """Returns all random numbers of a crop: uniform float (44,), a function of the seed, int (2,).

    The first decides the mirroring, the next two the translation, the fourth the interpolation,
    and the others the window.
    """
    # One op draws all numbers: many small random ops cost more than decoding a small photo. The op
    # uses the algorithm Philox on every CPU.
    return tf.raw_ops.StatelessRandomUniform(shape=[4 + 4 * _CROP_TRIES], seed=seed)


def decode_random_window(
    image_bytes: tf.Tensor,
    draws: tf.Tensor,
    crop: RandomCrop,
    target_size: tuple[int, int] | None = None,
    exif_rotation: bool = False,
    channels: int = 3,
) -> tf.Tensor:
    """Decodes a random window of a photo. Other parts of a JPEG are not decoded.

    Args:
        image_bytes: string scalar, the encoded photo.
        draws: the result of `crop_draws`.
        crop: its scale and ratio are used.
        target_size: (height, width) to which the window will be resized, or None. With a size, a
            window at least twice as large in both directions is shrunk: the window of a JPEG by 2,
            4 or 8 while it is decoded, which antialiases and costs less than decoding all of it;
            the window of another file to exactly `target_size`.
        exif_rotation: whether the window is one of the upright photo, see `Preprocessing`.
        channels: 3 or 4, see `ops.decode`.

    Returns:
        uint8 (h, w, channels).
    """

    def decode_jpeg_window(window, ratio=1):
        return tf.image.decode_and_crop_jpeg(image_bytes, window // ratio, channels=3, ratio=ratio)

    def from_jpeg():
        size = tf.io.extract_jpeg_shape(image_bytes)[:2]
        if not exif_rotation:
            window = random_window(size, draws, crop)
            return decode_shrunk(window, window[2:])
        direction = orientation(image_bytes)
        size = tf.where(direction > 4, size[::-1], size)
        window = random_window(size, draws, crop)
        pixels = decode_shrunk(stored_window(window, size, direction), window[2:])
        return orient(pixels, direction)

    def decode_shrunk(window, sides):
        if target_size is None:
            return decode_jpeg_window(window)
        factor = tf.reduce_min(sides // target_size)
        index = tf.cast(factor >= 4, tf.int32) + tf.cast(factor >= 8, tf.int32)
        branches = [functools.partial(decode_jpeg_window, window, ratio) for ratio in (2, 4, 8)]
        return tf.cond(
            factor < 2, lambda: decode_jpeg_window(window), lambda: tf.switch_case(index, branches)
        )

    @as_single_op
    def from_other_format(image_bytes, draws):
        image = decode(image_bytes, channels)
        window = random_window(tf.shape(image)[:2], draws, crop)
        begin, size = tf.split(window, 2)
        pixels = tf.slice(image, tf.concat([begin, [0]], 0), tf.concat([size, [-1]], 0))
        pixels = tf.ensure_shape(pixels, (None, None, channels))
        if target_size is None:
            return pixels
        return tf.cond(
            tf.reduce_min(size // target_size) < 2,
            lambda: pixels,
            lambda: tf.saturate_cast(tf.round(resize(pixels, target_size, "bilinear")), tf.uint8),
        )

    if channels == 4:
        return from_other_format(image_bytes, draws)
    return tf.cond(
        tf.io.is_jpeg(image_bytes), from_jpeg, lambda: from_other_format(image_bytes, draws)
    )


def random_window(size: tf.Tensor, draws: tf.Tensor, crop: RandomCrop) -> tf.Tensor:
    """Returns the window of a random crop.

    Args:
        size: int (2,), the photo's height and width.
        draws: the result of `crop_draws`.
        crop: its scale and ratio are used.

    Returns:
        int (4,): top, left, height, width of the first of ten random windows that fits in the
        photo. If none does, the largest centered window with an allowed ratio.
    """
    assert crop.crop_scale is not None, "None is the center crop, which has no random window"
    # Each op takes about a microsecond, so there are few of them.
    area_draws, ratio_draws, corner_draws = tf.split(draws[4:], [_CROP_TRIES] * 2 + [-1])
    photo = tf.cast(size, tf.float32)
    area = tf.reduce_prod(photo) * _between(area_draws, *crop.crop_scale)
    low, high = (math.log(ratio) for ratio in crop.crop_ratio)
    ratio = tf.exp(_between(ratio_draws, low, high))
    sides = tf.round(tf.sqrt(tf.stack([area / ratio, area * ratio])))  # (2, tries)
    photo = photo[:, None]
    room = photo - sides
    corners = tf.floor(tf.reshape(corner_draws, [2, -1]) * (room + 1))
    # The largest centered window comes last, and always fits.
    longest = tf.round(photo[::-1] * [[1 / crop.crop_ratio[0]], [crop.crop_ratio[1]]])
    centered = tf.maximum(tf.minimum(photo, longest), 1)
    sides = tf.concat([sides, centered], 1)
    corners = tf.concat([tf.minimum(corners, room), tf.floor((photo - centered) / 2)], 1)
    fits = tf.reduce_all((sides >= 1) & (sides <= photo), 0)
    windows = tf.concat([corners, sides], 0)  # (4, tries + 1)
    return tf.cast(tf.gather(windows, tf.argmax(fits), axis=1), tf.int32)


def _between(draws, low, high):
    return low + draws * (high - low)
