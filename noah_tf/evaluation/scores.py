"""Scores of a whole evaluation set, as functions of what a model said of every example."""

import dataclasses

import numpy as np
from scipy import sparse, special

from noah_tf.evaluation import metrics

BINS = 15


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model said of the E examples of a set with M classes.

    Of a model that gives an image one class, logits are not kept: its scores need a few numbers an
    example, however many classes there are. Average precision needs them all, so a model of
    several classes an image takes 5 bytes an example and class.

    Attributes:
        places: int (E,), the examples' places in the set's natural order.
        truth: bool (E, M), a `scipy.sparse.csr_matrix`: the classes of each.
        predicted: int (E,), the class with the highest logit.
        confidence: float (E,), the probability of that class.
        rank: int (E,), how many classes come before the first true one; M where there is none.
        loss: float (E,), cross-entropy: of the softmax, with several true classes the mean of
            theirs; or the mean of M binary ones.
        logits: float32 (E, M), or None of a model that gives an image one class.
    """

    places: np.ndarray
    truth: sparse.csr_matrix
    predicted: np.ndarray
    confidence: np.ndarray
    rank: np.ndarray
    loss: np.ndarray
    logits: np.ndarray | None = None

    def __len__(self):
        return len(self.places)

    @property
    def num_classes(self):
        """M."""
        return self.truth.shape[1]

    @property
    def right(self):
        """Bool (E,), whether the predicted class is a true one."""
        return self.rank == 0

    def true_classes(self, row):
        """The classes of an example, an int array."""
        return self.truth.indices[self.truth.indptr[row] : self.truth.indptr[row + 1]]


def collect(batches, multi_label=False):
    """The predictions of all batches.

    Args:
        batches: iterable of (places (B,), labels (B,) or multi-hot (B, M), logits (B, M)), as
            `Evaluator.outputs` yields them.
        multi_label: whether the model gives an image several classes. Else examples without a
            label are left out, and of several labels any is right.

    Returns:
        `Predictions`.

    Raises:
        ValueError: there are no examples with a label.
        FloatingPointError: a logit is not finite.
    """
    parts = [_of_batch(*batch, multi_label) for batch in batches]
    if not any(part.truth.nnz for part in parts):
        raise ValueError("There are no examples with a label to evaluate: choose another split.")
    columns = [
        [getattr(part, field.name) for part in parts] for field in dataclasses.fields(Predictions)
    ]
    places, truth, predicted, confidence, rank, loss, logits = columns
    return Predictions(
        np.concatenate(places),
        sparse.vstack(truth, format="csr"),
        *map(np.concatenate, (predicted, confidence, rank, loss)),
        np.concatenate(logits) if multi_label else None,
    )


def _of_batch(places, labels, logits, multi_label):
    metrics.check_finite(logits)
    truth = np.zeros(logits.shape, bool)
    if labels.ndim == 1:
        truth[np.arange(len(labels)), labels] = True
    else:
        truth = labels > 0
        if not multi_label:
            kept = truth.any(axis=1)
            places, truth, logits = places[kept], truth[kept], logits[kept]
    exact = logits.astype(np.float64)
    if multi_label:
        probabilities = special.expit(exact)
        loss = np.logaddexp(0.0, np.where(truth, -exact, exact)).mean(axis=1)
    else:
        log_probabilities = special.log_softmax(exact, axis=1)
        probabilities = np.exp(log_probabilities)
        loss = -(log_probabilities * truth).sum(axis=1) / np.maximum(truth.sum(axis=1), 1)
    predicted = exact.argmax(axis=1)
    return Predictions(
        places,
        sparse.csr_matrix(truth),
        predicted,
        probabilities[np.arange(len(predicted)), predicted],
        _ranks(truth, exact),
        loss,
        logits if multi_label else None,
    )


def _ranks(truth, logits):
    """How many classes come before the first true one, of equal logits the first class first."""
    of_true = np.where(truth, logits, -np.inf)
    first = of_true.argmax(axis=1)[:, None]
    best = np.take_along_axis(of_true, first, axis=1)
    before = (logits > best) | ((logits == best) & (np.arange(logits.shape[1]) < first))
    return before.sum(axis=1)


def single_label_scores(predictions, bins=BINS):
    """Scores of a model that gives an image one class.

    Args:
        predictions: `Predictions`.
        bins: see `calibration`.

    Returns:
        Dict of "examples", "loss", "top1", "top5" (five classes or more), "class_accuracy", the
        mean over the classes that occur of `class_accuracies`, and "ece".
    """
    scores = {
        "examples": len(predictions),
        "loss": float(predictions.loss.mean()),
        "top1": float(predictions.right.mean()),
    }
    if predictions.num_classes >= 5:
        scores["top5"] = float((predictions.rank < 5).mean())
    accuracies = class_accuracies(confusion(predictions))
    scores["class_accuracy"] = float(np.nanmean(accuracies))
    scores["ece"] = calibration(predictions, bins).error
    return scores


def confusion(predictions):
    """How many images of a class were taken for which.

    An image with several classes counts once: for the predicted class if that is one of them, else
    in equal parts for each.

    Args:
        predictions: `Predictions` of a model that gives an image one class.

    Returns:
        float (M, M), true classes × predicted ones, a `scipy.sparse.csr_matrix`, which holds a
        hundred thousand images of twenty thousand classes in a megabyte; scikit-learn's
        `confusion_matrix` would take gigabytes.
    """
    truth, size = predictions.truth, predictions.num_classes
    counts = np.diff(truth.indptr)
    true, parts = truth.indices, np.repeat(1.0 / counts, counts)
    predicted = np.repeat(predictions.predicted, counts)
    right = np.repeat(predictions.right, counts)
    parts = np.where(right, true == predicted, parts)
    matrix = sparse.coo_matrix((parts, (true, predicted)), shape=(size, size)).tocsr()
    matrix.eliminate_zeros()
    return matrix


def class_accuracies(matrix):
    """The share of each class's images that were right: float (M,), NaN for what does not occur.

    Args:
        matrix: as `confusion` gives it.
    """
    totals = np.asarray(matrix.sum(axis=1)).ravel()
    with np.errstate(invalid="ignore"):
        return matrix.diagonal() / totals


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How far probabilities are from the shares that are right (arXiv 1706.04599).

    Attributes:
        counts: int (bins,), how many probabilities lie in a bin: bin b has those in
            (b / bins, (b + 1) / bins], the first one 0, too.
        confidences: float (bins,), their mean; NaN of an empty bin.
        accuracies: float (bins,), the share that is right; NaN of an empty bin.
        error: expected calibration error: the mean over all probabilities of the difference of
            the two in their bin.
    """

    counts: np.ndarray
    confidences: np.ndarray
    accuracies: np.ndarray
    error: float


