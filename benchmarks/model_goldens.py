"""Reads the model goldens: the reference implementation's outputs for given weights and images.

The folder of model goldens holds manifest.json, a list of entries, and one NPZ file per entry. The
weights and the images are not stored. They are drawn again by the rules of the reference's script.
"""

import json
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

Entry = dict[str, Any]


def read_manifest(folder: str | pathlib.Path) -> dict[str, Entry]:
    """Returns the entries of a folder of model goldens by name."""
    entries = json.loads((pathlib.Path(folder) / "manifest.json").read_text())
    return {entry["name"]: entry for entry in entries}


def read_outputs(folder: str | pathlib.Path, entry: Entry) -> dict[str, np.ndarray]:
    """Returns the arrays `logits`, `logits64`, `feat_slice` and `feat_channel_mean` of an entry."""
    with np.load(pathlib.Path(folder) / entry["file"]) as file:
        return dict(file)


def weights(entry: Entry) -> dict[str, np.ndarray]:
    """Returns the state_dict of an entry: name → array.

    Raises:
        ValueError: the weights differ from those of the reference.
    """
    values = {}
    for name, shape, dtype in entry["state_dict"]:
        if name.endswith("num_batches_tracked"):
            values[name] = np.zeros(shape, dtype)
            continue
        draw = _draw(entry["seed"], name, shape)
        scale, shift = _scale_and_shift(entry, name, shape)
        if name.endswith("running_var"):
            draw = np.abs(draw)
        values[name] = (scale * draw + shift).astype(np.float32)
    _check(entry["weights_crc32"], [v for v in values.values() if v.dtype == np.float32], "weights")
    return values


def images(entry: Entry) -> np.ndarray:
    """Returns the input of an entry, channels last: float32 (2, 224, 224, 3).

    Raises:
        ValueError: the images differ from those of the reference.
    """
    shape = entry["input_shape"]
    count, channels, height, width = shape
    coarse = _draw(entry["seed"], "input_lowres", (count, channels, height // 32, width // 32))
    coarse = coarse.repeat(32, axis=2).repeat(32, axis=3)
    brightness = np.arange(1, count + 1).reshape(-1, 1, 1, 1)
    x = (brightness * (coarse + 0.5 * _draw(entry["seed"], "input", shape))).astype(np.float32)
    _check(entry["input_crc32"], [x], "input")
    return x.transpose(0, 2, 3, 1)


def error(logits: np.ndarray, outputs: dict[str, np.ndarray]) -> float:
    """Returns the largest error of logits, in standard deviations of the float64 reference."""
    reference = outputs["logits64"]
    return float(np.max(np.abs(logits - reference)) / np.std(reference))


def model_arguments(entry: Entry) -> dict[str, Any]:
    """Returns the arguments of `noah_tf.create_model` for the model of an entry."""
    pre_logits = False if entry["derived"] == "noprelogits" else None
    return {"name": entry["arch"], "num_classes": entry["num_classes"], "pre_logits": pre_logits}


def _scale_and_shift(entry: Entry, name: str, shape: Sequence[int]) -> tuple[float, float]:
    first, last = name.split(".")[0], name.split(".")[-1]
    if last == "running_mean":
        return 0.1, 0.0
    if last == "running_var":
        return 0.5, 0.75
    if last == "cls_token" or last.startswith("pos_embed"):
        return 0.2, 0.0
    if last == "bias":
        return entry["bias_scale"], 0.0
    if len(shape) == 1:
        return 0.1, 1.0
    gain = entry["head_gain"] if first in ("head", "classifier") else entry["gain"]
    return gain / np.sqrt(np.prod(shape[1:])), 0.0


def _draw(seed: int, name: str, shape: Sequence[int]) -> np.ndarray:
    key = zlib.crc32(f"{seed}:{name}".encode())
    return np.random.Generator(np.random.PCG64(key)).standard_normal(shape)


def _check(expected: int, arrays: Sequence[np.ndarray], name: str) -> None:
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array), checksum)
    if checksum != expected:
        raise ValueError(f"The {name} must have the checksum {expected}, got {checksum}.")
