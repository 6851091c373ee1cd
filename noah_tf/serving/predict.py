"""The subcommand that asks a served model about photos."""

import json
import pathlib
import sys

from noah_tf.serving.errors import ServingError
from noah_tf.serving.options import (
    add_server_options,
    batches_of,
    check_photos,
    client_of,
    positive,
)

HEADER = ("file", "classes", "looked at", "status")


def add_parser(subparsers):
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "predict",
        help="classes of photos",
        description="Asks a served model which classes photos show.",
    )
    add_server_options(parser, batch_size=8)
    parser.add_argument(
        "--top-k", type=positive, metavar="K", help="show this many classes (all that come)"
    )
    parser.add_argument(
        "--format",
        choices=("table", "json"),
        default="table",
        help="json: one object a line and file, with all outputs (%(default)s)",
    )
    parser.set_defaults(run=run)


def run(options):
    """Prints the classes of every photo.

    Returns:
        The exit code: 1 if the server refused a batch, else 0.
    """
    check_photos(options.photos)
    rows, failed = [], 0
    with client_of(options, options.retries) as client:
        client.wait_until_ready(options.wait)
        for paths in batches_of(options.photos, options.batch_size):
            try:
                answers = list(answered(client, paths, options.signature))
            except (ServingError, KeyboardInterrupt):
                if rows:
                    print(table(rows))
                raise
            for path, answer in answers:
                if isinstance(answer, ServingError):
                    print(f"The server refused {path}: {answer}", file=sys.stderr)
                    failed = 1
                elif options.format == "json":
                    print(json.dumps({"file": str(path), **shortened(answer, options.top_k)}))
                else:
                    rows.append(row(path, answer, options.top_k))
    if rows:
        print(table(rows))
    return failed


def answered(client, paths, signature):
    """Asks about a batch, and photo by photo where the server refuses it for a bad one.

    Args:
        client: a `client.Client`.
        paths: files of the photos.
        signature: name of the signature to ask.

    Yields:
        Pairs of a path and the photo's answer, or the `ServingError` of one that is refused.

    Raises:
        ServingError: the server cannot be asked, or has no such model.
    """
    try:
        answers = client.predict([pathlib.Path(path).read_bytes() for path in paths], signature)
    except ServingError as error:
        if error.kind not in ("HTTP 400", "INVALID_ARGUMENT"):
            raise
        if len(paths) == 1:
            yield paths[0], error
            return
        # A decoder's message does not say which photo it is about.
        for path in paths:
            yield from answered(client, [path], signature)
    else:
        yield from zip(paths, answers, strict=True)


def shortened(answer, top_k=None):
    """A photo's outputs with the `top_k` best classes, and without those that only fill up."""
    classes = answer.get("classes")
    if classes is None:
        return answer
    kept = [i for i, label in enumerate(classes) if label >= 0][:top_k]
    short = {**answer}
    for name in ("classes", "labels", "probabilities"):
        if name in answer:
            short[name] = [answer[name][i] for i in kept]
    if "attention" in answer:
        short["attention"] = [[[cell[i] for i in kept] for cell in r] for r in answer["attention"]]
    return short


def row(path, answer, top_k=None):
    """A photo's line of the table: file, classes, where the first one was seen, status."""
    answer = shortened(answer, top_k)
    if "labels" not in answer or "probabilities" not in answer:
        raise ServingError(
            f"The answer has {', '.join(sorted(answer))}, and a table needs labels and "
            "probabilities, as noah_tf's exports have: give --format json.",
            "no predictions",
        )
    pairs = zip(answer["labels"], answer["probabilities"], strict=True)
    classes = ", ".join(f"{label} {probability:.1%}" for label, probability in pairs)
    return str(path), classes or "none", _seen_at(answer), answer.get("status", "")


def _seen_at(answer):
    """The middle of the cell that the first class's attention is strongest in."""
    if "attention" not in answer or not answer["labels"]:
        return ""
    cells = answer["attention"]
    height, width = len(cells), len(cells[0])
    y, x = max(
        ((y, x) for y in range(height) for x in range(width)), key=lambda at: cells[at[0]][at[1]][0]
    )
    top, left, bottom, right = answer.get("region", (0, 0, 1, 1))
    down = top + (y + 0.5) / height * (bottom - top)
    across = left + (x + 0.5) / width * (right - left)
    return f"{down:.0%} down, {across:.0%} across"


def table(rows):
    """Rows as lines of text under a header, without the columns that are empty."""
    columns = [c for c in zip(HEADER, *rows, strict=True) if any(c[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for cells in zip(*columns, strict=True):
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
