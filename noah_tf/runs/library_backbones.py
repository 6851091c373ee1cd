"""The backbones of Keras applications, of KerasCV, and of ours for small images."""

import inspect
import os
import traceback
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import tensorflow as tf

from noah_tf.models.backbones import small

LIBRARIES = ("tf.keras.applications", "keras_cv.models", "noah_tf.models.backbones.small")


def library_backbone(name: str, /, **arguments: Any) -> tf.keras.Model:
    """Returns a backbone of Keras applications, of KerasCV, or of ours for small images.

    Args:
        name: full name of the function or class, such as "tf.keras.applications.MobileNetV2",
            "keras_cv.models.ResNetBackbone" or "noah_tf.models.backbones.small.small_resnet".
        **arguments: the arguments to call it with.

    Returns:
        A Keras model.

    Raises:
        ValueError: the library is not supported, the library has no such model, or the model
            does not take the arguments.
        ConnectionError: the library could not download the model's pretrained weights.

    Example:

    >>> backbone = library_backbone(
    ...     "tf.keras.applications.MobileNetV2", weights=None, input_shape=(96, 96, 3))
    """
    check_library_backbone(name)
    builder = library_builder(name)
    try:
        _check_arguments(builder, arguments)
        return builder(**arguments)
    except TypeError as error:
        raise ValueError(
            f"{name} does not take these arguments ({error}): set model.backbone_args in the "
            "recipe's file to arguments that it takes."
        ) from error
    except Exception as error:  # Keras raises this very class if a download fails.
        problem = download_problem(name, error)
        if problem is None:
            raise
        raise ConnectionError(problem) from error


def check_library_backbone(name: str) -> None:
    """Checks the name of a backbone.

    Args:
        name: as for `library_backbone`.

    Raises:
        ValueError: the library is not supported, or has no such model.
    """
    library, _, model = name.rpartition(".")
    if library not in LIBRARIES:
        raise ValueError(
            f"backbone must be of {', '.join(LIBRARIES[:-1])} or {LIBRARIES[-1]}, or the path of a "
            f".keras file, got {name!r}."
        )
    if not callable(getattr(_namespace(library), model, None)):
        raise ValueError(f"{library} has no model {model!r}.")


def library_builder(name: str) -> Callable[..., tf.keras.Model]:
    """Returns the function or class of a backbone.

    Args:
        name: a name that `check_library_backbone` accepts.
    """
    library, _, model = name.rpartition(".")
    return getattr(_namespace(library), model)


def library_weights(name: str, arguments: Mapping[str, Any]) -> str | None:
    """Returns the pretrained weights that `library_backbone` loads.

    Args:
        name: as for `library_backbone`.
        arguments: likewise.

    Returns:
        What the function calls its weights, such as "imagenet", or None for random weights.

    Example:

    >>> library_weights("tf.keras.applications.MobileNetV2", {})
    'imagenet'
    """
    parameter = inspect.signature(library_builder(name)).parameters.get("weights")
    return arguments.get("weights", parameter.default) if parameter else None


def download_problem(name: str, error: Exception) -> str | None:
    """Returns one sentence for an error that a library raised while it downloaded a file.

    The libraries raise exceptions of general classes, without the place where they keep the file.
    The arguments of the function that downloads, `get_file`, have the address and the place.

    Args:
        name: the full name of the backbone, for the sentence.
        error: what the library raised.

    Returns:
        A sentence with the address and the place, or None if the library was not downloading.

    Example:

    >>> try:
    ...     backbone = tf.keras.applications.MobileNetV2(weights="imagenet")
    ... except Exception as error:
    ...     print(download_problem("tf.keras.applications.MobileNetV2", error))
    """
    reason = " ".join(str(error).rpartition(" -- ")[2].split()).rstrip(".")[:300]
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        if frame.f_code.co_name != "get_file":
            continue
        arguments = frame.f_locals
        if {"origin", "datadir", "fname"} <= set(arguments):  # `tf.keras.utils.get_file`
            path = os.path.join(arguments["datadir"], arguments["fname"])
            return (
                f"The weights of {name} could not be downloaded from {arguments['origin']} "
                f"({reason}): download the file on a machine with a connection and save it as "
                f"{path}, where Keras looks for it."
            )
        if str(arguments.get("preset")).startswith("kaggle://"):  # KerasCV's
            return _kaggle_problem(name, arguments["preset"].removeprefix("kaggle://"), reason)
    return None


def _kaggle_problem(name: str, handle: str, reason: str) -> str:
    from kagglehub.config import get_cache_folder

    folder = os.path.join(get_cache_folder(), "models", *handle.split("/")[:2])
    return (
        f"{name} could not be downloaded from https://www.kaggle.com/models/{handle} ({reason}): "
        "build it once on a machine with a connection, and copy the folder models/"
        f"{'/'.join(handle.split('/')[:2])} of that machine's kagglehub cache to {folder}, where "
        "KerasCV looks for it."
    )


def _check_arguments(builder: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raises TypeError for unknown arguments of a KerasCV class, which Keras 3 ignores."""
    if not inspect.isclass(builder):
        return
    known = {"name", "trainable", "load_weights"}
    for cls in inspect.getmro(builder):
        if cls.__module__.startswith("keras_cv."):
            known.update(inspect.signature(cls).parameters)
    if unknown := sorted(arguments.keys() - known):
        raise TypeError(f"it has no argument {' and no argument '.join(map(repr, unknown))}")


def _namespace(library: str) -> ModuleType:
    if library == "tf.keras.applications":
        return tf.keras.applications
    if library == "noah_tf.models.backbones.small":
        return small
    from keras_cv import models

    return models
