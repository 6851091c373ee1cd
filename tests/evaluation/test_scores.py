"""Scores compared with scikit-learn, and cases with known results."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from noah_tf.evaluation import scores

pytestmark = pytest.mark.one_stack

SHAPES = st.tuples(st.integers(0, 2**16), st.integers(2, 40), st.integers(3, 9))


def predictions(labels, logits, multi_label=False, batch=7):
    slices = [slice(i, i + batch) for i in range(0, len(labels), batch)]
    indices = np.arange(len(labels))
    batches = [(indices[rows], labels[rows], logits[rows]) for rows in slices]
    return scores.collect(batches, multi_label)


def random_set(shape):
    """Returns labels, multi-hot labels and logits without ties."""
    seed, examples, classes = shape
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=(examples, classes)).astype(np.float32)
    multi_hot = (rng.random((examples, classes)) < 0.4).astype(np.float32)
    multi_hot[0, 0] = 1
    return rng.integers(0, classes, examples), multi_hot, logits


@settings(max_examples=15, deadline=None)
@given(SHAPES)
def test_single_label_scores_equal_scikit_learn(shape):
    labels, _, logits = random_set(shape)
    classes = range(logits.shape[1])
    collected = predictions(labels, logits)
    ours = scores.single_label_scores(collected)
    probabilities = special.softmax(logits.astype(np.float64), axis=1)
    assert ours["loss"] == pytest.approx(sk.log_loss(labels, probabilities, labels=classes), 1e-6)
    for name, k in (("top1", 1), ("top5", 5)):
        if len(classes) > k and len(classes) >= 5:
            expected = sk.top_k_accuracy_score(labels, logits, k=k, labels=classes)
            assert ours[name] == pytest.approx(expected, abs=1e-6)
    assert ("top5" in ours) == (len(classes) >= 5)
    predicted = logits.argmax(axis=1)
    matrix = scores.confusion(collected)
    np.testing.assert_array_equal(
        matrix.toarray(), sk.confusion_matrix(labels, predicted, labels=classes)
    )
    recalls = sk.recall_score(labels, predicted, labels=classes, average=None, zero_division=np.nan)
    np.testing.assert_allclose(scores.class_accuracies(matrix), recalls, atol=1e-6)
    occurring = recalls[np.isin(classes, labels)]
    assert ours["mean_class_accuracy"] == pytest.approx(occurring.mean(), abs=1e-6)
    assert ours["examples"] == len(labels)


@settings(max_examples=15, deadline=None)
@given(SHAPES, st.floats(0.05, 0.95))
def test_multi_label_scores_equal_scikit_learn(shape, threshold):
    _, truth, logits = random_set(shape)
    collected = predictions(truth, logits, multi_label=True)
    ours = scores.multi_label_scores(collected, threshold)
    probabilities = special.expit(logits.astype(np.float64))
    occurring = truth.any(axis=0)
    columns = list(zip(truth.T, probabilities.T, strict=True))
    each = [sk.average_precision_score(*column) for column in columns if column[0].any()]
    assert ours["mAP"] == pytest.approx(np.mean(each), abs=1e-6)
    losses = [sk.log_loss(*column, labels=[0, 1]) for column in columns]
    assert ours["loss"] == pytest.approx(np.mean(losses), abs=1e-6)
    at_threshold = probabilities >= threshold
    top = np.zeros_like(at_threshold)
    for row, order in enumerate(np.argsort(-logits, axis=1)):
        top[row, order[:3]] = True
    for suffix, predicted in (("", at_threshold), ("_top3", top)):
        precision, recall = (
            score(truth, predicted, average=None, zero_division=0)[occurring].mean()
            for score in (sk.precision_score, sk.recall_score)
        )
        cf1 = 2 * precision * recall / max(precision + recall, 1e-12)
        assert ours[f"CF1{suffix}"] == pytest.approx(cf1, abs=1e-6)
        of1 = sk.f1_score(truth, predicted, average="micro", zero_division=0)
        assert ours[f"OF1{suffix}"] == pytest.approx(of1, abs=1e-6)
    assert ours["subset_accuracy"] == pytest.approx(
        sk.accuracy_score(truth, at_threshold), abs=1e-6
    )
    class_scores = scores.class_scores(collected, threshold)
    expected = sk.precision_recall_fscore_support(
        truth, at_threshold, average=None, zero_division=0
    )
    np.testing.assert_allclose(
        [class_scores.precision, class_scores.recall, class_scores.f1, class_scores.counts],
        expected,
        atol=1e-6,
    )
    np.testing.assert_allclose(class_scores.average_precision[occurring], each, atol=1e-6)
    counts = np.array(scores.class_confusions(collected, threshold))
    assert (counts.sum(axis=0) == len(truth)).all()
    np.testing.assert_array_equal(counts[0] + counts[2], truth.sum(axis=0))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 200), st.integers(1, 20))
def test_calibration_bins_equal_scikit_learn(seed, size, bins):
    rng = np.random.default_rng(seed)
    probabilities, correct = rng.random(size), rng.random(size) < 0.5
    ours = scores.binned_calibration(probabilities, correct, bins)
    accuracies, confidences = calibration_curve(correct, probabilities, n_bins=bins, pos_label=True)
    filled = ours.counts > 0
    np.testing.assert_allclose(ours.accuracies[filled], accuracies, atol=1e-9)
    np.testing.assert_allclose(ours.confidences[filled], confidences, atol=1e-9)
    assert np.isnan(ours.accuracies[~filled]).all() and ours.counts.sum() == size
    gaps = np.abs(accuracies - confidences) * ours.counts[filled] / size
    assert ours.error == pytest.approx(gaps.sum(), abs=1e-9)


def test_calibration_of_a_calibrated_and_of_an_overconfident_model():
    # 20 images at a probability of 0.8, of which 16 are correct; then 10.
    logits = np.tile(np.log([[0.8, 0.1, 0.1]]), (20, 1)).astype(np.float32)
    calibrated = predictions(np.array([0] * 16 + [1, 2] * 2), logits)
    assert scores.calibration(calibrated).error == pytest.approx(0, abs=1e-6)
    overconfident = predictions(np.array([0] * 10 + [1, 2] * 5), logits)
    assert scores.calibration(overconfident).error == pytest.approx(0.3, abs=1e-6)
    assert scores.single_label_scores(overconfident)["ece"] == pytest.approx(0.3, abs=1e-6)


def test_multi_label_calibration_uses_every_probability():
    truth = np.array([[1, 0], [1, 1], [0, 0], [1, 1]], np.float32)
    logits = np.log([[3.0, 1.0]] * 4).astype(np.float32)  # 75% and 50%, as often as they occur
    collected = predictions(truth, logits, multi_label=True)
    assert scores.calibration(collected).error == pytest.approx(0, abs=1e-7)
    assert scores.calibration(collected).counts.sum() == 8


def test_any_of_several_labels_counts_and_unlabeled_examples_are_left_out():
    labels = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0]], np.float32)
    logits = np.array([[1, 3, 0, 0], [0, 1, 4, 0], [9, 0, 0, 0], [5, 1, 0, 0]], np.float32)
    collected = predictions(labels, logits, batch=2)
    assert collected.indices.tolist() == [0, 1, 3]
    assert collected.correct.tolist() == [True, True, False]
    ours = scores.single_label_scores(collected)
    assert (ours["examples"], ours["top1"]) == (3, pytest.approx(2 / 3))
    log_probabilities = special.log_softmax(logits.astype(np.float64), axis=1)
    first_loss = -(log_probabilities[0, 0] + log_probabilities[0, 1]) / 2
    assert collected.loss[0] == pytest.approx(first_loss)
    # Correct examples count for the predicted class, others in equal shares for each true class.
    matrix = scores.confusion(collected).toarray()
    expected = np.zeros((4, 4))
    expected[1, 1] = expected[2, 2] = 1
    expected[1, 0] = expected[2, 0] = 0.5
    np.testing.assert_array_equal(matrix, expected)
    np.testing.assert_allclose(scores.class_accuracies(matrix), [np.nan, 2 / 3, 2 / 3, np.nan])


def test_one_hot_labels_equal_class_indices():
    labels, _, logits = random_set((3, 30, 6))
    one_hot = np.eye(6, dtype=np.float32)[labels]
    expected = scores.single_label_scores(predictions(labels, logits))
    assert scores.single_label_scores(predictions(one_hot, logits)) == expected


def test_equal_logits_rank_the_first_class_highest():
    collected = predictions(np.arange(7), np.zeros((7, 7), np.float32))
    assert collected.predicted.tolist() == [0] * 7
    assert collected.correct.tolist() == [True] + [False] * 6
    assert collected.in_top5.tolist() == [True] * 5 + [False] * 2


def test_predictions_of_many_classes_keep_no_logits():
    labels = np.arange(4)
    logits = np.random.default_rng(0).normal(size=(4, 21_843)).astype(np.float32)
    collected = predictions(labels, logits)
    assert collected.logits is None and scores.confusion(collected).nnz <= 4
    assert scores.single_label_scores(collected)["examples"] == 4


def test_unscorable_input_raises():
    logits = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="no examples with a label"):
        predictions(np.zeros((2, 3), np.float32), logits)
    with pytest.raises(ValueError, match="no examples with a label"):
        scores.collect([])
    logits[1, 1] = np.inf
    with pytest.raises(FloatingPointError, match="not finite"):
        predictions(np.array([0, 1]), logits)
