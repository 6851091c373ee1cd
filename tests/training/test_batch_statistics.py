"""BatchNorm's statistics, computed anew for evaluations."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from head_helpers import run_python
from recipes import TRAIN_EXAMPLES, small_recipe
from training_runs import train_and_kill

import noah_tf
from noah_tf.datasets import source_from_config
from noah_tf.runs.checkpoint import load_run
from noah_tf.runs.workdir import Workdir
from noah_tf.training.batch_statistics import BatchStatistics, recomputes
from noah_tf.training.loop import train
from noah_tf.training.plan import TrainingPlan
from noah_tf.training.state import TrainState
from noah_tf.utils.keras_compat import random_state_variables


def make_model():
    """Returns a model with BatchNorm and dropout, its first BatchNorm, and that layer's inputs."""
    inputs = tf.keras.Input((32, 32, 3))
    first = tf.keras.layers.Conv2D(4, 3, strides=2)(inputs)
    x = tf.keras.layers.ReLU()(tf.keras.layers.BatchNormalization(name="first")(first))
    x = tf.keras.layers.Conv2D(8, 3, strides=2)(tf.keras.layers.Dropout(0.5)(x))
    x = tf.keras.layers.BatchNormalization()(x)
    model = noah_tf.attach_noah(tf.keras.Model(inputs, x), num_classes=2, dropout=0.5)
    return model, model.get_layer("first"), tf.keras.Model(inputs, first)


def test_statistics_are_those_of_the_training_batches(shapes):
    config = small_recipe(shapes)
    config.augment.flip = True
    plan = TrainingPlan.from_config(config)
    source = source_from_config(config.data, config.data.train_split)
    model, layer, inputs = make_model()
    state = TrainState(model, optimizer=None)
    batches = plan.train_batches(source, 0, num_epochs=1)(shard=(0, 1), replicas=1)
    normalize = plan.preprocessing.normalize
    values = np.concatenate([inputs(normalize(images)) for images, *_ in batches])
    mean, variance = values.mean((0, 1, 2)), values.var((0, 1, 2))
    variables = [*state.model.weights, *random_state_variables(state.model)]
    before = [tf.convert_to_tensor(variable).numpy() for variable in variables]
    statistics = BatchStatistics(plan, state, source)
    for _ in range(2):  # the same every time
        with statistics.recomputed():
            np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-4, atol=1e-5)
            # Some kernels of TensorFlow divide by the number of values less one.
            np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-3)
        after = [tf.convert_to_tensor(variable).numpy() for variable in variables]
        for one, other in zip(after, before, strict=True):
            np.testing.assert_array_equal(one, other)
    layer.trainable = False
    with statistics.recomputed():
        np.testing.assert_array_equal(layer.moving_mean, np.zeros_like(mean))


@pytest.mark.slow
def test_training_never_sees_them_and_a_killed_run_ends_as_a_whole_one(
    shapes, tmp_path, monkeypatch
):
    config = small_recipe(shapes)
    config.model.dropout = 0.3
    config.ema.decay = 0.5
    without = train(config, tmp_path / "without")
    config.train.recompute_batch_statistics = True
    result = train(config, tmp_path / "whole")
    train_and_kill(monkeypatch, 4, config, tmp_path / "killed")
    assert train(config, tmp_path / "killed") == result != without
    for name in ("last", "ema", "best"):
        whole, killed = (load_run(tmp_path / run, name).model for run in ("whole", "killed"))
        for one, other in zip(whole.weights, killed.weights, strict=True):
            np.testing.assert_array_equal(one, other)
    for name in ("last", "ema"):
        trained = [
            load_run(tmp_path / run, name).model.trainable_weights for run in ("whole", "without")
        ]
        for one, other in zip(*trained, strict=True):
            np.testing.assert_array_equal(one, other)


def test_short_runs_recompute_them_by_default(shapes, tmp_path):
    config = small_recipe(shapes)
    config.train.recompute_batch_statistics = None
    plan = TrainingPlan.from_config(config)
    new = Workdir(tmp_path)
    assert recomputes(plan, 999, new) and not recomputes(plan, 1000, new)
    config.train.recompute_batch_statistics = True
    assert recomputes(TrainingPlan.from_config(config), 10**6, new)


def test_a_resumed_run_does_as_at_its_beginning(shapes, tmp_path, finished_run):
    config = small_recipe(shapes)
    config.train.recompute_batch_statistics = None
    plan = TrainingPlan.from_config(config)
    run = Workdir(shutil.copytree(finished_run, tmp_path / "run"))
    data = json.loads((run.path / "data.json").read_text())
    for recorded in (True, False, None):
        data["recomputes_batch_statistics"] = recorded
        (run.path / "data.json").write_text(json.dumps(data))
        assert recomputes(plan, 6, run) == bool(recorded)


REPLICAS = """
import json, sys
import ml_collections
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import noah_tf
from noah_tf.datasets import source_from_config
from noah_tf.training.batch_statistics import BatchStatistics
from noah_tf.training.plan import TrainingPlan
from noah_tf.training.state import TrainState

config = ml_collections.ConfigDict(json.loads(sys.argv[1]))
plan = TrainingPlan.from_config(config)
source = source_from_config(config.data, config.data.train_split)
with plan.strategy.scope():
    inputs = tf.keras.Input((32, 32, 3))
    x = tf.keras.layers.BatchNormalization(name="first")(inputs)
    model = noah_tf.attach_noah(tf.keras.Model(inputs, tf.keras.layers.Conv2D(8, 3)(x)), 3)
statistics = BatchStatistics(plan, TrainState(model, optimizer=None), source)
batches = list(plan.train_batches(source, 0, num_epochs=1)(shard=(0, 1), replicas=1))
pixels = np.concatenate([images for images, *_ in batches[:statistics.num_batches]])
pixels = plan.preprocessing.normalize(pixels).numpy()
with statistics.recomputed():
    layer = model.get_layer("first")
    got = [tf.convert_to_tensor(w).numpy().tolist()
           for w in (layer.moving_mean, layer.moving_variance)]
print(json.dumps([got, [pixels.mean((0, 1, 2)).tolist(), pixels.var((0, 1, 2)).tolist()],
                  statistics.num_batches]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [pytest.param(8, marks=pytest.mark.exhaustive), 24])
def test_two_replicas_use_all_their_batches(shapes, batch_size):
    config = small_recipe(shapes)
    config.strategy = "mirrored"
    config.train.batch_size = batch_size
    process = run_python(REPLICAS, config.to_json())
    assert process.returncode == 0, process.stderr[-3000:]
    got, expected, num_batches = json.loads(process.stdout.splitlines()[-1])
    assert num_batches == TRAIN_EXAMPLES // batch_size
    np.testing.assert_allclose(got[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-3)
