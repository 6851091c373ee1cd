"""The losses against Keras, and against their definition in float64 NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from noah_tf.evaluation import metrics
from noah_tf.training import losses

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=3, size=(40, 7)).astype(np.float32)
LABELS = RNG.integers(0, 7, 40)
MULTI_HOT = (RNG.random((40, 7)) < 0.3).astype(np.float32)

gammas = st.floats(0, 6)
margins = st.one_of(st.just(0.0), st.floats(1e-9, 0.5))


def asymmetric_reference(targets, logits, gamma_positive, gamma_negative, margin):
    """Returns the loss as arXiv 2009.14119 defines it."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    shifted = np.maximum(p - margin, 0)
    positive = (1 - p) ** gamma_positive * np.log(p)
    negative = shifted**gamma_negative * np.log(1 - shifted)
    return -(targets * positive + (1 - targets) * negative).mean(axis=-1)


def gradients(targets, logits, *options):
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.asymmetric_losses(tf.constant(targets), logits, *options)
    return tape.gradient(loss, logits).numpy()


@settings(max_examples=60, deadline=None)
@given(gammas, gammas, margins)
def test_asymmetric_loss_is_that_of_the_paper(gamma_positive, gamma_negative, margin):
    options = (gamma_positive, gamma_negative, margin)
    ours = losses.asymmetric_losses(tf.constant(MULTI_HOT), tf.constant(LOGITS), *options)
    assert ours.dtype == tf.float32
    np.testing.assert_allclose(
        ours, asymmetric_reference(MULTI_HOT, LOGITS, *options), rtol=2e-5, atol=1e-7
    )


def test_docstring_example():
    result = losses.asymmetric_losses(tf.constant([[1.0, 0.0]]), tf.constant([[2.0, -1.0]]))
    assert float(result[0]) == pytest.approx(0.0637479, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 3.5])
def test_equal_gammas_without_a_margin_are_keras_focal_loss(gamma):
    keras = tf.keras.losses.BinaryFocalCrossentropy(gamma=gamma, from_logits=True, reduction="none")
    ours = losses.asymmetric_losses(MULTI_HOT, tf.constant(LOGITS), gamma, gamma, 0.0)
    np.testing.assert_allclose(ours, keras(MULTI_HOT, LOGITS), rtol=2e-5)
    loss = losses.training_loss(
        losses.LossSettings("binary_focal_crossentropy", focal_gamma=gamma), True
    )
    np.testing.assert_array_equal(loss(tf.constant(MULTI_HOT), tf.constant(LOGITS)), ours)


def test_gammas_of_zero_without_a_margin_are_binary_crossentropy():
    ours = losses.asymmetric_losses(MULTI_HOT, tf.constant(LOGITS), 0.0, 0.0, 0.0)
    plain = metrics.example_losses(tf.constant(MULTI_HOT), tf.constant(LOGITS), binary=True)
    np.testing.assert_allclose(ours, plain, rtol=1e-5)


