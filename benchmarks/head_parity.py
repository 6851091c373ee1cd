"""How far NOAHHead is from the reference implementation, case by case.

Prints a Markdown table with the worst error of the logits and of every gradient, as a share of
the largest reference value, for each golden case of the head:

    python benchmarks/head_parity.py --goldens DIR

The README beside the goldens says what the numbers are and where they come from. The tests of
the head read the goldens with the functions of this file.
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
    """The manifest of the golden heads: their cases, and configurations that must be rejected.

    Both lists are empty where the data is missing.
    """
    path = pathlib.Path(folder) / "manifest.json"
    if not path.exists():
        return {"cases": [], "rejected_configurations": []}
    return json.loads(path.read_text())


def make_head(case, **options):
    """NOAHHead with the arguments of a case, or of a rejected configuration, and more options."""
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
    """Errors of one case, by the reference's name of what is compared, of a head with options.

    Each is max |error| / max |value|, and max |error| for the gradients that are zero in exact
    arithmetic (of the query's bias; of its weight where there is one position).
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

    got = {"logits": logits, "d_x": gradients[0]}
    want = {"logits": golden.get("logits64", golden["logits"]), "d_x": golden["d_x"]}
    want["d_x"] = _channels_last(want["d_x"])
    for weight, gradient in zip(weights, gradients[1:], strict=True):
        got[f"d_{weight.name}"] = weight.as_tensor(gradient)
        want[f"d_{weight.name}"] = golden[f"d_{weight.name}"]
    if "logits_eval" in golden:
        got["logits_eval"], want["logits_eval"] = head(features), golden["logits_eval"]
    if "attention" in golden:
        maps = head.attention(features, per_group=True)
        got["attention"] = tf.reshape(maps, (maps.shape[0], -1, *maps.shape[-2:]))
        want["attention"] = golden["attention"].transpose(0, 3, 1, 2)

    zero = {"d_query.bias"}
    if np.prod(case["input_shape"][2:]) == 1:
        zero.add("d_query.weight")
    return {name: _error(got[name], want[name], absolute=name in zero) for name in got}


def _error(got, want, absolute):
    got = np.asarray(got, np.float64)
    if got.shape != want.shape:
        raise ValueError(f"got shape {got.shape}, the golden value has {want.shape}")
    worst = np.abs(got - want).max()
    return worst if absolute else worst / np.abs(want).max()


def _channels_last(array):
    return np.moveaxis(array, 1, -1)


def _stored_mask(case, golden):
    """A context in which dropout replays the mask of the case, block by block."""
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
