"""An exported model, loaded into this process, that explains photos for the demo page."""

import dataclasses
import re
import sys
from typing import Any

import numpy as np
import tensorflow as tf

from noah_tf.export import OK, latest_version, read_card
from noah_tf.images import Preprocessing, resize
from noah_tf.serving.errors import readable_message
from noah_tf.utils.paths import Path, PathLike, as_path

_LONGER_SIDE = 480  # pixels of a picture
_OPACITY = 0.65  # of the attention map, as in noah_tf.explain.overlays.attention_grid


class BadPhoto(ValueError):
    """The model cannot read a photo. The text is one sentence."""


@dataclasses.dataclass(frozen=True)
class DemoModel:
    """An exported model that is loaded.

    Attributes:
        name: name of the model's folder.
        version: name of the version's folder.
        root: the object that `tf.saved_model.load` returned, which keeps the variables alive.
        explains: whether the model has the signature `explain`.
        card: front matter of MODEL_CARD.md; empty if the version has no card.
    """

    name: str
    version: str
    root: Any
    explains: bool
    card: dict[str, Any]


def load_model(model_dir: PathLike, version: int | None = None) -> DemoModel:
    """Returns a version of an exported model.

    Args:
        model_dir: folder of all versions, such as "saved_models/digits".
        version: number of the version; None for the highest.

    Raises:
        OSError: the folder, the version, or a SavedModel in it does not exist.
        ValueError: this TensorFlow cannot load the model, or the model takes no encoded photos.
    """
    path = find_version(model_dir, version)
    try:
        root = tf.saved_model.load(str(path))
    except (tf.errors.OpError, ValueError, TypeError) as error:
        reason = readable_message(str(error))
        raise ValueError(f"TensorFlow {tf.__version__} cannot load {path}: {reason}.") from error
    inputs = {
        name: set(function.structured_input_signature[1])
        for name, function in root.signatures.items()
    }
    if inputs.get("serving_default") != {"image_bytes"}:
        raise ValueError(
            f"{path} has no signature serving_default that takes image_bytes (it has "
            f"{', '.join(sorted(inputs)) or 'none'}): give a model that trainers/export.py wrote."
        )
    return DemoModel(
        name=path.resolve().parent.name,
        version=path.name,
        root=root,
        explains=inputs.get("explain") == {"image_bytes"},
        card=_read_card(path),
    )


def find_version(model_dir: PathLike, version: int | None = None) -> Path:
    """Returns the folder of a model's version; the arguments are those of `load_model`.

    Raises:
        OSError: the folder, the version, or a SavedModel in it does not exist.
    """
    model_dir = as_path(model_dir)
    if not model_dir.is_dir():
        raise FileNotFoundError(f"There is no folder {model_dir}.")
    if model_dir.name.isdigit() and (model_dir / "saved_model.pb").is_file():
        raise FileNotFoundError(
            f"{model_dir} is a version itself: give --model-dir {model_dir.parent} --version "
            f"{model_dir.name}."
        )
    latest = latest_version(model_dir)
    path = latest if version is None else model_dir / str(version)
    if not path.is_dir():
        raise FileNotFoundError(
            f"{model_dir} has no version {version}; its newest is {latest.name}."
        )
    if not (path / "saved_model.pb").is_file():
        raise FileNotFoundError(f"{path} holds no SavedModel: there is no saved_model.pb in it.")
    return path


