"""The metrics of a run while it trains: progress bar, TensorBoard, one row per epoch."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from noah_tf.training.settings import TrainSettings
from noah_tf.training.train_step import SUMS

_EXAMPLES, _SKIPPED = SUMS.index("examples"), SUMS.index("skipped")


class Progress(tf.Module):
    """Adds up the metrics of a run.

    The sums are float64, added step by step, and saved in checkpoints, so a run that was stopped
    and resumed has the same metrics as one that was not. Times are not saved; they start anew.

    Args:
        settings: the `TrainSettings` of the run.
        steps_per_epoch: steps of an epoch.
        writer: a `tf.summary` writer, or None.
        clock: a function that returns seconds.
    """

    def __init__(
        self,
        settings: TrainSettings,
        steps_per_epoch: int,
        writer: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._settings, self._steps_per_epoch = settings, steps_per_epoch
        self._writer, self._clock = writer, clock
        with tf.device("CPU"):
            # Two rows: the sums of the epoch, and those since the last log.
            self._saved = tf.Variable(tf.zeros((2, len(SUMS)), tf.float64), trainable=False)
            self._epochs_done = tf.Variable(0, dtype=tf.int64, trainable=False)
            self._best = tf.Variable((-1.0, 0.0), dtype=tf.float64, trainable=False)
        self._sums = np.zeros((2, len(SUMS)))
        self._pending: list = []
        self._save_seconds = 0.0

    def begin_epoch(self, epoch: int) -> None:
        """Starts the epoch with this number, or continues it after a restored checkpoint."""
        self._sums = self._saved.numpy()
        self._pending = []
        print(f"Epoch {epoch + 1}/{self._settings.epochs}", flush=True)
        # Without a terminal, the bar is one line per epoch.
        self._bar = tf.keras.utils.Progbar(
            self._steps_per_epoch, verbose=1 if sys.stdout.isatty() else 2, stateful_metrics=SUMS
        )
        self._speed = _Speed(self._settings.batch_size, self._clock)

    def add(self, sums: tf.Tensor, wait_seconds: float) -> None:
        """Adds the `SUMS` of a step, and the seconds that it waited for its data."""
        self._pending.append(sums)
        if self._speed.is_running:
            self._speed.add(wait_seconds)
        else:
            # TensorFlow traces and compiles the first step, so the measurement starts at its end.
            sums.numpy()
            self._speed.start()

    def log(self, step: int, learning_rate: float) -> float:
        """Shows the metrics after `step` steps of the run; waits for the device.

        Returns:
            The mean loss since the last log.
        """
        self._add_pending()
        self._speed.update()
        recent = _means(self._sums[1])
        self._sums[1] = 0
        position = (step - 1) % self._steps_per_epoch + 1
        epoch_means = _means(self._sums[0])
        self._bar.update(position, [(name, epoch_means[name]) for name in ("loss", "top1")])
        if self._writer is not None:
            self._summarize(
                step,
                {
                    **{f"train/{name}": recent[name] for name in ("loss", "top1", "top5")},
                    "train/learning_rate": learning_rate,
                    "speed/images_per_second": self._speed.images_per_second,
                    "speed/data_wait": self._speed.data_wait,
                },
            )
        return recent["loss"]

    def epoch_means(self) -> dict[str, float]:
        """Returns loss, top1 and top5 of the epoch so far; waits for the device."""
        self._add_pending()
        return _means(self._sums[0])

    @property
    def epochs_done(self) -> int:
        """Number of epochs that are trained and evaluated."""
        return int(self._epochs_done.numpy())

    @property
    def best(self) -> tuple[float, int]:
        """(value, step) of the best evaluation so far."""
        value, step = self._best.numpy()
        return float(value), int(step)

    @property
    def epochs_since_best(self) -> int:
        """Number of epochs since the best evaluation so far."""
        return self.epochs_done - self.best[1] // self._steps_per_epoch

    def update_best(self, value: float, step: int) -> bool:
        """Remembers an evaluation if it is better than all before it, and returns whether it is."""
        if value <= self.best[0]:
            return False
        self._best.assign((value, step))
        return True

    def add_save_seconds(self, seconds: float) -> None:
        """Adds the seconds that saving a checkpoint took."""
        self._save_seconds += seconds

    def save(self) -> None:
        """Copies the sums into the variables that checkpoints save."""
        self._add_pending()
        self._saved.assign(self._sums)

    def end_epoch(
        self, step: int, learning_rate: float, evaluations: dict[str, dict[str, Any]]
    ) -> dict[str, Any]:
        """Ends the epoch and returns its row.

        Args:
            step: steps of the run that are done.
            learning_rate: learning rate of the last step.
            evaluations: dict that maps a prefix, such as "ema_", to a dict of metrics.

        Returns:
            A dict of metrics. "images_per_second" and "data_wait", the share of the time that steps
            waited for data, are of the part of the epoch since the run was started or resumed.
            "save_seconds" is the time of the checkpoints since the last row.
        """
        self._add_pending()
        sums = self._sums[0]
        row = {
            "epoch": step // self._steps_per_epoch,
            "step": step,
            **{name: round(value, 6) for name, value in _means(sums).items()},
            "examples": int(sums[_EXAMPLES]),
            "skipped": int(sums[_SKIPPED]),
            "learning_rate": float(f"{float(learning_rate):.6g}"),
            "images_per_second": round(self._speed.epoch_images_per_second, 1),
            "data_wait": round(self._speed.epoch_data_wait, 4),
            "save_seconds": round(self._save_seconds, 3),
        }
        self._save_seconds = 0.0
        eval_metrics = with_prefix(evaluations, "eval_")
        if self._writer is not None:
            self._summarize(step, eval_metrics)
        self._sums = np.zeros_like(self._sums)
        self._saved.assign(self._sums)
        self._epochs_done.assign(step // self._steps_per_epoch)
        return {**row, **eval_metrics}

    def _add_pending(self) -> None:
        for sums in self._pending:
            self._sums += sums.numpy().astype(np.float64)
        self._pending = []

    def _summarize(self, step: int, scalars: dict[str, float]) -> None:
        with self._writer.as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        self._writer.flush()


def with_prefix(evaluations: dict[str, dict[str, Any]], first: str = "") -> dict[str, Any]:
    """Returns the metrics of all evaluations, each with the prefix of its evaluation."""
    return {
        f"{first}{prefix}{name}": value
        for prefix, evaluation in evaluations.items()
        for name, value in evaluation.items()
    }


class Timer:
    """A timer that is due once every `minutes` minutes. 0 disables it.

    Args:
        minutes: minutes from a restart until the timer is due.
        clock: a function that returns seconds.
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = 60 * minutes or math.inf, clock
        self.restart()

    def restart(self) -> None:
        """Starts the time anew."""
        self._started = self._clock()

    @property
    def is_due(self) -> bool:
        """True once the interval since the last restart has passed."""
        return self._clock() - self._started >= self._seconds


