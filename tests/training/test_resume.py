"""A run that was killed and resumed ends with the same bits as one that was not."""

import csv
import json
import random
import signal

import numpy as np
import pytest
import tensorflow as tf
from recipes import draw_shapes, small_recipe
from stacks import slow_on_one_stack
from training_runs import run

import noah_tf
from noah_tf.runs import recipe
from noah_tf.runs.checkpoint import load_run

# Five epochs of twelve steps, with a checkpoint after every eighth step and after each epoch.
STEPS, EPOCH, EVERY = 60, 12, 8
BATCH = 4
TIMES = ("images_per_second", "data_wait", "save_seconds")


@pytest.fixture(scope="module")
def more_shapes(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("more_shapes"), EPOCH * BATCH)


@pytest.fixture(scope="module")
def few_shapes(tmp_path_factory):
    """A folder of photos for an epoch of two steps."""
    return draw_shapes(tmp_path_factory.mktemp("few_shapes"), 2 * BATCH)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The file of a model that classifies the shapes, with random weights."""
    inputs = tf.keras.Input((32, 32, 3))
    x = tf.keras.layers.BatchNormalization()(tf.keras.layers.Conv2D(8, 3, strides=2)(inputs))
    model = noah_tf.attach_noah(tf.keras.Model(inputs, x), num_classes=3)
    model.save(path := tmp_path_factory.mktemp("teacher") / "teacher.keras")
    return path


def rich_recipe(shapes, teacher=None):
    """Returns a recipe with all options that have state, and a model with BatchNorm."""
    config = recipe.base()
    small = small_recipe(shapes)
    config.data, config.preprocess = small.data, small.preprocess
    config.model.architecture = "mobilenetv2_035"
    config.model.dropout = 0.2
    config.model.drop_path = 0.2
    config.model.batch_norm_group = BATCH // 2
    config.model.remat = True
    config.augment.crop_scale = (0.3, 1.0)
    config.augment.flip = True
    config.augment.rand_augment = "rand-m9-mstd0.5-inc1"
    config.augment.erasing = 0.5
    config.augment.mixup = 0.8
    config.augment.cutmix = 1.0
    config.augment.mix_group = BATCH // 2
    config.optimizer.name = "keras.AdamW"
    config.optimizer.args = {"beta_2": 0.99}
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 0.05
    config.schedule.by, config.schedule.lag_epochs = "epoch", 1
    config.schedule.warmup_start = 1e-4
    config.schedule.warmup_epochs = 2.0
    config.ema.decay = 0.9
    config.train.epochs = STEPS // EPOCH
    config.train.patience = STEPS // EPOCH - 1
    config.train.frozen_epochs = 1
    config.train.frozen_layers = ("features.0*",)
    config.train.recompute_batch_statistics = True
    config.train.teacher = str(teacher) if teacher else None
    config.train.batch_size = BATCH
    config.train.label_smoothing = 0.1
    config.train.checkpoint_every = EVERY
    return config


def state(workdir):
    """Returns the arrays of the newest checkpoint: weights, slots, averages, random states."""
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(workdir / "checkpoints")))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {name: reader.get_tensor(name) for name in names if "save_counter" not in name}


def assert_same_state(one, other):
    one, other = state(one), state(other)
    assert one.keys() == other.keys() and len(one) > 500
    different = [name for name in one if not np.array_equal(one[name], other[name])]
    assert not different, different[:10]


def rows(workdir):
    with (workdir / "epochs.csv").open() as file:
        return [
            {key: value for key, value in row.items() if key not in TIMES}
            for row in csv.DictReader(file)
        ]


@slow_on_one_stack.with_args(minutes=2)
@pytest.mark.parametrize(
    ("replicas", "kills"),
    [
        (1, 1),
        pytest.param(1, 3, marks=pytest.mark.exhaustive),
        pytest.param(2, 3, marks=pytest.mark.exhaustive),
    ],
)
def test_killed_run_ends_bit_for_bit_the_same(more_shapes, teacher, tmp_path, replicas, kills):
    config = rich_recipe(more_shapes, teacher)
    config.strategy = "mirrored"
    process = run(config, tmp_path / "whole", replicas)
    assert process.returncode == 0, process.stderr[-3000:]

    chance = random.Random(10 * replicas)
    done = 0
    for step in sorted(chance.sample(range(2, STEPS - 2), kills)):
        process = run(config, tmp_path / "killed", replicas, steps=step - done)
        assert process.returncode == -signal.SIGKILL, process.stderr[-3000:]
        done = max(step - step % EVERY, step - step % EPOCH)
    process = run(config, tmp_path / "killed", replicas)
    assert process.returncode == 0, process.stderr[-3000:]
    assert f"{done} of {STEPS} steps done, starting from its checkpoint" in process.stdout

    assert_same_state(tmp_path / "whole", tmp_path / "killed")
    assert rows(tmp_path / "whole") == rows(tmp_path / "killed")
    assert len(rows(tmp_path / "whole")) == STEPS // EPOCH
    results = [json.loads((tmp_path / n / "result.json").read_text()) for n in ("whole", "killed")]
    assert results[0] == results[1] and results[0]["steps"] == STEPS


def short(shapes, changes=()):
    """Returns the rich recipe for one epoch, with some changes."""
    config = rich_recipe(shapes)
    config.train.epochs, config.schedule.warmup_epochs = 1, 0.0
    config.update_from_flattened_dict(dict(changes))
    return config


def trained_weights(config, workdir, which="last"):
    from noah_tf.training.loop import train

    train(config, workdir)
    return load_run(workdir, which).model.get_weights()


def differ(one, other):
    return any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def eager():
    """Runs without tracing, which would take longer than the few steps of each run."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("eager")
def test_seed_and_each_random_option_change_the_weights(few_shapes, tmp_path):
    base = trained_weights(short(few_shapes), tmp_path / "base")
    assert not differ(base, trained_weights(short(few_shapes), tmp_path / "again"))
    averaged = load_run(tmp_path / "base", "ema").model.get_weights()
    assert differ(base, averaged)
    changes = {
        "seed": {"seed": 1},
        "dropout": {"model.dropout": 0.0},
        "drop path": {"model.drop_path": 0.0},
        "mixing": {"augment.mixup": 0.0, "augment.cutmix": 0.0},
        "RandAugment": {"augment.rand_augment": None},
        "erasing": {"augment.erasing": 0.0},
    }
    for name, change in changes.items():
        other = trained_weights(short(few_shapes, change), tmp_path / name.replace(" ", "_"))
        assert differ(base, other), name


@slow_on_one_stack
@pytest.mark.parametrize(
    "signum", [pytest.param(signal.SIGINT, marks=pytest.mark.exhaustive), signal.SIGTERM]
)
def test_signal_saves_and_says_how_to_resume(shapes, tmp_path, capsys, signum):
    config = small_recipe(shapes)
    process = run(config, tmp_path, steps=2, signum=signum)
    assert process.returncode == 77, process.stderr[-3000:]
    assert "Stopped after step 3 of 6 and saved it" in process.stdout
    assert "the same command goes on from there" in process.stdout
    resumed = trained_weights(config, tmp_path)
    assert "3 of 6 steps done, starting from its checkpoint" in capsys.readouterr().out
    assert not differ(resumed, trained_weights(config, tmp_path / "whole"))