@pytest.mark.parametrize("options", [(0.0, 4.0, 0.05), (1.0, 2.0, 0.0), (0.0, 0.0, 0.1)])
def test_gradients_are_those_of_the_definition(options):
    step = 1e-5
    for index in range(7):
        change = np.zeros(7)
        change[index] = step
        slopes = [
            asymmetric_reference(MULTI_HOT, LOGITS.astype(np.float64) + sign * change, *options)
            for sign in (1, -1)
        ]
        expected = (slopes[0] - slopes[1]) / (2 * step)
        result = gradients(MULTI_HOT, LOGITS, *options)[:, index]
        np.testing.assert_allclose(result, expected, rtol=2e-3, atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(gammas, gammas, margins, st.floats(-300, 300, width=32), st.sampled_from([0.0, 0.3, 1.0]))
def test_any_logit_has_a_finite_loss_and_gradient(gamma_positive, gamma_negative, margin, z, y):
    options = (gamma_positive, gamma_negative, margin)
    targets, logits = np.full((1, 1), y, np.float32), np.full((1, 1), z, np.float32)
    loss = losses.asymmetric_losses(tf.constant(targets), tf.constant(logits), *options)
    assert np.isfinite(loss).all() and loss[0] >= 0
    assert np.isfinite(gradients(targets, logits, *options)).all()


def test_class_with_a_very_wrong_logit_has_a_gradient():
    ones, far = np.ones((1, 1), np.float32), np.full((1, 1), -40.0, np.float32)
    for options in ((0.0, 4.0, 0.05), (2.0, 2.0, 0.0)):
        assert gradients(ones, far, *options)[0, 0] == pytest.approx(-1, abs=1e-3)
    assert gradients(1 - ones, -far, 2.0, 2.0, 0.0)[0, 0] == pytest.approx(1, abs=1e-3)


def test_negatives_below_the_margin_have_no_gradient():
    zeros = np.zeros((1, 2), np.float32)
    logits = np.array([[-3.0, -2.9]], np.float32)  # probabilities of 0.047 and 0.052
    result = gradients(zeros, logits, 0.0, 1.0, 0.05)[0]
    assert result[0] == 0 and result[1] > 0


def test_threshold_makes_the_classes_of_a_mixed_image_present():
    """A class counts above the threshold, and not at it, as in timm's BinaryCrossEntropy."""
    shares = np.float32([[0.0, 0.2, 0.2001, 0.6], [0.95, 0.05, 0.0, 0.0]])
    present = np.float32([[0, 0, 1, 1], [1, 0, 0, 0]])
    logits = tf.constant(LOGITS[:2, :4])
    settings = losses.LossSettings("binary_crossentropy", target_threshold=0.2)
    result = losses.training_loss(settings, multi_label=False)(tf.constant(shares), logits)
    probability = 1 / (1 + np.exp(-logits.numpy().astype(np.float64)))
    terms = np.where(present > 0, -np.log(probability), -np.log(1 - probability))
    np.testing.assert_allclose(result, terms.mean(axis=-1), rtol=1e-5)


def test_threshold_leaves_class_indices_and_smoothing_as_they_are():
    plain = losses.LossSettings("binary_crossentropy", label_smoothing=0.1)
    threshold = losses.LossSettings(
        "binary_crossentropy", label_smoothing=0.1, target_threshold=0.2
    )
    for targets in (LABELS, MULTI_HOT):
        one, other = (
            losses.training_loss(settings, True)(tf.constant(targets), tf.constant(LOGITS))
            for settings in (plain, threshold)
        )
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_threshold": 1.0}, r"train.target_threshold must be a number in \[0, 1\), got 1"),
        ({}, "train.target_threshold=0.2 is for binary_.*train.loss='auto'.*choose one of these"),
    ],
)
def test_threshold_of_no_use_raises(options, message):
    with pytest.raises(ValueError, match=message):
        losses.LossSettings(**{"loss": "auto", "target_threshold": 0.2, **options})


@pytest.mark.parametrize("loss", losses.BINARY_LOSSES)
def test_binary_losses_take_indices_and_shares(loss):
    loss = losses.training_loss(losses.LossSettings(loss, label_smoothing=0.1), multi_label=True)
    index_losses = loss(tf.constant(LABELS), tf.constant(LOGITS))
    one_hot = tf.one_hot(LABELS, 7)
    np.testing.assert_array_equal(index_losses, loss(one_hot, tf.constant(LOGITS)))
    # For mixed images, the loss is linear in the targets.
    mixed = loss(0.3 * one_hot + 0.7 * MULTI_HOT, tf.constant(LOGITS))
    parts = 0.3 * index_losses + 0.7 * loss(tf.constant(MULTI_HOT), tf.constant(LOGITS))
    np.testing.assert_allclose(mixed, parts, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("loss", "multi_label", "binary"),
    [
        ("auto", False, False),
        ("auto", True, True),
        ("binary_crossentropy", False, True),
        ("categorical_crossentropy", False, False),
    ],
)
def test_crossentropies(loss, multi_label, binary):
    loss = losses.training_loss(losses.LossSettings(loss, label_smoothing=0.1), multi_label)
    expected = metrics.example_losses(tf.constant(LABELS), tf.constant(LOGITS), binary, 0.1)
    np.testing.assert_array_equal(loss(tf.constant(LABELS), tf.constant(LOGITS)), expected)


def test_float16_logits_have_the_loss_of_their_values():
    half = tf.cast(LOGITS, tf.float16)
    loss = losses.training_loss(losses.LossSettings("asymmetric"), multi_label=True)
    result = loss(tf.constant(MULTI_HOT), half)
    assert result.dtype == tf.float32
    np.testing.assert_array_equal(result, loss(tf.constant(MULTI_HOT), tf.cast(half, tf.float32)))


