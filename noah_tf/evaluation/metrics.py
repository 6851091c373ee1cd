"""Losses and metrics of classifiers, computed from labels and logits."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_NOT_FINITE = (
    "The model gives logits that are not finite: its weights have overflowed; train it again with "
    "a lower learning rate."
)


def example_losses(
    targets: tf.Tensor, logits: tf.Tensor, binary: bool = False, label_smoothing: float = 0.0
) -> tf.Tensor:
    """Computes the cross-entropy of each example of a batch.

    Args:
        targets: class indices (B,), or a weight for every class (B, M): one-hot, mixed or
            multi-hot.
        logits: (B, M).
        binary: whether to average M binary cross-entropies instead of computing one softmax
            cross-entropy.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).

    Returns:
        (B,), float32.
    """
    logits = tf.cast(logits, tf.float32)
    num_classes = logits.shape[-1]
    if binary:
        labels = binary_targets(targets, num_classes, label_smoothing)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
        return tf.reduce_mean(losses, axis=-1)
    if targets.shape.rank == 1 and not label_smoothing:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)
    labels = _class_weights(targets, num_classes) * (1 - label_smoothing)
    return tf.nn.softmax_cross_entropy_with_logits(
        labels=labels + label_smoothing / num_classes, logits=logits
    )


def binary_targets(targets: tf.Tensor, num_classes: int, label_smoothing: float = 0.0) -> tf.Tensor:
    """Returns one binary target for each class of each example, smoothed towards 0.5.

    Args:
        targets: class indices (B,), or a weight for every class (B, M).
        num_classes: M.
        label_smoothing: weight of the value 0.5, in [0, 1).

    Returns:
        float32 (B, M).
    """
    return _class_weights(targets, num_classes) * (1 - label_smoothing) + label_smoothing / 2


def _class_weights(targets: tf.Tensor, num_classes: int) -> tf.Tensor:
    return tf.one_hot(targets, num_classes) if targets.shape.rank == 1 else targets


def top_k_accuracy(targets: tf.Tensor, logits: tf.Tensor, k: int = 1) -> tf.Tensor:
    """Computes the top-k accuracy of each example of a batch.

    Among equal logits, the class with the lowest index comes first.

    Args:
        targets: class indices (B,), or a weight for every class (B, M).
        logits: (B, M).
        k: number of highest logits to consider, at most M.

    Returns:
        (B,), float32. With class indices or multi-hot targets, 1 if a true class is among the k
        classes with the highest logits, and 0 otherwise. With mixed targets (mixup, CutMix), the
        sum of the weights of these k classes.
    """
    _, top_classes = tf.math.top_k(tf.cast(logits, tf.float32), k)
    if targets.shape.rank == 1:
        matches = tf.cast(top_classes == tf.cast(targets[:, None], top_classes.dtype), tf.float32)
    else:
        matches = tf.gather(targets, top_classes, batch_dims=1)
    return tf.minimum(tf.reduce_sum(matches, axis=-1), 1.0)


def metric_sums(labels: tf.Tensor, logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Computes the sums over one batch from which `metrics_from_sums` computes the metrics.

    This is for models that predict a single class for each image.

    Args:
        labels: class indices (B,); or multi-hot labels (B, M), of which any counts as correct.
            Examples without a label are left out.
        logits: (B, M).
        mask: (B,), 1 for an example and 0 for padding.

    Returns:
        (5,), float32: the sums of the losses, of the top-1 and of the top-5 accuracy, the number
        of examples with a label, and the number of all examples.
    """
    is_example = mask > 0
    is_labeled = is_example
    targets = labels
    if labels.shape.rank == 2:
        is_labeled = is_example & tf.reduce_any(labels > 0, axis=-1)
        targets = tf.math.divide_no_nan(labels, tf.reduce_sum(labels, axis=-1, keepdims=True))
    values = (
        example_losses(targets, logits),
        top_k_accuracy(labels, logits),
        top_k_accuracy(labels, logits, min(5, logits.shape[-1])),
        tf.ones_like(mask, tf.float32),
    )
    sums = [tf.reduce_sum(tf.where(is_labeled, value, 0.0)) for value in values]
    return tf.stack([*sums, tf.reduce_sum(tf.cast(is_example, tf.float32))])


def metrics_from_sums(sums: Sequence[float], num_classes: int) -> dict[str, float]:
    """Computes the metrics of a whole evaluation set from the sums over its batches.

    Args:
        sums: the total of `metric_sums` over all batches.
        num_classes: M; with fewer than five classes, "top5" is left out.

    Returns:
        Dict with "examples", "loss", "top1" and "top5".

    Raises:
        ValueError: no example has a label.
        FloatingPointError: a logit is not finite.
    """
    loss, top1, top5, num_labeled, _ = (float(value) for value in sums)
    if not num_labeled:
        raise ValueError("There are no examples with a label to evaluate: choose another split.")
    check_finite(loss)
    metrics = {"examples": int(num_labeled), "loss": loss / num_labeled, "top1": top1 / num_labeled}
    return {**metrics, "top5": top5 / num_labeled} if num_classes >= 5 else metrics


def multi_label_metrics(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Computes the metrics of a whole multi-label evaluation set.

    Args:
        labels: multi-hot labels (E, M) of E examples.
        logits: (E, M).

    Returns:
        Dict with "examples", "loss" and "mAP": the mean of the average precision over the classes
        that occur.

    Raises:
        ValueError: there are no examples, or none has a label.
        FloatingPointError: a logit is not finite.
    """
    if len(labels) == 0:
        raise ValueError("There are no examples to evaluate: choose another split.")
    check_finite(logits)
    if not labels.any():
        raise ValueError("No example has a label, so there is no mAP: choose another split.")
    losses = example_losses(tf.constant(labels, tf.float32), tf.constant(logits), binary=True)
    return {
        "examples": len(labels),
        "loss": float(np.mean(losses)),
        "mAP": float(np.nanmean(average_precisions(labels, logits))),
    }


def average_precisions(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Computes the average precision of each class.

    Args:
        labels: multi-hot labels (E, M) of E examples.
        logits: (E, M).

    Returns:
        float64 (M,), NaN for a class that does not occur.
    """
    from sklearn.metrics import average_precision_score

    occurs = labels.any(axis=0)
    precisions = np.full(labels.shape[1], np.nan)
    if occurs.any():
        precisions[occurs] = average_precision_score(
            labels[:, occurs], logits[:, occurs], average=None
        )
    return precisions


def check_finite(logits: np.ndarray | float) -> None:
    """Raises FloatingPointError unless all logits are finite."""
    if not np.isfinite(logits).all():
        raise FloatingPointError(_NOT_FINITE)


def primary_metric(metrics: dict[str, float]) -> str:
    """Returns the name of the metric that ranks runs: "mAP" if present, otherwise "top1"."""
    return "mAP" if "mAP" in metrics else "top1"
