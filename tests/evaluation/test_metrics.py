"""Losses and metrics against Keras and scikit-learn."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import average_precision_score, log_loss, top_k_accuracy_score

from noah_tf.evaluation import metrics

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
    ours = metrics.example_losses(
        tf.constant(LABELS), tf.constant(LOGITS), label_smoothing=smoothing
    )
    np.testing.assert_allclose(ours, keras(tf.one_hot(LABELS, 7), LOGITS), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_losses_equal_keras(smoothing):
    keras = tf.keras.losses.BinaryCrossentropy(
        from_logits=True, label_smoothing=smoothing, reduction="none"
    )
    ours = metrics.example_losses(tf.constant(MULTI_HOT), tf.constant(LOGITS), True, smoothing)
    np.testing.assert_allclose(ours, keras(MULTI_HOT, LOGITS), rtol=1e-5)


@pytest.mark.parametrize("binary", [False, True])
def test_loss_is_linear_in_mixed_targets(binary):
    other = LABELS[::-1].copy()
    targets = 0.3 * tf.one_hot(LABELS, 7) + 0.7 * tf.one_hot(other, 7)
    mixed = metrics.example_losses(targets, tf.constant(LOGITS), binary, label_smoothing=0.1)
    whole = [
        metrics.example_losses(tf.constant(labels), tf.constant(LOGITS), binary, 0.1)
        for labels in (LABELS, other)
    ]
    np.testing.assert_allclose(mixed, 0.3 * whole[0] + 0.7 * whole[1], rtol=1e-5)


def evaluate(labels, logits, mask=None, batch=16):
    mask = np.ones(len(labels), np.float32) if mask is None else mask
    slices = [slice(i, i + batch) for i in range(0, len(labels), batch)]
    sums = sum(
        metrics.metric_sums(
            tf.constant(labels[part]), tf.constant(logits[part]), tf.constant(mask[part])
        ).numpy()
        for part in slices
    )
    return metrics.metrics_from_sums(sums, logits.shape[1])


def test_metrics_equal_scikit_learn():
    ours = evaluate(LABELS, LOGITS)
    for k in (1, 5):
        expected = top_k_accuracy_score(LABELS, LOGITS, k=k, labels=range(7))
        assert ours[f"top{k}"] == pytest.approx(expected, abs=1e-6)
    assert ours["loss"] == pytest.approx(log_loss(LABELS, softmax(LOGITS), labels=range(7)), 1e-5)
    assert ours["examples"] == 40
    assert metrics.primary_metric(ours) == "top1"


def test_padding_is_ignored():
    mask = (np.arange(40) % 3 > 0).astype(np.float32)
    is_example = mask > 0
    expected = evaluate(LABELS[is_example], LOGITS[is_example])
    assert evaluate(LABELS, LOGITS, mask) == pytest.approx(expected)
    logits = np.where(is_example[:, None], LOGITS, np.nan)
    assert evaluate(LABELS, logits, mask) == pytest.approx(expected)


def test_multi_hot_labels_count_any_true_class_and_unlabeled_examples_are_ignored():
    # As in ImageNet ReaL.
    labels = MULTI_HOT.copy()
    labels[::4] = 0
    is_labeled = labels.any(axis=1)
    ours = evaluate(labels, LOGITS)
    order = np.argsort(-LOGITS, axis=1)
    expected = [
        np.take_along_axis(labels, order[:, :k], 1).max(axis=1)[is_labeled].mean() for k in (1, 5)
    ]
    assert ours["examples"] == is_labeled.sum() < 40
    assert [ours["top1"], ours["top5"]] == pytest.approx(expected)
    one_hot = tf.one_hot(LABELS, 7).numpy()
    assert evaluate(one_hot, LOGITS) == pytest.approx(evaluate(LABELS, LOGITS))


def test_mean_average_precision_ignores_classes_that_do_not_occur():
    labels = MULTI_HOT.copy()
    labels[:, 3] = 0
    ours = metrics.multi_label_metrics(labels, LOGITS)
    occurring = [c for c in range(7) if c != 3]
    expected = np.mean([average_precision_score(labels[:, c], LOGITS[:, c]) for c in occurring])
    assert ours["mAP"] == pytest.approx(expected, abs=1e-6)
    assert metrics.primary_metric(ours) == "mAP"


def test_top5_needs_five_classes():
    assert "top5" not in evaluate(LABELS % 2, LOGITS[:, :2])


def test_top_k_accuracy_of_class_indices_multi_hot_and_mixed_targets():
    logits = tf.constant([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    np.testing.assert_array_equal(metrics.top_k_accuracy(tf.constant([1, 2]), logits), [1, 0])
    multi = tf.constant([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    np.testing.assert_array_equal(metrics.top_k_accuracy(multi, logits), [1, 0])
    np.testing.assert_array_equal(metrics.top_k_accuracy(multi, logits, k=3), [1, 1])
    mixed = tf.constant([[0.25, 0.0, 0.75], [0.25, 0.75, 0.0]])
    np.testing.assert_array_equal(metrics.top_k_accuracy(mixed, logits), [0, 0.25])
    np.testing.assert_array_equal(metrics.top_k_accuracy(mixed, logits, k=2), [0.75, 1.0])


def test_non_finite_logits_raise():
    logits = LOGITS.copy()
    logits[3, 2] = np.nan
    for labels, measure in (
        (LABELS, evaluate),
        (MULTI_HOT, metrics.multi_label_metrics),
    ):
        with pytest.raises(FloatingPointError, match="not finite"):
            measure(labels, logits)


def test_unlabeled_examples_raise():
    for measure, message in (
        (evaluate, "no examples with a label"),
        (metrics.multi_label_metrics, "No example has a label"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(np.zeros_like(MULTI_HOT), LOGITS)


def test_no_examples_raise():
    with pytest.raises(ValueError, match="no examples"):
        evaluate(LABELS, LOGITS, np.zeros(40, np.float32))
    with pytest.raises(ValueError, match="no examples"):
        metrics.multi_label_metrics(MULTI_HOT[:0], LOGITS[:0])