def calibration(predictions, bins=BINS):
    """Calibration of the predicted class's probability, or of every class's where M are told.

    Args:
        predictions: `Predictions`. Of a model that gives an image several classes every
            probability counts, which is right if the image has the class.
        bins: how many bins of equal width; int.

    Returns:
        `Calibration`.
    """
    if predictions.logits is None:
        return binned_calibration(predictions.confidence, predictions.right, bins)
    probabilities = special.expit(predictions.logits.astype(np.float64))
    return binned_calibration(probabilities.ravel(), predictions.truth.toarray().ravel(), bins)


def binned_calibration(probabilities, right, bins=BINS):
    """Calibration of probabilities: scikit-learn's `calibration_curve`, with counts.

    Args:
        probabilities: float (E,), 0 to 1.
        right: bool (E,), whether what they are of is so.
        bins: how many bins of equal width; int.

    Returns:
        `Calibration`.
    """
    inner = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    bin_of = np.searchsorted(inner, probabilities)
    counts = np.bincount(bin_of, minlength=bins)
    sums = [np.bincount(bin_of, weights=w, minlength=bins) for w in (probabilities, right)]
    with np.errstate(invalid="ignore"):
        confidences, accuracies = (total / counts for total in sums)
    error = np.abs(sums[0] - sums[1]).sum() / max(len(probabilities), 1)
    return Calibration(counts, confidences, accuracies, float(error))


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """Scores of each of M classes, for a model that gives an image several; arrays (M,).

    Attributes:
        counts: int, images with the class.
        average_precision: float; NaN for a class that does not occur.
        precision: float, of what is told to have the class; 0 where nothing is.
        recall: float; 0 where the class does not occur.
        f1: float.
    """

    counts: np.ndarray
    average_precision: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def class_scores(predictions, threshold=0.5):
    """Scores of each class.

    Args:
        predictions: `Predictions` of a model that gives an image several classes.
        threshold: the probability from which on an image is said to have a class.

    Returns:
        `ClassScores`.
    """
    from sklearn.metrics import precision_recall_fscore_support

    truth = predictions.truth.toarray()
    told = decisions(predictions, threshold)
    precision, recall, f1, counts = precision_recall_fscore_support(
        truth, told, average=None, zero_division=0
    )
    average_precision = metrics.average_precisions(truth, predictions.logits)
    return ClassScores(counts, average_precision, precision, recall, f1)


