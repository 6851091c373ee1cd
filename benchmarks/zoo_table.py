"""Writes the table of the models: parameters, reported accuracy and parity error.

    python benchmarks/zoo_table.py --goldens DIR [DIR ...] --output docs/models.md

DIR is a folder of model goldens (see `model_goldens.py`). The script builds every model, loads the
golden weights and runs it on the golden images. The parity error is the largest difference between
a logit and the reference implementation's float64 logit, in standard deviations of the logits.
`--output` replaces the table between the markers of that file.
"""

import argparse
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import model_goldens
import page_sections
import tensorflow as tf

import noah_tf
from noah_tf.models.paper_table import ARCHITECTURES

NO_PRE_LOGITS = "__noprelogits"


def measure(folder: pathlib.Path, entry: model_goldens.Entry) -> tuple[int, float]:
    """Returns the number of trainable parameters of an entry's model, and its parity error."""
    tf.keras.backend.clear_session()
    model = noah_tf.create_model(**model_goldens.model_arguments(entry))
    noah_tf.load_official_weights(model, model_goldens.weights(entry))
    logits = model(tf.constant(model_goldens.images(entry)), training=False).numpy()
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return parameters, model_goldens.error(logits, model_goldens.read_outputs(folder, entry))


def make_table(measured: Mapping[str, tuple[int, float]]) -> list[str]:
    """Returns the lines of the table, one for each architecture with goldens of both heads.

    Args:
        measured: name of a golden → its model's parameters and parity error.
    """
    lines = [
        "| model | N | r | parameters built, M | printed, M | top-1 reported, % | parity error |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in ARCHITECTURES.items():
        names = (name, f"noah_{name}")
        if not measured.keys() >= set(names):
            continue
        built = _millions(names, measured)
        if f"{name}{NO_PRE_LOGITS}" in measured:
            without = _millions([other + NO_PRE_LOGITS for other in names], measured)
            built += f" ({without} without `pre_logits`)"
        ratio = f"1/{round(1 / row.key_ratio)}"
        errors = " → ".join(f"{measured[other][1]:.1e}" for other in names)
        printed = top1 = "not in the paper"
        if row.top1 is not None:
            printed = f"{row.printed_millions:.2f} → {row.noah_printed_millions:.2f}"
            top1 = f"{row.top1:.2f} → {row.noah_top1:.2f}"
        lines.append(
            f"| `{name}` | {row.num_groups} | {ratio} | {built} | {printed} | {top1} | {errors} |"
        )
    return lines


def _millions(names: Sequence[str], measured: Mapping[str, tuple[int, float]]) -> str:
    return " → ".join(f"{measured[name][0] / 1e6:.3f}" for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--goldens", type=pathlib.Path, nargs="+", required=True, help="folders of goldens"
    )
    parser.add_argument("--output", type=pathlib.Path, help="Markdown file to update")
    arguments = parser.parse_args()

    measured = {}
    for folder in arguments.goldens:
        for name, entry in model_goldens.read_manifest(folder).items():
            measured[name] = measure(folder, entry)
    lines = make_table(measured)
    print("\n".join(lines))
    worst = max(measured, key=lambda name: measured[name][1])
    print(
        f"\nTensorFlow {tf.__version__}: the largest error of {len(measured)} models is "
        f"{measured[worst][1]:.1e}, of {worst}."
    )
    if arguments.output:
        try:
            page_sections.write_sections(arguments.output, {"zoo_table": "\n".join(lines)})
        except ValueError as error:
            parser.error(str(error))
        print(f"Written to {arguments.output}.")


if __name__ == "__main__":
    main()
