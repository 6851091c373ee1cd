"""Scores of a whole evaluation set, computed from a model's predictions for every example."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import sparse, special

from noah_tf.evaluation import metrics

BINS = 15


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A model's predictions for the E examples of a set with M classes.

    The logits of a single-label model are not kept: its scores need a few numbers per example,
    however many classes there are. Average precision needs all logits, so the predictions of a
    multi-label model take 5 bytes per example and class.

    Attributes:
        indices: int (E,), the examples' indices in the natural order of the set.
        truth: bool (E, M), a `scipy.sparse.csr_matrix`: the true classes of each example.
        predicted: int (E,), the class with the highest logit.
        confidence: float (E,), the probability of the predicted class.
        correct: bool (E,), whether the predicted class is a true class.
        in_top5: bool (E,), whether one of the five highest logits is that of a true class.
        loss: float (E,). For a single-label model, the softmax cross-entropy, averaged over the
            true classes if there are several; for a multi-label model, the mean of M binary
            cross-entropies.
        logits: float32 (E, M), or None for a single-label model.
    """

    indices: np.ndarray
    truth: sparse.csr_matrix
    predicted: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray
    in_top5: np.ndarray
    loss: np.ndarray
    logits: Any = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def num_classes(self) -> int:
        """The number of classes, M."""
        return self.truth.shape[1]

    def true_classes(self, row: int) -> np.ndarray:
        """Returns the indices of the true classes of one example, an int array."""
        return self.truth.indices[self.truth.indptr[row] : self.truth.indptr[row + 1]]


def collect(
    batches: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], multi_label: bool = False
) -> Predictions:
    """Collects the predictions of all batches.

    Args:
        batches: tuples of indices (B,), labels (B,) or multi-hot (B, M), and logits (B, M), as
            `Evaluator.outputs` yields them.
        multi_label: whether the model predicts several classes for an image. If it predicts one,
            examples without a label are left out, and any of several labels counts as correct.

    Returns:
        `Predictions`.

    Raises:
        ValueError: there are no examples with a label.
        FloatingPointError: a logit is not finite.
    """
    parts = [_batch_predictions(*batch, multi_label) for batch in batches]
    if not any(part.truth.nnz for part in parts):
        raise ValueError("There are no examples with a label to evaluate: choose another split.")

    def concatenate(name):
        return np.concatenate([getattr(part, name) for part in parts])

    names = ("predicted", "confidence", "correct", "in_top5", "loss")
    return Predictions(
        indices=concatenate("indices"),
        truth=sparse.vstack([part.truth for part in parts], format="csr"),
        logits=concatenate("logits") if multi_label else None,
        **{name: concatenate(name) for name in names},
    )


def _batch_predictions(indices, labels, logits, multi_label) -> Predictions:
    metrics.check_finite(logits)
    truth = np.zeros(logits.shape, bool)
    if labels.ndim == 1:
        truth[np.arange(len(labels)), labels] = True
    else:
        truth = labels > 0
        if not multi_label:
            is_labeled = truth.any(axis=1)
            indices, truth, logits = indices[is_labeled], truth[is_labeled], logits[is_labeled]
    float64_logits = logits.astype(np.float64)
    if multi_label:
        probabilities = special.expit(float64_logits)
        loss = np.logaddexp(0.0, np.where(truth, -float64_logits, float64_logits)).mean(axis=1)
    else:
        log_probabilities = special.log_softmax(float64_logits, axis=1)
        probabilities = np.exp(log_probabilities)
        loss = -(log_probabilities * truth).sum(axis=1) / np.maximum(truth.sum(axis=1), 1)
    predicted = float64_logits.argmax(axis=1)
    targets = tf.constant(truth, tf.float32)
    correct, in_top5 = (
        metrics.top_k_accuracy(targets, tf.constant(logits), min(k, logits.shape[1])).numpy() > 0
        for k in (1, 5)
    )
    return Predictions(
        indices=indices,
        truth=sparse.csr_matrix(truth),
        predicted=predicted,
        confidence=probabilities[np.arange(len(predicted)), predicted],
        correct=correct,
        in_top5=in_top5,
        loss=loss,
        logits=logits if multi_label else None,
    )


