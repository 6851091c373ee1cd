"""Prints, as Markdown, which backbones attach_noah covers on the running stack.

    python benchmarks/backbone_table.py                  # the quick ones are built at small sizes
    python benchmarks/backbone_table.py --all            # and the large ones; some minutes
    python benchmarks/backbone_table.py --all --output docs/backbones.md

With `--output` the section of the running stack is replaced in the file; the other stack's stays.
"""

import argparse
import pathlib
import re
import sys

import tensorflow as tf
from backbone_cases import CLASSES, STACK, all_cases

from noah_tf.models.attach import attach_noah

_TITLE = "# Backbones that attach_noah covers\n\n"
_INTRO = (
    "Made by `python benchmarks/backbone_table.py --all --output docs/backbones.md`, once on each "
    "stack. The backbones are built with random weights for small images, so the maps are smaller "
    "than at 224 pixels; the layer, the channels, N and r are the same. Where Keras numbers a "
    "layer itself, as in `activation_17`, the number depends on what was built before. Where it "
    "says no `.keras` files, the library cannot write or read the configuration of its own layers: "
    "save weights or a SavedModel.\n\n"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="build the large backbones as well")
    parser.add_argument("--output", type=pathlib.Path, help="Markdown file to update")
    arguments = parser.parse_args()

    section = _section(arguments.all)
    print(section)
    if arguments.output:
        _replace_section(arguments.output, section)
        print(f"Written to {arguments.output}.", file=sys.stderr)


def _section(with_slow):
    cases = [case for case in all_cases() if with_slow or not case.slow]
    lines = [
        f"## {STACK}",
        "",
        f"TensorFlow {tf.__version__}: {sum(case.unfit is None for case in cases)} of {len(cases)} "
        "take the head.",
        "",
        "| library | model | feature layer | map | N | r | status |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(case) for case in cases]
    return "\n".join(lines) + "\n"


def _row(case):
    tf.keras.backend.clear_session()
    if case.unfit:
        return f"| {case.library} | {case.name} | | | | | no: {case.unfit} |"
    model = attach_noah(case.build(include_top=case.has_top), CLASSES)
    head = model.get_layer("noah_head")
    status = "yes, but no `.keras` files" if case.file_defect else "yes"
    shape = "×".join(str(size) for size in head.input.shape[1:])
    return (
        f"| {case.library} | {case.name} | `{model.noah_feature_layer}` | {shape} "
        f"| {head.num_groups} | 1/{round(1 / head.key_ratio)} | {status} |"
    )


def _replace_section(path, section):
    """Puts the section in place of the one with its heading, or behind the others."""
    text = path.read_text() if path.exists() else ""
    sections = dict(re.findall(r"^(## [^\n]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    heading, body = section.split("\n", 1)
    sections[heading] = body
    parts = [f"{heading}\n{body.strip()}\n" for heading, body in sorted(sections.items())]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_TITLE + _INTRO + "\n".join(parts))


if __name__ == "__main__":
    main()
