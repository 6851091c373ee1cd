"""Runs whose epochs end with a smaller batch."""

import csv

import numpy as np
from recipes import TRAIN_EXAMPLES, small_recipe
from stacks import slow_on_one_stack
from training_runs import run, train_and_kill, weights

from noah_tf.training.loop import train
from noah_tf.training.plan import TrainingPlan
from noah_tf.training.recipe_checks import combination_problems


def recipe(shapes, batch_size=7):
    config = small_recipe(shapes)
    config.train.batch_size = batch_size
    config.data.keep_last_batch = True
    return config


def examples(workdir):
    with (workdir / "epochs.csv").open() as file:
        return [int(row["examples"]) for row in csv.DictReader(file)]


def test_steps_and_multiples(shapes):
    config = recipe(shapes, batch_size=16)
    plan = TrainingPlan.from_config(config)
    assert plan.steps_per_epoch(TRAIN_EXAMPLES) == 2
    assert plan.batches.last_batch_size(TRAIN_EXAMPLES) == 8
    config.model.batch_norm_group = 4  # four groups, so a multiple of four
    plan = TrainingPlan.from_config(config)
    assert plan.batches.last_batch_size(17) == 16 + 4 - 16
    assert plan.steps_per_epoch(17) == 2 and plan.steps_per_epoch(16) == 1
    config.augment.mixup = 0.5
    problems = list(combination_problems(config, 1))
    assert any("keep_last_batch=True and augment.mixup contradict" in text for text in problems)


@slow_on_one_stack
def test_a_killed_run_ends_as_a_whole_one(shapes, tmp_path, monkeypatch):
    config = recipe(shapes)
    config.model.batch_norm_group = 7
    result = train(config, tmp_path / "whole")
    # 24 examples are three batches of 7 and one of 3.
    assert result["steps"] == 8 and examples(tmp_path / "whole") == [TRAIN_EXAMPLES] * 2
    train_and_kill(monkeypatch, 6, config, tmp_path / "killed")
    assert train(config, tmp_path / "killed") == result
    for one, other in zip(weights(tmp_path / "whole"), weights(tmp_path / "killed"), strict=True):
        np.testing.assert_array_equal(one, other)


@slow_on_one_stack
def test_two_replicas_share_the_last_batch(shapes, tmp_path):
    config = recipe(shapes, batch_size=10)  # and 4 examples
    config.strategy = "mirrored"
    process = run(config, tmp_path, replicas=2)
    assert process.returncode == 0, process.stderr[-3000:]
    assert examples(tmp_path) == [TRAIN_EXAMPLES] * 2
