"""Reads and writes files of named tensors: PyTorch and safetensors.

Reading a PyTorch file never runs code from it.
"""

import argparse
import os
import pathlib
import re
import types
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as safetensors_bytes

from noah_tf.utils.files import local_file, save_atomically
from noah_tf.utils.paths import Path, PathLike, as_path

_PICKLES = (".pth", ".pt", ".tar")
_SAFETENSORS = ".safetensors"
_SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    # The NumPy reader of safetensors does not know bfloat16.
    "BF16": tf.bfloat16.as_numpy_dtype,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

_KEYS = ("state_dict", "model")
_EMA_KEYS = ("state_dict_ema", "model_ema")


def read_checkpoint(path: PathLike) -> Any:
    """Returns the content of a checkpoint file.

    A PyTorch file is a pickle, and unpickling can call any function. Therefore PyTorch's
    restricted reader (`weights_only=True`) reads it. It accepts tensors, plain values, containers
    and `argparse.Namespace`, which training scripts save with the weights. Anything else, NumPy
    scalars included, raises an error before any function is called.

    Args:
        path: a .pth, .pt or .tar (.pth.tar) file of `torch.save`, or a .safetensors file.

    Returns:
        The saved object: a dict name → NumPy array for a .safetensors file, usually a possibly
        nested dict of PyTorch tensors for the other formats.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: the file needs PyTorch, which is not installed or older than 2.6.
        ValueError: the path has another suffix, the file is damaged, a web page or not a
            checkpoint, or reading it would call a function.
    """
    path = as_path(path)
    suffix = _check_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    with local_file(path) as file:
        if is_html_page(file):
            raise ValueError(
                f"{path} is a web page (HTML) that was saved instead of the checkpoint: download "
                "the file again with the download button of its page."
            )
        return _read_safetensors(file) if suffix == _SAFETENSORS else _read_pickle(file)


def write_checkpoint(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], key: str | None = None
) -> pathlib.Path:
    """Writes named tensors to a file, which appears when it is complete.

    Args:
        path: the file to write. Its suffix decides the format, as in `read_checkpoint`.
        tensors: a dict name → NumPy array.
        key: the key under which a PyTorch file holds the tensors. None saves the mapping itself.

    Returns:
        The path of the file.

    Raises:
        OSError: the folder does not exist, `path` is a folder, or the disk is full.
        ImportError: the format needs PyTorch, which is not installed or older than 2.6.
        ValueError: the path has another suffix, or `key` is given for a .safetensors file.
    """
    path = pathlib.Path(path).expanduser()
    suffix = _check_suffix(path)
    if key is not None and suffix == _SAFETENSORS:
        raise ValueError(f"A .safetensors file cannot nest tensors under a key, got {key!r}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} to.")
    if path.is_dir():
        raise IsADirectoryError(f"path must be a file, got the folder {path}.")
    torch = None if suffix == _SAFETENSORS else import_torch(path)

    def save(partial: str) -> None:
        if torch is None:
            # safetensors' own writer creates a file that only its owner may read.
            pathlib.Path(partial).write_bytes(safetensors_bytes(dict(tensors)))
        else:
            content = {name: torch.from_numpy(array) for name, array in tensors.items()}
            torch.save(content if key is None else {key: content}, partial)

    try:
        # Resolving a link replaces the file that it points to instead of the link.
        save_atomically(save, path.resolve())
    except (RuntimeError, SafetensorError) as error:  # Both libraries raise these on a full disk.
        raise OSError(f"{path} could not be written: {_reason(error)}.") from error
    return path


def named_tensors(content: Any, ema: bool, label: str) -> dict[str, Any]:
    """Returns the tensors of a checkpoint, wherever in it they are nested.

    Args:
        content: the result of `read_checkpoint`: a mapping name → tensor, or a mapping that holds
            it under "state_dict" or "model".
        ema: whether to return the averaged weights, under "state_dict_ema" or "model_ema".
        label: the checkpoint's name in error messages.

    Returns:
        A dict name → tensor, without the prefix `module.` and without `num_batches_tracked`.

    Raises:
        ValueError: the checkpoint does not hold these tensors.
    """
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{label} must hold a mapping name → tensor, got a {type(content).__name__}."
        )
    keys, other_keys = (_EMA_KEYS, _KEYS) if ema else (_KEYS, _EMA_KEYS)
    key = next((key for key in keys if isinstance(content.get(key), Mapping)), None)
    if ema and key is None:
        entries = [name for name, value in content.items() if not hasattr(type(value), "dtype")]
        has = list_names("got the keys", entries) if entries else "got a mapping of tensors"
        raise ValueError(f"{label} must hold averaged weights under {' or '.join(keys)}, {has}.")
    if key is None and any(isinstance(content.get(other), Mapping) for other in other_keys):
        raise ValueError(f"{label} holds averaged weights only: pass ema=True to load them.")
    where = f"under {key!r}" if key else f"and nothing under {' or '.join(keys)}"
    tensors: dict[str, Any] = {}
    for name, value in (content[key] if key else content).items():
        # Asks the type, because an unpickled object can have any attribute: it could make NumPy
        # read arbitrary memory.
        if not isinstance(name, str) or not hasattr(type(value), "dtype"):
            raise ValueError(
                f"{label} must hold a mapping name → tensor, got {name!r}, a "
                f"{type(value).__name__}, {where}."
            )
        name = name.removeprefix("module.")
        if name in tensors:
            raise ValueError(f"{label} has {name!r} with and without 'module.' before it.")
        tensors[name] = value
    return {n: value for n, value in tensors.items() if not n.endswith("num_batches_tracked")}


