"""Augmentation of training photos after the random crop.

Every result is a function of its arguments, a seed among them. The same code therefore runs eagerly
and inside `tf.data`, and a resumed run sees the same pixels again. The layers of KerasCV cannot
guarantee that, because they keep random state of their own. All functions here, in `mixing` and in
`random_crop` can be given the same seed: their random numbers are independent.
"""

import dataclasses
import math
from typing import Any

import tensorflow as tf

from noah_tf.images import pil_ops
from noah_tf.images.erasing import ERASING_MODES, random_erasing
from noah_tf.images.mixing import mix_batch
from noah_tf.images.pil_ops import to_uint8
from noah_tf.images.rand_augment import INTERPOLATIONS, RandAugment
from noah_tf.utils.seeds import uniform
from noah_tf.utils.validation import (
    check_bounded,
    check_choice,
    check_positive_int,
    is_number,
)

_JITTER = 0x4A495454  # the purpose of the random numbers, see `seeds.fold_in`


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The augmentations of a recipe: its `augment` section without the crop.

    Args:
        color_jitter: None; or one number x, for factors of brightness, contrast and saturation
            between 1 - x and 1 + x; or three numbers for the three; or four, of which the last is
            for the hue, 0 to 0.5 of its circle. See the function `color_jitter`.
        rand_augment: None, or timm's text form, e.g. "rand-m9-mstd0.5-inc1", see `RandAugment`.
        interpolation: "bilinear", "bicubic" or "random", for the geometric operations of
            RandAugment.
        erasing: the probability of `random_erasing`.
        erasing_mode: "pixel" (noise) or "const" (zeros, the mean color).
        mixup: alpha of mixup; 0 turns it off.
        cutmix: alpha of CutMix; 0 turns it off.
        mix_probability: the share of batches that are mixed.
        mix_switch: the share of mixed batches that use CutMix, if both are on.
        mix_group: a replica's share of a batch is mixed in groups of so many consecutive examples,
            each of which has draws of its own; None for one group. A smaller share is one group. If
            it divides the shares, the groups of a batch are the same on any number of replicas.

    Raises:
        ValueError: an option is out of its range.

    Example:
        augmentation = Augmentation(rand_augment="rand-m9-mstd0.5-inc1", erasing=0.25, mixup=0.8)
        image = augmentation.image(crop, seed, fill=(124, 116, 104))
        images = augmentation.erase(preprocessing.normalize(images), seeds)
        images, targets = augmentation.mix(images, targets, seeds)
    """

    color_jitter: Any = None
    rand_augment: str | None = None
    interpolation: str = "bilinear"
    erasing: float = 0.0
    erasing_mode: str = "pixel"
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0
    mix_switch: float = 0.5
    mix_group: int | None = None

    def __post_init__(self) -> None:
        """Checks the options, and makes `color_jitter` four numbers or None."""
        # object.__setattr__ is how a frozen dataclass sets its own fields.
        object.__setattr__(self, "color_jitter", _jitter_amounts(self.color_jitter))
        if self.rand_augment is not None:
            try:
                RandAugment.parse(self.rand_augment)
            except ValueError as error:
                raise ValueError(f"rand_augment: {error}") from error
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        check_choice("erasing_mode", self.erasing_mode, ERASING_MODES)
        for name in ("erasing", "mix_probability", "mix_switch"):
            check_bounded(name, getattr(self, name), 1)
        for name in ("mixup", "cutmix"):
            check_bounded(name, getattr(self, name))
        if self.mix_group is not None:
            check_positive_int("mix_group", self.mix_group)

    def image(self, image: tf.Tensor, seed: tf.Tensor, fill: Any) -> tf.Tensor:
        """Applies color jitter and RandAugment to a crop that is not normalized yet.

        Args:
            image: (H, W, 3), values 0..255.
            seed: int (2,); the result is a function of it.
            fill: three numbers 0..255, the color outside the photo: the mean times 255.

        Returns:
            uint8 (H, W, 3); `image` itself if both are off.
        """
        if self.color_jitter is not None:
            image = color_jitter(image, seed, *self.color_jitter)
        if self.rand_augment is not None:
            image = RandAugment.parse(self.rand_augment)(image, seed, fill, self.interpolation)
        return image

    def erase(self, images: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """Applies `random_erasing` to normalized images (B, H, W, C), if it is on."""
        if not self.erasing:
            return images
        return random_erasing(images, seeds, self.erasing, self.erasing_mode)

    @property
    def mixes(self) -> bool:
        """True if `mix` can change a batch."""
        return self.mix_probability > 0 and (self.mixup > 0 or self.cutmix > 0)

    def mix(
        self, images: tf.Tensor, targets: tf.Tensor, seeds: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Applies `mix_batch` to each group of a batch, if mixup or CutMix is on.

        Args:
            images: float (B, H, W, C).
            targets: float (B, M).
            seeds: int (B, 2), a seed for each example. The draws of a group are a function of the
                seed of its first example.

        Returns:
            (images, targets) of the same shapes and types.
        """
        if not self.mixes:
            return images, targets
        size = images.shape[0]
        if self.mix_group is None or size <= self.mix_group:
            return self._mix_group(images, targets, seeds)
        sizes = [min(self.mix_group, size - start) for start in range(0, size, self.mix_group)]
        groups = zip(*(tf.split(value, sizes) for value in (images, targets, seeds)), strict=True)
        mixed = zip(*(self._mix_group(*group) for group in groups), strict=True)
        mixed_images, mixed_targets = (tf.concat(parts, 0) for parts in mixed)
        return mixed_images, mixed_targets

    def _mix_group(self, images, targets, seeds):
        return mix_batch(
            images,
            targets,
            seeds[0],
            mixup=self.mixup,
            cutmix=self.cutmix,
            probability=self.mix_probability,
            switch_probability=self.mix_switch,
        )


