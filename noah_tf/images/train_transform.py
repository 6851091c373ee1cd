"""From an encoded photo and a seed to the pixels that the model is trained on."""

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
    """Crops, augments and normalizes a training photo; a function of the photo and a seed.

    Attributes:
        preprocessing: size, interpolation and normalization of the images.
        crop: the random crop.
        augmentation: what follows the crop, and the mixing of batches.
        repeats: number of copies of an example in a batch, each with other pixels (repeated
            augmentation, arXiv 1902.05509).
        normalize: whether to normalize the images. If False, the accelerator has to do it, which
            takes work off the CPU. Random erasing needs normalized images.

    Raises:
        ValueError: an option is out of its range, or erasing is on and `normalize` is off.

    Example:
        transform = TrainTransform(Preprocessing(224), RandomCrop(crop_scale=(0.2, 1.0)))
        image = transform(image_bytes, seed=(0, 1))  # float32 (224, 224, 3)
    """

    preprocessing: Preprocessing
    crop: RandomCrop = RandomCrop()
    augmentation: Augmentation = Augmentation()
    repeats: int = 1
    normalize: bool = True

    def __post_init__(self) -> None:
        """Checks the options."""
        check_positive_int("repeats", self.repeats)
        if self.augmentation.erasing and not self.normalize:
            raise ValueError("Random erasing needs normalized images: use normalize=True.")
        for name in ("color_jitter", "rand_augment"):
            value = getattr(self.augmentation, name)
            if value is not None and self.preprocessing.crop_shape[-1] == 4:
                raise ValueError(
                    f"{name} is for photos with three channels, and the preprocessing has four: "
                    f"leave it out, got {value!r}."
                )

    @classmethod
    def from_config(
        cls, section: Mapping[str, Any], preprocessing: Preprocessing, normalize: bool = True
    ) -> TrainTransform:
        """Builds the transform of a recipe's `augment` section.

        Args:
            section: mapping with any fields of `RandomCrop` and `Augmentation`, and `repeats`.
                Missing keys keep their defaults.
            preprocessing: the recipe's `Preprocessing`.
            normalize: see the class.

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
            return cls(preprocessing, crop, augmentation, section.get("repeats", 1), normalize)
        except ValueError as error:
            raise ValueError(f"augment.{error}") from error

    def __call__(self, image_bytes: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns a random view of a photo.

        Args:
            image_bytes: string scalar, the encoded photo.
            seed: int (2,); the view is a function of it.

        Returns:
            float32, normalized and of the shape `preprocessing.input_shape`; or, if `normalize` is
            off, values 0..255 and of the shape `preprocessing.crop_shape`.
        """
        image = self.preprocessing.random_crop(image_bytes, seed, self.crop)
        fill = [255 * mean for mean in self.preprocessing.mean]
        image = self.augmentation.image(image, seed, fill)
        if not self.normalize:
            return image
        return self.augmentation.erase(self.preprocessing.normalize(image), seed)