def single_label_scores(predictions: Predictions, bins: int = BINS) -> dict[str, float]:
    """Computes the scores of a single-label model.

    Args:
        predictions: `Predictions`.
        bins: number of bins of the calibration error, see `calibration`.

    Returns:
        Dict with "examples", "loss", "top1", "top5" (with at least five classes),
        "mean_class_accuracy" (the mean of `class_accuracies` over the classes that occur) and
        "ece" (expected calibration error).
    """
    scores = {
        "examples": len(predictions),
        "loss": float(predictions.loss.mean()),
        "top1": float(predictions.correct.mean()),
    }
    if predictions.num_classes >= 5:
        scores["top5"] = float(predictions.in_top5.mean())
    accuracies = class_accuracies(confusion(predictions))
    scores["mean_class_accuracy"] = float(np.nanmean(accuracies))
    scores["ece"] = calibration(predictions, bins).error
    return scores


def confusion(predictions: Predictions) -> sparse.csr_matrix:
    """Computes the confusion matrix of a single-label model.

    An example with several true classes counts once: for the predicted class if that is one of
    them, and otherwise in equal shares for each of them.

    Args:
        predictions: `Predictions` of a single-label model.

    Returns:
        float (M, M), true classes × predicted classes, a `scipy.sparse.csr_matrix`. It holds a
        hundred thousand examples of twenty thousand classes in a megabyte, for which
        scikit-learn's `confusion_matrix` would need gigabytes.
    """
    truth, num_classes = predictions.truth, predictions.num_classes
    num_true = np.diff(truth.indptr)
    true, shares = truth.indices, np.repeat(1.0 / num_true, num_true)
    predicted = np.repeat(predictions.predicted, num_true)
    correct = np.repeat(predictions.correct, num_true)
    shares = np.where(correct, true == predicted, shares)
    matrix = sparse.coo_matrix(
        (shares, (true, predicted)), shape=(num_classes, num_classes)
    ).tocsr()
    matrix.eliminate_zeros()
    return matrix


def class_accuracies(matrix: sparse.csr_matrix) -> np.ndarray:
    """Computes the accuracy of each class from a confusion matrix.

    Args:
        matrix: (M, M), see `confusion`.

    Returns:
        float (M,), NaN for a class that does not occur.
    """
    totals = np.asarray(matrix.sum(axis=1)).ravel()
    with np.errstate(invalid="ignore"):
        return matrix.diagonal() / totals


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How far predicted probabilities are from the observed frequencies (arXiv 1706.04599).

    Attributes:
        counts: int (bins,), the number of probabilities in each bin. Bin b holds those in
            (b / bins, (b + 1) / bins]; the first bin includes 0.
        confidences: float (bins,), their mean; NaN for an empty bin.
        accuracies: float (bins,), the share of them whose prediction is correct; NaN for an empty
            bin.
        error: expected calibration error: the mean over all probabilities of the absolute
            difference between confidence and accuracy of their bin.
    """

    counts: np.ndarray
    confidences: np.ndarray
    accuracies: np.ndarray
    error: float


def calibration(predictions: Predictions, bins: int = BINS) -> Calibration:
    """Computes the calibration of a model's probabilities.

    Args:
        predictions: `Predictions`. For a single-label model, the probability of the predicted
            class counts. For a multi-label model, the probability of every class counts, and is
            correct if the image has the class.
        bins: number of bins of equal width.

    Returns:
        `Calibration`.
    """
    if predictions.logits is None:
        return binned_calibration(predictions.confidence, predictions.correct, bins)
    probabilities = special.expit(predictions.logits.astype(np.float64))
    return binned_calibration(probabilities.ravel(), predictions.truth.toarray().ravel(), bins)


def binned_calibration(
    probabilities: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> Calibration:
    """Computes the calibration of probabilities: scikit-learn's `calibration_curve` with counts.

    Args:
        probabilities: float (E,), in [0, 1].
        correct: bool (E,), whether the event with this probability occurred.
        bins: number of bins of equal width.

    Returns:
        `Calibration`.
    """
    inner_edges = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    bin_indices = np.searchsorted(inner_edges, probabilities)
    counts = np.bincount(bin_indices, minlength=bins)
    sums = [np.bincount(bin_indices, weights=w, minlength=bins) for w in (probabilities, correct)]
    with np.errstate(invalid="ignore"):
        confidences, accuracies = (total / counts for total in sums)
    error = np.abs(sums[0] - sums[1]).sum() / max(len(probabilities), 1)
    return Calibration(counts, confidences, accuracies, float(error))


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """Scores of each of the M classes of a multi-label model; arrays (M,).

    Attributes:
        counts: int, the number of examples with the class.
        average_precision: float; NaN for a class that does not occur.
        precision: float; 0 for a class that is never predicted.
        recall: float; 0 for a class that does not occur.
        f1: float.
    """

    counts: np.ndarray
    average_precision: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def class_scores(predictions: Predictions, threshold: float = 0.5) -> ClassScores:
    """Computes the scores of each class of a multi-label model.

    Args:
        predictions: `Predictions` of a multi-label model.
        threshold: the lowest probability at which a class is predicted.

    Returns:
        `ClassScores`.
    """
    from sklearn.metrics import precision_recall_fscore_support

    truth = predictions.truth.toarray()
    predicted = predicted_labels(predictions, threshold)
    precision, recall, f1, counts = precision_recall_fscore_support(
        truth, predicted, average=None, zero_division=0
    )
    average_precision = metrics.average_precisions(truth, predictions.logits)
    return ClassScores(counts, average_precision, precision, recall, f1)


def class_confusions(
    predictions: Predictions, threshold: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Counts the true and false positives and negatives of each class of a multi-label model.

    Args:
        predictions: `Predictions` of a multi-label model.
        threshold: the lowest probability at which a class is predicted.

    Returns:
        Four int arrays (M,): true positives, false positives, false negatives, true negatives.
    """
    from sklearn.metrics import multilabel_confusion_matrix

    predicted = predicted_labels(predictions, threshold)
    matrices = multilabel_confusion_matrix(predictions.truth.toarray(), predicted)
    return matrices[:, 1, 1], matrices[:, 0, 1], matrices[:, 1, 0], matrices[:, 0, 0]


