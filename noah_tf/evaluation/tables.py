"""Scores as tables: for the terminal, for the report's page, and as CSV files."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from noah_tf.evaluation import scores
from noah_tf.evaluation.corruptions import SEVERITIES
from noah_tf.evaluation.metrics import primary_metric
from noah_tf.evaluation.results import SetResult

Table = tuple[list[str], list[list[str]]]  # header and rows

_COUNTS = ("examples", "unlabeled", "skipped")
_ONLY_IN_FILES = ("CP", "CR", "OP", "OR")  # in result.json and metrics.csv, not in tables


def scores_text(results: Sequence[SetResult]) -> str:
    """Returns the scores of all sets, and of their corrupted copies if there are any, as text."""
    text = text_table(*score_rows(results))
    header, rows = corruption_rows(results)
    return f"{text}\n\n{text_table(header, rows)}" if rows else text


def score_rows(results: Sequence[SetResult]) -> Table:
    """Returns the scores on all sets without corruption: one row per set and weights.

    Args:
        results: list of `results.SetResult`.

    Returns:
        Header, and rows of strings.
    """
    originals = _without_corruption(results)
    names = dict.fromkeys(
        name for result in originals for name in result.scores if name not in _ONLY_IN_FILES
    )
    header = ["set", "weights", *names]
    rows = []
    for result in originals:
        values = [_format_score(name, result.scores.get(name)) for name in names]
        rows.append([result.set.name, result.weights, *values])
    return header, rows


def corruption_rows(results: Sequence[SetResult]) -> Table:
    """Returns the primary metric at each severity: one row per kind of corruption and weights.

    Args:
        results: list of `results.SetResult`.

    Returns:
        Header, and rows of strings; no rows if nothing was corrupted.
    """
    header = ["corruption", "weights", *map(str, (0, *SEVERITIES)), "mean of 1 to 5"]
    rows = []
    for kind, by_weights in corruption_scores(results).items():
        for weights, values in by_weights.items():
            cells = [f"{value:.2%}" for value in (*values, np.mean(values[1:]))]
            rows.append([kind, weights, *cells])
    return header, rows


def corruption_scores(results: Sequence[SetResult]) -> dict[str, dict[str, list[float]]]:
    """Returns the primary metric at the severities 0 (no corruption) to 5.

    Args:
        results: list of `results.SetResult`.

    Returns:
        Dict from the kind of corruption to a dict from weights to six floats.
    """
    originals = {
        (result.set.name, result.weights): result for result in _without_corruption(results)
    }
    by_kind: dict[str, dict[str, list[float]]] = {}
    for result in results:
        if result.corruption is None:
            continue
        metric = primary_metric(result.scores)
        original = originals[result.set.name, result.weights]
        by_weights = by_kind.setdefault(result.corruption.kind, {})
        values = by_weights.setdefault(result.weights, [original.scores[metric]])
        values.append(result.scores[metric])
    return by_kind


def most_confused(matrix: sparse.csr_matrix, class_names: Sequence[str], count: int = 15) -> Table:
    """Returns the pairs of classes that are confused most often.

    Args:
        matrix: (M, M), see `scores.confusion`.
        class_names: M names.
        count: the maximum number of pairs.

    Returns:
        Header, and rows of strings.
    """
    cells = matrix.tocoo()
    errors = np.flatnonzero(cells.row != cells.col)
    most_frequent = errors[np.argsort(-cells.data[errors], kind="stable")][:count]
    totals = np.asarray(matrix.sum(axis=1)).ravel()
    rows = []
    for index in most_frequent:
        true, predicted, value = cells.row[index], cells.col[index], float(cells.data[index])
        rows.append(
            [
                class_names[true],
                class_names[predicted],
                f"{value:g}" if value.is_integer() else f"{value:.2f}",
                f"{value / totals[true]:.1%}",
            ]
        )
    return ["true class", "predicted class", "examples", "share of true class"], rows


def text_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], num_text_columns: int = 2
) -> str:
    """Returns a table as text; the text columns are aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if column < num_text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def metrics_csv(results: Sequence[SetResult]) -> str:
    """Returns all scores as CSV: one row per set, weights, corruption and severity."""
    results = _grouped_by_set(results)
    names = dict.fromkeys(name for result in results for name in result.scores)
    rows = [
        [*result_key(result).values(), *(result.scores.get(name, "") for name in names)]
        for result in results
    ]
    return _csv(["set", "weights", "corruption", "severity", *names], rows)


