"""Prints a Markdown table of the backbones that attach_noah covers on the running stack.

    python benchmarks/backbone_table.py                  # without the large backbones
    python benchmarks/backbone_table.py --all            # all backbones, in some minutes
    python benchmarks/backbone_table.py --all --output docs/backbones.md

`--output` replaces the section of the running stack in the file, and keeps the other stack's.
"""

import argparse
import pathlib
import re
import sys

import tensorflow as tf
from backbone_cases import CLASSES, all_cases

from noah_tf.models.attach import attach_noah
from noah_tf.utils.keras_compat import KERAS_NAME

_TITLE = "# Backbones that attach_noah covers\n\n"
_INTRO = (
    "These tables list the models that `attach_noah` was tried with on each stack: the layer that "
    "feeds the head, the shape of its output (height x width x channels), and the default number "
    "of groups N and key ratio r for fewer than 1,000 classes. The models are built with random "
    "weights for small images, so the maps are smaller than for 224 pixels. The layer and the "
    "channels are the same. Keras numbers some layers itself, such as `activation_17`. Their "
    'number depends on the models that were built before. "No `.keras` files" means that the '
    "library cannot write or read the config of its own layers: save weights or a SavedModel "
    "instead.\n\n<sub>`python benchmarks/backbone_table.py --all --output docs/backbones.md`, once "
    "on each stack</sub>\n\n"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="also build the large backbones")
    parser.add_argument("--output", type=pathlib.Path, help="Markdown file to update")
    arguments = parser.parse_args()

    section = _section(arguments.all)
    print(section)
    if arguments.output:
        _replace_section(arguments.output, section)
        print(f"Wrote {arguments.output}.", file=sys.stderr)


def _section(with_slow):
    cases = [case for case in all_cases() if with_slow or not case.slow]
    lines = [
        f"## {KERAS_NAME}",
        "",
        f"TensorFlow {tf.__version__}: {sum(case.unfit is None for case in cases)} of {len(cases)} "
        "work with attach_noah.",
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
    """Replaces the section with the same heading in a file, or adds it."""
    text = path.read_text() if path.exists() else ""
    sections = dict(re.findall(r"^(## [^\n]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    heading, body = section.split("\n", 1)
    sections[heading] = body
    parts = [f"{heading}\n{body.strip()}\n" for heading, body in sorted(sections.items())]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_TITLE + _INTRO + "\n".join(parts))


if __name__ == "__main__":
    main()
