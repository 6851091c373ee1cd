"""Compares NOAHHead with the numbers of the reference implementation.

The script prints a Markdown table with one row per golden case of the head. It has the largest
errors of the logits and of every gradient, relative to the largest reference value:

    python benchmarks/head_parity.py --goldens DIR

The README in that folder describes the numbers and where they come from. The tests of the head read
the goldens with the functions of this module.
"""

import argparse
import json
import os
import pathlib
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

import noah_tf
from noah_tf.head import poca
from noah_tf.models.reference_tensors import reference_tensors

# The reference's names of the parameters.
WEIGHTS = ("query.weight", "query.bias", "value.weight", "value.bias")
COLUMNS = ["logits", "logits_eval", "d_x", *(f"d_{name}" for name in WEIGHTS), "attention"]


def read_manifest(folder):
    """Returns the manifest of the golden heads: cases, and configurations that must be rejected.

    Both lists are empty if the data is missing.
    """
    path = pathlib.Path(folder) / "manifest.json"
    if not path.exists():
        return {"cases": [], "rejected_configurations": []}
    return json.loads(path.read_text())


def make_head(case, **options):
    """Returns a NOAHHead with the arguments of a case or a rejected configuration, and options."""
    return noah_tf.NOAHHead(
        case["outplanes"],
        num_groups=case["head_num"],
        key_ratio=case["key_ratio"],
        dropout=case.get("dropout", 0.0),
        split_groups=case.get("head_split", True),
        split_key_value=case.get("kv_split", True),
        **options,
    )


def measure(folder, case, **options):
    """Returns the errors of a head in one case, by the reference's names of the tensors.

    An error is max |difference| / max |value|. For gradients that are zero in exact arithmetic (of
    the query's bias, and of its weight if there is only one position) it is max |difference|.
    """
    with np.load(pathlib.Path(folder) / case["file"]) as file:
        golden = dict(file)
    head = make_head(case, **options)
    features = tf.constant(_channels_last(golden["x"]))
    head.build(features.shape)
    noah_tf.load_official_weights(head, {name: golden[name] for name in WEIGHTS})
    _, weights = reference_tensors(head)
    with tf.GradientTape() as tape, _stored_mask(case, golden):
        tape.watch(features)
        logits = head(features, training=case["mode"] == "train")
        loss = tf.reduce_sum(logits * golden["dlogits"])
    gradients = tape.gradient(loss, [features, *(weight.variable for weight in weights)])

    actual = {"logits": logits, "d_x": gradients[0]}
    expected = {"logits": golden.get("logits64", golden["logits"]), "d_x": golden["d_x"]}
    expected["d_x"] = _channels_last(expected["d_x"])
    for weight, gradient in zip(weights, gradients[1:], strict=True):
        actual[f"d_{weight.name}"] = weight.as_tensor(gradient)
        expected[f"d_{weight.name}"] = golden[f"d_{weight.name}"]
    if "logits_eval" in golden:
        actual["logits_eval"], expected["logits_eval"] = head(features), golden["logits_eval"]
    if "attention" in golden:
        maps = head.attention(features, per_group=True)
        actual["attention"] = tf.reshape(maps, (maps.shape[0], -1, *maps.shape[-2:]))
        expected["attention"] = golden["attention"].transpose(0, 3, 1, 2)

    zero = {"d_query.bias"}
    if np.prod(case["input_shape"][2:]) == 1:
        zero.add("d_query.weight")
    return {name: _error(actual[name], expected[name], absolute=name in zero) for name in actual}


def _error(actual, expected, absolute):
    actual = np.asarray(actual, np.float64)
    if actual.shape != expected.shape:
        raise ValueError(f"The golden value has shape {expected.shape}, got {actual.shape}.")
    largest = np.abs(actual - expected).max()
    return largest if absolute else largest / np.abs(expected).max()


def _channels_last(array):
    return np.moveaxis(array, 1, -1)


def _stored_mask(case, golden):
    """Returns a context in which dropout uses the mask of the case, one channel block per call."""
    if "drop_mask" not in golden:
        return mock.patch.object(
            poca, "dropout_mask", side_effect=AssertionError("no dropout expected")
        )
    mask = golden["drop_mask"]
    batch, *_, positions = mask.shape
    mask = mask.reshape(batch, case["groups"], -1, positions).transpose(1, 0, 3, 2)
    blocks = iter(mask > 0)
    return mock.patch.object(poca, "dropout_mask", lambda *_: tf.constant(next(blocks)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--goldens", required=True, help="folder of manifest.json and the cases")
    folder = parser.parse_args().goldens
    cases = read_manifest(folder)["cases"]
    if not cases:
        parser.error(f"no manifest.json in {folder}")
    print(f"TensorFlow {tf.__version__}, error / largest value (`d_query.bias`: absolute error)\n")
    print("| case | " + " | ".join(COLUMNS) + " |")
    print("|---|" + "---:|" * len(COLUMNS))
    worst = dict.fromkeys(COLUMNS, 0.0)
    for case in cases:
        errors = measure(folder, case)
        worst = {name: max(worst[name], errors.get(name, 0.0)) for name in COLUMNS}
        _print_row(case["file"].removesuffix(".npz"), errors)
    _print_row("worst", worst)


def _print_row(title, errors):
    cells = (f"{errors[name]:.1e}" if name in errors else "" for name in COLUMNS)
    print(f"| {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