def classes_csv(results: Sequence[SetResult], class_names: Sequence[str], threshold: float) -> str:
    """Returns the scores of each class as CSV, for the sets without corruption.

    Args:
        results: list of `results.SetResult`.
        class_names: M names.
        threshold: the lowest probability at which a multi-label model predicts a class.

    Returns:
        For a single-label model, the number of examples of each class, its accuracy, and how often
        it was predicted. For a multi-label model, the number of examples of each class, its average
        precision, and at the threshold precision, recall, F1, and the true and false positives and
        negatives.
    """
    header: list[str] = []
    rows = []
    for result in _without_corruption(results):
        predictions = result.predictions
        if predictions.logits is None:
            header = ["examples", "accuracy", "predicted"]
            matrix = scores.confusion(predictions)
            examples, predicted = (np.asarray(matrix.sum(axis=axis)).ravel() for axis in (1, 0))
            columns = [examples, scores.class_accuracies(matrix), predicted]
        else:
            header = ["examples", "AP", "precision", "recall", "F1", "TP", "FP", "FN", "TN"]
            values = scores.class_scores(predictions, threshold)
            columns = [values.counts, values.average_precision]
            columns += [values.precision, values.recall, values.f1]
            columns += scores.class_confusions(predictions, threshold)
        for name, *cells in zip(class_names, *columns, strict=True):
            rows.append([result.set.name, result.weights, name, *map(_csv_number, cells)])
    return _csv(["set", "weights", "class", *header], rows)


def confusion_csv(results: Sequence[SetResult], class_names: Sequence[str]) -> str:
    """Returns the confusion matrices without corruption as CSV: one row per cell that is not 0."""
    rows = []
    for result in _without_corruption(results):
        cells = scores.confusion(result.predictions).tocoo()
        for true, predicted, value in zip(cells.row, cells.col, cells.data, strict=True):
            names = class_names[true], class_names[predicted]
            rows.append([result.set.name, result.weights, *names, _csv_number(value)])
    return _csv(["set", "weights", "true", "predicted", "examples"], rows)


def calibration_csv(results: Sequence[SetResult]) -> str:
    """Returns the reliability diagrams without corruption as CSV: one row per bin."""
    rows = []
    for result in _without_corruption(results):
        calibration = scores.calibration(result.predictions)
        bins = len(calibration.counts)
        columns = calibration.counts, calibration.confidences, calibration.accuracies
        for index, values in enumerate(zip(*columns, strict=True)):
            edges = (index / bins, (index + 1) / bins)
            rows.append([result.set.name, result.weights, *edges, *map(_csv_number, values)])
    return _csv(["set", "weights", "from", "to", "count", "probability", "accuracy"], rows)


def result_key(result: SetResult) -> dict[str, Any]:
    """Returns what identifies a result: set, weights, corruption ("" if none) and severity."""
    corruption = result.corruption
    return {
        "set": result.set.name,
        "weights": result.weights,
        "corruption": corruption.kind if corruption else "",
        "severity": corruption.severity if corruption else 0,
    }


def _without_corruption(results: Iterable[SetResult]) -> list[SetResult]:
    return _grouped_by_set(result for result in results if result.corruption is None)


def _grouped_by_set(results: Iterable[SetResult]) -> list[SetResult]:
    """Returns the results with all weights of a set, and of each of its copies, side by side."""
    results = list(results)
    order: dict[Any, int] = {}
    for result in results:
        order.setdefault((result.set.name, result.corruption), len(order))
    return sorted(results, key=lambda result: order[result.set.name, result.corruption])


def _format_score(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name in _COUNTS:
        return f"{value:,}"
    return f"{value:.4f}" if name == "loss" else f"{value:.2%}"


def _csv_number(value: Any) -> float | int | str:
    """Returns a number for a CSV file: empty for NaN, an int if it is a whole number."""
    value = float(value)
    if np.isnan(value):
        return ""
    return int(value) if value.is_integer() else value


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()