def predicted_labels(predictions: Predictions, threshold: float) -> np.ndarray:
    """Returns bool (E, M): the classes whose probability is at least the threshold."""
    return special.expit(predictions.logits.astype(np.float64)) >= threshold


def top_labels(predictions: Predictions, count: int = 3) -> np.ndarray:
    """Returns bool (E, M): the `count` classes with the highest logits of each example."""
    order = np.argsort(-predictions.logits, axis=1, kind="stable")[:, :count]
    predicted = np.zeros(predictions.logits.shape, bool)
    np.put_along_axis(predicted, order, True, axis=1)
    return predicted


def f1_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Computes the CF1 and OF1 of multi-label classification with their precisions and recalls.

    Args:
        truth: bool (E, M).
        predicted: bool (E, M).

    Returns:
        Dict with "CP" and "CR", the means of precision and recall over the classes that occur;
        "CF1", the harmonic mean of these two; and "OP", "OR" and "OF1", precision, recall and F1
        over all examples and classes together.
    """
    from sklearn.metrics import precision_recall_fscore_support

    occurring = np.flatnonzero(truth.any(axis=0))
    precision, recall, _, _ = precision_recall_fscore_support(
        truth, predicted, average="macro", labels=occurring, zero_division=0
    )
    overall = precision_recall_fscore_support(truth, predicted, average="micro", zero_division=0)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    values = (precision, recall, f1, *overall[:3])
    names = ("CP", "CR", "CF1", "OP", "OR", "OF1")
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def multi_label_scores(
    predictions: Predictions, threshold: float = 0.5, bins: int = BINS
) -> dict[str, float]:
    """Computes the scores of a multi-label model.

    Args:
        predictions: `Predictions` of a multi-label model.
        threshold: the lowest probability at which a class is predicted.
        bins: number of bins of the calibration error, see `calibration`.

    Returns:
        Dict with "examples", "loss", "mAP" (the mean of the average precision over the classes
        that occur), those of `f1_scores` at the threshold, "CF1_top3" and "OF1_top3" (the same if
        the three most probable classes are predicted; with at least three classes),
        "subset_accuracy" (the share of examples whose predicted classes are all correct and
        complete) and "ece" (expected calibration error).
    """
    truth = predictions.truth.toarray()
    predicted = predicted_labels(predictions, threshold)
    scores = {
        "examples": len(predictions),
        "loss": float(predictions.loss.mean()),
        "mAP": float(np.nanmean(metrics.average_precisions(truth, predictions.logits))),
        **f1_scores(truth, predicted),
    }
    if predictions.num_classes >= 3:
        top3 = f1_scores(truth, top_labels(predictions))
        scores.update(CF1_top3=top3["CF1"], OF1_top3=top3["OF1"])
    scores["subset_accuracy"] = float((truth == predicted).all(axis=1).mean())
    scores["ece"] = calibration(predictions, bins).error
    return scores
