"""Linear probes, early stopping, and runs that are trained further."""

import json
import shutil

import numpy as np
import pytest
from recipes import small_recipe
from stacks import slow_on_one_stack
from training_runs import train_and_kill, weights

from noah_tf.runs.checkpoint import load_run
from noah_tf.training.loop import train


def constant_recipe(shapes, epochs=2):
    config = small_recipe(shapes)
    config.schedule.name = "constant"
    config.train.epochs = epochs
    return config


def rows(workdir):
    lines = (workdir / "epochs.csv").read_text().splitlines()
    header = lines[0].split(",")
    # Times differ between runs.
    timed = {"images_per_second", "data_wait", "save_seconds"}
    return [
        {key: value for key, value in zip(header, line.split(","), strict=True) if key not in timed}
        for line in lines[1:]
    ]


def assert_same_runs(one, other):
    assert rows(one) == rows(other)
    for ours, theirs in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@slow_on_one_stack
def test_a_linear_probe_changes_only_the_head(shapes, tmp_path, finished_run):
    config = small_recipe(shapes)
    config.train.frozen_epochs = config.train.epochs
    config.train.recompute_batch_statistics = True  # there are none to recompute
    config.model.weights = str(finished_run)
    train(config, tmp_path)
    before, after = (load_run(path).model for path in (finished_run, tmp_path))
    head = {id(weight) for weight in after.get_layer("noah_head").weights}
    for old, new in zip(before.weights, after.weights, strict=True):
        is_equal = np.array_equal(old, new)
        # The key bias has no gradient.
        assert is_equal == (id(new) not in head or "key_bias" in new.name), new.name


@slow_on_one_stack
def test_a_finished_run_takes_more_epochs(shapes, tmp_path, capsys):
    train(constant_recipe(shapes, epochs=3), tmp_path / "whole")
    first = train(constant_recipe(shapes, epochs=1), tmp_path / "extended")
    assert train(constant_recipe(shapes, epochs=1), tmp_path / "extended") == first
    assert "is already complete" in capsys.readouterr().out
    train(constant_recipe(shapes, epochs=3), tmp_path / "extended")
    assert_same_runs(tmp_path / "whole", tmp_path / "extended")
    with pytest.raises(ValueError, match="begun with train.epochs=3, got 2: a run can only get mo"):
        train(constant_recipe(shapes, epochs=2), tmp_path / "extended")
    shutil.rmtree(tmp_path / "extended" / "checkpoints")
    with pytest.raises(ValueError, match="no checkpoint left to go on from.*model.weights="):
        train(constant_recipe(shapes, epochs=4), tmp_path / "extended")
    assert load_run(tmp_path / "extended").step == 9


def test_a_schedule_of_all_epochs_names_another_way(shapes, finished_run):
    config = small_recipe(shapes)
    config.train.epochs = 3
    with pytest.raises(ValueError, match="train.epochs=2, got 3, .*'cosine'.*model.weights=.*"):
        train(config, finished_run)
    assert json.loads((finished_run / "config.json").read_text())["train"]["epochs"] == 2


@slow_on_one_stack
def test_a_run_without_a_better_evaluation_ends(shapes, tmp_path, monkeypatch, capsys):
    config = constant_recipe(shapes, epochs=9)
    config.optimizer.learning_rate = 1e-30  # every evaluation is like the first one
    config.train.patience = 2
    result = train(config, tmp_path / "whole")
    assert "The last 2 epochs had no better evaluation" in capsys.readouterr().out
    assert (
        result["steps"] == 9
        and result["epochs_since_best"] == 2
        and len(rows(tmp_path / "whole")) == 3
    )
    assert train(config, tmp_path / "whole") == result
    # A kill after the last evaluation, before the result is written.
    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr("noah_tf.training.loop.Trainer.finish", interrupted)
        train(config, tmp_path / "killed")
    train(config, tmp_path / "killed")
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")
    # More patience.
    config.train.patience = 3
    assert train(config, tmp_path / "whole")["steps"] == 12
    train_and_kill(monkeypatch, 10, config, tmp_path / "patient")
    train(config, tmp_path / "patient")
    assert_same_runs(tmp_path / "whole", tmp_path / "patient")


def interrupted(*arguments):
    raise KeyboardInterrupt
