"""The operations of RandAugment with PIL, called like timm does."""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

FILL = (124, 116, 104)
RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
ENHANCE = ("Color", "Contrast", "Brightness", "Sharpness")
# Geometric operations, and their argument at magnitude 9.
MOVES = {
    "Rotate": 27.0,
    "ShearX": 0.27,
    "ShearY": 0.27,
    "TranslateXRel": 0.405,
    "TranslateYRel": 0.405,
}


def noise(height=61, width=80):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def photo(height=61, width=80):
    """Returns a smooth picture with some grain, like a photo; not all values occur."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([y * 150 / height, x * 200 / width, (x + y) * 90 / height], -1) + 30
    return (picture + np.random.default_rng(1).normal(0, 4, picture.shape)).astype(np.uint8)


def images():
    flat = np.full((5, 6, 3), (10, 200, 77), np.uint8)
    return {"noise": noise(), "photo": photo(), "flat": flat, "tiny": noise(2, 3)}


def pil(name, image, *arguments, interpolation="bilinear"):
    """Applies an operation with PIL."""
    picture = Image.fromarray(image)
    width, height = picture.size
    value = arguments[0] if arguments else None
    matrices = {
        "ShearX": lambda: (1, value, 0, 0, 1, 0),
        "ShearY": lambda: (1, 0, 0, value, 1, 0),
        "TranslateXRel": lambda: (1, 0, value * width, 0, 1, 0),
        "TranslateYRel": lambda: (1, 0, 0, 0, 1, value * height),
    }
    if name in matrices:
        picture = picture.transform(
            picture.size,
            Image.Transform.AFFINE,
            matrices[name](),
            resample=RESAMPLE[interpolation],
            fillcolor=FILL,
        )
    elif name == "Rotate":
        picture = picture.rotate(value, resample=RESAMPLE[interpolation], fillcolor=FILL)
    elif name in ENHANCE:
        picture = getattr(ImageEnhance, name)(picture).enhance(value)
    elif name == "SolarizeAdd":
        table = [min(255, v + int(value)) if v < 128 else v for v in range(256)]
        picture = picture.point(table * 3)
    elif name == "Posterize" and value < 1:
        return np.zeros_like(image)
    elif name == "Posterize":
        picture = ImageOps.posterize(picture, int(value))
    else:
        operation = getattr(ImageOps, name.lower())
        picture = operation(picture, *map(int, arguments))
    return np.asarray(picture)


def difference(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int))
