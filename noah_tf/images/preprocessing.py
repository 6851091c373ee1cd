"""Decode, resize, crop, normalise: the one definition for training, evaluation, export and client.

Everything here is TensorFlow ops, so the same code runs eagerly, inside `tf.data`, inside
`tf.map_fn` and inside an exported SavedModel. Random crops are functions of a seed that is passed
in; nothing keeps random state.
"""

import dataclasses
import difflib

import tensorflow as tf

from noah_tf.images.exif import orientation
from noah_tf.images.ops import INTERPOLATIONS, decode, mirror, orient, plain_resize, resize
from noah_tf.images.random_crop import RandomCrop, crop_draws, random_part

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Of a photo that is longer than this many times what is kept of it, only the middle is scaled.
_LONGEST = 16
_DEFAULT_CROP = RandomCrop()
_LARGEST_RESIZE = 16  # times the crop; more would take the memory and show nothing


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From an encoded photo to what a model takes.

    Evaluation scales the photo (antialiased) until its short side is `resize_size`, cuts
    `image_size` out of the centre and normalises. Training cuts a random part of the photo instead
    and scales that to `image_size`. Where every object of a photo counts, as with several labels an
    image, `stretch` keeps what the centre leaves out. A photo that has the right size already keeps
    its exact pixels.

    Args:
        image_size: (height, width) in pixels, or one int for a square.
        resize_size: the short side before the centre crop, in pixels; the default is the smaller
            side of `image_size`. Where `image_size` is not square, the photo is scaled to cover
            `image_size` enlarged by `resize_size / min(image_size)`.
        interpolation: "bilinear" or "bicubic".
        mean: three numbers on the 0..1 scale, subtracted from red, green, blue.
        std: three numbers on the 0..1 scale; divides what is left.
        exif_rotation: whether JPEGs are turned upright as their EXIF data say (off in the paper's
            recipes). Random crops are then crops of the upright photo.
        stretch: whether all of the photo is scaled, to the shape of `image_size` whatever its own
            is, so that at a `resize_size` of the smaller side nothing is cut off. (Of a photo
            that is stretched more than 16 times, the middle.)

    Raises:
        ValueError: an argument is out of its range.

    Example:
        preprocessing = Preprocessing(image_size=224, resize_size=256)
        image = preprocessing.decode(open("photo.jpg", "rb").read())
        preprocessing.evaluation(image)  # (224, 224, 3)
    """

    image_size: tuple = (224, 224)
    resize_size: int | None = None
    interpolation: str = "bilinear"
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD
    exif_rotation: bool = False
    stretch: bool = False

    def __post_init__(self):
        """Brings the arguments to one form and refuses what cannot work."""
        # object.__setattr__ is how a frozen dataclass sets its own fields.
        object.__setattr__(self, "image_size", _check_image_size(self.image_size))
        object.__setattr__(
            self, "resize_size", _check_resize_size(self.resize_size, self.image_size)
        )
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation must be one of {', '.join(INTERPOLATIONS)}; "
                f"received {self.interpolation!r}."
            )
        object.__setattr__(self, "mean", _check_channels("mean", self.mean, 0.0))
        object.__setattr__(self, "std", _check_channels("std", self.std, 1e-6))
        for name in ("exif_rotation", "stretch"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False; received {getattr(self, name)!r}.")

    def to_dict(self):
        """Plain data for JSON: lists, numbers and strings."""
        values = dataclasses.asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_dict(cls, values):
        """The inverse of `to_dict`.

        Raises:
            ValueError: a key is unknown; the message has the nearest one.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1, cutoff=0)
                raise ValueError(
                    f"Preprocessing has no {key!r}; the nearest is {near[0]!r} "
                    f"(all: {', '.join(known)})."
                )
        return cls(**values)

    def decode(self, image_bytes):
        """Decodes a photo, see `image_ops.decode`, and turns it upright where that is asked for.

        Args:
            image_bytes: string scalar, the encoded photo.

        Returns:
            uint8 (H, W, 3).
        """
        image = decode(image_bytes)
        return orient(image, orientation(image_bytes)) if self.exif_rotation else image

    def evaluation(self, image):
        """Scales, cuts the centre, normalises.

        Args:
            image: uint8 (H, W, 3), as `decode` gives it.

        Returns:
            float32 (height, width, 3).
        """
        return self.normalize(self.center_crop(image))

    def normalize(self, images):
        """(images / 255 - mean) / std, in float32, for any leading shape (..., 3)."""
        # A product, not a division: graphs turn the latter into the former, with other last bits.
        scale = tf.constant([1 / (255 * std) for std in self.std], tf.float32)
        offset = tf.constant([m / s for m, s in zip(self.mean, self.std, strict=True)], tf.float32)
        images = tf.cast(images, tf.float32)
        shape = images.shape
        if not shape.is_fully_defined() or shape.rank < 2:
            return images * scale - offset
        # Three numbers are slow to broadcast over pixels; a row of them is not.
        width = shape[-2]
        rows = tf.reshape(images, [-1, width * 3])
        return tf.reshape(rows * tf.tile(scale, [width]) - tf.tile(offset, [width]), shape)

    def denormalize(self, images):
        """The inverse of `normalize`, rounded to uint8: for pictures of what the model saw."""
        pixels = images * tf.constant(self.std, tf.float32) + tf.constant(self.mean, tf.float32)
        return tf.image.convert_image_dtype(pixels, tf.uint8, saturate=True)

    def center_crop(self, image):
        """Scales so that the short side is `resize_size` and cuts `image_size` from the centre.

        With `stretch`, both sides of a photo become what they are of a photo of the right shape.

        Args:
            image: uint8 or float (H, W, 3), values 0..255.

        Returns:
            float32 (height, width, 3), values 0..255.
        """
        covered = self._covered_size()

        def scaled_and_cut():
            begin, middle, size, top_left = self._centre(tf.shape(image)[:2])
            part = tf.slice(image, tf.concat([begin, [0]], 0), tf.concat([middle, [3]], 0))
            resized = resize(part, size, self.interpolation)
            cropped = tf.slice(resized, tf.concat([top_left, [0]], 0), (*self.image_size, 3))
            return tf.clip_by_value(cropped, 0.0, 255.0)

        if covered != self.image_size:
            return scaled_and_cut()
        # Sets of small photos are often stored at the model's size: nothing to compute then.
        fits = tf.reduce_all(tf.shape(image)[:2] == covered)
        cropped = tf.cond(fits, lambda: tf.cast(image, tf.float32), scaled_and_cut)
        return tf.ensure_shape(cropped, (*self.image_size, 3))

    def region(self, size):
        """Which part of a photo `center_crop` shows.

        Args:
            size: int (2,), the photo's height and width, upright where it is turned.

        Returns:
            float32 (4,): top, left, bottom, right as shares of the photo's sides.
        """
        size = tf.cast(size, tf.int32)
        begin, middle, scaled, top_left = self._centre(size)
        corners = tf.cast(tf.stack([top_left, top_left + self.image_size]), tf.float64)
        # Back from scaled pixels to the photo's.
        corners *= tf.cast(middle, tf.float64) / tf.cast(scaled, tf.float64)
        shares = (corners + tf.cast(begin, tf.float64)) / tf.cast(size, tf.float64)
        return tf.reshape(tf.cast(shares, tf.float32), [4])

    def random_crop(
        self, image_bytes: tf.Tensor, seed: tf.Tensor, crop: RandomCrop = _DEFAULT_CROP
    ) -> tf.Tensor:
        """Returns a random crop of a photo at `image_size`, perhaps mirrored, not normalized.

        Args:
            image_bytes: string scalar, the encoded photo; only the crop of a JPEG is decoded.
            seed: int (2,); the crop is a function of it.
            crop: the options.

        Returns:
            float32 (height, width, 3), values 0..255 up to rounding errors.
        """
        draws = crop_draws(seed)
        if crop.crop_scale is None:
            image = mirror(self.center_crop(self.decode(image_bytes)), draws[0], crop.flip)
        else:
            smallest = None if crop.crop_antialias else self.image_size
            part = random_part(
                image_bytes, draws, crop.crop_scale, crop.crop_ratio, smallest, self.exif_rotation
            )
            part = mirror(part, draws[0], crop.flip)  # in bytes, a quarter of what it is in floats
            scale = resize if crop.crop_antialias else plain_resize
            if crop.crop_interpolation == "random":
                image = tf.cond(
                    draws[3] < 0.5,
                    lambda: scale(part, self.image_size, "bilinear"),
                    lambda: scale(part, self.image_size, "bicubic"),
                )
            else:
                image = scale(part, self.image_size, self.interpolation)
        if crop.pad:
            image = self._shift(image, crop.pad, draws[1:3])
        return tf.ensure_shape(image, (*self.image_size, 3))

    def _covered_size(self):
        """The (height, width) that the scaled photo has to cover: square for square images."""
        smaller = min(self.image_size)
        return tuple(round(side * self.resize_size / smaller) for side in self.image_size)

    def _centre(self, size):
        """What `center_crop` does to a photo of this shape, each int (2,).

        Returns:
            Where the part that is scaled begins, its shape, its shape when it is scaled, and where
            the crop begins in that.
        """
        covered = self._covered_size()
        # A row of 65,000 pixels would be scaled to gigabytes. 64 bits, as in _covering_size.
        other = tf.cast(size, tf.int64)[::-1]
        longest = -(-_LONGEST * other * covered // covered[::-1])
        middle = tf.cast(tf.minimum(tf.cast(size, tf.int64), longest), tf.int32)
        begin = (size - middle) // 2
        scaled = tf.constant(covered) if self.stretch else _covering_size(middle, covered)
        # Half-way offsets round to even, as PyTorch's CenterCrop does.
        top_left = tf.cast(tf.round((scaled - self.image_size) / 2), tf.int32)
        return begin, middle, scaled, top_left

    def _shift(self, image, pad, draws):
        padded = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]])
        top_left = tf.cast(draws * (2 * pad + 1), tf.int32)
        return tf.slice(padded, tf.concat([top_left, [0]], 0), (*self.image_size, 3))


