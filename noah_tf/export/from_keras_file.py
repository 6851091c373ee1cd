"""Exports .keras files."""

import json
from typing import Any

from noah_tf.export.savedmodel import export_savedmodel
from noah_tf.images import Preprocessing
from noah_tf.models import load_keras_file
from noah_tf.utils.paths import Path, PathLike


def export_keras_file(
    path: PathLike,
    model_dir: PathLike,
    preprocessing: str | None = None,
    **options: Any,
) -> Path:
    """Exports a .keras file; see `export_savedmodel`.

    Args:
        path: the .keras file.
        model_dir: the folder of all versions.
        preprocessing: JSON of the `Preprocessing` that the model was trained with, see
            `parse_preprocessing`. None is ImageNet's mean and standard deviation at the model's
            input size.
        **options: other arguments of `export_savedmodel`.

    Returns:
        The path of the version's folder.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: Keras cannot load the file, or the JSON is not valid; see `export_savedmodel`
            for others.
    """
    parsed = None if preprocessing is None else parse_preprocessing(preprocessing)
    return export_savedmodel(load_keras_file(path), model_dir, parsed, **options)


def parse_preprocessing(text: str) -> Preprocessing:
    """Returns the `Preprocessing` that a JSON object describes.

    Args:
        text: a JSON object with the arguments of `Preprocessing`.

    Raises:
        ValueError: the text is not a JSON object, or an argument is unknown or out of its range.

    Example:

    >>> parse_preprocessing('{"image_size": [224, 224], "resize_size": 256}')
    """
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ValueError(
            'The preprocessing must be a JSON object such as {"image_size": [224, 224]}, got '
            f"{text!r}."
        )
    return Preprocessing.from_dict(values)
