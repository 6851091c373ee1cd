"""Files of named tensors: PyTorch's, read without running what they hold, and safetensors."""

import argparse
import os
import pathlib
import re
import zipfile
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

_PICKLES = (".pth", ".pt", ".tar")
_SAFETENSORS = ".safetensors"
_SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    # The numpy reader of safetensors has no bfloat16.
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


def read_checkpoint(path):
    """What a checkpoint file holds.

    A PyTorch file is a pickle, and a pickle can name any function to be called as it is read.
    Here it is read by PyTorch's restricted reader (`weights_only=True`): tensors, plain values and
    containers, and `argparse.Namespace`, which training scripts put beside the weights. Anything
    else, numpy scalars included, is refused before anything is called.

    Args:
        path: a .pth, .pt or .tar (.pth.tar) file of `torch.save`, or a .safetensors file.

    Returns:
        What was saved: for a .safetensors file a dict name → numpy array, for the others as a
        rule a dict of torch tensors, perhaps nested.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a PyTorch file, and PyTorch is not installed or older than 2.6.
        ValueError: the file ends in something else, is damaged or no checkpoint, or needs more
            than plain values to be read.
    """
    path = pathlib.Path(path).expanduser()
    suffix = _checked_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    path.open("rb").close()  # What the system forbids is no defect of the file.
    return _read_safetensors(path) if suffix == _SAFETENSORS else _read_pickle(path)


def write_checkpoint(path, tensors, key=None):
    """Writes named tensors so that a kill leaves the old file or the new one, never half of one.

    Args:
        path: the file; its end decides the format, as in `read_checkpoint`.
        tensors: dict name → numpy array.
        key: name under which a PyTorch file holds the tensors; None for the bare mapping.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        FileNotFoundError: the folder does not exist.
        ImportError: a PyTorch file, and PyTorch is not installed or older than 2.6.
        ValueError: the file ends in something else, or `key` is given for a .safetensors file,
            which has no place for it.
    """
    path = pathlib.Path(path).expanduser()
    suffix = _checked_suffix(path)
    if key is not None and suffix == _SAFETENSORS:
        raise ValueError(f"A .safetensors file holds tensors alone, nothing under {key!r}: {path}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} to.")
    partial = path.with_name(path.name + ".partial")
    try:
        if suffix == _SAFETENSORS:
            from safetensors.numpy import save_file

            save_file(tensors, str(partial))
        else:
            torch = _torch(path)
            content = {name: torch.from_numpy(array) for name, array in tensors.items()}
            torch.save(content if key is None else {key: content}, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def named_tensors(content, ema, label):
    """The tensors of a checkpoint by their names in a model, wherever in it they are.

    Args:
        content: what `read_checkpoint` returned: a mapping name → tensor, or one that holds it
            under "state_dict" or "model".
        ema: whether to take the averaged weights, "state_dict_ema" or "model_ema".
        label: how messages call the checkpoint.

    Returns:
        dict name → tensor, without `module.` before the names and without `num_batches_tracked`.

    Raises:
        ValueError: there are no such tensors.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{label} holds a {type(content).__name__}, no mapping name → tensor.")
    wanted, others = (_EMA_KEYS, _KEYS) if ema else (_KEYS, _EMA_KEYS)
    found = [key for key in wanted if isinstance(content.get(key), Mapping)]
    if ema and not found:
        raise ValueError(
            f"{label} has no averaged weights ({' or '.join(wanted)}), {listed('it has', content)}."
        )
    if not found and any(isinstance(content.get(key), Mapping) for key in others):
        raise ValueError(f"{label} has averaged weights alone: give ema=True to load them.")
    tensors = {}
    for name, value in (content[found[0]] if found else content).items():
        if not isinstance(name, str) or not hasattr(value, "dtype"):
            raise ValueError(
                f"{label} is no checkpoint: it has no mapping under {' or '.join(wanted)}, and "
                f"{name!r} is a {type(value).__name__}, no tensor."
            )
        name = name.removeprefix("module.")
        if name in tensors:
            raise ValueError(f"{label} has {name!r} with and without 'module.' before it.")
        tensors[name] = value
    return {n: value for n, value in tensors.items() if not n.endswith("num_batches_tracked")}


def as_numpy(tensor):
    """A numpy, TensorFlow or torch tensor as a numpy array."""
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()  # numpy has no bfloat16.
    return tensor.numpy()


def listed(title, names, limit=10):
    """Names for a message, as many as one can read."""
    names = [str(name) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{title}: {', '.join(names[:limit])}{more}"


def _checked_suffix(path):
    suffix = path.suffix.lower()
    if suffix not in (*_PICKLES, _SAFETENSORS):
        raise ValueError(
            f"A checkpoint's name ends in {', '.join(_PICKLES)} or {_SAFETENSORS}, got {path}."
        )
    return suffix


def _torch(path):
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"{path.name} is a PyTorch file, and PyTorch is not installed: pip install "
            "noah-tf[torch] (a .safetensors file needs no PyTorch)."
        ) from None
    if torch.__version__ < (2, 6):
        # Before, a crafted file could run code in spite of weights_only=True (CVE-2025-32434).
        raise ImportError(
            f"{path.name} needs PyTorch 2.6 or newer, whose reader runs no code from the file, "
            f"got {torch.__version__}: pip install noah-tf[torch]."
        )
    return torch


def _read_pickle(path):
    torch = _torch(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(
                str(path),
                map_location="cpu",
                weights_only=True,
                # Tensors that are not used, such as the optimizer's, are then never read. The
                # format of PyTorch before 1.6 is no zip file and cannot be mapped.
                mmap=zipfile.is_zipfile(path),
            )
    except MemoryError:
        raise
    except Exception as error:  # Damaged files make PyTorch raise nearly anything.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise ValueError(
                f"{path} needs {refused[1]} to be read, which is refused, for such a file could "
                "run code; nothing of it was run. Where you trust it, save its tensors alone: "
                "torch.save(state_dict, path)."
            ) from None
        raise ValueError(f"{path} is damaged or cannot be read safely: {_reason(error)}.") from None


def _reason(error):
    """The sentence of a PyTorch error that says what is wrong, without its advice."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    text = text.removeprefix("Cannot use ``weights_only=True`` with ")
    return re.split(r"\n|\. ", text)[0].rstrip(".") or type(error).__name__


def _read_safetensors(path):
    import safetensors

    try:
        tensors = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}.") from None
    for name, tensor in tensors:
        if tensor["dtype"] not in _SAFETENSORS_DTYPES:
            raise ValueError(f"{path} holds {name} as {tensor['dtype']}: save it as float32.")
    return {
        name: np.frombuffer(tensor["data"], _SAFETENSORS_DTYPES[tensor["dtype"]]).reshape(
            tensor["shape"]
        )
        for name, tensor in tensors
    }
