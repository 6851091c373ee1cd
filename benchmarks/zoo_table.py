"""The paper's models as built here: parameters, what the paper reports, and the parity error.

    python benchmarks/zoo_table.py --goldens DIR --output docs/models.md

DIR is a folder of model goldens (see `model_goldens.py`). Every model is built, given the golden
weights, and run on the golden images; its error is the largest difference of a logit from the
reference implementation's in float64, in standard deviations of the logits. With `--output` the
table between the markers of that file is replaced.
"""

import argparse
import math
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import model_goldens
import page_sections
import tensorflow as tf

import noah_tf
from noah_tf.models.paper_table import ARCHITECTURES

WITHOUT = "__noprelogits"


def measure(folder, entry):
    """Trainable parameters of the model of an entry, and its error."""
    tf.keras.backend.clear_session()
    model = noah_tf.create_model(**model_goldens.model_arguments(entry))
    noah_tf.load_official_weights(model, model_goldens.weights(entry))
    logits = model(tf.constant(model_goldens.images(entry)), training=False).numpy()
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return parameters, model_goldens.error(logits, model_goldens.read_outputs(folder, entry))


def table(measured):
    """The lines of the table; `measured` is name of a golden → (parameters, error)."""
    lines = [
        "| model | N | r | parameters built, M | printed, M | top-1 reported, % | parity error |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in ARCHITECTURES.items():
        if row.top1 is None:  # of MS-COCO alone
            continue
        both = (name, f"noah_{name}")
        built = _millions(both, measured)
        if f"{name}{WITHOUT}" in measured:
            without = _millions([other + WITHOUT for other in both], measured)
            built += f" ({without} without `pre_logits`)"
        ratio = f"1/{round(1 / row.key_ratio)}"
        errors = " → ".join(f"{measured[other][1]:.1e}" for other in both)
        lines.append(
            f"| `{name}` | {row.num_groups} | {ratio} | {built} | "
            f"{row.printed_millions:.2f} → {row.noah_printed_millions:.2f} | "
            f"{row.top1:.2f} → {row.noah_top1:.2f} | {errors} |"
        )
    return lines


def _millions(names, measured):
    return " → ".join(f"{measured[name][0] / 1e6:.3f}" for name in names)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--goldens", type=pathlib.Path, required=True, help="folder of goldens")
    parser.add_argument("--output", type=pathlib.Path, help="Markdown file to update")
    arguments = parser.parse_args()

    measured = {}
    for name, entry in model_goldens.read_manifest(arguments.goldens).items():
        measured[name] = measure(arguments.goldens, entry)
    lines = table(measured)
    print("\n".join(lines))
    worst = max(measured, key=lambda name: measured[name][1])
    print(
        f"\nTensorFlow {tf.__version__}: worst of {len(measured)} is {worst} with "
        f"{measured[worst][1]:.1e}."
    )
    if arguments.output:
        try:
            page_sections.write_sections(arguments.output, {"zoo_table": "\n".join(lines)})
        except ValueError as error:
            parser.error(str(error))
        print(f"Written to {arguments.output}.")


if __name__ == "__main__":
    main()