def as_numpy(tensor: Any) -> np.ndarray:
    """Returns a NumPy, TensorFlow or PyTorch tensor as a NumPy array.

    Raises:
        ValueError: it is a PyTorch tensor that is sparse, quantized, nested or without data.
    """
    if not hasattr(type(tensor), "detach"):
        return np.asarray(tensor)
    if (
        tensor.is_quantized
        or tensor.is_meta
        or tensor.is_nested
        or "strided" not in str(tensor.layout)
    ):
        raise ValueError(f"got {tensor.layout} {tensor.dtype} on {tensor.device}")
    tensor = type(tensor).detach(tensor).cpu().resolve_neg()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()  # NumPy has no bfloat16.
    return tensor.numpy()


def list_names(title: str, names: Iterable[Any], limit: int = 10) -> str:
    """Returns a title and at most `limit` names for a message."""
    names = [str(name) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{title}: {', '.join(names[:limit])}{more}"


def is_html_page(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file begins as a web page, which was saved instead of the file in it.

    Args:
        path: the file.

    Raises:
        OSError: the file may not be read.
    """
    with pathlib.Path(path).open("rb") as file:
        start = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))


def import_torch(path: pathlib.Path) -> types.ModuleType:
    """Returns PyTorch, which a .pth, .pt or .tar file needs.

    Args:
        path: the file, for error messages.

    Raises:
        ImportError: PyTorch is not installed, or older than 2.6.
    """
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"{path.name} is a PyTorch file, and PyTorch is not installed: pip install "
            "'torch>=2.6' (a .safetensors file needs no PyTorch)."
        ) from None
    if torch.__version__ < (2, 6):
        # In older versions a crafted file could run code despite weights_only (CVE-2025-32434).
        raise ImportError(
            f"{path.name} needs PyTorch 2.6 or newer, whose reader runs no code from the file, "
            f"got {torch.__version__}: pip install 'torch>=2.6'."
        )
    return torch


def _check_suffix(path: Path) -> str:
    """Returns the lower-case suffix of a checkpoint's path."""
    suffix = path.suffix.lower()
    if suffix not in (*_PICKLES, _SAFETENSORS):
        raise ValueError(
            f"The path must end in {', '.join(_PICKLES)} or {_SAFETENSORS}, got {path}."
        )
    return suffix


def _read_pickle(path: pathlib.Path) -> Any:
    torch = import_torch(path)
    # On exit, `safe_globals` removes its classes even if the caller had allowed them before.
    allowed = {argparse.Namespace} - set(torch.serialization.get_safe_globals())
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(str(path), map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises many kinds of errors for damaged files.
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        if unsafe:
            raise ValueError(
                f"Reading {path} needs {unsafe[1]}, which could run code, so the file was not "
                "read and none of its code was run. If you trust the file, save only its tensors: "
                "torch.save(state_dict, path)."
            ) from None
        if isinstance(error, MemoryError) or "allocate" in str(error):
            raise MemoryError(f"There is not enough memory to read {path}.") from None
        raise ValueError(
            f"{path} is damaged, unsafe to read, or not a file of torch.save ({_reason(error)})."
        ) from None


def _reason(error: Exception) -> str:
    """Returns the first sentence of a library's error message, without its advice."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    text = text.removeprefix("Cannot use ``weights_only=True`` with ")
    sentence = re.split(r"\n|\. ", text)[0].rstrip(".")
    # For an unknown pickle opcode PyTorch raises a KeyError whose message is a number.
    return type(error).__name__ if not sentence or sentence.isdigit() else sentence


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        tensors = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}.") from None
    for name, tensor in tensors:
        if tensor["dtype"] not in _SAFETENSORS_DTYPES:
            raise ValueError(
                f"{path} must hold {name} in a dtype of NumPy, got {tensor['dtype']}: save it as "
                "float32."
            )
    return {
        name: np.frombuffer(tensor["data"], _SAFETENSORS_DTYPES[tensor["dtype"]]).reshape(
            tensor["shape"]
        )
        for name, tensor in tensors
    }
