"""Learning-rate schedules of the recipes, as functions of the step alone."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import ml_collections
import tensorflow as tf

from noah_tf.utils.validation import check_positive_int, is_int, is_number

SCHEDULES = ("cosine", "step", "linear", "constant")
UNITS = ("epoch", "step")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate over a run. Constructing it checks the values.

    With t the epochs done, n the epochs of the run and w those of the warm-up, the rate is

        t < w       warmup_start + (peak - warmup_start) * t / w
        cosine      end + (peak - end) / 2 * (1 + cos(pi * t / n))
        linear      peak + (end - peak) * t / n
        step        peak * factor ** (number of boundaries <= t)
        constant    peak

    The warm-up replaces the beginning of the schedule and does not shift it: after the warm-up a
    cosine starts below its peak, as timm's does. With `by` "epoch", t is whole epochs and the rate
    changes once per epoch. With `by` "step", t is step / steps_per_epoch, and during the warm-up
    (step + 1) / steps_per_epoch: the first step of a warm-up from 0 has a rate above 0, and the
    last step of the warm-up has the peak.

    Attributes:
        peak: the highest learning rate, `optimizer.learning_rate` of a recipe.
        total_epochs: n, above 0.
        name: "cosine", "step", "linear" or "constant".
        by: "epoch" or "step".
        warmup_epochs: w, at least 0 and below n; may be fractional.
        warmup_start: learning rate at the start of the warm-up.
        end: final learning rate of "cosine" and "linear".
        lag_epochs: number of epochs by which a schedule by epoch lags behind: epoch e is trained at
            the rate of epoch max(e - lag_epochs, 0).
        boundaries: rising epochs of "step".
        factor: what "step" multiplies the learning rate by at each boundary.

    Raises:
        ValueError: a value is unknown or out of range.

    Source: timm's CosineLRScheduler without `warmup_prefix`.
    """

    peak: float
    total_epochs: float
    name: str = "cosine"
    by: str = "step"
    warmup_epochs: float = 0.0
    warmup_start: float = 0.0
    end: float = 0.0
    lag_epochs: int = 0
    boundaries: tuple = ()
    factor: float = 0.1

    def __post_init__(self) -> None:
        _require(self.name in SCHEDULES, "schedule.name", _one_of(SCHEDULES), self.name)
        _require(self.by in UNITS, "schedule.by", "'epoch' or 'step'", self.by)
        _require(
            _is_positive(self.total_epochs), "train.epochs", "a number above 0", self.total_epochs
        )
        _require(_is_positive(self.peak), "optimizer.learning_rate", "above 0", self.peak)
        self._check_warmup()
        lag = self.lag_epochs
        _require(is_int(lag) and lag >= 0, "schedule.lag_epochs", "a whole number from 0", lag)
        _require(
            not lag or self.by == "epoch", "schedule.lag_epochs", "0 if schedule.by='step'", lag
        )
        if self.name in ("cosine", "linear"):
            _require(_is_at_least_zero(self.end), "schedule.end", "at least 0", self.end)
        if self.name == "step":
            self._check_boundaries()

    @property
    def depends_on_epochs(self) -> bool:
        """Whether the rate of a step depends on how many epochs the run has."""
        return self.name in ("cosine", "linear")

    @classmethod
    def from_config(
        cls, section: ml_collections.ConfigDict, peak: float, total_epochs: float
    ) -> "Schedule":
        """Returns the schedule that the `schedule` section of a recipe describes."""
        names = [field.name for field in dataclasses.fields(cls)]
        values = {name: section[name] for name in names if name in section}
        return cls(peak, total_epochs, **values)

    def for_steps(self, steps_per_epoch: int) -> Callable:
        """Returns the learning rate as a function of the step.

        Args:
            steps_per_epoch: steps of one epoch.

        Returns:
            A function that maps a step (int or integer tensor, from 0) to a float32 scalar
            tensor. It can be called inside `tf.function`. After the last epoch the rate stays at
            its value of t = n.

        Raises:
            ValueError: `steps_per_epoch` is not a positive integer.
        """
        check_positive_int("steps_per_epoch", steps_per_epoch)
        warmup, start = float(self.warmup_epochs), float(self.warmup_start)
        rate_at = _RATES[self.name](self)
        by_epoch = self.by == "epoch"

        def schedule(step: Any) -> tf.Tensor:
            # int64 and float64, because float32 cannot represent every step of a long run.
            step = tf.cast(step, tf.int64)
            if by_epoch:
                epoch = tf.maximum(step // steps_per_epoch - self.lag_epochs, 0)
                epochs = warmup_time = tf.cast(epoch, tf.float64)
            else:
                epochs = tf.cast(step, tf.float64) / steps_per_epoch
                warmup_time = tf.cast(step + 1, tf.float64) / steps_per_epoch
            rate = rate_at(tf.minimum(epochs, float(self.total_epochs)))
            if warmup:
                warmup_rate = start + (self.peak - start) * tf.minimum(warmup_time / warmup, 1.0)
                rate = tf.where(epochs < warmup, warmup_rate, rate)
            return tf.cast(rate, tf.float32)

        return schedule

    def _check_warmup(self) -> None:
        warmup, start = self.warmup_epochs, self.warmup_start
        _require(
            is_number(warmup) and 0 <= warmup < self.total_epochs,
            "schedule.warmup_epochs",
            f"at least 0 and less than the {self.total_epochs} epochs of the run",
            warmup,
        )
        _require(_is_at_least_zero(start), "schedule.warmup_start", "at least 0", start)
        _require(
            start > 0 or not warmup or self.by == "step",
            "schedule.warmup_start",
            "above 0 if schedule.by='epoch', because the first epoch trains at that rate",
            start,
        )

    def _check_boundaries(self) -> None:
        epochs = list(self.boundaries)
        is_rising = all(is_number(epoch) for epoch in epochs) and all(
            low < high for low, high in zip([0, *epochs], epochs, strict=False)
        )
        _require(is_rising, "schedule.boundaries", "rising epochs above 0", self.boundaries)
        _require(
            not epochs or epochs[-1] < self.total_epochs,
            "schedule.boundaries",
            f"below the {self.total_epochs} epochs of the run",
            tuple(epochs),
        )
        _require(_is_positive(self.factor), "schedule.factor", "above 0", self.factor)


def make_schedule(
    section: ml_collections.ConfigDict, peak: float, total_epochs: float, steps_per_epoch: int
) -> Callable:
    """Returns the learning rate of every step of a run.

    Args:
        section: the `schedule` section of a recipe, see `Schedule`.
        peak: the highest learning rate.
        total_epochs: epochs of the run.
        steps_per_epoch: steps of one epoch.

    Returns:
        A function that maps a step (int or integer tensor, from 0) to a float32 scalar tensor.

    Raises:
        ValueError: a value is unknown or out of range.

    Example:

    >>> section = ml_collections.ConfigDict(
    ...     dict(name="step", by="epoch", boundaries=(30, 60, 90), factor=0.1, warmup_epochs=0,
    ...          warmup_start=0.0))
    >>> schedule = make_schedule(section, peak=0.1, total_epochs=100, steps_per_epoch=5004)
    >>> float(schedule(30 * 5004))
    0.009999999776482582
    """
    return Schedule.from_config(section, peak, total_epochs).for_steps(steps_per_epoch)


def _cosine(schedule: Schedule) -> Callable:
    peak, end, total = schedule.peak, float(schedule.end), schedule.total_epochs
    return lambda epochs: end + (peak - end) / 2 * (1 + tf.cos(math.pi * epochs / total))


def _linear(schedule: Schedule) -> Callable:
    peak, end, total = schedule.peak, float(schedule.end), schedule.total_epochs
    return lambda epochs: peak + (end - peak) * epochs / total


def _step(schedule: Schedule) -> Callable:
    count = len(schedule.boundaries)
    boundaries = tf.constant(list(schedule.boundaries), tf.float64, shape=(count,))

    def rate(epochs: tf.Tensor) -> tf.Tensor:
        num_passed = tf.reduce_sum(tf.cast(boundaries <= epochs, tf.float64))
        return schedule.peak * tf.cast(schedule.factor, tf.float64) ** num_passed

    return rate


def _constant(schedule: Schedule) -> Callable:
    return lambda epochs: tf.constant(schedule.peak, tf.float64)


_RATES = {"cosine": _cosine, "linear": _linear, "step": _step, "constant": _constant}


def _is_positive(value: Any) -> bool:
    return is_number(value) and 0 < value < math.inf


def _is_at_least_zero(value: Any) -> bool:
    return is_number(value) and 0 <= value < math.inf


def _one_of(names: tuple[str, ...]) -> str:
    return f"one of {', '.join(names)}"


def _require(is_met: bool, name: str, allowed: str, value: Any) -> None:
    if not is_met:
        raise ValueError(f"{name} must be {allowed}, got {value!r}.")
