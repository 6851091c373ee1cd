"""The metrics of a run are exact, and the same whether it was resumed or not."""

import numpy as np
import pytest
import tensorflow as tf

from noah_tf.training.progress import Progress, Timer
from noah_tf.training.settings import TrainSettings
from noah_tf.training.train_step import SUMS

pytestmark = pytest.mark.one_stack

STEPS = 4
SETTINGS = TrainSettings(epochs=2, batch_size=8)


def step_sums(step):
    """Sums that a step of eight examples could return."""
    rng = np.random.default_rng(step)
    skipped = step % 3 == 2
    return tf.constant([*(rng.random(3) * 7), 8 - skipped, skipped], tf.float32)


def run(progress, epoch, start, log_steps):
    progress.begin_epoch(epoch)
    losses = {}
    for step in range(start, (epoch + 1) * STEPS):
        progress.add(step_sums(step), wait_seconds=0.0)
        if step in log_steps:
            losses[step] = progress.log(step + 1, 0.1)
    return losses


def mean(name, steps):
    sums = np.array([step_sums(step) for step in steps], np.float64).sum(axis=0)
    return sums[SUMS.index(name)] / sums[SUMS.index("examples")]


def test_means_are_of_the_epoch_and_since_the_last_log():
    progress = Progress(SETTINGS, STEPS)
    losses = run(progress, 0, 0, log_steps=(1, 3))
    assert losses == {
        1: pytest.approx(mean("loss", (0, 1))),
        3: pytest.approx(mean("loss", (2, 3))),
    }
    row = progress.end_epoch(STEPS, 0.1, {"": {"top1": 0.5}, "ema_": {"top1": 0.75}})
    assert row["loss"] == pytest.approx(mean("loss", range(4)), abs=1e-6)
    assert row["top5"] == pytest.approx(mean("top5", range(4)), abs=1e-6)
    assert (row["epoch"], row["step"], row["examples"], row["skipped"]) == (1, 4, 31, 1)
    assert (row["eval_top1"], row["eval_ema_top1"]) == (0.5, 0.75)
    assert progress.epochs_done == 1


@pytest.mark.parametrize("saved_after", range(1, STEPS))
def test_resumed_epoch_has_the_metrics_of_a_whole_one(tmp_path, saved_after):
    whole = Progress(SETTINGS, STEPS)
    expected = run(whole, 0, 0, log_steps=(1, 3))

    killed = Progress(SETTINGS, STEPS)
    killed.begin_epoch(0)
    for step in range(saved_after):
        killed.add(step_sums(step), wait_seconds=0.0)
        if step == 1:
            killed.log(2, 0.1)
    killed.save()
    path = tf.train.Checkpoint(progress=killed).save(str(tmp_path / "ckpt"))

    resumed = Progress(SETTINGS, STEPS)
    tf.train.Checkpoint(progress=resumed).restore(path).assert_consumed()
    assert run(resumed, 0, saved_after, log_steps=(1, 3))[3] == expected[3]  # to the last bit
    rows = [each.end_epoch(STEPS, 0.1, {}) for each in (whole, resumed)]
    for row in rows:
        for name in ("images_per_second", "data_wait"):
            del row[name]
    assert rows[0] == rows[1]


def test_best_evaluation_is_saved_with_its_step(tmp_path):
    progress = Progress(SETTINGS, STEPS)
    is_best = [
        progress.update_best(value, step) for step, value in enumerate((0.0, 0.2, 0.2, 0.1, 0.3))
    ]
    assert is_best == [True, True, False, False, True]
    assert progress.best == (0.3, 4)
    path = tf.train.Checkpoint(progress=progress).save(str(tmp_path / "ckpt"))
    resumed = Progress(SETTINGS, STEPS)
    tf.train.Checkpoint(progress=resumed).restore(path)
    assert not resumed.update_best(0.3, 5) and resumed.best == (0.3, 4)


def test_row_has_speed_and_times():
    now = [0.0]
    progress = Progress(SETTINGS, STEPS, clock=lambda: now[0])
    progress.begin_epoch(0)
    for step in range(STEPS):
        now[0] += 2.0
        progress.add(step_sums(step), wait_seconds=0.5)
    progress.log(STEPS, 0.1)
    progress.add_save_seconds(1.25)
    progress.add_save_seconds(0.5)
    row = progress.end_epoch(STEPS, 0.1, {})
    # The first step is not measured, because TensorFlow traces and compiles it.
    assert row["images_per_second"] == 4.0 and row["data_wait"] == 0.25
    assert row["save_seconds"] == 1.75
    progress.begin_epoch(1)
    assert progress.end_epoch(2 * STEPS, 0.1, {})["save_seconds"] == 0


def test_timer_is_due_after_its_minutes():
    now = [0.0]
    timer, disabled = (Timer(minutes, lambda: now[0]) for minutes in (2, 0))
    for seconds, is_due in ((119, False), (120, True), (1e9, True)):
        now[0] = seconds
        assert (timer.is_due, disabled.is_due) == (is_due, False)
    timer.restart()
    assert not timer.is_due
