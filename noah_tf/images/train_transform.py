"""From encoded photos and seeds to the batches that the model is trained on."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from noah_tf.images.augmentation import Augmentation
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.images.random_crop import RandomCrop
from noah_tf.utils.validation import check_positive_int

# RandAugment interpolates as the crop does, so a recipe has one key for both.
_AUGMENTATION_KEYS = tuple(
    field.name for field in dataclasses.fields(Augmentation) if field.name != "interpolation"
)
_CROP_KEYS = tuple(field.name for field in dataclasses.fields(RandomCrop))


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """Crops, augments and normalizes training photos, as a function of the photos and their seeds.

    The input pipeline calls the object for each photo. Its results are bytes, and the device does
    the rest on whole batches, see `on_device`.

    Attributes:
        preprocessing: size, interpolation and normalization of the images.
        crop: the random crop.
        augmentation: what follows the crop, and the mixing of batches.
        repeats: number of copies of an example in a batch, each with other pixels (repeated
            augmentation, arXiv 1902.05509).

    Raises:
        ValueError: an option is out of its range.

    Example:
        transform = TrainTransform(Preprocessing(224), RandomCrop(crop_scale=(0.2, 1.0)))
        image = transform(image_bytes, seed=(0, 1))  # uint8 (224, 224, 3)
        images, targets = transform.on_device(images, labels, seeds, num_classes=1000)
    """

    preprocessing: Preprocessing
    crop: RandomCrop = RandomCrop()
    augmentation: Augmentation = Augmentation()
    repeats: int = 1

    def __post_init__(self) -> None:
        """Checks the options."""
        check_positive_int("repeats", self.repeats)
        for name in ("color_jitter", "rand_augment"):
            value = getattr(self.augmentation, name)
            if value is not None and self.preprocessing.crop_shape[-1] == 4:
                raise ValueError(
                    f"{name} is for photos with three channels, and the preprocessing has four: "
                    f"leave it out, got {value!r}."
                )

    @classmethod
    def from_config(
        cls, section: Mapping[str, Any], preprocessing: Preprocessing
    ) -> TrainTransform:
        """Builds the transform of a recipe's `augment` section.

        Args:
            section: mapping with any fields of `RandomCrop` and `Augmentation`, and `repeats`.
                Missing keys keep their defaults.
            preprocessing: the recipe's `Preprocessing`.

        Raises:
            ValueError: a key is unknown or a value out of its range; the message names
                `augment.KEY`.

        Example:
            transform = TrainTransform.from_config({"repeats": 3, "mixup": 0.8}, preprocessing)
        """
        section = dict(section)
        known = (*_CROP_KEYS, "repeats", *_AUGMENTATION_KEYS)
        for key in section:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1, cutoff=0)
                raise ValueError(
                    f"There is no augment.{key}; the nearest is augment.{near[0]} "
                    f"(all: {', '.join(known)})."
                )
        try:
            crop = RandomCrop(**{key: section[key] for key in _CROP_KEYS if key in section})
            same = crop.crop_interpolation == "same"
            augmentation = Augmentation(
                interpolation=preprocessing.interpolation if same else crop.crop_interpolation,
                **{key: section[key] for key in _AUGMENTATION_KEYS if key in section},
            )
            return cls(preprocessing, crop, augmentation, section.get("repeats", 1))
        except ValueError as error:
            raise ValueError(f"augment.{error}") from error

    def __call__(self, image_bytes: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns a random view of a photo.

        Args:
            image_bytes: string scalar, the encoded photo.
            seed: int (2,); the view is a function of it.

        Returns:
            uint8, of the shape `preprocessing.crop_shape`.
        """
        image = self.preprocessing.random_crop(image_bytes, seed, self.crop)
        fill = [255 * mean for mean in self.preprocessing.mean]
        return self.augmentation.image(image, seed, fill)

    def on_device(
        self, images: tf.Tensor, targets: tf.Tensor, seeds: tf.Tensor, num_classes: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Normalizes, erases and mixes a batch.

        Args:
            images: uint8 (B, H, W, C), results of the object itself.
            targets: labels, int (B,); or the classes of each image, float (B, num_classes).
            seeds: int (B, 2), the seed of each image.
            num_classes: number of classes.

        Returns:
            images: float32, normalized, of the shape (B, *`preprocessing.input_shape`).
            targets: as they are, or float32 (B, num_classes) if mixup or CutMix is on.
        """
        images = self.augmentation.erase(self.preprocessing.normalize(images), seeds)
        if self.augmentation.mixes and not targets.dtype.is_floating:
            targets = tf.one_hot(targets, num_classes)
        return self.augmentation.mix(images, targets, seeds)
