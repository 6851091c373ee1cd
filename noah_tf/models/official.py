"""The reference implementation's checkpoints and the weights of Keras models, both ways."""

import math
import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from absl import logging

from noah_tf.models.backbones.layers import PositionEmbedding
from noah_tf.models.reference_tensors import BARE_HEAD, reference_tensors
from noah_tf.models.tensor_files import (
    as_numpy,
    listed,
    named_tensors,
    read_checkpoint,
    write_checkpoint,
)

_CLASS_TOKEN = "cls_token"
# Positions along one side of a table that is interpolated: images of 4,096 pixels in PVT.
_LARGEST_GRID = 1024


def load_official_weights(model_or_head, source, ema=False, head="load", architecture=None):
    """Loads a checkpoint of the reference implementation into a model of the zoo, or into a head.

    It is strict: every weight of the model is set once and every tensor of the checkpoint is
    used, or an error says what does not fit and nothing is changed. `module.` before the names is
    stripped and `num_batches_tracked` ignored; floating-point tensors of any precision are cast
    to the weights' dtype; values that are not finite are loaded as they are.

    A DeiT or PVT for another image size takes tables of positions interpolated from their square
    grid (bicubic and bilinear, as the reference does), and logs it. A table with as many positions
    as the model's own is taken as it is.

    Args:
        model_or_head: a model of `create_model`, or one put on its layers; or a `NOAHHead` that
            has been called, which takes "query.weight", "query.bias", "value.weight" and
            "value.bias", or, of a whole model's checkpoint, the head's tensors alone.
        source: path of a .pth, .pt or .tar file (which needs PyTorch, `pip install
            'torch>=2.6'`) or of a .safetensors file; or a mapping, name → numpy array, torch or
            TensorFlow tensor. The tensors may be under "state_dict" or "model".
        ema: whether to take the averaged weights, "state_dict_ema" or "model_ema".
        head: "load"; or "skip" to leave the model's head as it is, whatever the checkpoint's,
            for another number of classes or kind of head. A class token, which the standard
            head of a transformer reads, is left out as well where the model has none.
        architecture: name of the zoo's model, such as "noah_resnet18", where the model's own name
            does not start with it.

    Returns:
        `model_or_head`.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the file needs PyTorch 2.6 or newer.
        TypeError: `source` is neither path nor mapping, or `model_or_head` no model.
        ValueError: the file is damaged, no checkpoint, or could run code when read (it is
            refused and runs none); its tensors and the model's weights differ; or the model is
            not built from layers that the reference has.

    Example:

    >>> model = noah_tf.create_model("noah_resnet18")
    >>> model = noah_tf.load_official_weights(model, "noah_resnet18.pth.tar")
    """
    if head not in ("load", "skip"):
        raise ValueError(f"head must be 'load' or 'skip', got {head!r}.")
    family, weights = reference_tensors(model_or_head, architecture)
    label, content = _opened(source)
    tensors = named_tensors(content, ema, label)
    if family is BARE_HEAD:
        if head == "skip":
            raise ValueError("head='skip' leaves nothing to load into a NOAHHead.")
        tensors = _head_tensors(tensors, label)
    advice = _advice_on_kind(weights, tensors, family)
    if head == "skip":
        weights = [weight for weight in weights if not family.is_head(weight.name)]
        tensors = {name: value for name, value in tensors.items() if not family.is_head(name)}
    token_left_out = head == "skip" and not any(w.name == _CLASS_TOKEN for w in weights)
    if token_left_out:
        token_left_out = tensors.pop(_CLASS_TOKEN, None) is not None

    values, problems = _matched(weights, tensors, family, token_left_out)
    if problems:
        lists = "; ".join(listed(kind, names.values()) for kind, names in problems.items())
        misfit = f"{label} does not fit {model_or_head.name}: {lists}."
        raise ValueError(" ".join([misfit, *advice, *_advice(problems, weights, family)]))
    # Only now, so that an error leaves the model as it was.
    for weight, value in zip(weights, values, strict=True):
        weight.variable.assign(value)
    return model_or_head


