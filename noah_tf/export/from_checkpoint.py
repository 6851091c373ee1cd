"""Exports models of the paper with the weights of a checkpoint of the reference implementation."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from noah_tf.export.savedmodel import export_savedmodel
from noah_tf.images import Preprocessing
from noah_tf.models import create_model, load_official_weights, preprocessing_for
from noah_tf.utils.files import save_atomically
from noah_tf.utils.paths import Path, PathLike, as_path


@dataclasses.dataclass(frozen=True)
class ImportedModel:
    """The result of `import_official`.

    Attributes:
        model: the Keras model.
        preprocessing: the `Preprocessing` that the paper evaluates the model with.
        keras_file: the path of the .keras file.
        saved_model: the path of the SavedModel, a version folder that TF Serving loads.
    """

    model: tf.keras.Model
    preprocessing: Preprocessing
    keras_file: Path
    saved_model: Path

    @property
    def num_parameters(self) -> int:
        """The number of trainable parameters."""
        return sum(math.prod(weight.shape) for weight in self.model.trainable_weights)


def export_official(
    name: str,
    checkpoint: PathLike,
    model_dir: PathLike,
    *,
    ema: bool = False,
    num_classes: int = 1000,
    image_size: int = 224,
    **options: Any,
) -> Path:
    """Exports a model of the paper with the weights of a checkpoint; see `export_savedmodel`.

    Args:
        name: one of `list_models()`.
        checkpoint: a .pth, .pt, .tar, .safetensors or .weights.h5 file, or "official" for that of
            the authors, which is downloaded on first use.
        model_dir: the folder of all versions.
        ema: whether to use the averaged weights of the checkpoint.
        num_classes: the number of classes of the checkpoint.
        image_size: the side of the model's images, in pixels.
        **options: other arguments of `export_savedmodel`, except `preprocessing` and `card`.

    Returns:
        The path of the version's folder.

    Raises:
        ValueError: the checkpoint belongs to another model; see `export_savedmodel` for others.
        FileNotFoundError: the checkpoint does not exist.
    """
    model = create_model(
        name,
        num_classes,
        input_shape=(image_size, image_size, 3),
        weights=checkpoint,
        weights_ema=ema,
    )
    card = {"architecture": name, "weights": as_path(checkpoint).name}
    return export_savedmodel(
        model, model_dir, preprocessing_for(name, image_size), card=card, **options
    )


def import_official(
    name: str,
    checkpoint: PathLike | Mapping[str, Any],
    output: PathLike,
    *,
    ema: bool = False,
    num_classes: int = 1000,
    image_size: int = 224,
    pre_logits: bool | None = None,
    class_names: Sequence[str] | None = None,
) -> ImportedModel:
    """Converts a checkpoint of the reference implementation to a .keras file and a SavedModel.

    Writes output/model.keras, which replaces an existing one only when it is complete, and the
    next version below output/saved_model/. Existing versions are never replaced.

    Args:
        name: one of `list_models()`.
        checkpoint: a file, a mapping or "official", as `load_official_weights` takes it.
        output: the folder to write.
        ema: whether to use the averaged weights of the checkpoint.
        num_classes: the number of classes of the checkpoint.
        image_size: the side of the model's images, in pixels.
        pre_logits: as in `create_model`.
        class_names: one name per class, for the SavedModel. None uses the class indices.

    Returns:
        An `ImportedModel`.

    Raises:
        ValueError: the checkpoint belongs to another model, or the number of class names is
            wrong.
        FileNotFoundError: the checkpoint does not exist.
        ConnectionError: the authors' checkpoint could not be downloaded.

    Example:

    >>> imported = import_official("noah_resnet18", "noah_resnet18.pth.tar", "imported")
    >>> imported.saved_model
    PosixPath('imported/saved_model/1')
    """
    if class_names is not None and len(class_names) != num_classes:
        raise ValueError(
            f"class_names must contain {num_classes} names, one per class, got {len(class_names)}."
        )
    model = create_model(
        name, num_classes, input_shape=(image_size, image_size, 3), pre_logits=pre_logits
    )
    load_official_weights(model, checkpoint, ema=ema)
    preprocessing = preprocessing_for(name, (image_size, image_size))

    output = as_path(output)
    output.mkdir(parents=True, exist_ok=True)
    keras_file = output / "model.keras"
    save_atomically(model.save, keras_file)
    card = {"architecture": name}
    if not isinstance(checkpoint, Mapping):
        card["weights"] = as_path(checkpoint).name
    saved_model = export_savedmodel(
        model, output / "saved_model", preprocessing, class_names, card=card
    )
    return ImportedModel(model, preprocessing, keras_file, saved_model)
