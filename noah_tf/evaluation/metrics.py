"""Losses and metrics of classifiers, from labels and logits."""

import numpy as np
import tensorflow as tf

_NOT_FINITE = (
    "The model gives logits that are not finite: its weights have overflowed; train it again with "
    "a lower learning rate."
)


def example_losses(targets, logits, binary=False, label_smoothing=0.0):
    """Loss of each example of a batch.

    Args:
        targets: class indices (B,), or the share of every class (B, M): one-hot, mixed or
            multi-hot.
        logits: (B, M).
        binary: the mean of M binary cross-entropies in place of one softmax cross-entropy.
        label_smoothing: share of the target spread over all classes, in [0, 1).

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
    labels = _shares(targets, num_classes) * (1 - label_smoothing)
    return tf.nn.softmax_cross_entropy_with_logits(
        labels=labels + label_smoothing / num_classes, logits=logits
    )


def binary_targets(targets, num_classes, label_smoothing=0.0):
    """Targets of M decisions an example, each smoothed towards a half.

    Args:
        targets: class indices (B,), or the share of every class (B, M).
        num_classes: M.
        label_smoothing: in [0, 1), the weight of the half.

    Returns:
        float32 (B, M).
    """
    return _shares(targets, num_classes) * (1 - label_smoothing) + label_smoothing / 2


def _shares(targets, num_classes):
    return tf.one_hot(targets, num_classes) if targets.shape.rank == 1 else targets


def hits(targets, logits, k=1):
    """How much of its target the k highest logits of each example got.

    Args:
        targets: class indices (B,), or the share of every class (B, M).
        logits: (B, M).
        k: how many, at most M.

    Returns:
        (B,), float32: for one class an example, 1 if it is among the k, else 0; for several true
        classes, 1 if any of them is; for mixed ones, the sum of the shares.
    """
    _, top = tf.math.top_k(tf.cast(logits, tf.float32), k)
    if targets.shape.rank == 1:
        found = tf.cast(top == tf.cast(targets[:, None], top.dtype), tf.float32)
    else:
        found = tf.gather(targets, top, batch_dims=1)
    return tf.minimum(tf.reduce_sum(found, axis=-1), 1.0)


def evaluation_sums(labels, logits, mask):
    """What a batch adds to the metrics of a model that gives an image one class.

    Args:
        labels: class indices (B,); or multi-hot labels (B, M), of which any is right. Examples
            without a label do not count.
        logits: (B, M).
        mask: (B,), 0 for what is no example.

    Returns:
        (5,), float32: sums of the losses, of the hits among the highest logit and among five, of
        ones for examples that count, and of ones for all examples.
    """
    counts = mask > 0
    seen = tf.cast(counts, tf.float32)
    targets = labels
    if labels.shape.rank == 2:
        counts &= tf.reduce_any(labels > 0, axis=-1)
        targets = tf.math.divide_no_nan(labels, tf.reduce_sum(labels, axis=-1, keepdims=True))
    five = min(5, logits.shape[-1])
    parts = (example_losses(targets, logits), hits(labels, logits), hits(labels, logits, five))
    ones = tf.ones_like(seen)
    sums = [tf.reduce_sum(tf.where(counts, part, 0.0)) for part in (*parts, ones)]
    return tf.stack([*sums, tf.reduce_sum(seen)])


def from_sums(sums, num_classes):
    """Metrics of a whole evaluation set, of the sums of its batches.

    Args:
        sums: what `evaluation_sums` gives, added up.
        num_classes: M; "top5" is left out below five.

    Returns:
        Dict of floats: "examples", "loss", "top1", "top5".

    Raises:
        ValueError: no example counted.
        FloatingPointError: a logit is not finite.
    """
    loss, top1, top5, counted, _ = (float(value) for value in sums)
    if not counted:
        raise ValueError("There are no examples with a label to evaluate: choose another split.")
    check_finite(loss)
    result = {"examples": int(counted), "loss": loss / counted, "top1": top1 / counted}
    return {**result, "top5": top5 / counted} if num_classes >= 5 else result


def multi_label_metrics(labels, logits):
    """Metrics of a whole evaluation set whose images can have several classes.

    Args:
        labels: array of multi-hot labels (E, M).
        logits: array (E, M).

    Returns:
        Dict of floats: "examples", "loss" and "mAP", the mean over the classes that occur of
        average precision.

    Raises:
        ValueError: there are no examples, or none with a label.
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


def average_precisions(labels, logits):
    """Average precision of each class.

    Args:
        labels: array of multi-hot labels (E, M).
        logits: array (E, M).

    Returns:
        float64 (M,), NaN for a class that does not occur.
    """
    from sklearn.metrics import average_precision_score

    occurring = labels.any(axis=0)
    scores = np.full(len(occurring), np.nan)
    if occurring.any():
        scores[occurring] = average_precision_score(
            labels[:, occurring], logits[:, occurring], average=None
        )
    return scores


def check_finite(logits):
    """Raises FloatingPointError unless all logits of an array are finite."""
    if not np.isfinite(logits).all():
        raise FloatingPointError(_NOT_FINITE)


def primary_metric(metrics):
    """Name of the metric that a run is judged by, of those in a dict of metrics."""
    return "mAP" if "mAP" in metrics else "top1"
