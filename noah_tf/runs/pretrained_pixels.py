"""Whether a recipe's preprocessing makes the pixels that pretrained weights of Keras need."""

import sys

import numpy as np

from noah_tf.images import Preprocessing
from noah_tf.runs.library_backbones import library_builder
from noah_tf.runs.model_config import ModelSpec

# A black, a white and a red pixel.
_PIXELS = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]], np.float32)
_TOLERANCE = 0.01  # relative to the difference between white and black


def pixel_advice(model: ModelSpec, preprocessing: Preprocessing) -> str | None:
    """Returns a sentence if the weights of a Keras application were trained on other pixels.

    Each module of Keras applications has a function `preprocess_input`. The sentence says which
    mean and standard deviation do the same.

    Args:
        model: the model of a recipe.
        preprocessing: the preprocessing of the recipe.

    Returns:
        The sentence, or None if the pixels are right, or if it is not known what the weights need.

    Example:

    >>> model = ModelSpec(backbone="tf.keras.applications.EfficientNetB0")
    >>> print(pixel_advice(model, Preprocessing(224)))
    """
    if model.library_weights != "imagenet" or len(preprocessing.mean) != 3:
        return None
    module = sys.modules[library_builder(str(model.backbone)).__module__]
    preprocess = getattr(module, "preprocess_input", None)
    if preprocess is None or not model.backbone_args.get("include_preprocessing", True):
        return None
    needed = np.asarray(preprocess(_PIXELS.copy()))[0]
    given = preprocessing.normalize(_PIXELS).numpy()[0]
    spread = needed[1] - needed[0]
    if np.all(np.abs(given - needed) <= _TOLERANCE * spread):
        return None
    mean, std = -needed[0] / spread, 1 / spread
    begin = f"The weights 'imagenet' of {model.backbone} were trained on other pixels than these"
    if np.allclose((np.array([1, 0, 0]) - mean) / std, needed[2], atol=1e-3):
        return (
            f"{begin}: --config.preprocess.mean={_flag(mean)} and "
            f"--config.preprocess.std={_flag(std)} make those, got {preprocessing.mean} and "
            f"{preprocessing.std}."
        )
    return (
        f"{begin}: they need blue, green and red in this order, which no recipe makes. Use another "
        "backbone, or model.architecture with weights of timm or torchvision (docs/models.md)."
    )


def _flag(values: np.ndarray) -> str:
    """Returns three numbers as the command line takes them."""
    return "'(" + ", ".join(f"{abs(value):.6g}" for value in values) + ")'"