def color_jitter(
    image: tf.Tensor,
    seed: tf.Tensor,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> tf.Tensor:
    """Changes brightness, contrast, saturation and hue, in random order.

    The result, rounding included, is that of torchvision's ColorJitter on PIL images, except for
    the hue: PIL has only 256 hues, while this function rotates the hue exactly.

    Args:
        image: (H, W, 3), values 0..255; rounded to whole numbers first.
        seed: int (2,); the result is a function of it.
        brightness: x draws the factor uniformly from max(0, 1 - x) to 1 + x; 0 turns it off.
        contrast: see `brightness`.
        saturation: see `brightness`.
        hue: h draws the rotation uniformly from -h to h, as a share of the circle; at most 0.5.

    Returns:
        uint8 (H, W, 3); `image` itself if all amounts are 0.

    Raises:
        ValueError: an amount is out of its range.

    Example:
        image = color_jitter(image, (0, 1), 0.4, 0.4, 0.4)
    """
    options = {
        "brightness": (brightness, pil_ops.brightness),
        "contrast": (contrast, pil_ops.contrast),
        "saturation": (saturation, pil_ops.color),
        "hue": (hue, _rotate_hue),
    }
    for name, (amount, _) in options.items():
        check_bounded(name, amount, 0.5 if name == "hue" else math.inf)
    if not any(amount for amount, _ in options.values()):
        return image
    draws = uniform(seed, _JITTER, [2, len(options)])

    def make_change(operation, low, high, draw):
        return lambda pixels: pil_ops.compiled(operation)(pixels, low + draw * (high - low))

    changes = []
    for draw, (name, (amount, operation)) in zip(
        tf.unstack(draws[0]), options.items(), strict=True
    ):
        low, high = (-amount, amount) if name == "hue" else (max(0.0, 1.0 - amount), 1.0 + amount)
        if amount:
            changes.append(make_change(operation, low, high, draw))
    order = tf.argsort(draws[1, : len(changes)])
    pixels = to_uint8(image)
    for i in range(len(changes)):
        pixels = _apply_one(changes, order[i], pixels)
    return pixels


def _rotate_hue(image, rotation):
    # The hue does not depend on the scale of the values.
    return to_uint8(tf.image.adjust_hue(tf.cast(image, tf.float32), tf.cast(rotation, tf.float32)))


def _apply_one(functions, index, value):
    """Returns functions[index](value), which has the shape of `value`."""
    branches = [lambda f=f: tf.ensure_shape(f(value), value.shape) for f in functions]
    return tf.switch_case(index, branches) if len(branches) > 1 else branches[0]()


def _jitter_amounts(value):
    """Returns the option `color_jitter` as (brightness, contrast, saturation, hue), or None."""
    if value is None:
        return None
    amounts = tuple(value) if isinstance(value, (tuple, list)) else (value,) * 3
    amounts += (0.0,) * (len(amounts) == 3)
    if (
        len(amounts) != 4
        or any(not is_number(x) or not 0 <= x < math.inf for x in amounts)
        or amounts[3] > 0.5
    ):
        raise ValueError(
            "color_jitter must be None, a number, or three or four numbers (brightness, "
            f"contrast, saturation, hue), 0 or more, the hue at most 0.5, got {value!r}."
        )
    return amounts if any(amounts) else None
