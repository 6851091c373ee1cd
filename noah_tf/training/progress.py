"""What a run tells while it trains: progress bar, TensorBoard, a row of figures an epoch."""

import sys
import time

import numpy as np
import tensorflow as tf

from noah_tf.training.train_step import SUMS

_EXAMPLES, _SKIPPED = SUMS.index("examples"), SUMS.index("skipped")


class Progress(tf.Module):
    """Adds up the figures of a run.

    The sums are float64 and taken step by step, and are kept in checkpoints, so that a run that
    was stopped and resumed tells the same figures as one that was not. Times are not: they start
    anew.

    Args:
        config: the `train` section of the recipe.
        steps_per_epoch: steps of an epoch.
        writer: a `tf.summary` writer, or None.
    """

    def __init__(self, config, steps_per_epoch, writer=None):
        super().__init__()
        self._config, self._steps, self._writer = config, steps_per_epoch, writer
        with tf.device("CPU"):
            # Of the epoch, and since the last look.
            self._saved = tf.Variable(tf.zeros((2, len(SUMS)), tf.float64), trainable=False)
            self._epochs_done = tf.Variable(0, dtype=tf.int64, trainable=False)
            self._best = tf.Variable((-1.0, 0.0), dtype=tf.float64, trainable=False)
        self._sums = np.zeros((2, len(SUMS)))
        self._pending, self._save_seconds = [], 0.0

    def begin_epoch(self, epoch):
        """Starts the epoch with this number, or goes on with it after a restored checkpoint."""
        self._sums = self._saved.numpy()
        self._pending = []
        print(f"Epoch {epoch + 1}/{self._config.epochs}", flush=True)
        # Not a terminal: one line an epoch.
        self._bar = tf.keras.utils.Progbar(
            self._steps, verbose=1 if sys.stdout.isatty() else 2, stateful_metrics=SUMS
        )
        self._clock = _Clock()

    def add(self, sums, waited):
        """Adds the `SUMS` of a step, and the seconds that it waited for its data."""
        self._pending.append(sums)
        if self._clock.running:
            self._clock.add(waited)
        else:
            # The first step of a process is traced and compiled: time from its end.
            sums.numpy()
            self._clock.start()

    def look(self, step, learning_rate):
        """Shows the figures after `step` steps of the run; waits for the device.

        Returns:
            The mean loss since the last look.
        """
        self._fold()
        self._clock.look(self._config.batch_size)
        recent = _means(self._sums[1])
        self._sums[1] = 0
        position = (step - 1) % self._steps + 1
        shown = _means(self._sums[0])
        self._bar.update(position, [(name, shown[name]) for name in ("loss", "top1")])
        if self._writer is not None:
            self._summarize(
                step,
                {
                    **{f"train/{name}": recent[name] for name in ("loss", "top1", "top5")},
                    "train/learning_rate": learning_rate,
                    "speed/images_per_second": self._clock.images_per_second,
                    "speed/data_wait": self._clock.data_wait,
                },
            )
        return recent["loss"]

    @property
    def epochs_done(self):
        """Epochs that are trained and evaluated."""
        return int(self._epochs_done.numpy())

    @property
    def best(self):
        """(value, step) of the best evaluation so far."""
        value, step = self._best.numpy()
        return float(value), int(step)

    def is_best(self, value, step):
        """Whether an evaluation is better than all before; it is then the one to beat."""
        if value <= self.best[0]:
            return False
        self._best.assign((value, step))
        return True

    def add_save(self, seconds):
        """Counts the seconds that a checkpoint took, in which no step was made."""
        self._save_seconds += seconds

    def save(self):
        """Puts the sums where checkpoints find them."""
        self._fold()
        self._saved.assign(self._sums)

    def end_epoch(self, step, learning_rate, evaluations):
        """Closes the epoch.

        Args:
            step: steps of the run done.
            learning_rate: that of its last step.
            evaluations: dict of a prefix, as "ema_", to a dict of metrics.

        Returns:
            A dict of figures, the row of the epoch. Times are of the part of it since the run was
            started or resumed: images a second, the share of the time that steps waited for data,
            and the seconds of the checkpoints since the last row.
        """
        self._fold()
        sums = self._sums[0]
        row = {
            "epoch": step // self._steps,
            "step": step,
            **{name: round(value, 6) for name, value in _means(sums).items()},
            "examples": int(sums[_EXAMPLES]),
            "skipped": int(sums[_SKIPPED]),
            "learning_rate": float(f"{float(learning_rate):.6g}"),
            "images_per_second": round(self._clock.epoch_images_per_second, 1),
            "data_wait": round(self._clock.epoch_data_wait, 4),
            "save_seconds": round(self._save_seconds, 3),
        }
        self._save_seconds = 0.0
        found = {
            f"eval_{prefix}{name}": value
            for prefix, evaluation in evaluations.items()
            for name, value in evaluation.items()
        }
        if self._writer is not None:
            self._summarize(step, found)
        self._sums = np.zeros_like(self._sums)
        self._saved.assign(self._sums)
        self._epochs_done.assign(step // self._steps)
        return {**row, **found}

    def _fold(self):
        for sums in self._pending:
            self._sums += sums.numpy().astype(np.float64)
        self._pending = []

    def _summarize(self, step, scalars):
        with self._writer.as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        self._writer.flush()


def _means(sums):
    """Loss, top1 and top5 of sums over examples."""
    count = max(sums[_EXAMPLES], 1)
    return {name: float(sums[SUMS.index(name)] / count) for name in ("loss", "top1", "top5")}


class _Clock:
    """Times steps: all since it was made, and those since the last look."""

    def __init__(self):
        self.running = False
        self.images_per_second = self.data_wait = 0.0
        self.epoch_images_per_second = self.epoch_data_wait = 0.0
        self._total = np.zeros(3)  # steps, seconds, seconds of waiting

    def start(self):
        self.running = True
        self._since = time.monotonic()
        self._steps = self._waited = 0

    def add(self, waited):
        self._steps += 1
        self._waited += waited

    def look(self, batch_size):
        if not self.running or not self._steps:
            return
        recent = np.array([self._steps, time.monotonic() - self._since, self._waited])
        self._total += recent
        self.images_per_second, self.data_wait = _speed(recent, batch_size)
        self.epoch_images_per_second, self.epoch_data_wait = _speed(self._total, batch_size)
        self.start()


def _speed(figures, batch_size):
    steps, seconds, waited = figures
    return steps * batch_size / max(seconds, 1e-9), waited / max(seconds, 1e-9)
