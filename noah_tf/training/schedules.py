"""Learning-rate schedules of the recipes, as functions of the step alone."""

import math

import tensorflow as tf

from noah_tf.utils.validation import check_positive_int, is_number

SCHEDULES = ("cosine", "step", "linear", "constant")
UNITS = ("epoch", "step")


def make_schedule(config, peak, total_epochs, steps_per_epoch):
    """The learning rate of every step of a run.

    With t the epochs done, n the epochs of the run and w those of the warm-up:

        t < w       warmup_start + (peak - warmup_start) * t / w
        cosine      end + (peak - end) / 2 * (1 + cos(pi * t / n))
        linear      peak + (end - peak) * t / n
        step        peak * factor ** (number of boundaries <= t)
        constant    peak

    The warm-up takes the place of the schedule's beginning and does not shift it: a cosine begins
    below its peak where the warm-up ends, as timm's does. With `by` "epoch", t is whole epochs and
    the rate is set once an epoch; with "step" it is step / steps_per_epoch, and in the warm-up
    (step + 1) / steps_per_epoch, so that the first step of a warm-up from 0 moves already and the
    last one has the peak.

    Args:
        config: the `schedule` section of a recipe: `name` ("cosine", "step", "linear" or
            "constant"), `by` ("epoch" or "step"), `warmup_epochs` (may be fractional) and
            `warmup_start`, the rate at its beginning; for "cosine" and "linear" `end`, the final
            rate; for "step" `boundaries`, rising epochs, and `factor`.
        peak: the highest rate.
        total_epochs: n.
        steps_per_epoch: steps of one epoch.

    Returns:
        A function of a step (int or integer tensor, from 0) that returns a float32 scalar tensor.
        It may be called inside `tf.function`. Behind the last epoch the rate stays what it is at
        t = n.

    Raises:
        ValueError: an unknown name or unit, or a value that makes no sense.

    Example:

    >>> config = ml_collections.ConfigDict(
    ...     dict(name="step", by="epoch", boundaries=(30, 60, 90), factor=0.1, warmup_epochs=0,
    ...          warmup_start=0.0))
    >>> schedule = make_schedule(config, peak=0.1, total_epochs=100, steps_per_epoch=5004)
    >>> float(schedule(30 * 5004))
    0.009999999776482582

    Source: timm's CosineLRScheduler, whose warm-up is not prefixed.
    """
    _require(config.name in SCHEDULES, "name", f"one of {', '.join(SCHEDULES)}", config.name)
    _require(config.by in UNITS, "by", "'epoch' or 'step'", config.by)
    check_positive_int("steps_per_epoch", steps_per_epoch)
    if not is_number(total_epochs) or not total_epochs > 0:
        raise ValueError(f"the epochs of a schedule must be above 0, got {total_epochs!r}.")
    if not is_number(peak) or not 0 < peak < math.inf:
        raise ValueError(f"the peak of a schedule must be above 0, got {peak!r}.")
    warmup, start = _warmup(config, total_epochs)
    rate_at = _RATES[config.name](config, peak, total_epochs)
    by_epoch = config.by == "epoch"

    def schedule(step):
        # Whole numbers and float64: float32 cannot tell the steps of a long run apart.
        step = tf.cast(step, tf.int64)
        if by_epoch:
            epochs = warming = tf.cast(step // steps_per_epoch, tf.float64)
        else:
            epochs = tf.cast(step, tf.float64) / steps_per_epoch
            warming = tf.cast(step + 1, tf.float64) / steps_per_epoch
        rate = rate_at(tf.minimum(epochs, float(total_epochs)))
        if warmup:
            risen = start + (peak - start) * tf.minimum(warming / warmup, 1.0)
            rate = tf.where(epochs < warmup, risen, rate)
        return tf.cast(rate, tf.float32)

    return schedule


def _warmup(config, total_epochs):
    """(epochs, first rate) of the warm-up."""
    warmup, start = config.warmup_epochs, config.warmup_start
    _require(
        is_number(warmup) and 0 <= warmup < total_epochs,
        "warmup_epochs",
        f"at least 0 and less than the {total_epochs} epochs of the run",
        warmup,
    )
    _require(is_number(start) and 0 <= start < math.inf, "warmup_start", "at least 0", start)
    _require(
        start > 0 or not warmup or config.by == "step",
        "warmup_start",
        "above 0 where by='epoch', as the first epoch trains at that rate",
        start,
    )
    return float(warmup), float(start)


def _cosine(config, peak, total):
    end = _end(config)
    return lambda epochs: end + (peak - end) / 2 * (1 + tf.cos(math.pi * epochs / total))


def _linear(config, peak, total):
    end = _end(config)
    return lambda epochs: peak + (end - peak) * epochs / total


def _step(config, peak, total):
    boundaries = list(config.boundaries)
    rising = all(is_number(epoch) for epoch in boundaries)
    rising = rising and all(a < b for a, b in zip([0, *boundaries], boundaries, strict=False))
    _require(rising, "boundaries", "rising epochs above 0", config.boundaries)
    factor = config.factor
    _require(is_number(factor) and 0 < factor < math.inf, "factor", "above 0", factor)
    boundaries = tf.constant(boundaries, tf.float64, shape=(len(boundaries),))

    def rate(epochs):
        passed = tf.reduce_sum(tf.cast(boundaries <= epochs, tf.float64))
        return peak * tf.cast(factor, tf.float64) ** passed

    return rate


def _constant(config, peak, total):
    return lambda epochs: tf.constant(peak, tf.float64)


_RATES = {"cosine": _cosine, "linear": _linear, "step": _step, "constant": _constant}


def _end(config):
    _require(is_number(config.end) and 0 <= config.end < math.inf, "end", "at least 0", config.end)
    return float(config.end)


def _require(is_met, name, allowed, value):
    if not is_met:
        raise ValueError(f"schedule.{name} must be {allowed}, got {value!r}.")
