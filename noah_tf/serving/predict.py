"""The subcommand `predict`, which asks a served model about photos."""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from noah_tf.serving.client import Client
from noah_tf.serving.errors import TOO_LARGE, ServingError
from noah_tf.serving.options import (
    add_server_options,
    check_photos,
    client_from_options,
    positive_int,
    split_into_batches,
)

HEADER = ("file", "classes", "looked at", "status")


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand to the command line."""
    parser = subparsers.add_parser(
        "predict",
        help="classes of photos",
        description="Asks a served model which classes photos show.",
    )
    add_server_options(parser, batch_size=8)
    parser.add_argument(
        "--top-k",
        type=positive_int,
        metavar="K",
        help="show only this many classes (all that the model returns)",
    )
    parser.add_argument(
        "--format",
        choices=("table", "json"),
        default="table",
        help="json: one line per file, with all outputs (%(default)s)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the classes of every photo.

    Returns:
        The exit code: 1 if the server refused a photo, else 0.
    """
    check_photos(options.photos)
    rows: list[tuple[str, ...]] = []
    exit_code = 0
    with client_from_options(options, options.retries, options.version, options.label) as client:
        client.wait_until_ready(options.wait)
        for paths in split_into_batches(options.photos, options.batch_size):
            try:
                answers = list(predict_files(client, paths, options.signature))
            except (ServingError, KeyboardInterrupt):
                if rows:
                    print(format_table(rows))
                raise
            for path, answer in answers:
                if isinstance(answer, ServingError):
                    print(f"The server refused {path}: {answer}", file=sys.stderr)
                    exit_code = 1
                elif options.format == "json":
                    print(json.dumps({"file": str(path), **best_classes(answer, options.top_k)}))
                else:
                    rows.append(table_row(path, answer, options.top_k))
    if rows:
        print(format_table(rows))
    return exit_code


def predict_files(
    client: Client, paths: Sequence[str | pathlib.Path], signature: str
) -> Iterator[tuple[str | pathlib.Path, dict[str, Any] | ServingError]]:
    """Asks about a batch of files, and about each file alone if the server refuses the batch.

    Args:
        client: a `client.Client`.
        paths: files of the photos.
        signature: name of the signature to ask.

    Yields:
        (path, outputs of the photo), or (path, `ServingError`) for a photo that is refused.

    Raises:
        ServingError: the server cannot be reached, or has no such model.
    """
    try:
        answers = client.predict([pathlib.Path(path).read_bytes() for path in paths], signature)
    except ServingError as error:
        if error.kind not in ("HTTP 400", "INVALID_ARGUMENT", TOO_LARGE):
            raise
        if len(paths) == 1:
            yield paths[0], error
            return
        # The message of a decoder does not name the photo, and the photos of a request that is too
        # large fit when they are sent alone, so that each is asked about alone.
        for path in paths:
            yield from predict_files(client, [path], signature)
    else:
        yield from zip(paths, answers, strict=True)


def best_classes(answer: dict[str, Any], top_k: int | None = None) -> dict[str, Any]:
    """Returns a photo's outputs for its `top_k` best classes only.

    Args:
        answer: outputs of a photo. Entries of class -1, which only fill up a batch of photos with
            different numbers of labels, are removed.
        top_k: number of classes; None for all.
    """
    classes = answer.get("classes")
    if classes is None:
        return answer
    indices = [index for index, class_index in enumerate(classes) if class_index >= 0][:top_k]
    best = {**answer}
    for name in ("classes", "labels", "probabilities"):
        if name in answer:
            best[name] = [answer[name][index] for index in indices]
    if "attention" in answer:
        best["attention"] = [
            [[cell[index] for index in indices] for cell in row] for row in answer["attention"]
        ]
    return best


def table_row(
    path: str | pathlib.Path, answer: dict[str, Any], top_k: int | None = None
) -> tuple[str, str, str, str]:
    """Returns a photo's row of the table: file, classes, where the first was seen, status."""
    answer = best_classes(answer, top_k)
    if "labels" not in answer or "probabilities" not in answer:
        raise ServingError(
            "The table needs the outputs labels and probabilities, which noah_tf's exports have, "
            f"got {', '.join(sorted(answer))}: give --format json.",
            "no predictions",
        )
    pairs = zip(answer["labels"], answer["probabilities"], strict=True)
    classes = ", ".join(f"{label} {probability:.1%}" for label, probability in pairs)
    return str(path), classes or "none", _attention_peak(answer), answer.get("status", "")


def _attention_peak(answer: dict[str, Any]) -> str:
    """Returns the center of the cell with the first class's highest attention, in words."""
    if "attention" not in answer or not answer["labels"]:
        return ""
    cells = answer["attention"]
    height, width = len(cells), len(cells[0])
    y, x = max(
        ((y, x) for y in range(height) for x in range(width)),
        key=lambda position: cells[position[0]][position[1]][0],
    )
    top, left, bottom, right = answer.get("region", (0, 0, 1, 1))
    down = top + (y + 0.5) / height * (bottom - top)
    across = left + (x + 0.5) / width * (right - left)
    return f"{down:.0%} down, {across:.0%} across"


def format_table(rows: Sequence[tuple[str, ...]]) -> str:
    """Returns rows as aligned lines of text under a header, without the empty columns."""
    columns = [column for column in zip(HEADER, *rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for cells in zip(*columns, strict=True):
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
