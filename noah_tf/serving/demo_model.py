"""An exported model in this process: what it sees in a photo, and pictures of where."""

import dataclasses
import pathlib
import re
import sys

import numpy as np
import tensorflow as tf

from noah_tf.export.model_card import read_card
from noah_tf.export.signatures import OK
from noah_tf.export.versions import latest_version
from noah_tf.images.ops import resize
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.serving.errors import server_message

_SIDE = 480  # pixels of a picture's longer side
_OPAQUE = 0.65  # as in noah_tf.explain.overlays.attention_grid


class BadPhoto(ValueError):
    """A photo that the model does not take. Its text is one sentence."""


@dataclasses.dataclass(frozen=True)
class DemoModel:
    """An exported model, loaded.

    Attributes:
        name: the name of its folder.
        version: that of the version's.
        root: what `tf.saved_model.load` gave; its variables live as long as it does.
        explains: whether it has the signature `explain`.
        card: front matter of its MODEL_CARD.md; empty where there is none.
    """

    name: str
    version: str
    root: object
    explains: bool
    card: dict


def load_model(model_dir, version=None):
    """Loads a version of an exported model.

    Args:
        model_dir: folder of all versions, such as "saved_models/digits".
        version: positive integer; None for the highest there.

    Returns:
        A `DemoModel`.

    Raises:
        OSError: there is no such folder, no such version, or no SavedModel in it.
        ValueError: this TensorFlow cannot load it, or it takes no encoded photos.
    """
    path = version_folder(model_dir, version)
    try:
        root = tf.saved_model.load(str(path))
    except (tf.errors.OpError, ValueError, TypeError) as error:
        reason = server_message(str(error))
        raise ValueError(f"TensorFlow {tf.__version__} cannot load {path}: {reason}.") from error
    takes = {
        name: set(function.structured_input_signature[1])
        for name, function in root.signatures.items()
    }
    if takes.get("serving_default") != {"image_bytes"}:
        raise ValueError(
            f"{path} has no signature serving_default that takes image_bytes (it has "
            f"{', '.join(sorted(takes)) or 'none'}): give a model that trainers/export.py wrote."
        )
    name = path.resolve().parent.name
    return DemoModel(name, path.name, root, takes.get("explain") == {"image_bytes"}, _card(path))


def version_folder(model_dir, version=None):
    """The folder of a version of a model, which `load_model` takes the same way.

    Raises:
        OSError: there is no such folder, no such version, or no SavedModel in it.
    """
    model_dir = pathlib.Path(model_dir)
    if not model_dir.is_dir():
        raise FileNotFoundError(f"There is no folder {model_dir}.")
    if model_dir.name.isdigit() and (model_dir / "saved_model.pb").is_file():
        raise FileNotFoundError(
            f"{model_dir} is a version itself: give --model-dir {model_dir.parent} --version "
            f"{model_dir.name}."
        )
    newest = latest_version(model_dir)
    path = newest if version is None else model_dir / str(version)
    if not path.is_dir():
        raise FileNotFoundError(
            f"{model_dir} has no version {version}; its newest is {newest.name}."
        )
    if not (path / "saved_model.pb").is_file():
        raise FileNotFoundError(f"{path} holds no SavedModel: there is no saved_model.pb in it.")
    return path


def answer(model, image_bytes):
    """What a model sees in a photo.

    Args:
        model: a `DemoModel`.
        image_bytes: the encoded photo.

    Returns:
        Dict of label to probability, the best first, and a list of pairs picture (uint8 (H, W, 3))
        and caption: the photo as the model takes it, which is not turned as its EXIF data say where
        the model's preprocessing does not, and the photo under the attention map of each class,
        where the model has such maps.

    Raises:
        BadPhoto: the model does not take it.
    """
    signature = "explain" if model.explains else "serving_default"
    try:
        found = model.root.signatures[signature](image_bytes=tf.constant([image_bytes]))
        found = {name: value.numpy()[0] for name, value in found.items()}
        status = found.get("status", OK.encode()).decode()
        if status != OK:
            raise _bad_photo(status)
        turned = bool(model.card.get("preprocessing", {}).get("exif_rotation", False))
        photo = _scaled(Preprocessing(exif_rotation=turned).decode(image_bytes))
    except tf.errors.OpError as error:
        raise _bad_photo(_reason(error)) from None
    probabilities, pictures = {}, [(photo, "the photo")]
    for place, number in enumerate(found["classes"]):
        if number < 0:  # What fills up the rows of models with several labels.
            continue
        label = found["labels"][place].decode()
        if label in probabilities:  # ImageNet has two classes named crane.
            label = f"{label} (class {number})"
        probabilities[label] = float(found["probabilities"][place])
        if model.explains:
            picture = overlay(photo, found["attention"][..., place], found["region"])
            pictures.append((picture, f"{label}: {probabilities[label]:.1%}"))
    return probabilities, pictures


def overlay(photo, attention, region):
    """A photo under an attention map; what the map does not cover is dark, behind a white line.

    Args:
        photo: uint8 (H, W, 3).
        attention: (h, w), none below 0.
        region: top, left, bottom, right of the part that the map covers, as shares of the sides.

    Returns:
        uint8 (H, W, 3).
    """
    import matplotlib

    height, width = photo.shape[:2]
    corners = np.asarray(region) * (height, width, height, width)
    top, left, bottom, right = np.clip(np.round(corners), 0, (height, width) * 2).astype(int)
    # A panorama's crop may be thinner than a pixel of the picture.
    top, left = min(top, height - 1), min(left, width - 1)
    bottom, right = max(bottom, top + 1), max(right, left + 1)
    heat = tf.image.resize(attention[..., None], (bottom - top, right - left))[..., 0].numpy()
    colours = matplotlib.colormaps["inferno"](heat / max(attention.max(), 1e-12))[..., :3]
    picture = (1 - _OPAQUE) * photo.astype(np.float64)
    picture[top:bottom, left:right] += _OPAQUE * 255 * colours
    if (bottom - top, right - left) != (height, width):
        for side in (
            np.s_[top, left:right],
            np.s_[bottom - 1, left:right],
            np.s_[top:bottom, left],
            np.s_[top:bottom, right - 1],
        ):
            picture[side] = 255
    return np.round(picture).astype(np.uint8)


def _card(path):
    try:
        return read_card(path)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        print(f"{error} The page goes without it.", file=sys.stderr)
        return {}


def _bad_photo(reason):
    return BadPhoto(f"The model cannot read this photo: {reason}.")


def _reason(error):
    """What is wrong with the one photo of a request that failed."""
    # The last line before the names of graph nodes is the op's own message.
    line = (error.message or "").split("[[")[0].strip().split("\n")[-1]
    named = re.search(r"image 0 of the request: (.*?)\]?$", line)
    return server_message(named[1] if named else line) or type(error).__name__


def _scaled(image):
    """A photo at the size of the page's pictures, uint8 (H, W, 3), as NumPy."""
    height, width = image.shape[:2]
    scale = _SIDE / max(height, width)
    size = [max(1, round(scale * side)) for side in (height, width)]
    return tf.cast(tf.round(resize(image, size, "bicubic")), tf.uint8).numpy()