def _covering_size(size, covered):
    """The smallest (height, width) of the photo's shape that covers `covered`, as int (2,)."""
    height, width = size[0], size[1]
    # 64 bits: a panorama's sides times 1,000 would overflow 32.
    h, w = tf.cast(height, tf.int64), tf.cast(width, tf.int64)
    by_height = tf.stack([tf.cast(covered[0], tf.int64), covered[0] * w // h])
    by_width = tf.stack([covered[1] * h // w, tf.cast(covered[1], tf.int64)])
    covers = by_height[1] >= covered[1]
    return tf.cast(tf.where(covers, by_height, by_width), tf.int32)


def _check_image_size(value):
    sides = value if isinstance(value, (tuple, list)) else (value,)
    sides = tuple(sides) * 2 if len(sides) == 1 else sides
    if len(sides) != 2 or any(not _is_count(side) for side in sides):
        raise ValueError(
            f"image_size must be one or two positive ints (height, width); received {value!r}."
        )
    return tuple(sides)


def _check_resize_size(value, image_size):
    smaller = min(image_size)
    if value is None:
        return smaller
    if not _is_count(value) or not smaller <= value <= _LARGEST_RESIZE * smaller:
        raise ValueError(
            f"resize_size must be an int of at least {smaller}, the smaller side of image_size "
            f"{image_size}, and at most {_LARGEST_RESIZE} times it; received {value!r}."
        )
    return value


def _check_channels(name, value, smallest):
    numbers = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(numbers) != 3 or any(
        isinstance(x, bool) or not isinstance(x, (int, float)) or not smallest <= x <= 1
        for x in numbers
    ):
        raise ValueError(
            f"{name} must be three numbers on the 0..1 scale"
            f"{', none of them 0' if smallest else ''} (divide by 255 if they are on the 0..255 "
            f"scale); received {value!r}."
        )
    return tuple(float(x) for x in numbers)


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
