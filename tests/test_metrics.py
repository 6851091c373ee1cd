"""Losses and metrics against Keras and scikit-learn."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import average_precision_score, log_loss, top_k_accuracy_score

from noah_tf import metrics

LOGITS = np.random.default_rng(0).normal(size=(40, 7)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 7, 40)
MULTI_HOT = (np.random.default_rng(2).random((40, 7)) < 0.3).astype(np.float32)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_equal_keras(smoothing):
    keras = tf.keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=smoothing, reduction="none"
    )
    ours = metrics.example_losses(tf.constant(LABELS), tf.constant(LOGITS), smoothing)
    np.testing.assert_allclose(ours, keras(tf.one_hot(LABELS, 7), LOGITS), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_multi_label_losses_are_sums_of_binary_ones(smoothing):
    keras = tf.keras.losses.BinaryCrossentropy(
        from_logits=True, label_smoothing=smoothing, reduction="none"
    )
    ours = metrics.example_losses(tf.constant(MULTI_HOT), tf.constant(LOGITS), smoothing)
    np.testing.assert_allclose(ours, 7 * keras(MULTI_HOT, LOGITS), rtol=1e-5)


def test_metrics_equal_scikit_learn():
    ours = metrics.classification_metrics(LABELS, LOGITS)
    for k in (1, 5):
        expected = top_k_accuracy_score(LABELS, LOGITS, k=k, labels=range(7))
        assert ours[f"top{k}"] == pytest.approx(expected, abs=1e-6)
    assert ours["loss"] == pytest.approx(log_loss(LABELS, softmax(LOGITS), labels=range(7)), 1e-5)
    assert ours["examples"] == 40
    assert metrics.primary_metric(ours) == "top1"


def test_multi_label_metrics_leave_classes_out_that_do_not_occur():
    labels = MULTI_HOT.copy()
    labels[:, 3] = 0
    ours = metrics.classification_metrics(labels, LOGITS)
    kept = [c for c in range(7) if c != 3]
    expected = np.mean([average_precision_score(labels[:, c], LOGITS[:, c]) for c in kept])
    assert ours["mAP"] == pytest.approx(expected, abs=1e-6)
    assert metrics.primary_metric(ours) == "mAP"


def test_two_classes_have_no_top5():
    assert "top5" not in metrics.classification_metrics(LABELS % 2, LOGITS[:, :2])


def test_hits_count_any_true_class():
    logits = tf.constant([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    np.testing.assert_array_equal(metrics.hits(tf.constant([1, 2]), logits), [1, 0])
    multi = tf.constant([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    np.testing.assert_array_equal(metrics.hits(multi, logits), [1, 0])


def test_logits_that_are_not_finite_are_no_metrics():
    logits = LOGITS.copy()
    logits[3, 2] = np.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        metrics.classification_metrics(LABELS, logits)


def test_no_labels_at_all_are_refused():
    with pytest.raises(ValueError, match="No example has a label"):
        metrics.classification_metrics(np.zeros_like(MULTI_HOT), LOGITS)


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="no examples"):
        metrics.classification_metrics(LABELS[:0], LOGITS[:0])
