"""Scores against scikit-learn, and cases that are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from noah_tf.evaluation import scores

SHAPES = st.tuples(st.integers(0, 2**16), st.integers(2, 40), st.integers(3, 9))


def predictions(labels, logits, multi_label=False, batch=7):
    parts = [slice(i, i + batch) for i in range(0, len(labels), batch)]
    places = np.arange(len(labels))
    batches = [(places[part], labels[part], logits[part]) for part in parts]
    return scores.collect(batches, multi_label)


def random_set(shape):
    """Labels, multi-hot labels and logits without ties."""
    seed, examples, classes = shape
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=(examples, classes)).astype(np.float32)
    multi_hot = (rng.random((examples, classes)) < 0.4).astype(np.float32)
    multi_hot[0, 0] = 1
    return rng.integers(0, classes, examples), multi_hot, logits


@settings(max_examples=15, deadline=None)
@given(SHAPES)
def test_scores_of_one_class_an_image_equal_scikit_learn(shape):
    labels, _, logits = random_set(shape)
    classes = range(logits.shape[1])
    found = predictions(labels, logits)
    ours = scores.single_label_scores(found)
    probabilities = special.softmax(logits.astype(np.float64), axis=1)
    assert ours["loss"] == pytest.approx(sk.log_loss(labels, probabilities, labels=classes), 1e-6)
    for name, k in (("top1", 1), ("top5", 5)):
        if len(classes) > k and len(classes) >= 5:
            expected = sk.top_k_accuracy_score(labels, logits, k=k, labels=classes)
            assert ours[name] == pytest.approx(expected, abs=1e-6)
    assert ("top5" in ours) == (len(classes) >= 5)
    predicted = logits.argmax(axis=1)
    matrix = scores.confusion(found)
    np.testing.assert_array_equal(
        matrix.toarray(), sk.confusion_matrix(labels, predicted, labels=classes)
    )
    recalls = sk.recall_score(labels, predicted, labels=classes, average=None, zero_division=np.nan)
    np.testing.assert_allclose(scores.class_accuracies(matrix), recalls, atol=1e-6)
    occurring = recalls[np.isin(classes, labels)]
    assert ours["class_accuracy"] == pytest.approx(occurring.mean(), abs=1e-6)
    assert ours["examples"] == len(labels)


@settings(max_examples=15, deadline=None)
@given(SHAPES, st.floats(0.05, 0.95))
def test_scores_of_several_classes_an_image_equal_scikit_learn(shape, threshold):
    _, truth, logits = random_set(shape)
    found = predictions(truth, logits, multi_label=True)
    ours = scores.multi_label_scores(found, threshold)
    probabilities = special.expit(logits.astype(np.float64))
    occurring = truth.any(axis=0)
    columns = list(zip(truth.T, probabilities.T, strict=True))
    each = [sk.average_precision_score(*column) for column in columns if column[0].any()]
    assert ours["mAP"] == pytest.approx(np.mean(each), abs=1e-6)
    losses = [sk.log_loss(*column, labels=[0, 1]) for column in columns]
    assert ours["loss"] == pytest.approx(np.mean(losses), abs=1e-6)
    told = probabilities >= threshold
    top = np.zeros_like(told)
    for row, order in enumerate(np.argsort(-logits, axis=1)):
        top[row, order[:3]] = True
    for suffix, decided in (("", told), ("_top3", top)):
        precision, recall = (
            score(truth, decided, average=None, zero_division=0)[occurring].mean()
            for score in (sk.precision_score, sk.recall_score)
        )
        cf1 = 2 * precision * recall / max(precision + recall, 1e-12)
        assert ours[f"CF1{suffix}"] == pytest.approx(cf1, abs=1e-6)
        of1 = sk.f1_score(truth, decided, average="micro", zero_division=0)
        assert ours[f"OF1{suffix}"] == pytest.approx(of1, abs=1e-6)
    assert ours["exact"] == pytest.approx(sk.accuracy_score(truth, told), abs=1e-6)
    of_classes = scores.class_scores(found, threshold)
    expected = sk.precision_recall_fscore_support(truth, told, average=None, zero_division=0)
    np.testing.assert_allclose(
        [of_classes.precision, of_classes.recall, of_classes.f1, of_classes.counts],
        expected,
        atol=1e-6,
    )
    np.testing.assert_allclose(of_classes.average_precision[occurring], each, atol=1e-6)
    counts = np.array(scores.class_decisions(found, threshold))
    assert (counts.sum(axis=0) == len(truth)).all()
    np.testing.assert_array_equal(counts[0] + counts[2], truth.sum(axis=0))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 200), st.integers(1, 20))
def test_bins_equal_scikit_learn(seed, size, bins):
    rng = np.random.default_rng(seed)
    probabilities, right = rng.random(size), rng.random(size) < 0.5
    ours = scores.binned_calibration(probabilities, right, bins)
    accuracies, confidences = calibration_curve(right, probabilities, n_bins=bins, pos_label=True)
    filled = ours.counts > 0
    np.testing.assert_allclose(ours.accuracies[filled], accuracies, atol=1e-9)
    np.testing.assert_allclose(ours.confidences[filled], confidences, atol=1e-9)
    assert np.isnan(ours.accuracies[~filled]).all() and ours.counts.sum() == size
    gaps = np.abs(accuracies - confidences) * ours.counts[filled] / size
    assert ours.error == pytest.approx(gaps.sum(), abs=1e-9)


def test_calibration_of_a_model_that_is_as_often_right_as_it_says_and_of_one_too_sure():
    # 20 images at a probability of 0.8, of which 16 are right; then of which 10 are.
    logits = np.tile(np.log([[0.8, 0.1, 0.1]]), (20, 1)).astype(np.float32)
    perfect = predictions(np.array([0] * 16 + [1, 2] * 2), logits)
    assert scores.calibration(perfect).error == pytest.approx(0, abs=1e-6)
    sure = predictions(np.array([0] * 10 + [1, 2] * 5), logits)
    assert scores.calibration(sure).error == pytest.approx(0.3, abs=1e-6)
    assert scores.single_label_scores(sure)["ece"] == pytest.approx(0.3, abs=1e-6)


def test_calibration_of_several_classes_takes_every_probability():
    truth = np.array([[1, 0], [1, 1], [0, 0], [1, 1]], np.float32)
    logits = np.log([[3.0, 1.0]] * 4).astype(np.float32)  # 75 % and 50 %, as often as they are so
    found = predictions(truth, logits, multi_label=True)
    assert scores.calibration(found).error == pytest.approx(0, abs=1e-7)
    assert scores.calibration(found).counts.sum() == 8


def test_of_several_true_classes_any_is_right_and_images_without_one_are_left_out():
    labels = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0]], np.float32)
    logits = np.array([[1, 3, 0, 0], [0, 1, 4, 0], [9, 0, 0, 0], [5, 1, 0, 0]], np.float32)
    found = predictions(labels, logits, batch=2)
    assert found.places.tolist() == [0, 1, 3] and found.rank.tolist() == [0, 0, 1]
    ours = scores.single_label_scores(found)
    assert (ours["examples"], ours["top1"]) == (3, pytest.approx(2 / 3))
    log_probabilities = special.log_softmax(logits.astype(np.float64), axis=1)
    of_first = -(log_probabilities[0, 0] + log_probabilities[0, 1]) / 2
    assert found.loss[0] == pytest.approx(of_first)
    # Right ones count for the class that was told, wrong ones in parts for each of theirs.
    matrix = scores.confusion(found).toarray()
    expected = np.zeros((4, 4))
    expected[1, 1] = expected[2, 2] = 1
    expected[1, 0] = expected[2, 0] = 0.5
    np.testing.assert_array_equal(matrix, expected)
    np.testing.assert_allclose(scores.class_accuracies(matrix), [np.nan, 2 / 3, 2 / 3, np.nan])


def test_one_hot_labels_are_the_same_as_numbers():
    labels, _, logits = random_set((3, 30, 6))
    one_hot = np.eye(6, dtype=np.float32)[labels]
    of_numbers = scores.single_label_scores(predictions(labels, logits))
    assert scores.single_label_scores(predictions(one_hot, logits)) == of_numbers


def test_of_equal_logits_the_first_class_is_told():
    logits = np.zeros((3, 4), np.float32)
    found = predictions(np.array([0, 1, 3]), logits)
    assert found.rank.tolist() == [0, 1, 3] and found.predicted.tolist() == [0, 0, 0]


def test_many_classes_take_little_memory():
    labels = np.arange(4)
    logits = np.random.default_rng(0).normal(size=(4, 21_843)).astype(np.float32)
    found = predictions(labels, logits)
    assert found.logits is None and scores.confusion(found).nnz <= 4
    assert scores.single_label_scores(found)["examples"] == 4


def test_what_cannot_be_scored_is_refused():
    logits = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="no examples with a label"):
        predictions(np.zeros((2, 3), np.float32), logits)
    with pytest.raises(ValueError, match="no examples with a label"):
        scores.collect([])
    logits[1, 1] = np.inf
    with pytest.raises(FloatingPointError, match="not finite"):
        predictions(np.array([0, 1]), logits)
