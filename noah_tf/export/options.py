"""The options of an export, checked when they are constructed."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from noah_tf.export.agreement import VARIANTS
from noah_tf.export.photos import Photo, read_photos
from noah_tf.export.variants import require_onnx
from noah_tf.export.versions import check_version
from noah_tf.images import Preprocessing
from noah_tf.models import (
    final_activation,
    is_functional,
    takes_images,
    without_final_activation,
)
from noah_tf.utils.paths import Path
from noah_tf.utils.validation import check_choice, check_positive_int, is_number

PRECISIONS = ("float32", "mixed_bfloat16")
# The default of `max_pixels`. Decoding takes 3 to 11 bytes per pixel, see `headers.problem`.
MAX_PIXELS = 2**25
_MAX_MAX_PIXELS = 2**32
# The facts of a model card that the caller of `export_savedmodel` can give.
_CARD_KEYS = ("architecture", "weights", "data", "recipe", "seed", "metrics", "license")


@dataclasses.dataclass(frozen=True)
class ServingOptions:
    """How a served model prepares photos and which classes it returns.

    Args:
        preprocessing: the `Preprocessing` that the model was trained with.
        class_names: M names, in the order of the logits.
        multi_label: whether a photo can have several classes, each with a probability of its own
            (sigmoid instead of softmax).
        top_k: single-label models: the number of classes to return, at most M. None is 5.
        threshold: multi-label models: the lowest probability of a returned class. None is 0.5.
        tolerant: whether a photo that cannot be read gets a status instead of failing its request.
        max_pixels: a photo with more pixels counts as unreadable.

    Raises:
        ValueError: an option is out of its range, or contradicts another one.
    """

    preprocessing: Preprocessing
    class_names: Sequence[str]
    multi_label: bool = False
    top_k: int | None = None
    threshold: float | None = None
    tolerant: bool = False
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        """Checks the options, and sets the default of `top_k` or `threshold`."""
        object.__setattr__(self, "class_names", tuple(self.class_names))
        for index, name in enumerate(self.class_names):
            if not name or "\n" in name or "\r" in name:
                raise ValueError(
                    f"Each class name must be one line of text, got {name!r} for class {index}."
                )
        if self.multi_label:
            self._check_threshold()
        else:
            self._check_top_k()
        check_positive_int("max_pixels", self.max_pixels)
        if self.max_pixels > _MAX_MAX_PIXELS:
            raise ValueError(
                f"max_pixels must be at most {_MAX_MAX_PIXELS}, got {self.max_pixels}."
            )

    def _check_top_k(self) -> None:
        if self.threshold is not None:
            raise ValueError(
                "threshold is an option of multi-label models only, got "
                f"threshold={self.threshold!r} for a single-label model: use top_k instead."
            )
        top_k = check_positive_int("top_k", 5 if self.top_k is None else self.top_k)
        object.__setattr__(self, "top_k", min(top_k, len(self.class_names)))

    def _check_threshold(self) -> None:
        if self.top_k is not None:
            raise ValueError(
                f"top_k is an option of single-label models only, got top_k={self.top_k!r} for a "
                "multi-label model: use threshold instead."
            )
        threshold = 0.5 if self.threshold is None else self.threshold
        if not is_number(threshold) or not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be a probability in [0, 1], got {threshold!r}.")
        object.__setattr__(self, "threshold", threshold)

    def answers(self) -> dict[str, Any]:
        """Returns which classes the signatures return, as a model card states it."""
        if self.multi_label:
            return {"kind": "multi_label", "threshold": self.threshold}
        return {"kind": "single_label", "top_k": self.top_k}


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Everything that one export needs.

    Args:
        model: a functional Keras model, images to logits.
        model_dir: the folder of all versions.
        serving: the `ServingOptions`.
        version: a positive integer. None is one more than the highest existing version.
        warmup_batch_sizes: the batch sizes of the warm-up requests.
        precision: one of PRECISIONS.
        variants: a subset of VARIANTS.
        photos: encoded photos or their paths.
        card: facts for the model card, a subset of `CardFacts`.

    Attributes:
        encoded_photos: the photos' bytes, which the constructor has read and checked.

    Raises:
        ValueError: an option is out of its range, does not fit the model, or a photo is unreadable.
        ImportError: `variants` contains ONNX, and the extra `onnx` is not installed.
    """

    model: tf.keras.Model
    model_dir: Path
    serving: ServingOptions
    version: int | None = None
    warmup_batch_sizes: Sequence[int] = ()
    precision: str = "float32"
    variants: Sequence[str] = ()
    photos: Sequence[Photo] = ()
    card: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    encoded_photos: tuple[bytes, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Checks the options and reads the photos."""
        check_version(self.model_dir, self.version)
        for batch_size in self.warmup_batch_sizes:
            check_positive_int("each of warmup_batch_sizes", batch_size)
        check_choice("precision", self.precision, PRECISIONS)
        for variant in self.variants:
            check_choice("each of variants", variant, VARIANTS)
        for key in self.card:
            check_choice("each key of card", key, _CARD_KEYS)
        serving = self.serving
        check_model_fits(self.model, serving.preprocessing, serving.class_names)
        if not self.photos and (self.variants or self.precision != "float32"):
            option = "variants" if self.variants else "precision"
            raise ValueError(
                f"{option}={getattr(self, option)!r} needs photos to compare the export with the "
                "float32 model: give photos, or a folder of them as --photos."
            )
        if "onnx" in self.variants:
            require_onnx()
        photos = read_photos(self.photos, self.serving.preprocessing, self.serving.max_pixels)
        object.__setattr__(self, "encoded_photos", photos)


def check_model_fits(
    model: tf.keras.Model, preprocessing: Preprocessing, class_names: Sequence[str]
) -> None:
    """Checks that a model takes the images of a preprocessing, and has a logit for each class.

    Args:
        model: a functional Keras model, images to logits.
        preprocessing: the `Preprocessing`.
        class_names: the names of the classes.

    Raises:
        ValueError: it does not.
    """
    num_classes = model.output_shape[-1]
    if len(class_names) != num_classes:
        raise ValueError(
            "class_names must contain one name for each of the model's "
            f"{num_classes} classes, in the order of the logits, got {len(class_names)} names."
        )
    input_shape = tuple(model.input_shape[1:])
    image_shape = preprocessing.input_shape
    if len(input_shape) != 3 or any(
        expected not in (None, actual)
        for expected, actual in zip(input_shape, image_shape, strict=True)
    ):
        raise ValueError(
            f"The model takes images of the shape {input_shape}, got a preprocessing for "
            f"{image_shape}: give the preprocessing that the model was trained with."
        )


def logits_model(model: tf.keras.Model, multi_label: bool = False) -> tf.keras.Model:
    """Returns the model that an export serves: the same model, without a softmax or sigmoid.

    Args:
        model: a functional Keras model, images to logits or to probabilities.
        multi_label: whether a photo can have several classes.

    Returns:
        The model itself if it returns logits, and one that shares its layers otherwise.

    Raises:
        ValueError: the model is not functional, has other inputs than images, returns other things
            than one row per image, or ends in another activation than that of its labels.
    """
    if not is_functional(model):
        raise ValueError(
            f"An export needs a functional model, got a {type(model).__name__}: create one with "
            "tf.keras.Model(inputs, outputs)."
        )
    if not takes_images(model):
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in model.inputs)
        raise ValueError(
            "An export needs a model with one input, images (B, H, W, C), got "
            f"{len(model.inputs)} of the shape {shapes}: export a model that takes only the images."
        )
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        raise ValueError(
            f"An export needs one output of logits, (B, M), got {model.output_shape}: export a "
            "model that returns the logits only."
        )
    activation = final_activation(model)
    if activation is None:
        return model
    if activation not in ("softmax", "sigmoid"):
        raise ValueError(
            "An export needs a model that returns logits, or their softmax or sigmoid, got one "
            f"that ends in the activation {activation!r}: export the model without it."
        )
    if multi_label != (activation == "sigmoid"):
        several = "several classes" if activation == "sigmoid" else "one class"
        raise ValueError(
            f"A model that ends in {activation} gives a photo {several}, got "
            f"multi_label={multi_label}: give multi_label={not multi_label}, which is "
            f"--{'' if activation == 'sigmoid' else 'no'}multi_label on the command line."
        )
    return without_final_activation(model)


def serving_options(
    model: tf.keras.Model,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    **options: Any,
) -> ServingOptions:
    """Returns a model's `ServingOptions`, whose defaults come from its input and output shape.

    Args:
        model: a model that `logits_model` has returned.
        preprocessing: None is ImageNet's mean and standard deviation at the model's input size.
        class_names: M names. None names the classes by their index.
        **options: other arguments of `ServingOptions`.

    Raises:
        ValueError: the model has no input size and no preprocessing is given, or an option is out
            of its range.
    """
    if preprocessing is None:
        preprocessing = Preprocessing(image_size=_input_size(model))
    if class_names is None:
        class_names = [str(index) for index in range(model.output_shape[-1])]
    return ServingOptions(preprocessing, class_names, **options)


def _input_size(model: tf.keras.Model) -> tuple[int, int]:
    size = tuple(model.input_shape[1:3])
    if None in size:
        raise ValueError(
            "An export has one image size, got a model that takes images of any size, "
            f"{model.input_shape}: give preprocessing=Preprocessing(image_size=(height, width)), "
            "or --preprocessing."
        )
    return size
