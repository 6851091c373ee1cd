"""Decode, resize, crop, normalize: one definition for training, evaluation, export and client.

Everything here consists of TensorFlow ops, so the same code runs eagerly, inside `tf.data`, inside
`tf.map_fn` and inside an exported SavedModel. Random crops are functions of a seed; nothing keeps
random state.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from noah_tf.images import headers
from noah_tf.images.encoded_bytes import starts_with
from noah_tf.images.exif import orientation
from noah_tf.images.ops import INTERPOLATIONS, decode, mirror, orient, plain_resize, resize
from noah_tf.images.random_crop import RandomCrop, crop_draws, decode_random_window
from noah_tf.utils.validation import check_choice, is_int, is_number

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# A long side is cut down to this many times the part of it that the crop shows, before resizing.
_MAX_ELONGATION = 16
_MAX_ENLARGEMENT = 16  # the largest allowed resize_size / min(image_size), which limits the memory
_DEFAULT_CROP = RandomCrop()
_LUMINANCE = (19595.0, 38470.0, 7471.0)  # 65,536 times the weights 0.299, 0.587, 0.114, as in PIL


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Turns an encoded photo into the input of a model.

    For evaluation, the photo is resized (antialiased) so that its short side is `resize_size`, the
    center of `image_size` is cropped, and the pixels are normalized. For training, a random crop is
    resized to `image_size` instead. A photo that already has the right size keeps its exact pixels.

    Args:
        image_size: (height, width) in pixels, or one int for a square.
        resize_size: the short side before the center crop, in pixels; the default is the smaller
            side of `image_size`. If `image_size` is not square, the photo is resized to cover
            `image_size` enlarged by `resize_size / min(image_size)`.
        interpolation: "bilinear" or "bicubic".
        mean: a number on the 0..1 scale for each of the model's channels, which is subtracted.
            Three numbers are for red, green and blue. One number is for a model with a single
            channel, which sees the luminance of the photo. Four numbers are for red, green, blue
            and alpha; all photos must be PNG files then.
        std: as many numbers, by which the channels are divided afterwards.
        exif_rotation: turn JPEGs upright according to their EXIF data (off in the paper's recipes).
            Random crops are then crops of the upright photo.
        stretch: resize the whole photo to the shape of `image_size`, changing its aspect ratio.
            With the default `resize_size` nothing is cropped, which suits multi-label photos, where
            every object counts. If one side would be stretched more than 16 times as much as the
            other, only the middle of the longer side is used.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        preprocessing = Preprocessing(image_size=224, resize_size=256)
        image = preprocessing.decode(open("photo.jpg", "rb").read())
        preprocessing.evaluation(image)  # (224, 224, 3)
    """

    image_size: Any = (224, 224)
    resize_size: Any = None
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    exif_rotation: bool = False
    stretch: bool = False

    def __post_init__(self) -> None:
        """Checks the arguments, and makes tuples of sizes and channels."""
        # object.__setattr__ is how a frozen dataclass sets its own fields.
        object.__setattr__(self, "image_size", _check_image_size(self.image_size))
        object.__setattr__(
            self, "resize_size", _check_resize_size(self.resize_size, self.image_size)
        )
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        object.__setattr__(self, "mean", _check_channels("mean", self.mean, 0.0))
        object.__setattr__(self, "std", _check_channels("std", self.std, 1e-6))
        if len(self.mean) != len(self.std):
            raise ValueError(
                "mean and std must have one number for each channel, got "
                f"{len(self.mean)} and {len(self.std)} numbers."
            )
        for name in ("exif_rotation", "stretch"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}.")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of the model's input: height, width, and 1, 3 or 4 channels."""
        return *self.image_size, len(self.mean)

    @property
    def crop_shape(self) -> tuple[int, int, int]:
        """The shape of a crop before `normalize`: height, width, and 3 or 4 channels.

        The crops for a model with one channel have three, so that every augmentation works.
        """
        return *self.image_size, max(3, len(self.mean))

    def to_dict(self) -> dict[str, Any]:
        """Returns the arguments as plain data for JSON: lists, numbers and strings."""
        values = dataclasses.asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Builds the object from the result of `to_dict`.

        Raises:
            ValueError: a key is unknown, or a value is out of its range.
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

    def problem(self, image_bytes: tf.Tensor, max_pixels: int) -> tf.Tensor:
        """Returns why a photo cannot be decoded, as far as its header shows.

        Args:
            image_bytes: string scalar, the encoded photo.
            max_pixels: the largest number of pixels allowed.

        Returns:
            String scalar, empty if nothing is wrong; see `headers.problem`.
        """
        problem = headers.problem(image_bytes, max_pixels)
        if len(self.mean) != 4:
            return problem
        is_other = (problem == "") & ~starts_with(tf.convert_to_tensor(image_bytes), headers.PNG)
        return tf.where(is_other, "it is not a PNG file, which four channels need", problem)

    def decode(self, image_bytes: tf.Tensor) -> tf.Tensor:
        """Decodes a photo, see `ops.decode`, and turns it upright if `exif_rotation` is on.

        Args:
            image_bytes: string scalar, the encoded photo.

        Returns:
            uint8 (H, W, 3), or (H, W, 4) if there are four channels.
        """
        image = decode(image_bytes, self.crop_shape[-1])
        return orient(image, orientation(image_bytes)) if self.exif_rotation else image

    def evaluation(self, image: tf.Tensor) -> tf.Tensor:
        """Returns the normalized center crop of a photo.

        Args:
            image: uint8 (H, W, 3 or 4), the result of `decode`.

        Returns:
            float32, of the shape `input_shape`.
        """
        return self.normalize(self.center_crop(image))

    def normalize(self, images: tf.Tensor) -> tf.Tensor:
        """Returns (images / 255 - mean) / std in float32.

        Args:
            images: (..., 3 or 4), values 0..255.

        Returns:
            float32 (..., channels). A single channel is the luminance (ITU-R 601).
        """
        # A product gives the same bits everywhere: graph mode would turn a division into one, but
        # eager mode would not.
        scale = tf.constant([1 / (255 * std) for std in self.std], tf.float32)
        offset = tf.constant([m / s for m, s in zip(self.mean, self.std, strict=True)], tf.float32)
        images = tf.cast(images, tf.float32)
        if len(self.mean) == 1 and images.shape[-1] == 3:
            # These sums of whole numbers are exact, so that the luminance of a gray is that gray.
            images = tf.reduce_sum(images * _LUMINANCE, axis=-1, keepdims=True) / 65536
        shape = images.shape
        if not shape.is_fully_defined() or shape.rank < 2:
            return images * scale - offset
        # Broadcasting a whole row is much faster than broadcasting the three numbers of a pixel.
        width = shape[-2]
        rows = tf.reshape(images, [-1, width * len(self.mean)])
        return tf.reshape(rows * tf.tile(scale, [width]) - tf.tile(offset, [width]), shape)

    def denormalize(self, images: tf.Tensor) -> tf.Tensor:
        """Inverts `normalize` and rounds to uint8, to show the images that a model saw.

        A single channel is returned as three equal ones.
        """
        pixels = images * tf.constant(self.std, tf.float32) + tf.constant(self.mean, tf.float32)
        if len(self.mean) == 1:
            pixels = tf.image.grayscale_to_rgb(pixels)
        return tf.image.convert_image_dtype(pixels, tf.uint8, saturate=True)

    def center_crop(self, image: tf.Tensor) -> tf.Tensor:
        """Resizes a photo so that its short side is `resize_size`, and crops the center.

        With `stretch`, the photo is resized to exactly the size that it otherwise has to cover.

        Args:
            image: uint8 or float (H, W, 3 or 4), values 0..255.

        Returns:
            float32, of the shape `crop_shape`, values 0..255.
        """
        covered = self._covered_size()

        def resize_and_crop():
            begin, middle, size, top_left = self._center_geometry(tf.shape(image)[:2])
            window = tf.slice(image, tf.concat([begin, [0]], 0), tf.concat([middle, [-1]], 0))
            resized = resize(window, size, self.interpolation)
            cropped = tf.slice(resized, tf.concat([top_left, [0]], 0), self.crop_shape)
            return tf.clip_by_value(cropped, 0.0, 255.0)

        if covered != self.image_size:
            return resize_and_crop()
        # Small photos are often stored at the model's size, and then need no computation.
        fits = tf.reduce_all(tf.shape(image)[:2] == covered)
        cropped = tf.cond(fits, lambda: tf.cast(image, tf.float32), resize_and_crop)
        return tf.ensure_shape(cropped, self.crop_shape)

    def region(self, size: tf.Tensor) -> tf.Tensor:
        """Returns the region of a photo that `center_crop` shows.

        Args:
            size: int (2,), height and width of the photo, after turning it upright.

        Returns:
            float32 (4,): top, left, bottom, right as shares of the photo's sides.
        """
        size = tf.cast(size, tf.int32)
        begin, middle, resized, top_left = self._center_geometry(size)
        corners = tf.cast(tf.stack([top_left, top_left + self.image_size]), tf.float64)
        # From pixels of the resized photo to pixels of the original one.
        corners *= tf.cast(middle, tf.float64) / tf.cast(resized, tf.float64)
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
            uint8, of the shape `crop_shape`.
        """
        draws = crop_draws(seed)
        if crop.crop_scale is None:
            image = self.center_crop(self.decode(image_bytes))
        else:
            target_size = None if crop.crop_antialias else self.image_size
            window = decode_random_window(
                image_bytes, draws, crop, target_size, self.exif_rotation, self.crop_shape[-1]
            )
            resize_window = _resize_like_pil if crop.crop_antialias else plain_resize
            if crop.crop_interpolation == "random":
                image = tf.cond(
                    draws[3] < 0.5,
                    lambda: resize_window(window, self.image_size, "bilinear"),
                    lambda: resize_window(window, self.image_size, "bicubic"),
                )
            else:
                image = resize_window(window, self.image_size, self.interpolation)
        # PIL rounds in this way, too.
        pixels = tf.cast(tf.cast(image, tf.float32) + 0.5, tf.uint8)
        if crop.pad:
            pixels = self._shift(pixels, crop.pad, draws[1:3])
        # Mirroring bytes costs a quarter of mirroring floats.
        return tf.ensure_shape(mirror(pixels, draws[0], crop.flip), self.crop_shape)

    def _covered_size(self):
        """Returns the (height, width) that the resized photo has to cover."""
        smaller = min(self.image_size)
        return tuple(round(side * self.resize_size / smaller) for side in self.image_size)

    def _center_geometry(self, size):
        """Computes the geometry of `center_crop` for a photo of this (height, width).

        Returns:
            Four int vectors (2,): top left corner of the middle of the photo, which is resized; its
            size; its size after resizing; the top left corner of the crop in the resized middle.
        """
        covered = self._covered_size()
        # Only the middle of a very long photo is resized: a row of 65,000 pixels would otherwise
        # become gigabytes. The products need 64 bits, as in _covering_size.
        other_side = tf.cast(size, tf.int64)[::-1]
        longest = -(-_MAX_ELONGATION * other_side * covered // covered[::-1])
        middle = tf.cast(tf.minimum(tf.cast(size, tf.int64), longest), tf.int32)
        begin = (size - middle) // 2
        resized = tf.constant(covered) if self.stretch else _covering_size(middle, covered)
        # Offsets of half a pixel round to even, as in PyTorch's CenterCrop.
        top_left = tf.cast(tf.round((resized - self.image_size) / 2), tf.int32)
        return begin, middle, resized, top_left

    def _shift(self, image, pad, draws):
        padded = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]])
        top_left = tf.cast(draws * (2 * pad + 1), tf.int32)
        return tf.slice(padded, tf.concat([top_left, [0]], 0), self.crop_shape)


def _resize_like_pil(window, size, interpolation):
    """Resizes a window, uint8 (h, w, C), to float32 (height, width, C) with antialiasing."""
    # Antialiasing does not change what is enlarged, and the plain op takes half the time.
    return tf.cond(
        tf.reduce_all(tf.shape(window)[:2] <= size),
        lambda: plain_resize(window, size, interpolation),
        lambda: resize(window, size, interpolation),
    )


def _covering_size(size, covered):
    """Returns the smallest size of the photo's aspect ratio that covers `covered`, int (2,)."""
    height, width = size[0], size[1]
    # The sides of a panorama times 1,000 would overflow 32 bits.
    h, w = tf.cast(height, tf.int64), tf.cast(width, tf.int64)
    by_height = tf.stack([tf.cast(covered[0], tf.int64), covered[0] * w // h])
    by_width = tf.stack([covered[1] * h // w, tf.cast(covered[1], tf.int64)])
    is_covered = by_height[1] >= covered[1]
    return tf.cast(tf.where(is_covered, by_height, by_width), tf.int32)


def _check_image_size(value):
    sides = value if isinstance(value, (tuple, list)) else (value,)
    sides = tuple(sides) * 2 if len(sides) == 1 else sides
    if len(sides) != 2 or any(not _is_count(side) for side in sides):
        raise ValueError(
            f"image_size must be one or two positive ints (height, width), got {value!r}."
        )
    return tuple(int(side) for side in sides)


def _check_resize_size(value, image_size):
    smaller = min(image_size)
    if value is None:
        return smaller
    if not _is_count(value) or not smaller <= value <= _MAX_ENLARGEMENT * smaller:
        raise ValueError(
            f"resize_size must be an int of at least {smaller}, the smaller side of image_size "
            f"{image_size}, and at most {_MAX_ENLARGEMENT} times it, got {value!r}."
        )
    return int(value)


def _check_channels(name, value, smallest):
    numbers = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(numbers) not in (1, 3, 4) or any(
        not is_number(x) or not smallest <= x <= 1 for x in numbers
    ):
        raise ValueError(
            f"{name} must be three numbers on the 0..1 scale (one for grayscale, four with alpha)"
            f"{', none of them 0' if smallest else ''} (divide by 255 if they are on the 0..255 "
            f"scale), got {value!r}."
        )
    return tuple(float(x) for x in numbers)


def _is_count(value):
    return is_int(value) and value > 0