def save_official_weights(model, path, script=False, architecture=None):
    """Writes a checkpoint that the reference implementation's models load.

    Names, shapes, dtypes and, in a PyTorch file, the order are those of their state_dict. Loading
    the file gives the same weights bit for bit. What the model computes with them is not looked
    at: of layers put together in another way the file has the names that they have.

    Args:
        model: a model of `create_model`, or one put on its layers; or a `NOAHHead`.
        path: file to write: .pth, .pt or .tar (which need PyTorch, `pip install 'torch>=2.6'`),
            or .safetensors.
        script: whether to write what the reference's own training script resumes or evaluates
            from: for the CNNs `module.` before every name, for DeiT and PVT the mapping under
            "model", for Mixer and gMLP under "state_dict". Otherwise the bare mapping, for
            `load_state_dict`.
        architecture: as for `load_official_weights`.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        FileNotFoundError: the folder does not exist.
        ImportError: the format needs PyTorch 2.6 or newer.
        TypeError: `model` is no Keras model.
        ValueError: the file's name ends in something else, `script` is asked of a .safetensors
            file or a head, the weights are not float32, or the model is not built from layers
            that the reference has.

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


def state_dict(model, architecture=None):
    """The weights as the reference names, orders and lays them out.

    Args:
        model: as for `save_official_weights`.
        architecture: as for `load_official_weights`.

    Returns:
        dict name → numpy array, float32 and int64 (`num_batches_tracked`, which is 0). The arrays
        are copies.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: as for `save_official_weights`.
    """
    family, weights = reference_tensors(model, architecture)
    dtypes = sorted({tf.as_dtype(weight.variable.dtype).name for weight in weights})
    if dtypes != ["float32"]:
        raise ValueError(
            f"{model.name} has weights of dtype {' and '.join(dtypes)}, and a checkpoint of the "
            "reference is float32: build the model in float32 and set_weights() on it."
        )
    tensors = {weight.name: weight.as_tensor(weight.variable) for weight in weights}
    for name in [name for name in tensors if name.endswith(".running_var")]:
        # BatchNorm's counter of training steps, which Keras does not keep.
        module = name.removesuffix("running_var")
        tensors[f"{module}num_batches_tracked"] = np.zeros((), np.int64)
    return {name: tensors[name] for name in sorted(tensors, key=family.rank)}


def _opened(source):
    """How messages call a source, and what it holds."""
    if isinstance(source, Mapping):
        return "The mapping", source
    if isinstance(source, (str, os.PathLike)):
        return str(source), read_checkpoint(source)
    raise TypeError(f"source must be a path or a mapping, got {type(source).__name__}.")


def _head_tensors(tensors, label):
    """The tensors of a NOAH head, given alone or among a whole model's."""
    heads = ("head.", "classifier.")
    for prefix in heads:
        if f"{prefix}query.weight" in tensors:
            inside = [name for name in tensors if name.startswith(prefix)]
            return {name.removeprefix(prefix): tensors[name] for name in inside}
    if "query.weight" not in tensors and any(name.startswith(heads) for name in tensors):
        raise ValueError(f"{label} has a standard linear head, which a NOAHHead cannot take.")
    return tensors


def _matched(weights, tensors, family, token_left_out):
    """The value of every weight, and what does not fit: kind of problem → {name: description}."""
    values, missing, shapes, unreadable = [], {}, {}, {}
    for weight in weights:
        name = weight.name
        if name not in tensors:
            missing[name] = name
            continue
        # Before the values: a file of a few bytes can claim a tensor of any size.
        shape = tuple(tensors[name].shape)
        left_out = int(token_left_out and _begins_with_token(shape, weight))
        kept = (shape[0], shape[1] - 1, shape[2]) if left_out else shape
        if kept != weight.shape and not _square_side(kept, weight):
            shapes[name] = f"{name} {shape}, expected {weight.shape}"
            continue
        try:
            array = as_numpy(tensors[name])
        except (ValueError, TypeError, RuntimeError) as error:
            unreadable[name] = f"{name} ({error})"
            continue
        if array.dtype.kind != "f" and array.dtype != tf.bfloat16.as_numpy_dtype:
            unreadable[name] = f"{name} ({array.dtype})"
        else:
            # The first position is the class token's.
            array = array[:, 1:] if left_out else array
            values.append(weight.as_weight(_resized(array, weight, family)))
    known = {weight.name for weight in weights}
    problems = {
        "missing": missing,
        "unexpected": {name: name for name in tensors if name not in known},
        "wrong shape": shapes,
        "no floating-point array": unreadable,
    }
    return values, {kind: names for kind, names in problems.items() if names}


