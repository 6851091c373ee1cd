"""The losses that a recipe can train with, for each example of a batch."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from noah_tf.datasets import Source
from noah_tf.evaluation import binary_targets, example_losses
from noah_tf.training.settings import raise_joined, range_problems
from noah_tf.utils.validation import check_rate, error_messages

LOSSES = (
    "auto",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "categorical_focal_crossentropy",
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "asymmetric",
)
BALANCED = "balanced"
# The losses that multi-label data can be trained with.
BINARY_LOSSES = ("binary_crossentropy", "binary_focal_crossentropy", "asymmetric")
# The losses for multi-label data only; binary cross-entropy is also for single-label data.
MULTI_LABEL_LOSSES = ("binary_focal_crossentropy", "asymmetric")


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """The loss that the `train` section of a recipe names, and its options.

    Attributes:
        loss: one of `LOSSES`.
        label_smoothing: in [0, 1).
        target_threshold: with one of `BINARY_LOSSES`, the target of a class is 1 if its share of a
            mixed example is above this number, and 0 otherwise; in [0, 1). None leaves the shares
            as they are. The targets are smoothed afterwards.
        focal_gamma: exponent of "categorical_focal_crossentropy" and "binary_focal_crossentropy".
        class_weights: weights of the classes for single-label data: numbers with commas between
            them, in the order of the classes, such as "1,2,0.5"; or "balanced", with which the
            weight of a class is inversely proportional to the number of its training examples. None
            for equal weights.
        gamma_positive: option of "asymmetric", see `asymmetric_losses`.
        gamma_negative: likewise.
        probability_margin: likewise.

    Raises:
        ValueError: the loss is unknown or values are out of range; the message names all of them.
    """

    loss: str = "auto"
    label_smoothing: float = 0.0
    target_threshold: float | None = None
    focal_gamma: float = 2.0
    gamma_positive: float = 0.0
    gamma_negative: float = 4.0
    probability_margin: float = 0.05
    class_weights: str | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.loss not in LOSSES:
            problems.append(f"train.loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        problems += error_messages(
            lambda: check_rate("train.label_smoothing", self.label_smoothing),
            lambda: check_rate("train.probability_margin", self.probability_margin),
        )
        threshold = self.target_threshold
        if threshold is not None:
            problems += error_messages(lambda: check_rate("train.target_threshold", threshold))
            if self.loss in LOSSES and self.loss not in BINARY_LOSSES:
                problems.append(
                    f"train.target_threshold={threshold} is for {', '.join(BINARY_LOSSES)}, and "
                    f"train.loss={self.loss!r}: leave it out, or choose one of these losses"
                )
        gammas = ("focal_gamma", "gamma_positive", "gamma_negative")
        problems += range_problems("train", self, dict.fromkeys(gammas, 0))
        if self.class_weights not in (None, BALANCED):
            problems += error_messages(lambda: _parse_weights(self.class_weights))
        raise_joined(problems)

    def is_binary(self, multi_label: bool) -> bool:
        """Returns whether each class has its own probability, apart from the other classes.

        Args:
            multi_label: whether an example can have several classes.
        """
        return multi_label if self.loss == "auto" else self.loss in BINARY_LOSSES

    def weights_of_classes(self, source: Source, cached: bool) -> tuple[float, ...] | None:
        """Returns the weights of the classes, or None for equal weights.

        Args:
            source: the training examples.
            cached: whether the training examples are kept in memory.

        Raises:
            ValueError: the number of weights is not that of the classes, or the source is
                multi-label, or its labels are not known without reading it.
        """
        if self.class_weights is None:
            return None
        if source.multi_label:
            raise ValueError(
                f"train.class_weights={self.class_weights!r} is for one label per example, and "
                f"{source.name} is multi-label: leave it out."
            )
        if self.class_weights == BALANCED:
            from sklearn.utils.class_weight import compute_class_weight

            labels = source.known_labels(cached, "train.class_weights='balanced'")
            present = np.unique(labels)
            balanced = np.ones(source.num_classes)
            balanced[present] = compute_class_weight("balanced", classes=present, y=labels)
            return tuple(balanced.tolist())
        weights = _parse_weights(self.class_weights)
        if len(weights) != source.num_classes:
            raise ValueError(
                f"train.class_weights={self.class_weights!r} has {len(weights)} weights, and "
                f"{source.name} has {source.num_classes} classes: give one for each class, in the "
                f"order {', '.join(source.class_names[:5])}"
                f"{', ...' if source.num_classes > 5 else ''}."
            )
        return weights


def _parse_weights(text: Any) -> tuple[float, ...]:
    try:
        weights = tuple(float(word) for word in text.split(","))
    except (AttributeError, ValueError):
        weights = ()
    if not weights or not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise ValueError(
            f"train.class_weights must be 'balanced' or numbers from 0 with commas between them, "
            f"such as '1,2,0.5', got {text!r}"
        )
    return weights


def training_loss(
    settings: LossSettings, multi_label: bool, class_weights: Sequence[float] | None = None
) -> Callable:
    """Returns the loss that a recipe names, as a function of targets and logits.

    Args:
        settings: the loss and its options, a `LossSettings`.
        multi_label: whether an example can have several classes. "auto" is
            "binary_crossentropy" for multi-label data and "categorical_crossentropy" otherwise.
        class_weights: the weight of each class, by which the losses of its examples are multiplied;
            the result of `LossSettings.weights_of_classes`.

    Returns:
        A function that maps targets, which are class indices (B,) or the share of every class
        (B, M), and logits (B, M) to losses (B,), float32.

    Example:

    >>> loss = training_loss(LossSettings("asymmetric"), multi_label=True)
    >>> tf.reduce_mean(loss(targets, model(images)))
    """
    losses = _unweighted_loss(settings, multi_label)
    if settings.target_threshold is not None:
        losses = _with_threshold(losses, settings.target_threshold)
    if class_weights is None:
        return losses
    weights = tf.constant(class_weights, tf.float32)

    def weighted_losses(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        if targets.shape.rank == 1:
            return tf.gather(weights, targets) * losses(targets, logits)
        return tf.linalg.matvec(targets, weights) * losses(targets, logits)  # of mixed examples

    return weighted_losses


def _unweighted_loss(settings: LossSettings, multi_label: bool) -> Callable:
    if settings.loss == "categorical_focal_crossentropy":
        return functools.partial(
            categorical_focal_losses,
            gamma=settings.focal_gamma,
            label_smoothing=settings.label_smoothing,
        )
    if settings.loss == "asymmetric":
        options = (settings.gamma_positive, settings.gamma_negative, settings.probability_margin)
    elif settings.loss == "binary_focal_crossentropy":
        # Keras 3's own focal loss has a gradient of 0 for classes that are wrong by more than 16
        # logits, because it clips the probability. Such classes would never be learned.
        options = (settings.focal_gamma, settings.focal_gamma, 0.0)
    else:
        return functools.partial(
            example_losses,
            binary=settings.is_binary(multi_label),
            label_smoothing=settings.label_smoothing,
        )

    def losses(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        targets = binary_targets(targets, logits.shape[-1], settings.label_smoothing)
        return asymmetric_losses(targets, logits, *options)

    return losses


def _with_threshold(losses: Callable, threshold: float) -> Callable:
    """Returns `losses` of the classes whose share of an example is above the threshold."""

    def threshold_losses(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        if targets.shape.rank == 2:  # class indices are not shares
            targets = tf.cast(targets > threshold, targets.dtype)
        return losses(targets, logits)

    return threshold_losses


def categorical_focal_losses(
    targets: tf.Tensor, logits: tf.Tensor, gamma: float = 2.0, label_smoothing: float = 0.0
) -> tf.Tensor:
    """Computes the focal loss of each example of a single-label batch.

    With p the softmax of the logits and y the target, the loss is the sum over the classes of
    -y * (1 - p) ** gamma * log(p). Examples that the model is sure of count less.

    Args:
        targets: class indices (B,), or a weight for every class (B, M).
        logits: (B, M).
        gamma: the exponent, at least 0. With 0 the loss is the cross-entropy.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).

    Returns:
        (B,), float32.

    Example:

    >>> categorical_focal_losses(tf.constant([0]), tf.constant([[2.0, 0.0]]))
    <tf.Tensor: shape=(1,), dtype=float32, numpy=array([0.00180356], dtype=float32)>

    Source: arXiv 1708.02002, section 3.
    """
    logits = tf.cast(logits, tf.float32)
    if targets.shape.rank == 1:
        targets = tf.one_hot(targets, logits.shape[-1])
    targets = targets * (1 - label_smoothing) + label_smoothing / logits.shape[-1]
    log_p = tf.nn.log_softmax(logits)
    # Rounding p to 1 would make the derivative of the power infinite for gammas below 1.
    rest = -tf.math.expm1(tf.minimum(log_p, -1e-7))
    return -tf.reduce_sum(targets * rest**gamma * log_p, axis=-1)


def asymmetric_losses(
    targets: tf.Tensor,
    logits: tf.Tensor,
    gamma_positive: float = 0.0,
    gamma_negative: float = 4.0,
    probability_margin: float = 0.05,
) -> tf.Tensor:
    """Computes the asymmetric loss of each example of a multi-label batch.

    With p the sigmoid of a logit, y its target and q = max(p - probability_margin, 0), the loss is
    the mean over the classes of

        -y * (1 - p) ** gamma_positive * log(p) - (1 - y) * q ** gamma_negative * log(1 - q)

    An example has few of the classes. The other classes count less if the model is sure that they
    are absent, and nothing if their probability is below the margin. Equal gammas without a margin
    give the focal loss (arXiv 1708.02002), and gammas of 0 give binary cross-entropy. The authors'
    code takes the sum over classes and batch instead of the mean.

    Args:
        targets: float (B, M), from 0 to 1.
        logits: (B, M).
        gamma_positive: exponent of the classes that an example has, at least 0: the larger it is,
            the less count classes that the model is sure of.
        gamma_negative: the same for the classes that an example does not have.
        probability_margin: in [0, 1): classes that an example does not have count nothing up to
            this probability.

    Returns:
        (B,), float32.

    Example:

    >>> asymmetric_losses(tf.constant([[1.0, 0.0]]), tf.constant([[2.0, -1.0]]))
    <tf.Tensor: shape=(1,), dtype=float32, numpy=array([0.0637479], dtype=float32)>

    Source: arXiv 2009.14119, section 2.
    """
    logits = tf.cast(logits, tf.float32)
    log_true, log_false = tf.math.log_sigmoid(logits), tf.math.log_sigmoid(-logits)
    # The derivative of x ** gamma is infinite at 0 for gammas below 1; that of exp is finite.
    positive = tf.exp(gamma_positive * log_false) * log_true
    if probability_margin:
        shifted = tf.sigmoid(logits) - probability_margin
        is_above_margin = shifted > 0
        # Any value above 0 will do: the gradient of these classes is multiplied by 0 below.
        shifted = tf.where(is_above_margin, shifted, 0.5)
        # 1 - q, computed without rounding p to 1: 1 - p + margin could be 0 for a small margin.
        log_rest = tf.math.log(tf.sigmoid(-logits) + probability_margin)
        negative = tf.where(is_above_margin, shifted**gamma_negative * log_rest, 0.0)
    else:
        negative = tf.exp(gamma_negative * log_true) * log_false
    return -tf.reduce_mean(targets * positive + (1 - targets) * negative, axis=-1)
