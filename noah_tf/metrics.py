"""Losses and metrics of classifiers, from labels and logits."""

import numpy as np
import tensorflow as tf

_LOSS_CHUNK = 4096


def example_losses(labels, logits, label_smoothing=0.0):
    """Loss of each example of a batch.

    Args:
        labels: class indices (B,), or multi-hot labels (B, M), which make it the sum of M binary
            cross-entropies in place of one softmax cross-entropy.
        logits: (B, M).
        label_smoothing: share of the target spread over all classes, in [0, 1).

    Returns:
        (B,), float32.
    """
    logits = tf.cast(logits, tf.float32)
    if labels.shape.rank == 2:
        targets = labels * (1 - label_smoothing) + 0.5 * label_smoothing
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
        return tf.reduce_sum(losses, axis=-1)
    num_classes = logits.shape[-1]
    targets = tf.one_hot(labels, num_classes) * (1 - label_smoothing)
    return tf.nn.softmax_cross_entropy_with_logits(
        labels=targets + label_smoothing / num_classes, logits=logits
    )


def hits(labels, logits):
    """How right each example of a batch is, for a cheap running figure while training.

    Args:
        labels: class indices (B,) or multi-hot labels (B, M).
        logits: (B, M).

    Returns:
        (B,), float32: 1 where the highest logit is of a true class, else 0.
    """
    predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
    if labels.shape.rank == 2:
        return tf.gather(labels, predicted, batch_dims=1)
    return tf.cast(predicted == tf.cast(labels, tf.int32), tf.float32)


def classification_metrics(labels, logits):
    """Metrics of a whole evaluation set.

    Args:
        labels: array of class indices (E,) or of multi-hot labels (E, M).
        logits: array (E, M).

    Returns:
        Dict of floats: "loss" and "examples", and "top1" and "top5" (five classes or more), or
        for multi-hot labels "mAP", the mean over the classes that occur of average precision.

    Raises:
        ValueError: there are no examples, or none with a label.
        FloatingPointError: a logit is not finite.
    """
    if len(labels) == 0:
        raise ValueError("There are no examples to evaluate: choose another split.")
    labels, logits = np.asarray(labels), np.asarray(logits, np.float32)
    if not np.isfinite(logits).all():
        raise FloatingPointError(
            "The model gives logits that are not finite: its weights have overflowed; train it "
            "again with a lower learning rate."
        )
    parts = range(0, len(labels), _LOSS_CHUNK)  # one-hot targets are as large as the logits
    losses = [
        example_losses(
            tf.constant(labels[i : i + _LOSS_CHUNK]), tf.constant(logits[i : i + _LOSS_CHUNK])
        )
        for i in parts
    ]
    metrics = {"examples": len(labels), "loss": float(np.mean(np.concatenate(losses)))}
    if labels.ndim == 2:
        from sklearn.metrics import average_precision_score

        occurring = labels.any(axis=0)
        if not occurring.any():
            raise ValueError("No example has a label, so there is no mAP: choose another split.")
        scores = average_precision_score(labels[:, occurring], logits[:, occurring], average=None)
        return {**metrics, "mAP": float(np.mean(scores))}
    for k in (1, 5):
        if k <= logits.shape[1]:
            top = np.argpartition(-logits, k - 1, axis=1)[:, :k]
            metrics[f"top{k}"] = float(np.mean((top == labels[:, None]).any(axis=1)))
    return metrics


def primary_metric(metrics):
    """Name of the metric that a run is judged by, of those in a dict of metrics."""
    return "mAP" if "mAP" in metrics else "top1"
