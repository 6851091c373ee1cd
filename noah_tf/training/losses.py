"""The losses that a recipe can train with, for each example of a batch."""

import dataclasses
import functools
from collections.abc import Callable

import tensorflow as tf

from noah_tf.evaluation import binary_targets, example_losses
from noah_tf.training.settings import raise_joined, range_problems
from noah_tf.utils.validation import check_rate, error_messages

LOSSES = (
    "auto",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "asymmetric",
)
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
        focal_gamma: exponent of "binary_focal_crossentropy".
        gamma_positive: option of "asymmetric", see `asymmetric_losses`.
        gamma_negative: likewise.
        probability_margin: likewise.

    Raises:
        ValueError: the loss is unknown or values are out of range; the message names all of them.
    """

    loss: str = "auto"
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    gamma_positive: float = 0.0
    gamma_negative: float = 4.0
    probability_margin: float = 0.05

    def __post_init__(self) -> None:
        problems = []
        if self.loss not in LOSSES:
            problems.append(f"train.loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        problems += error_messages(
            lambda: check_rate("train.label_smoothing", self.label_smoothing),
            lambda: check_rate("train.probability_margin", self.probability_margin),
        )
        gammas = ("focal_gamma", "gamma_positive", "gamma_negative")
        problems += range_problems("train", self, dict.fromkeys(gammas, 0))
        raise_joined(problems)


def training_loss(settings: LossSettings, multi_label: bool) -> Callable:
    """Returns the loss that a recipe names, as a function of targets and logits.

    Args:
        settings: the loss and its options, a `LossSettings`.
        multi_label: whether an example can have several classes. "auto" is
            "binary_crossentropy" for multi-label data and "categorical_crossentropy" otherwise.

    Returns:
        A function that maps targets, which are class indices (B,) or the share of every class
        (B, M), and logits (B, M) to losses (B,), float32.

    Example:

    >>> loss = training_loss(LossSettings("asymmetric"), multi_label=True)
    >>> tf.reduce_mean(loss(targets, model(images)))
    """
    if settings.loss == "asymmetric":
        options = (settings.gamma_positive, settings.gamma_negative, settings.probability_margin)
    elif settings.loss == "binary_focal_crossentropy":
        # Keras 3's own focal loss has a gradient of 0 for classes that are wrong by more than 16
        # logits, because it clips the probability. Such classes would never be learned.
        options = (settings.focal_gamma, settings.focal_gamma, 0.0)
    else:
        return functools.partial(
            example_losses,
            binary=multi_label if settings.loss == "auto" else settings.loss in BINARY_LOSSES,
            label_smoothing=settings.label_smoothing,
        )

    def losses(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        targets = binary_targets(targets, logits.shape[-1], settings.label_smoothing)
        return asymmetric_losses(targets, logits, *options)

    return losses


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
