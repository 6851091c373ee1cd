"""Models in .keras files: loaded, rebuilt for another image size, or rebuilt from their config."""

import hashlib
import zipfile

import tensorflow as tf

from noah_tf.models.feature_map import is_functional, takes_images
from noah_tf.utils.files import local_file
from noah_tf.utils.keras_compat import KERAS_NAME
from noah_tf.utils.paths import PathLike, as_path


def load_keras_file(path: PathLike) -> tf.keras.Model:
    """Returns the model in a .keras file.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: Keras cannot load the file.
    """
    path = as_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        # Compiling takes minutes for deep models on TensorFlow 2.15, and nobody here needs it.
        with local_file(path) as file:
            return tf.keras.models.load_model(str(file), compile=False)
    except (TypeError, ValueError, OSError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{KERAS_NAME} cannot load {path} ({' '.join(str(error).split())[:200]}): it must be a "
            "whole .keras file of Keras's own layers, written by the same major version of Keras "
            "(2 or 3)."
        ) from error


def with_input_shape(model: tf.keras.Model, input_shape: tuple[int, int, int]) -> tf.keras.Model:
    """Returns the model for images of another size, with a copy of the same layers and weights.

    Args:
        model: a functional model of images.
        input_shape: (height, width, channels).

    Raises:
        ValueError: the model is not functional, or has several inputs, or other channels, or its
            layers depend on the size of the images.

    Example:

    >>> classifier = load_keras_file("classifier.keras")
    >>> with_input_shape(classifier, (128, 128, 3)).input_shape
    (None, 128, 128, 3)
    """
    if not is_functional(model):
        raise ValueError(
            f"{model.name} ({type(model).__name__}) must be a functional model: it has no graph of "
            "layers to read."
        )
    if not takes_images(model):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in model.inputs)
        raise ValueError(
            f"{model.name} must have one input of images (B, H, W, C), and its inputs have the "
            f"shapes {shapes}."
        )
    shape = tuple(model.inputs[0].shape[1:])
    if shape == tuple(input_shape):
        return model
    if shape[-1] != input_shape[-1]:
        raise ValueError(
            f"{model.name} takes images with {shape[-1]} channels, got {input_shape[-1]}."
        )
    try:
        # `Functional.from_config` would keep the size of the file's input.
        resized = tf.keras.models.clone_model(model, input_tensors=tf.keras.Input(input_shape))
        resized.set_weights(model.get_weights())
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{model.name} cannot take images of {input_shape[0]}x{input_shape[1]} pixels "
            f"({' '.join(str(error).split())[:200]}): use its own size, "
            f"{shape[0]}x{shape[1]} (preprocess.image_size)."
        ) from error
    return resized


def model_from_json(text: str) -> tf.keras.Model:
    """Returns a model with random weights from the result of its `to_json`.

    Args:
        text: the JSON.

    Raises:
        ValueError: this version of Keras cannot read it.
    """
    try:
        model = tf.keras.models.model_from_json(text)
        if not isinstance(model, tf.keras.Model):  # Keras 2 returns its config
            raise TypeError("it is not the config of a model")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{KERAS_NAME} cannot read the saved config of the backbone: another major version of "
            "Keras (2 or 3) wrote it."
        ) from error
    return model


def sha256_of(path: PathLike) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with as_path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
