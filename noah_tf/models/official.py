"""Loads checkpoints of the reference implementation and other libraries; saves the former."""

import math
import os
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from noah_tf.head import NOAHHead
from noah_tf.models.backbones.layers import PositionEmbedding
from noah_tf.models.interpolation import interpolate
from noah_tf.models.official_download import OFFICIAL, official_checkpoint
from noah_tf.models.other_libraries import with_reference_names
from noah_tf.models.reference_tensors import (
    BARE_HEAD,
    Family,
    ReferenceTensor,
    reference_tensors,
)
from noah_tf.models.tensor_files import (
    as_numpy,
    list_names,
    named_tensors,
    read_checkpoint,
    write_checkpoint,
)
from noah_tf.utils.paths import PathLike

_CLASS_TOKEN = "cls_token"
# The layers of Mixer and gMLP whose weights have one row or column per token.
_TOKEN_MIXING = re.compile(r"\.(mlp_tokens|gate\.proj)\.")
# The largest grid of position embeddings that is interpolated: PVT with images of 4,096 pixels.
_LARGEST_GRID = 1024


def load_official_weights(
    model_or_head: tf.keras.Model | NOAHHead,
    source: PathLike | Mapping[str, Any],
    ema: bool = False,
    head: str = "load",
    architecture: str | None = None,
) -> tf.keras.Model | NOAHHead:
    """Loads a checkpoint into a model or a head.

    The checkpoint is one of the reference implementation, timm, torchvision, or the official DeiT
    and PVT repositories. A model of `create_model` with the standard head takes all of it, and one
    with a NOAH head takes its backbone with `head="skip"`.

    Loading is strict. Either every weight of the model is set and every tensor of the checkpoint
    is used, or an error names what does not fit and the model stays unchanged. The prefix
    `module.` is removed from the names, and `num_batches_tracked` is ignored. Floating-point
    tensors are cast to the dtype of the weights. Values that are not finite are loaded too.

    If a DeiT or PVT has another image size than the checkpoint, its position embeddings are
    interpolated from their square grid, as in the reference: bicubic in DeiT, bilinear in PVT. A
    log message says so. Embeddings with the same number of positions are not interpolated.

    Args:
        model_or_head: a model of `create_model`, or another model made of its layers; or a built
            `NOAHHead`. A head takes "query.weight", "query.bias", "value.weight" and
            "value.bias", either alone or from the checkpoint of a whole model.
        source: "official" for the authors' checkpoint of the model, which is downloaded on first
            use, see `official_checkpoint`; the path of a .pth, .pt or .tar file (these need
            PyTorch: `pip install 'torch>=2.6'`) or of a .safetensors file; or a mapping name →
            NumPy array, PyTorch tensor or TensorFlow tensor. The tensors may be nested under
            "state_dict" or "model".
        ema: whether to load the averaged weights, under "state_dict_ema" or "model_ema".
        head: "load", or "skip" to leave the model's head unchanged, for another number of classes
            or kind of head. If the model has no class token, "skip" also ignores the checkpoint's,
            because only the standard head of a transformer uses it.
        architecture: a name of `list_models()`, such as "noah_resnet18". Needed if the model's
            own name does not start with it, or for "official" is not equal to it.

    Returns:
        `model_or_head`.

    Raises:
        ConnectionError: the authors' checkpoint could not be downloaded.
        FileNotFoundError: the file does not exist.
        ImportError: the file needs PyTorch 2.6 or newer.
        TypeError: `source` is neither a path nor a mapping, or `model_or_head` is not a model.
        ValueError: the file is damaged or not a checkpoint, or reading it could run code (none is
            run); the tensors do not fit the weights; or the model has layers that the reference
            does not have.

    Example:

    >>> model = noah_tf.create_model("noah_resnet18")
    >>> model = noah_tf.load_official_weights(model, "noah_resnet18.pth.tar")
    """
    if head not in ("load", "skip"):
        raise ValueError(f"head must be 'load' or 'skip', got {head!r}.")
    family, weights = reference_tensors(model_or_head, architecture)
    if isinstance(source, str) and source == OFFICIAL:
        with official_checkpoint(architecture or model_or_head.name) as path:
            return load_official_weights(model_or_head, path, ema, head, architecture)
    label, content = _read_source(source)
    tensors = named_tensors(content, ema, label)
    tensors, file_names = with_reference_names(tensors, family.libraries, label)
    if family is BARE_HEAD:
        if head == "skip":
            raise ValueError("head='skip' is for models, got a NOAHHead: use head='load'.")
        tensors = _head_tensors(tensors, label)
    advice = _head_kind_advice(weights, tensors, family)
    if head == "skip":
        weights = [weight for weight in weights if not family.is_head(weight.name)]
        tensors = {name: value for name, value in tensors.items() if not family.is_head(name)}
    drop_class_token = head == "skip" and not any(w.name == _CLASS_TOKEN for w in weights)
    if drop_class_token:
        drop_class_token = tensors.pop(_CLASS_TOKEN, None) is not None

    values, problems = _match_tensors(weights, tensors, family, drop_class_token)
    if problems:
        lists = "; ".join(
            list_names(kind, (file_names.of(name) + text for name, text in names.items()))
            for kind, names in problems.items()
        )
        library = file_names.library.name
        origin = f", with the names of {library}," if library else ""
        message = f"{label}{origin} does not fit {model_or_head.name}: {lists}."
        raise ValueError(" ".join([message, *advice, *_problem_advice(problems, weights, family)]))
    # All tensors are checked before the first assignment, so that an error changes nothing.
    for weight, value in zip(weights, values, strict=True):
        weight.variable.assign(value)
    return model_or_head


