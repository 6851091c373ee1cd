"""Scores as tables: for the terminal, the page, and CSV files."""

import csv
import io

import numpy as np

from noah_tf.evaluation import scores
from noah_tf.evaluation.corruptions import STRENGTHS
from noah_tf.evaluation.metrics import primary_metric

_COUNTS = ("examples", "unlabelled", "skipped")
_HIDDEN = ("CP", "CR", "OP", "OR")  # in result.json and metrics.csv


def score_rows(entries):
    """The scores of all sets as they are, a row a set and state.

    Args:
        entries: list of `sets.Entry`.

    Returns:
        Header, and rows, of strings.
    """
    clean = [entry for entry in entries if entry.corruption is None]
    names = dict.fromkeys(name for e in clean for name in e.scores if name not in _HIDDEN)
    header = ["set", "weights", *names]
    rows = []
    for entry in _set_by_set(clean):
        values = [_text(name, entry.scores.get(name)) for name in names]
        rows.append([entry.set.name, entry.weights, *values])
    return header, rows


def corruption_rows(entries):
    """The primary metric of the corrupted copies, a row a kind and state.

    Args:
        entries: list of `sets.Entry`.

    Returns:
        Header, and rows, of strings; no rows where nothing was corrupted.
    """
    curves = corruption_curves(entries)
    header = ["corruption", "weights", *(str(s) for s in (0, *STRENGTHS)), "mean of 1 to 5"]
    rows = []
    for kind, by_weights in curves.items():
        for weights, values in by_weights.items():
            figures = [*values, np.mean(values[1:])]
            rows.append([kind, weights, *(f"{value:.2%}" for value in figures)])
    return header, rows


def corruption_curves(entries):
    """Dict kind → dict weights → the primary metric at the strengths 0 to 5."""
    curves = {}
    for entry in entries:
        if entry.corruption is None:
            continue
        metric = primary_metric(entry.scores)
        by_weights = curves.setdefault(entry.corruption.kind, {})
        if entry.weights not in by_weights:
            clean = next(
                e
                for e in entries
                if (e.set, e.weights, e.corruption) == (entry.set, entry.weights, None)
            )
            by_weights[entry.weights] = [clean.scores[metric]]
        by_weights[entry.weights].append(entry.scores[metric])
    return curves


def most_confused(matrix, class_names, count=15):
    """The pairs of classes that were confused most.

    Args:
        matrix: see `scores.confusion`.
        class_names: M names.
        count: at most so many.

    Returns:
        Header, and rows, of strings.
    """
    pairs = matrix.tocoo()
    wrong = np.flatnonzero(pairs.row != pairs.col)
    worst = wrong[np.argsort(-pairs.data[wrong], kind="stable")][:count]
    totals = np.asarray(matrix.sum(axis=1)).ravel()
    rows = [
        [
            class_names[pairs.row[i]],
            class_names[pairs.col[i]],
            f"{pairs.data[i]:g}" if float(pairs.data[i]).is_integer() else f"{pairs.data[i]:.2f}",
            f"{pairs.data[i] / totals[pairs.row[i]]:.1%}",
        ]
        for i in worst
    ]
    return ["true", "predicted", "images", "of the class"], rows


def text_table(header, rows, texts=2):
    """A table as lines of text, the first `texts` columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if place < texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def metrics_csv(entries):
    """All scores, a row a set, state, corruption and strength."""
    names = dict.fromkeys(name for entry in entries for name in entry.scores)
    rows = [
        [*key(entry), *(entry.scores.get(name, "") for name in names)]
        for entry in _set_by_set(entries)
    ]
    return _csv(["set", "weights", "corruption", "strength", *names], rows)


def classes_csv(entries, class_names, threshold):
    """The scores of every class, of the sets as they are.

    Of a model of several classes an image: images with the class, average precision, and at the
    threshold precision, recall, F1, and true and false positives and negatives.
    """
    rows = []
    for entry in _set_by_set(e for e in entries if e.corruption is None):
        found = entry.predictions
        if found.logits is None:
            header = ["examples", "accuracy", "predicted"]
            matrix = scores.confusion(found)
            totals = (np.asarray(matrix.sum(axis=axis)).ravel() for axis in (1, 0))
            examples, predicted = totals
            columns = [examples, scores.class_accuracies(matrix), predicted]
        else:
            header = ["examples", "AP", "precision", "recall", "F1", "TP", "FP", "FN", "TN"]
            of = scores.class_scores(found, threshold)
            columns = [of.counts, of.average_precision, of.precision, of.recall, of.f1]
            columns += scores.class_decisions(found, threshold)
        for name, *values in zip(class_names, *columns, strict=True):
            rows.append([entry.set.name, entry.weights, name, *map(_plain, values)])
    return _csv(["set", "weights", "class", *header], rows)


def confusion_csv(entries, class_names):
    """The confusion matrices of the sets as they are: only what is not 0; a row a cell."""
    rows = []
    for entry in _set_by_set(e for e in entries if e.corruption is None):
        cells = scores.confusion(entry.predictions).tocoo()
        for true, predicted, images in zip(cells.row, cells.col, cells.data, strict=True):
            names = class_names[true], class_names[predicted]
            rows.append([entry.set.name, entry.weights, *names, _plain(images)])
    return _csv(["set", "weights", "true", "predicted", "images"], rows)


def calibration_csv(entries):
    """The reliability diagrams of the sets as they are, a row a bin."""
    rows = []
    for entry in _set_by_set(e for e in entries if e.corruption is None):
        found = scores.calibration(entry.predictions)
        bins = len(found.counts)
        for place in range(bins):
            values = found.counts[place], found.confidences[place], found.accuracies[place]
            ends = (place / bins, (place + 1) / bins)
            rows.append([entry.set.name, entry.weights, *ends, *map(_plain, values)])
    return _csv(["set", "weights", "from", "to", "count", "probability", "accuracy"], rows)


def key(entry):
    """What an entry is of: set, weights, kind of corruption or "", its strength or 0."""
    corruption = entry.corruption
    how = (corruption.kind, corruption.strength) if corruption else ("", 0)
    return (entry.set.name, entry.weights, *how)


def _set_by_set(entries):
    """The states of a run beside each other, for every set."""
    entries = list(entries)
    places = {}
    for entry in entries:
        places.setdefault((entry.set.name, entry.corruption), len(places))
    return sorted(entries, key=lambda entry: places[entry.set.name, entry.corruption])


def _text(name, value):
    if value is None:
        return ""
    if name in _COUNTS:
        return f"{value:,}"
    return f"{value:.4f}" if name == "loss" else f"{value:.2%}"


def _plain(value):
    """A number for CSV, empty for NaN, whole where it is whole."""
    value = float(value)
    if np.isnan(value):
        return ""
    return int(value) if value.is_integer() else value


def _csv(header, rows):
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()