def class_decisions(predictions, threshold=0.5):
    """How many images of each class were decided how.

    Args:
        predictions: see `class_scores`.
        threshold: see there.

    Returns:
        Four int arrays (M,): true positives, false positives, false negatives, true negatives.
    """
    from sklearn.metrics import multilabel_confusion_matrix

    told = decisions(predictions, threshold)
    matrices = multilabel_confusion_matrix(predictions.truth.toarray(), told)
    return matrices[:, 1, 1], matrices[:, 0, 1], matrices[:, 1, 0], matrices[:, 0, 0]


def decisions(predictions, threshold):
    """Bool (E, M), the classes whose probability is at least the threshold."""
    return special.expit(predictions.logits.astype(np.float64)) >= threshold


def top_decisions(predictions, count=3):
    """Bool (E, M), the classes of the highest logits, `count` an image."""
    order = np.argsort(-predictions.logits, axis=1, kind="stable")[:, :count]
    told = np.zeros(predictions.logits.shape, bool)
    np.put_along_axis(told, order, True, axis=1)
    return told


def f1_scores(truth, told):
    """CF1 and OF1, the usual ones of multi-label classification, with what they are made of.

    Args:
        truth: bool (E, M).
        told: bool (E, M).

    Returns:
        Dict of "CP", "CR": the means over the classes that occur of precision and recall; "CF1":
        the harmonic mean of these two; "OP", "OR", "OF1": of all decisions together.
    """
    from sklearn.metrics import precision_recall_fscore_support

    occurring = np.flatnonzero(truth.any(axis=0))
    precision, recall, _, _ = precision_recall_fscore_support(
        truth, told, average="macro", labels=occurring, zero_division=0
    )
    overall = precision_recall_fscore_support(truth, told, average="micro", zero_division=0)[:3]
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    values = (precision, recall, f1, *overall)
    names = ("CP", "CR", "CF1", "OP", "OR", "OF1")
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def multi_label_scores(predictions, threshold=0.5, bins=BINS):
    """Scores of a model that gives an image several classes.

    Args:
        predictions: `Predictions`.
        threshold: the probability from which on an image is said to have a class.
        bins: see `calibration`.

    Returns:
        Dict of "examples", "loss", "mAP", the mean over the classes that occur of average
        precision; those of `f1_scores` at the threshold; "CF1_top3" and "OF1_top3", where each
        image has its three most probable classes (three classes or more); "exact", the share of
        images whose classes are all right; and "ece".
    """
    truth = predictions.truth.toarray()
    told = decisions(predictions, threshold)
    scores = {
        "examples": len(predictions),
        "loss": float(predictions.loss.mean()),
        "mAP": float(np.nanmean(metrics.average_precisions(truth, predictions.logits))),
        **f1_scores(truth, told),
    }
    if predictions.num_classes >= 3:
        top = f1_scores(truth, top_decisions(predictions))
        scores.update(CF1_top3=top["CF1"], OF1_top3=top["OF1"])
    scores["exact"] = float((truth == told).all(axis=1).mean())
    scores["ece"] = calibration(predictions, bins).error
    return scores