def save_official_weights(
    model: tf.keras.Model | NOAHHead,
    path: str | os.PathLike[str],
    script: bool = False,
    architecture: str | None = None,
) -> pathlib.Path:
    """Writes a checkpoint that the models of the reference implementation load.

    The tensors have the names, shapes and dtypes of the reference's state_dict and, in a PyTorch
    file, its order. Loading the file gives exactly the same weights. Only names and shapes are
    checked, not whether the layers are connected as in the reference.

    Args:
        model: a model of `create_model`, or another model made of its layers; or a `NOAHHead`.
        path: the file to write. It ends in .pth, .pt or .tar (these need PyTorch: `pip install
            'torch>=2.6'`) or in .safetensors.
        script: whether to write the file for the reference's training script instead of
            `load_state_dict`. The scripts expect `module.` before every name for the CNNs, the
            tensors under "model" for DeiT and PVT, and under "state_dict" for Mixer and gMLP.
        architecture: a name of `list_models()`, as for `load_official_weights`.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: the folder does not exist.
        ImportError: the format needs PyTorch 2.6 or newer.
        TypeError: `model` is not a Keras model.
        ValueError: the path has another suffix, `script` is True for a .safetensors file or a
            head, the weights are not float32, or the model has layers that the reference does
            not have.

    Example:

    >>> path = noah_tf.save_official_weights(model, "noah_resnet18.pth")
    >>> reference_model.load_state_dict(torch.load("noah_resnet18.pth"))
    """
    tensors = state_dict(model, architecture)
    if not script:
        return write_checkpoint(path, tensors)
    family, _ = reference_tensors(model, architecture)
    if family is BARE_HEAD:
        raise ValueError("script=True needs a whole model, got a NOAHHead.")
    if str(path).lower().endswith(".safetensors"):
        raise ValueError(f"The reference's scripts read .pth files, got {path} and script=True.")
    if family.script_key is None:
        tensors = {f"module.{name}": array for name, array in tensors.items()}
    return write_checkpoint(path, tensors, family.script_key)