@pytest.mark.parametrize("loss", losses.BINARY_LOSSES)
def test_linear_layer_learns_with_each_loss(loss):
    loss = losses.training_loss(losses.LossSettings(loss), multi_label=True)
    rng = np.random.default_rng(1)
    features = rng.normal(size=(60, 12))
    inputs = tf.constant(np.pad(features, ((0, 0), (0, 1)), constant_values=1), tf.float32)
    # Most classes are absent, as in COCO.
    targets = np.float32(features @ rng.normal(size=(12, 8)) > 4)
    kernel = tf.Variable(tf.zeros((13, 8)))
    for _ in range(60):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(tf.constant(targets), inputs @ kernel))
        kernel.assign_sub(20 * tape.gradient(value, kernel))
    scores = metrics.multi_label_metrics(targets, (inputs @ kernel).numpy())
    assert 0.05 < targets.mean() < 0.3 and scores["mAP"] > 0.9


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_categorical_focal_loss_is_that_of_keras(gamma, smoothing):
    keras = tf.keras.losses.CategoricalFocalCrossentropy(
        alpha=1.0, gamma=gamma, from_logits=True, label_smoothing=smoothing, reduction="none"
    )
    settings = losses.LossSettings(
        "categorical_focal_crossentropy", label_smoothing=smoothing, focal_gamma=gamma
    )
    loss = losses.training_loss(settings, multi_label=False)
    expected = keras(tf.one_hot(LABELS, 7), LOGITS)
    np.testing.assert_allclose(loss(tf.constant(LABELS), LOGITS), expected, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(loss(tf.one_hot(LABELS, 7), LOGITS), expected, rtol=1e-4, atol=2e-6)


def test_categorical_focal_loss_without_gamma_is_cross_entropy():
    ours = losses.categorical_focal_losses(tf.constant(LABELS), tf.constant(LOGITS), gamma=0.0)
    expected = metrics.example_losses(tf.constant(LABELS), LOGITS)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(gammas, st.floats(-200, 200, width=32))
def test_categorical_focal_loss_has_finite_gradients(gamma, z):
    logits = tf.constant([[z, 0.0, 1.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.categorical_focal_losses(tf.constant([0]), logits, gamma)
    gradient = tape.gradient(loss, logits)
    assert np.isfinite(loss).all() and np.isfinite(gradient).all()
    if z < -20:  # A class that is very wrong is learned, unlike with Keras's loss.
        assert gradient[0, 0] < -0.9


class _Labels:
    """Stands for a source of training examples with known labels."""

    name, multi_label, class_names, num_classes = "photos", False, ("a", "b", "c"), 3

    @staticmethod
    def known_labels(cached, purpose):
        return np.array([0, 0, 0, 2])


def test_class_weights():
    def weights(text, source=_Labels):
        return losses.LossSettings(class_weights=text).weights_of_classes(source, False)

    assert weights(None) is None
    assert weights("1, 2,0.5") == (1.0, 2.0, 0.5)
    # 4 examples in 2 classes that occur, of which one has 3 and the other 1.
    assert weights("balanced") == pytest.approx((4 / 6, 1.0, 2.0))
    with pytest.raises(ValueError, match="'1,2' has 2 weights, and photos has 3 classes: .* a, b"):
        weights("1,2")
    for text in ("", "1,x", "1,-1,1", "0,0,0", "1,inf,1", "inverse"):
        with pytest.raises(ValueError, match="class_weights must be 'balanced' or numbers from 0"):
            losses.LossSettings(class_weights=text)

    class Multi(_Labels):
        multi_label = True

    with pytest.raises(ValueError, match="class_weights='1,2,3' is for one label per example"):
        weights("1,2,3", Multi)


@pytest.mark.parametrize("name", ["auto", "categorical_focal_crossentropy", "binary_crossentropy"])
def test_class_weights_multiply_the_losses(name):
    weights = np.arange(7).astype(np.float32)
    plain = losses.training_loss(losses.LossSettings(name), False)
    weighted = losses.training_loss(losses.LossSettings(name), False, tuple(weights))
    expected = weights[LABELS] * plain(tf.constant(LABELS), LOGITS)
    np.testing.assert_allclose(weighted(tf.constant(LABELS), LOGITS), expected, rtol=1e-6)
    mixed = 0.25 * tf.one_hot(LABELS, 7) + 0.75 * tf.one_hot(LABELS[::-1], 7)
    factors = 0.25 * weights[LABELS] + 0.75 * weights[LABELS[::-1]]
    np.testing.assert_allclose(
        weighted(mixed, LOGITS), factors * plain(mixed, LOGITS), rtol=1e-5, atol=1e-6
    )
