"""Which part of a photo a training view shows: a function of the seed."""

import dataclasses
import functools
import math

import tensorflow as tf

from noah_tf.images.exif import orientation
from noah_tf.images.ops import decode, orient, resize, stored_window
from noah_tf.utils.validation import check_choice, check_int

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
            _check_range("crop_scale", self.crop_scale, "0 < smallest <= largest <= 1", 1.0)
            _check_range("crop_ratio", self.crop_ratio, "0 < smallest <= largest", math.inf)
        check_int("pad", self.pad, minimum=0)
        check_choice("crop_interpolation", self.crop_interpolation, CROP_INTERPOLATIONS)
        for name in ("crop_antialias", "flip"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        # object.__setattr__ is how a frozen dataclass sets its own fields.
        for name in ("crop_scale", "crop_ratio"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))


def crop_draws(seed):
    """All the random numbers of a view: uniform float (44,), a function of the seed, int (2,)."""
    # One draw in one op: many small random ops cost more than decoding a small photo. It is Philox
    # on every processor that runs tf.data.
    return tf.raw_ops.StatelessRandomUniform(shape=[4 + 4 * _CROP_TRIES], seed=seed)


def random_part(
    image_bytes,
    draws,
    crop_scale=(0.08, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    smallest=None,
    exif_rotation=False,
):
    """Decodes the random part of a photo that `Preprocessing.random_crop` scales.

    Args:
        image_bytes: string scalar, the encoded photo; of a JPEG only the part is decoded.
        draws: what `crop_draws` gives.
        crop_scale: see `RandomCrop`.
        crop_ratio: see there.
        smallest: (height, width) in pixels, or None. Parts that are 2, 4 or 8 times as large, in
            both directions, are decoded at that fraction of their size (of other files than JPEGs:
            scaled to `smallest`), which antialiases and costs less than decoding all of them.
        exif_rotation: whether the part is one of the upright photo, see `Preprocessing`.

    Returns:
        uint8 (h, w, 3).
    """

    def part_of_jpeg(window, ratio=1):
        return tf.image.decode_and_crop_jpeg(image_bytes, window // ratio, channels=3, ratio=ratio)

    def from_jpeg():
        size = tf.io.extract_jpeg_shape(image_bytes)[:2]
        if not exif_rotation:
            window = random_window(size, draws, crop_scale, crop_ratio)
            return decoded(window, window[2:])
        turned = orientation(image_bytes)
        size = tf.where(turned > 4, size[::-1], size)
        window = random_window(size, draws, crop_scale, crop_ratio)
        return orient(decoded(stored_window(window, size, turned), window[2:]), turned)

    def decoded(window, sides):
        if smallest is None:
            return part_of_jpeg(window)
        times = tf.reduce_min(sides // smallest)
        which = tf.cast(times >= 4, tf.int32) + tf.cast(times >= 8, tf.int32)
        shrunk = [functools.partial(part_of_jpeg, window, ratio) for ratio in (2, 4, 8)]
        return tf.cond(
            times < 2, lambda: part_of_jpeg(window), lambda: tf.switch_case(which, shrunk)
        )

    def from_other():
        image = decode(image_bytes)
        window = random_window(tf.shape(image)[:2], draws, crop_scale, crop_ratio)
        begin, size = tf.split(window, 2)
        part = tf.slice(image, tf.concat([begin, [0]], 0), tf.concat([size, [3]], 0))
        if smallest is None:
            return part
        return tf.cond(
            tf.reduce_min(size // smallest) < 2,
            lambda: part,
            lambda: tf.saturate_cast(tf.round(resize(part, smallest, "bilinear")), tf.uint8),
        )

    return tf.cond(tf.io.is_jpeg(image_bytes), from_jpeg, from_other)


def random_window(size, draws, crop_scale=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3)):
    """Where `random_part` lies.

    Args:
        size: int (2,), the photo's height and width.
        draws: what `crop_draws` gives.
        crop_scale: see `RandomCrop`.
        crop_ratio: see there.

    Returns:
        int (4,): top, left, height, width: the first try that fits, else the largest centred part
        whose ratio is allowed.
    """
    # Ten tries at area, ratio, top and left.
    draws = tf.reshape(draws[4:], [4, _CROP_TRIES])
    photo = tf.cast(size, tf.float32)
    area = photo[0] * photo[1] * _between(draws[0], *crop_scale)
    ratio = tf.exp(_between(draws[1], math.log(crop_ratio[0]), math.log(crop_ratio[1])))
    sides = tf.round(tf.sqrt(tf.stack([area / ratio, area * ratio])))  # (2, T)
    fits = tf.reduce_all((sides >= 1) & (sides <= photo[:, None]), 0)
    first = tf.argmax(fits)  # position 0 where none fits
    tried = sides[:, first]
    top_left = tf.floor(tf.stack([draws[2, first], draws[3, first]]) * (photo - tried + 1))
    height = tf.minimum(photo[0], tf.round(photo[1] / crop_ratio[0]))
    width = tf.minimum(photo[1], tf.round(photo[0] * crop_ratio[1]))
    centred = tf.maximum(tf.stack([height, width]), 1)
    window = tf.where(
        fits[first],
        tf.concat([tf.minimum(top_left, photo - tried), tried], 0),
        tf.concat([tf.floor((photo - centred) / 2), centred], 0),
    )
    return tf.cast(window, tf.int32)


def _between(draws, low, high):
    return low + draws * (high - low)


def _check_range(name, value, rule, largest):
    if (
        not isinstance(value, (tuple, list))
        or len(value) != 2
        or not 0 < value[0] <= value[1] <= largest
    ):
        raise ValueError(f"{name} must be two numbers, {rule}, got {value!r}.")
