"""timm's own training transforms for the recipes, the peer of `input_pipeline.py`."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

# The CPU build of PyTorch cannot load these operators of torchvision, which no transform uses.
_MISSING_OPERATORS = ("nms", "qnms")


def timm_pipeline(
    preprocess: Mapping[str, Any], augment: Mapping[str, Any]
) -> Callable[[bytes], np.ndarray]:
    """Returns timm's pipeline for a recipe: from an encoded photo to uint8 (3, H, W).

    Normalization, random erasing and mixing are left out: timm's loader and its `Mixup` do them on
    the device.

    Args:
        preprocess: the recipe's `preprocess` section.
        augment: the recipe's `augment` section.

    Raises:
        ImportError: timm is not installed.
    """
    create_transform = _import_timm().data.create_transform
    interpolation = augment["crop_interpolation"]
    transform = create_transform(
        preprocess["image_size"],
        is_training=True,
        use_prefetcher=True,
        scale=augment["crop_scale"],
        ratio=augment["crop_ratio"],
        color_jitter=None,
        auto_augment=augment["rand_augment"],
        interpolation=preprocess["interpolation"] if interpolation == "same" else interpolation,
        mean=preprocess["mean"],
        std=preprocess["std"],
    )
    return lambda photo: transform(Image.open(io.BytesIO(photo)).convert("RGB"))


def _import_timm() -> Any:
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        import torch

        for name in _MISSING_OPERATORS:
            signature = "(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", signature)
    import timm.data.auto_augment

    operations = timm.data.auto_augment.NAME_TO_OP
    if "Posterize" in operations:
        for name in [name for name in operations if name.startswith("Posterize")]:
            operations[name] = _posterize
    return timm


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Does what `ImageOps.posterize` did before Pillow 12, which refuses 0 bits."""
    mask = 256 - 2 ** (8 - bits)
    return image if bits >= 8 else image.point([value & mask for value in range(256)] * 3)
