"""Predictions as rows of a table: CSV and JSON lines."""

import csv
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import numpy as np
from scipy import special

from noah_tf.evaluation.prediction import Prediction


@dataclasses.dataclass(frozen=True)
class AnswerOptions:
    """How predictions become rows.

    Attributes:
        top_k: number of classes per photo of a single-label model.
        threshold: lowest probability of a class of a multi-label model.

    Raises:
        ValueError: a value is out of its range.
    """

    top_k: int = 5
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}.")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be from 0 to 1, got {self.threshold}.")


def answer_rows(
    predictions: Iterable[Prediction],
    class_names: Sequence[str],
    multi_label: bool,
    options: AnswerOptions,
) -> Iterator[dict[str, Any]]:
    """Yields the row of each prediction.

    Args:
        predictions: the predictions.
        class_names: names of the classes, in the order of the logits.
        multi_label: whether a photo can have several classes.
        options: number of classes or threshold.

    Yields:
        A dict with "file", "error", and either "class_1", "probability_1", ... up to `top_k`, the
        most probable class first, or "classes" and "probabilities", lists of the classes above the
        threshold. Rows with an error have None or empty lists.
    """
    count = min(options.top_k, len(class_names))
    for prediction in predictions:
        row: dict[str, Any] = {"file": prediction.file, "error": prediction.error}
        ranking: list[tuple[str, float]] = []
        if prediction.logits is not None:
            logits = prediction.logits.astype(np.float64)
            scores = special.expit(logits) if multi_label else special.softmax(logits)
            order = np.argsort(-scores, kind="stable")
            ranking = [(class_names[index], float(scores[index])) for index in order]
        if multi_label:
            chosen = [(name, score) for name, score in ranking if score >= options.threshold]
            row["classes"] = [name for name, _ in chosen]
            row["probabilities"] = [score for _, score in chosen]
        for rank in () if multi_label else range(count):
            name, probability = ranking[rank] if ranking else (None, None)
            row[f"class_{rank + 1}"], row[f"probability_{rank + 1}"] = name, probability
        yield row


def write_answers(rows: Iterable[dict[str, Any]], file: IO[str], as_json: bool) -> None:
    """Writes rows as CSV, or as one JSON object per line.

    Args:
        rows: the rows of `answer_rows`.
        file: the text file.
        as_json: whether to write JSON lines. CSV has "|" between the elements of a list.
    """
    writer = None
    for row in rows:
        if as_json:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            continue
        if writer is None:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "|".join(map(_cell, value))
    return f"{value:.6f}" if isinstance(value, float) else "" if value is None else str(value)
