"""The losses that a recipe trains with, of each example of a batch."""

import functools

import tensorflow as tf

from noah_tf.evaluation.metrics import binary_targets, example_losses

LOSSES = (
    "auto",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "asymmetric",
)
# Those that take several labels an image.
BINARY_LOSSES = ("binary_crossentropy", "binary_focal_crossentropy", "asymmetric")
# Those that are for these alone; binary cross-entropy serves images of one label as well.
MULTI_LABEL_LOSSES = ("binary_focal_crossentropy", "asymmetric")


def training_loss(config, multi_label):
    """The loss that a recipe names.

    Args:
        config: its `train` section: `loss`, one of `LOSSES`, and `label_smoothing`; `focal_gamma`
            for "binary_focal_crossentropy"; `gamma_positive`, `gamma_negative` and
            `probability_margin` for "asymmetric".
        multi_label: whether an image can have several classes: "auto" is then
            "binary_crossentropy", and else "categorical_crossentropy".

    Returns:
        A function of targets, class indices (B,) or the share of every class (B, M), and logits
        (B, M), to losses (B,), float32.

    Example:

    >>> loss = training_loss(config.train, multi_label=True)
    >>> tf.reduce_mean(loss(targets, model(images)))
    """
    if config.loss == "asymmetric":
        options = (config.gamma_positive, config.gamma_negative, config.probability_margin)
    elif config.loss == "binary_focal_crossentropy":
        # Not Keras's: its gradient is 0 where Keras 3 clips the probability, so that a class which
        # is wrong by more than 16 logits would never be learnt.
        options = (config.focal_gamma, config.focal_gamma, 0.0)
    else:
        return functools.partial(
            example_losses,
            binary=multi_label if config.loss == "auto" else config.loss in BINARY_LOSSES,
            label_smoothing=config.label_smoothing,
        )

    def losses(targets, logits):
        targets = binary_targets(targets, logits.shape[-1], config.label_smoothing)
        return asymmetric_losses(targets, logits, *options)

    return losses


def asymmetric_losses(
    targets, logits, gamma_positive=0.0, gamma_negative=4.0, probability_margin=0.05
):
    """Asymmetric loss of each example of a batch whose images can have several classes.

    With p the sigmoid of a logit, y its target and q = max(p - probability_margin, 0), it is the
    mean over the classes of

        -y * (1 - p) ** gamma_positive * log(p) - (1 - y) * q ** gamma_negative * log(1 - q)

    Of the many classes that an image has not, those that the model is sure of count less and at
    last nothing. Equal gammas without a margin give the focal loss (arXiv 1708.02002), and gammas
    of 0 binary cross-entropy. The authors' code adds up over the classes and the batch.

    Args:
        targets: float (B, M), from 0 to 1.
        logits: (B, M).
        gamma_positive: how much less the classes of an image count that are well recognised, at
            least 0.
        gamma_negative: the same for the classes that it has not.
        probability_margin: in [0, 1), the probability up to which these do not count at all.

    Returns:
        (B,), float32.

    Example:

    >>> asymmetric_losses(tf.constant([[1.0, 0.0]]), tf.constant([[2.0, -1.0]]))
    <tf.Tensor: shape=(1,), dtype=float32, numpy=array([0.0637479], dtype=float32)>

    Source: arXiv 2009.14119, section 2.
    """
    logits = tf.cast(logits, tf.float32)
    log_true, log_false = tf.math.log_sigmoid(logits), tf.math.log_sigmoid(-logits)
    # A power of 0 has no finite derivative where its exponent is below 1, exp has.
    positive = tf.exp(gamma_positive * log_false) * log_true
    if probability_margin:
        shifted = tf.sigmoid(logits) - probability_margin
        counts = shifted > 0
        # Anything above 0, for the derivative of what does not count is multiplied by 0.
        shifted = tf.where(counts, shifted, 0.5)
        # 1 - q without the rounding of p to 1, which leaves no logarithm where the margin is small.
        log_rest = tf.math.log(tf.sigmoid(-logits) + probability_margin)
        negative = tf.where(counts, shifted**gamma_negative * log_rest, 0.0)
    else:
        negative = tf.exp(gamma_negative * log_true) * log_false
    return -tf.reduce_mean(targets * positive + (1 - targets) * negative, axis=-1)