def state_dict(
    model: tf.keras.Model | NOAHHead, architecture: str | None = None
) -> dict[str, np.ndarray]:
    """Returns a model's weights with the names, order and layout of the reference.

    Args:
        model: a model or a head, as for `save_official_weights`.
        architecture: a name of `list_models()`, as for `load_official_weights`.

    Returns:
        A dict name → NumPy array. The arrays are copies. They are float32, except for
        `num_batches_tracked`, which is an int64 zero.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: the weights are not float32, or the model has layers that the reference does
            not have.
    """
    family, weights = reference_tensors(model, architecture)
    dtypes = sorted({tf.as_dtype(weight.variable.dtype).name for weight in weights})
    if dtypes != ["float32"]:
        raise ValueError(
            f"A checkpoint of the reference holds float32 weights, got {' and '.join(dtypes)} in "
            f"{model.name}: build the model in float32 and copy the weights with set_weights()."
        )
    tensors = {weight.name: weight.as_tensor(weight.variable) for weight in weights}
    for name in [name for name in tensors if name.endswith(".running_var")]:
        # PyTorch's BatchNorm counts its training steps. Keras's does not.
        module = name.removesuffix("running_var")
        tensors[f"{module}num_batches_tracked"] = np.zeros((), np.int64)
    return {name: tensors[name] for name in sorted(tensors, key=family.rank)}


def _read_source(source: Any) -> tuple[str, Any]:
    """Returns the source's name for error messages, and its content."""
    if isinstance(source, Mapping):
        return "The mapping", source
    if isinstance(source, (str, os.PathLike)):
        return str(source), read_checkpoint(source)
    raise TypeError(f"source must be a path or a mapping, got {type(source).__name__}.")


def _head_tensors(tensors: dict[str, Any], label: str) -> dict[str, Any]:
    """Returns the tensors of a NOAH head, from a head's or a whole model's checkpoint."""
    prefixes = ("head.", "classifier.")
    for prefix in prefixes:
        if f"{prefix}query.weight" in tensors:
            names = [name for name in tensors if name.startswith(prefix)]
            return {name.removeprefix(prefix): tensors[name] for name in names}
    if "query.weight" not in tensors and any(name.startswith(prefixes) for name in tensors):
        raise ValueError(
            f"A NOAHHead needs the tensors of a NOAH head, got {label} with a linear head."
        )
    return tensors


def _match_tensors(
    weights: Sequence[ReferenceTensor],
    tensors: Mapping[str, Any],
    family: Family,
    drop_class_token: bool,
) -> tuple[list[np.ndarray], dict[str, dict[str, str]]]:
    """Finds the value of every weight.

    Args:
        weights: the model's weights.
        tensors: the checkpoint's tensors.
        family: the model's family.
        drop_class_token: whether the checkpoint's class token was removed, so that position
            embeddings lose their first position.

    Returns:
        The values in the order of `weights`, and the problems: kind of problem → tensor's name →
        what a message says after the name. The values are complete if there are no problems.
    """
    values: list[np.ndarray] = []
    missing: dict[str, str] = {}
    shapes: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    for weight in weights:
        name = weight.name
        if name not in tensors:
            missing[name] = ""
            continue
        # The shape is checked before the values are read, because a file of a few bytes can
        # declare a tensor of any size.
        shape = tuple(tensors[name].shape)
        drop_first = drop_class_token and _starts_with_token(shape, weight)
        new_shape = (shape[0], shape[1] - 1, shape[2]) if drop_first else shape
        if new_shape != weight.shape and not _grid_side(new_shape, weight):
            shapes[name] = f" {shape}, expected {weight.shape}"
            continue
        try:
            array = as_numpy(tensors[name])
        except (ValueError, TypeError, RuntimeError) as error:
            unreadable[name] = f" ({error})"
            continue
        if array.dtype.kind != "f" and array.dtype != tf.bfloat16.as_numpy_dtype:
            unreadable[name] = f" ({array.dtype})"
        else:
            array = array[:, 1:] if drop_first else array
            values.append(weight.as_weight(_resize_positions(array, weight, family)))
    known = {weight.name for weight in weights}
    problems = {
        "missing": missing,
        "unexpected": {name: "" for name in tensors if name not in known},
        "wrong shape": shapes,
        "not a floating-point array": unreadable,
    }
    return values, {kind: names for kind, names in problems.items() if names}


