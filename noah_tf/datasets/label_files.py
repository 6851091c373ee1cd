"""The source "files": photos whose labels are in a CSV or TSV file."""

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from noah_tf.datasets.source import Source, files_source
from noah_tf.utils.paths import Path, PathLike, RemotePath, as_path, join

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LAYOUT = (
    "a CSV or TSV file in data_dir with the columns 'file' and 'label', or 'file' and 'labels' for "
    "several labels with ',' or '|' between them"
)
_MAX_PROBLEMS = 20


class _Row(NamedTuple):
    """One photo of a label file: its line, its path, and its class names."""

    line: int
    path: str
    names: tuple[str, ...]


class _LabelFile(NamedTuple):
    """The rows of a label file, and what is wrong in the file, with line numbers."""

    rows: list[_Row]
    problems: list[str]
    multi_label: bool


def open_label_file(
    split: str,
    data_dir: PathLike | None,
    labels_from: str | None = None,
    class_names: Sequence[str] | None = None,
) -> Source:
    """Opens the photos of one label file, for `registry.open_source`.

    Args:
        split: the name of the label file in `data_dir`. Its suffix is .csv or .tsv. Its first line
            has the names of the columns: "file", the path of a photo relative to the label file,
            and "label", or "labels" for several labels with "," or "|" between them. An empty cell
            of "labels" means no class.
        data_dir: the folder of the label files.
        labels_from: the label file that has all classes, which are sorted by name. None means
            `split`.
        class_names: the names of the classes, instead of `labels_from`.

    Raises:
        ValueError: `data_dir` is None, or the file has other columns, or lines are wrong: the
            message names all of them.
        FileNotFoundError: a label file does not exist.
    """
    if data_dir is None:
        raise ValueError(f'name="files" needs data_dir, the folder of {_LAYOUT}.')
    root = as_path(data_dir)
    path = root / split
    content = _read(path)
    if class_names is not None:
        names = tuple(class_names)
    else:
        others = content if labels_from in (None, split) else _read(root / str(labels_from))
        names = tuple(sorted({name for row in others.rows for name in row.names}))
    problems = [*content.problems, *_row_problems(content.rows, names)]
    if not content.rows and not problems:
        problems.append("it has no photos")
    if problems:
        shown = problems[:_MAX_PROBLEMS]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more")
        raise ValueError(f"{path} must be corrected: {'; '.join(shown)}.")
    labels = _labels(content, names)
    files = [row.path for row in content.rows]
    return files_source("files", split, files, labels, names, content.multi_label)


def _read(path: Path) -> _LabelFile:
    delimiter = _DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        raise ValueError(f"the split of name='files' must be {_LAYOUT}, got {path.name!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; it must be {_LAYOUT}.")
    try:
        # Spreadsheets write a byte order mark, which this encoding drops.
        text = io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")
        return _parse(path, csv.DictReader(text, delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read ({error}); save it as UTF-8.") from error


def _parse(path: Path, reader: csv.DictReader) -> _LabelFile:
    columns = reader.fieldnames or []
    label_columns = [name for name in columns if name in ("label", "labels")]
    if "file" not in columns or len(label_columns) != 1:
        raise ValueError(
            f"{path} must be {_LAYOUT}; its columns are {', '.join(map(repr, columns)) or 'none'}."
        )
    multi_label = label_columns[0] == "labels"
    rows, problems = [], []
    for values in reader:
        line, name = reader.line_num, (values["file"] or "").strip()
        cell = (values[label_columns[0]] or "").strip()
        labels = tuple(re.split(r"\s*[,|]\s*", cell)) if multi_label and cell else (cell,)
        if multi_label and not cell:
            labels = ()
        if None in values:
            problems.append(
                f"line {line} has more cells than columns (put a cell with commas in quotes, or "
                "use '|' between labels)"
            )
        elif not name:
            problems.append(f"line {line} has no file")
        elif not multi_label and not cell:
            problems.append(f"line {line} has no label")
        elif "" in labels:
            problems.append(f"line {line} has an empty label between its separators")
        else:
            rows.append(_Row(line, _normal(join(path.parent, name)), labels))
    return _LabelFile(rows, problems, multi_label)


def _normal(path: Path) -> str:
    """Returns the path without "..", which object stores do not know."""
    return str(path) if isinstance(path, RemotePath) else os.path.normpath(path)


def _row_problems(rows: Sequence[_Row], names: Sequence[str]) -> Iterator[str]:
    known = set(names)
    lines: dict[str, int] = {}
    for row in rows:
        if row.path in lines:
            yield f"line {row.line} repeats the file of line {lines[row.path]}"
            continue
        lines[row.path] = row.line
        for name in row.names:
            if name not in known:
                yield f"line {row.line} has the unknown class {name!r}"
        if not as_path(row.path).is_file():
            yield f"the file of line {row.line} does not exist ({row.path})"


def _labels(content: _LabelFile, names: Sequence[str]) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(names)}
    if not content.multi_label:
        return np.array([numbers[row.names[0]] for row in content.rows], np.int64)
    labels = np.zeros((len(content.rows), len(names)), np.float32)
    for row, label in zip(content.rows, labels, strict=True):
        label[[numbers[name] for name in row.names]] = 1
    return labels


def read_class_names(data_dir: PathLike | None, name: str | os.PathLike) -> tuple[str, ...]:
    """Returns the class names in a text file, which has one name per line.

    Args:
        data_dir: the folder of the data set, or None.
        name: the file, relative to `data_dir` or absolute.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is empty or repeats a name, or is not UTF-8 text.
    """
    path = join(as_path(data_dir or ""), name)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; data.class_names must be a text file with one name per line."
        )
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read ({error}); save it as UTF-8.") from error
    # splitlines() would also split names, for example at U+2028.
    names = [line.strip() for line in text.split("\n") if line.strip()]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or not names:
        what = f"repeats {', '.join(repeated)}" if repeated else "is empty"
        raise ValueError(f"{path} {what}; it must have each class name once, one per line.")
    return tuple(names)
