"""The figures of a run: exact, and the same whether it was resumed or not."""

import numpy as np
import pytest
import tensorflow as tf
from recipes import quickstart

from noah_tf.training.progress import Progress
from noah_tf.training.train_step import SUMS

STEPS = 4


def step_sums(step):
    """What a step of eight examples might return."""
    rng = np.random.default_rng(step)
    skipped = step % 3 == 2
    return tf.constant([*(rng.random(3) * 7), 8 - skipped, skipped], tf.float32)


def settings():
    train = quickstart().train
    train.batch_size, train.epochs = 8, 2
    return train


def run(progress, epoch, start, looks):
    progress.begin_epoch(epoch)
    losses = {}
    for step in range(start, (epoch + 1) * STEPS):
        progress.add(step_sums(step), waited=0.0)
        if step in looks:
            losses[step] = progress.look(step + 1, 0.1)
    return losses


def mean(name, steps):
    sums = np.array([step_sums(step) for step in steps], np.float64).sum(axis=0)
    return sums[SUMS.index(name)] / sums[SUMS.index("examples")]


def test_means_are_over_examples_of_the_epoch_and_since_the_last_look():
    progress = Progress(settings(), STEPS)
    losses = run(progress, 0, 0, looks=(1, 3))
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
def test_a_resumed_epoch_has_the_figures_of_a_whole_one(tmp_path, saved_after):
    whole = Progress(settings(), STEPS)
    expected = run(whole, 0, 0, looks=(1, 3))

    killed = Progress(settings(), STEPS)
    killed.begin_epoch(0)
    for step in range(saved_after):
        killed.add(step_sums(step), waited=0.0)
        if step == 1:
            killed.look(2, 0.1)
    killed.save()
    path = tf.train.Checkpoint(progress=killed).save(str(tmp_path / "ckpt"))

    resumed = Progress(settings(), STEPS)
    tf.train.Checkpoint(progress=resumed).restore(path).assert_consumed()
    assert run(resumed, 0, saved_after, looks=(1, 3))[3] == expected[3]  # to the last bit
    rows = [each.end_epoch(STEPS, 0.1, {}) for each in (whole, resumed)]
    for row in rows:
        for name in ("images_per_second", "data_wait"):
            del row[name]
    assert rows[0] == rows[1]


def test_the_best_evaluation_is_kept_with_its_step(tmp_path):
    progress = Progress(settings(), STEPS)
    found = [progress.is_best(value, step) for step, value in enumerate((0.0, 0.2, 0.2, 0.1, 0.3))]
    assert found == [True, True, False, False, True]
    assert progress.best == (0.3, 4)
    path = tf.train.Checkpoint(progress=progress).save(str(tmp_path / "ckpt"))
    resumed = Progress(settings(), STEPS)
    tf.train.Checkpoint(progress=resumed).restore(path)
    assert not resumed.is_best(0.3, 5) and resumed.best == (0.3, 4)


def test_waiting_and_saving_are_told(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = Progress(settings(), STEPS)
    progress.begin_epoch(0)
    for step in range(STEPS):
        now[0] += 2.0
        progress.add(step_sums(step), waited=0.5)
    progress.look(STEPS, 0.1)
    progress.add_save(1.25)
    progress.add_save(0.5)
    row = progress.end_epoch(STEPS, 0.1, {})
    # The first step is left out: it is traced and compiled.
    assert row["images_per_second"] == 4.0 and row["data_wait"] == 0.25
    assert row["save_seconds"] == 1.75
    progress.begin_epoch(1)
    assert progress.end_epoch(2 * STEPS, 0.1, {})["save_seconds"] == 0
