"""Writes the table of docs/fidelity.md: the paper's recipes beside the reference implementation.

    python benchmarks/fidelity_table.py --output docs/fidelity.md

The reference's values are in `fidelity_lines`, and those of the recipes are read from configs/. A
recipe that differs from the reference without a sentence about the difference is an error.
"""

import argparse
import functools
import os
import pathlib
import re
import runpy
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import page_sections
import tensorflow as tf
from fidelity_lines import ANY, CNNS, FAMILIES, LINES, Line

from noah_tf.models.paper_table import ARCHITECTURES
from noah_tf.training.plan import TrainingPlan

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECTION = "fidelity"
_NAMES = {
    "resnet": "ResNet",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3": "MobileNetV3",
    "shufflenet_v2": "ShuffleNetV2",
    "deit": "DeiT",
    "pvt": "PVT",
    "mixer": "Mixer",
    "gmlp": "gMLP",
}
_HEADER = "| ingredient | family | reference | here | equal | test |\n|---|---|---|---|---|---|"


@functools.cache
def recipe_values(family: str, head: str) -> dict[str, dict[str, Any]]:
    """Returns {row: {key: value}} of the rows of a family that have reported accuracies.

    The keys are those of the recipe, such as "optimizer.epsilon", and further ones: the
    steps of an epoch, which weights choose the best evaluation, and the options of the NOAH head.

    Args:
        family: name of a file in configs/.
        head: "noah" or "gap".
    """
    module = runpy.run_path(str(ROOT / "configs" / f"{family}.py"))
    rows = {}
    for name in module["VARIANTS"]:
        paper = ARCHITECTURES[name]
        if paper.top1 is None:
            continue
        row = f"noah_{name}" if head == "noah" else name
        config = module["get_config"](row)
        plan = TrainingPlan.from_config(config, tf.distribute.get_strategy())
        rows[re.sub(r"(_patch16)?_224$", "", row)] = {
            **_flat(config.to_dict()),
            "steps_per_epoch": plan.steps_per_epoch(config.data.num_examples),
            "best_weights": "average" if plan.average_chooses_best else "raw",
            "head.num_groups": _chosen(config.model.num_groups, paper.num_groups),
            "head.key_ratio": _chosen(config.model.key_ratio, paper.key_ratio),
            "head.dropout": _chosen(config.model.dropout, paper.dropout),
        }
    return rows


def line_rows(line: Line) -> dict[str, dict[str, Any]]:
    """Returns {row: {key: value}} of the recipes that a line is about."""
    heads = ("noah", "gap") if line.head is None else (line.head,)
    rows: dict[str, dict[str, Any]] = {}
    for family in line.families:
        for head in heads:
            rows |= recipe_values(family, head)
    return rows


def verdict(line: Line, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns "equal", or how the recipes differ from the reference.

    Args:
        line: the line.
        rows: the values of its recipes, see `line_rows`.

    Raises:
        ValueError: a recipe has another value than the reference, and the line does not say how
            they differ.
    """
    for row, values in rows.items():
        for key, expected in line.values.items():
            if expected is ANY or values[key] == expected or line.difference:
                continue
            raise ValueError(
                f"{row} has {key}={values[key]!r}, and benchmarks/fidelity_lines.py has "
                f"{expected!r} for the {line.ingredient} of the reference: change the recipe, or "
                "say how it differs."
            )
    return line.difference or "equal"


def make_table() -> str:
    """Returns the table in Markdown.

    Raises:
        ValueError: see `verdict`.
    """
    lines = [_HEADER]
    for line in LINES:
        rows = line_rows(line)
        cells = (
            line.ingredient,
            _family_names(line),
            f"{line.reference} ({_files(line.file)})",
            _ours(line, rows),
            verdict(line, rows),
            f"`{line.test.removeprefix('tests/')}`",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _family_names(line: Line) -> str:
    families, names = line.families, []
    if set(CNNS) <= set(families):
        families, names = [family for family in families if family not in CNNS], ["CNNs"]
    names += [_NAMES[family] for family in families]
    text = "all" if line.families == FAMILIES else ", ".join(names)
    return text + {None: "", "noah": " with NOAH", "gap": " without NOAH"}[line.head]


def _ours(line: Line, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the values that the recipes of a line have."""
    parts = []
    for key in line.values:
        rows_of: dict[str, list[str]] = {}
        for row, values in rows.items():
            rows_of.setdefault(_text(values[key]), []).append(row)
        if len(rows_of) == 1:
            parts.append(f"`{key}={next(iter(rows_of))}`")
            continue
        values = [f"{value} ({', '.join(names)})" for value, names in rows_of.items()]
        parts.append(f"`{key}`: {'; '.join(values)}")
    return ", ".join(parts) or "the code"


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))})"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _files(text: str) -> str:
    is_file = re.compile(r"[\w/.]*[\w/](\.py|\.md|\.yaml|/)$")
    return ", ".join(f"`{name}`" if is_file.match(name) else name for name in text.split(", "))


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            values |= _flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values


def _chosen(value: Any, default: Any) -> Any:
    return default if value is None else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, help="page with the markers of the table")
    arguments = parser.parse_args()
    table = make_table()
    if arguments.output is None:
        print(table)
    else:
        page_sections.write_sections(arguments.output, {SECTION: table})


if __name__ == "__main__":
    main()
