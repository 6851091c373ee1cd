"""Results of a study as CSV: one row per run, with typed columns."""

import csv
import io
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from noah_tf.utils.files import write_text_atomically

Record = dict[str, Any]
# The columns of a file: name → type of the values, which is str, int or float.
Columns = Mapping[str, type]


def read_csv(path: pathlib.Path, columns: Columns) -> list[Record]:
    """Returns the records of a file that `write_csv` wrote with the same columns.

    An empty cell of a number is None.

    Raises:
        ValueError: the file has other columns.
    """
    with open(path, newline="") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != tuple(columns):
            raise ValueError(
                f"{path} was not written by --csv: its columns must be {', '.join(columns)}, got "
                f"{', '.join(rows.fieldnames or ()) or 'none'}."
            )
        return [
            {
                name: columns[name](text) if text or columns[name] is str else None
                for name, text in row.items()
            }
            for row in rows
        ]


def csv_text(records: Iterable[Record], columns: Columns) -> str:
    """Returns the records as CSV, one row per run."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: record[key] for key in columns} for record in records)
    return text.getvalue()


def write_csv(records: Iterable[Record], path: pathlib.Path, columns: Columns) -> None:
    """Writes the records as CSV to a file, and makes its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, csv_text(records, columns))