def _advice(problems, weights, family):
    """What to do about names that do not fit, where they show it; a list of sentences."""
    advice = []
    tables = {weight.name for weight in weights if isinstance(weight.layer, PositionEmbedding)}
    tables.intersection_update(problems.get("wrong shape", ()))
    with_head = set()
    if _CLASS_TOKEN in problems.get("unexpected", ()):
        with_head = {_CLASS_TOKEN, *tables}
    if all(family.is_head(n) or n in with_head for names in problems.values() for n in names):
        advice.append("head='skip' (in create_model weights_head) loads all but the head.")
    for kind, answer in (("missing", False), ("unexpected", True)):
        if any(name.startswith("pre_logits.") for name in problems.get(kind, ())):
            advice.append(f"Create the model with pre_logits={answer}.")
    if tables - with_head:
        advice.append("Positions are interpolated from a square grid of as many channels only.")
    return advice


def _advice_on_kind(weights, tensors, family):
    """What to do where one side has a NOAH head and the other the standard one."""

    def is_noah(names):
        names = [name for name in names if family.is_head(name)]
        return f"{family.head}.query.weight" in names if names else None

    model, file = is_noah([weight.name for weight in weights]), is_noah(tensors)
    if model is None or file is None or model == file:
        return []
    kinds = ("the standard", "a NOAH")
    return [
        f"The checkpoint has {kinds[file]} head and the model {kinds[model]} head: create the "
        f"model {'with' if file else 'without'} 'noah_' before its name."
    ]


def _begins_with_token(shape, weight):
    """Whether a table of this shape has one position more than a square grid."""
    if not isinstance(weight.layer, PositionEmbedding) or len(shape) != 3 or shape[1] < 2:
        return False
    return math.isqrt(shape[1] - 1) ** 2 == shape[1] - 1


def _square_side(shape, weight):
    """The side of the square grid that a table of positions of this shape is of, 0 if of none."""
    if not isinstance(weight.layer, PositionEmbedding) or len(shape) != 3:
        return 0
    side = math.isqrt(max(shape[1] - weight.layer.num_prefix_tokens, 0))
    expected = (1, weight.layer.num_prefix_tokens + side**2, weight.shape[-1])
    return side if shape == expected and side <= _LARGEST_GRID else 0


def _resized(array, weight, family):
    """A table of positions for another image size, interpolated; anything else as it is."""
    if array.shape == weight.shape:
        return array
    side, grid = _square_side(array.shape, weight), weight.layer.grid
    prefix = weight.layer.num_prefix_tokens
    logging.info("%s: interpolated from %dx%d to %dx%d.", weight.name, side, side, *grid)
    table = array[0, prefix:].astype(np.float64).reshape(side, side, -1)
    table = interpolate(table, grid, family.resize).reshape(1, grid[0] * grid[1], -1)
    return np.concatenate([array[:, :prefix].astype(np.float64), table], axis=1)


def interpolate(table, grid, method):
    """What PyTorch's `interpolate(align_corners=False)` makes of a map.

    Args:
        table: array (h, w, C).
        grid: the new (h, w).
        method: "bilinear" or "bicubic".

    Returns:
        Array (*grid, C).
    """
    rows, columns = (
        _interpolation(size, new_size, method)
        for size, new_size in zip(table.shape[:2], grid, strict=True)
    )
    return np.einsum("yh,xw,hwc->yxc", rows, columns, table, optimize=True)


def _interpolation(size, new_size, method):
    """The matrix (new_size, size) that interpolates along one axis."""
    centres = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    taps = np.floor(centres)[:, None] + np.arange(-1, 3)
    x = np.abs(centres[:, None] - taps)
    if method == "bilinear":
        weights = np.maximum(1 - x, 0)
    else:
        a = -0.75  # PyTorch's cubic kernel; Keras's has -0.5.
        near = ((a + 2) * x - (a + 3)) * x**2 + 1
        far = a * (((x - 5) * x + 8) * x - 4)
        weights = np.where(x <= 1, near, np.where(x < 2, far, 0))
    matrix = np.zeros((new_size, size))
    # Taps beyond the edge read the pixel at the edge.
    nearest = np.clip(taps, 0, size - 1).astype(int)
    np.add.at(matrix, (np.arange(new_size)[:, None], nearest), weights)
    return matrix
