"""The results of evaluating a run, which tables, figures and the report are made of."""

import dataclasses
from typing import Any

from noah_tf.datasets import Source
from noah_tf.evaluation.corruptions import Corruption


@dataclasses.dataclass(frozen=True)
class NamedSet:
    """An evaluation set with its name: "SPLIT", or "DATA:SPLIT" if it is not the run's own."""

    name: str
    source: Source


@dataclasses.dataclass(frozen=True)
class SetResult:
    """The result of some weights of a run on one set, or on a corrupted copy of it.

    Attributes:
        set: the `NamedSet`.
        weights: "last", "ema" or "best".
        corruption: the `Corruption`, or None for the original images.
        scores: dict of `scores.single_label_scores` or `scores.multi_label_scores`, with the number
            of "unlabeled" and "skipped" examples if examples without a label or images that cannot
            be decoded were left out.
        predictions: the `scores.Predictions`, or None for a corrupted copy.
    """

    set: NamedSet
    weights: str
    corruption: Corruption | None
    scores: dict[str, float]
    predictions: Any


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A misclassified example.

    Attributes:
        description: text that identifies the example: set, split, index and file.
        predicted: the names of the predicted classes with their probabilities, as text.
        truth: the names of the true classes, as text.
        loss: the loss of the example.
        png: bytes of a PNG: the image, and the image under the maps of the wrong class and of the
            true class. The map is the attention of a NOAH head or the class activation map of a
            pooled head.
        num_panels: the number of images in the PNG.
    """

    description: str
    predicted: str
    truth: str
    loss: float
    png: bytes
    num_panels: int


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The results of evaluating a run.

    Attributes:
        results: list of `SetResult`, grouped by weights.
        sets: list of `NamedSet`.
        class_names: the run's classes.
        multi_label: whether the model predicts several classes for an image.
        threshold: the lowest probability at which a multi-label model predicts a class.
        mistakes: dict from a set's name to a list of `Mistake`, for the last of the weights.
        metadata: dict of JSON data that describes the run and the evaluation.
    """

    results: list[SetResult]
    sets: list[NamedSet]
    class_names: tuple[str, ...]
    multi_label: bool
    threshold: float
    mistakes: dict[str, list[Mistake]]
    metadata: dict[str, Any]