def explain_photo(
    model: DemoModel, image_bytes: bytes
) -> tuple[dict[str, float], list[tuple[np.ndarray, str]]]:
    """Returns the classes of a photo, and pictures of where the model saw each.

    Args:
        model: the model to ask.
        image_bytes: the encoded photo.

    Returns:
        A dict from label to probability, best first, and a list of (picture, caption) with uint8
        pictures (H, W, 3). The first picture is the photo as the model reads it: rotated by its
        EXIF data only if the model's preprocessing does that. If the model has attention maps, the
        photo under the map of each class follows.

    Raises:
        BadPhoto: the model cannot read the photo.
    """
    signature = "explain" if model.explains else "serving_default"
    try:
        outputs = model.root.signatures[signature](image_bytes=tf.constant([image_bytes]))
        outputs = {name: value.numpy()[0] for name, value in outputs.items()}
        status = outputs.get("status", OK.encode()).decode()
        if status != OK:
            raise _bad_photo(status)
        exif_rotation = bool(model.card.get("preprocessing", {}).get("exif_rotation", False))
        photo = _resize(Preprocessing(exif_rotation=exif_rotation).decode(image_bytes))
    except tf.errors.OpError as error:
        raise _bad_photo(_reason(error)) from None
    probabilities: dict[str, float] = {}
    pictures = [(photo, "the photo")]
    for rank, class_index in enumerate(outputs["classes"]):
        if class_index < 0:  # fills up the row of a multi-label model
            continue
        label = outputs["labels"][rank].decode()
        if label in probabilities:  # ImageNet has two classes named crane
            label = f"{label} (class {class_index})"
        probabilities[label] = float(outputs["probabilities"][rank])
        if model.explains:
            picture = overlay(photo, outputs["attention"][..., rank], outputs["region"])
            pictures.append((picture, f"{label}: {probabilities[label]:.1%}"))
    return probabilities, pictures


def overlay(photo: np.ndarray, attention: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Returns a photo under an attention map, uint8 (H, W, 3).

    A white line surrounds the region that the map covers, and the rest of the photo is dark.

    Args:
        photo: uint8 (H, W, 3).
        attention: nonnegative map (h, w).
        region: top, left, bottom, right of the region, as fractions of the photo's sides.
    """
    import matplotlib

    height, width = photo.shape[:2]
    corners = np.asarray(region) * (height, width, height, width)
    top, left, bottom, right = np.clip(np.round(corners), 0, (height, width) * 2).astype(int)
    # The crop of a panorama may be thinner than a pixel of the picture.
    top, left = min(top, height - 1), min(left, width - 1)
    bottom, right = max(bottom, top + 1), max(right, left + 1)
    heat = tf.image.resize(attention[..., None], (bottom - top, right - left))[..., 0].numpy()
    colors = matplotlib.colormaps["inferno"](heat / max(attention.max(), 1e-12))[..., :3]
    picture = (1 - _OPACITY) * photo.astype(np.float64)
    picture[top:bottom, left:right] += _OPACITY * 255 * colors
    if (bottom - top, right - left) != (height, width):
        for side in (
            np.s_[top, left:right],
            np.s_[bottom - 1, left:right],
            np.s_[top:bottom, left],
            np.s_[top:bottom, right - 1],
        ):
            picture[side] = 255
    return np.round(picture).astype(np.uint8)


def _read_card(path: Path) -> dict[str, Any]:
    try:
        return read_card(path)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        print(f"{error} The page is shown without the card.", file=sys.stderr)
        return {}


def _bad_photo(reason: str) -> BadPhoto:
    return BadPhoto(f"The model cannot read this photo: {reason}.")


def _reason(error: tf.errors.OpError) -> str:
    """Returns the cause of a failed request with one photo."""
    # The last line before the names of graph nodes is the message of the op that failed.
    line = (error.message or "").split("[[")[0].strip().split("\n")[-1]
    match = re.search(r"image 0 of the request: (.*?)\]?$", line)
    return readable_message(match[1] if match else line) or type(error).__name__


def _resize(image: tf.Tensor) -> np.ndarray:
    """Returns a photo at the size of the page's pictures, uint8 (H, W, 3)."""
    height, width = image.shape[:2]
    scale = _LONGER_SIDE / max(height, width)
    size = [max(1, round(scale * side)) for side in (height, width)]
    return tf.cast(tf.round(resize(image, size, "bicubic")), tf.uint8).numpy()