def _problem_advice(
    problems: Mapping[str, Collection[str]], weights: Sequence[ReferenceTensor], family: Family
) -> list[str]:
    """Returns sentences that say how to solve the problems of `_match_tensors`."""
    advice = []
    positions = {weight.name for weight in weights if isinstance(weight.layer, PositionEmbedding)}
    positions.intersection_update(problems.get("wrong shape", ()))
    skipped_with_head = set()
    if _CLASS_TOKEN in problems.get("unexpected", ()):
        skipped_with_head = {_CLASS_TOKEN, *positions}
    names = [name for names in problems.values() for name in names]
    if all(family.is_head(name) or name in skipped_with_head for name in names):
        advice.append("head='skip' (in create_model weights_head) loads all but the head.")
    for kind, pre_logits in (("missing", False), ("unexpected", True)):
        if any(name.startswith("pre_logits.") for name in problems.get(kind, ())):
            advice.append(f"Create the model with pre_logits={pre_logits}.")
    if len(problems.get("missing", ())) > len(weights) / 2:
        advice.append(
            "The file is of another architecture, or of another library than timm and torchvision."
        )
    if positions - skipped_with_head:
        advice.append(
            "Position embeddings are interpolated only from a square grid with as many channels."
        )
    if any(_TOKEN_MIXING.search(name) for name in problems.get("wrong shape", ())):
        advice.append(
            "The layers that mix tokens fit one image size: create the model with the input_shape "
            "of the checkpoint."
        )
    return advice


def _head_kind_advice(
    weights: Sequence[ReferenceTensor], tensors: Collection[str], family: Family
) -> list[str]:
    """Returns one sentence if only one of model and checkpoint has a NOAH head, or none."""

    def is_noah(names: Collection[str]) -> bool | None:
        names = [name for name in names if family.is_head(name)]
        return f"{family.head}.query.weight" in names if names else None

    model_is_noah = is_noah([weight.name for weight in weights])
    file_is_noah = is_noah(tensors)
    if model_is_noah is None or file_is_noah is None or model_is_noah == file_is_noah:
        return []
    kinds = ("the standard", "a NOAH")
    return [
        f"The checkpoint has {kinds[file_is_noah]} head and the model {kinds[model_is_noah]} head: "
        f"create the model {'with' if file_is_noah else 'without'} 'noah_' before its name."
    ]


def _starts_with_token(shape: tuple[int, ...], weight: ReferenceTensor) -> bool:
    """Returns True if position embeddings of this shape have a square grid and one token more."""
    if not isinstance(weight.layer, PositionEmbedding) or len(shape) != 3 or shape[1] < 2:
        return False
    return math.isqrt(shape[1] - 1) ** 2 == shape[1] - 1


def _grid_side(shape: tuple[int, ...], weight: ReferenceTensor) -> int:
    """Returns the side of the square grid of position embeddings of this shape, 0 if not square."""
    if not isinstance(weight.layer, PositionEmbedding) or len(shape) != 3:
        return 0
    side = math.isqrt(max(shape[1] - weight.layer.num_prefix_tokens, 0))
    expected = (1, weight.layer.num_prefix_tokens + side**2, weight.shape[-1])
    return side if shape == expected and side <= _LARGEST_GRID else 0


def _resize_positions(array: np.ndarray, weight: ReferenceTensor, family: Family) -> np.ndarray:
    """Returns position embeddings interpolated to the model's grid, and other arrays unchanged."""
    if array.shape == weight.shape:
        return array
    side, grid = _grid_side(array.shape, weight), weight.layer.grid
    prefix = weight.layer.num_prefix_tokens
    logging.info("%s: interpolated from %dx%d to %dx%d.", weight.name, side, side, *grid)
    positions = array[0, prefix:].astype(np.float64).reshape(side, side, -1)
    positions = interpolate(positions, grid, family.interpolation)
    positions = positions.reshape(1, grid[0] * grid[1], -1)
    return np.concatenate([array[:, :prefix].astype(np.float64), positions], axis=1)
