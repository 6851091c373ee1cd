"""Files of named tensors: PyTorch's, read without running what they hold, and safetensors."""

import argparse
import pathlib
import re
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as safetensors_bytes

from noah_tf.utils.files import save_atomically

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
    """Writes named tensors to a file, which appears when it is complete.

    Args:
        path: the file; its end decides the format, as in `read_checkpoint`.
        tensors: dict name → numpy array.
        key: name under which a PyTorch file holds the tensors; None for the bare mapping.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        OSError: the folder does not exist, `path` is one, or there is no room.
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
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file to write.")
    torch = None if suffix == _SAFETENSORS else _torch(path)

    def save(partial):
        if torch is None:
            # Its own writer would make a file that nobody else may read.
            pathlib.Path(partial).write_bytes(safetensors_bytes(tensors))
        else:
            content = {name: torch.from_numpy(array) for name, array in tensors.items()}
            torch.save(content if key is None else {key: content}, partial)

    try:
        # A link stays one, and the file that it points to is replaced.
        save_atomically(save, path.resolve())
    except (RuntimeError, SafetensorError) as error:  # Theirs for a disk that is full.
        raise OSError(f"{path} could not be written: {_reason(error)}.") from error
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
        entries = [key for key, value in content.items() if not hasattr(type(value), "dtype")]
        has = listed("it has", entries) if entries else "it is a bare mapping of tensors"
        raise ValueError(f"{label} has no averaged weights ({' or '.join(wanted)}), {has}.")
    if not found and any(isinstance(content.get(key), Mapping) for key in others):
        raise ValueError(f"{label} has averaged weights alone: give ema=True to load them.")
    where = f"under {found[0]!r}" if found else f"with nothing under {' or '.join(wanted)}"
    tensors = {}
    for name, value in (content[found[0]] if found else content).items():
        # The type's: an object from a pickle can give itself any attribute, and numpy would read
        # memory where it says so.
        if not isinstance(name, str) or not hasattr(type(value), "dtype"):
            raise ValueError(
                f"{label} is no mapping name → tensor: {where}, {name!r} is a "
                f"{type(value).__name__}."
            )
        name = name.removeprefix("module.")
        if name in tensors:
            raise ValueError(f"{label} has {name!r} with and without 'module.' before it.")
        tensors[name] = value
    return {n: value for n, value in tensors.items() if not n.endswith("num_batches_tracked")}


def as_numpy(tensor):
    """A numpy, TensorFlow or torch tensor as a numpy array.

    Raises:
        ValueError: it is a torch tensor that is no plain array of numbers in memory: sparse,
            quantised, or without data.
    """
    if not hasattr(type(tensor), "detach"):
        return np.asarray(tensor)
    if (
        tensor.is_quantized
        or tensor.is_meta
        or tensor.is_nested
        or "strided" not in str(tensor.layout)
    ):
        raise ValueError(f"it is {tensor.layout} {tensor.dtype} on {tensor.device}")
    tensor = type(tensor).detach(tensor).cpu().resolve_neg()
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
            "'torch>=2.6' (a .safetensors file needs no PyTorch)."
        ) from None
    if torch.__version__ < (2, 6):
        # Before, a crafted file could run code in spite of weights_only=True (CVE-2025-32434).
        raise ImportError(
            f"{path.name} needs PyTorch 2.6 or newer, whose reader runs no code from the file, "
            f"got {torch.__version__}: pip install 'torch>=2.6'."
        )
    return torch


def _read_pickle(path):
    torch = _torch(path)
    # A context that allows what the caller has allowed already would forbid it on leaving.
    allowed = {argparse.Namespace} - set(torch.serialization.get_safe_globals())
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(str(path), map_location="cpu", weights_only=True)
    except Exception as error:  # Damaged files make PyTorch raise nearly anything.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise ValueError(
                f"{path} needs {refused[1]} to be read, which is refused, for such a file could "
                "run code; nothing of it was run. Where you trust it, save its tensors alone: "
                "torch.save(state_dict, path)."
            ) from None
        if isinstance(error, MemoryError) or "allocate" in str(error):
            raise MemoryError(f"There is not enough memory to read {path}.") from None
        raise ValueError(
            f"{path} is damaged, cannot be read safely, or is no file of torch.save "
            f"({_reason(error)})."
        ) from None


def _reason(error):
    """The sentence of an error that says what is wrong, without its advice."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    text = text.removeprefix("Cannot use ``weights_only=True`` with ")
    sentence = re.split(r"\n|\. ", text)[0].rstrip(".")
    # A KeyError of a byte that begins no pickle is a bare number.
    return type(error).__name__ if not sentence or sentence.isdigit() else sentence


def _read_safetensors(path):
    try:
        tensors = deserialize(path.read_bytes())
    except SafetensorError as error:
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