class _Speed:
    """The speed of the steps since its construction, and of those since the last update."""

    def __init__(self, batch_size: int, clock: Callable[[], float]) -> None:
        self._batch_size, self._clock = batch_size, clock
        self.is_running = False
        self.images_per_second = self.data_wait = 0.0
        self.epoch_images_per_second = self.epoch_data_wait = 0.0
        self._total = np.zeros(3)  # steps, seconds, seconds of waiting

    def start(self) -> None:
        self.is_running = True
        self._started = self._clock()
        self._steps, self._wait_seconds = 0, 0.0

    def add(self, wait_seconds: float) -> None:
        self._steps += 1
        self._wait_seconds += wait_seconds

    def update(self) -> None:
        if not self.is_running or not self._steps:
            return
        recent = np.array([self._steps, self._clock() - self._started, self._wait_seconds])
        self._total += recent
        self.images_per_second, self.data_wait = self._rates(recent)
        self.epoch_images_per_second, self.epoch_data_wait = self._rates(self._total)
        self.start()

    def _rates(self, measured: np.ndarray) -> tuple[float, float]:
        """Images per second, and the share of the time that steps waited for data."""
        steps, seconds, wait_seconds = measured
        return steps * self._batch_size / max(seconds, 1e-9), wait_seconds / max(seconds, 1e-9)


def _means(sums: np.ndarray) -> dict[str, float]:
    """Returns the means over examples of loss, top1 and top5."""
    count = max(sums[_EXAMPLES], 1)
    return {name: float(sums[SUMS.index(name)] / count) for name in ("loss", "top1", "top5")}
