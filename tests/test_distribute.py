"""Strategies, precision, and steps on two replicas."""

import json

import pytest
import tensorflow as tf
from head_helpers import run_python
from recipes import small_recipe

from noah_tf import distribute

# Trains a small model without batch statistics for three steps and prints its weights.
STEPS = """
import json, sys
import numpy as np
import tensorflow as tf

sys.path.insert(0, {tests!r})
replicas, precision, optimizer = {replicas}, {precision!r}, {optimizer!r}
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * replicas)
import noah_tf
from noah_tf import distribute, optim, training
from recipes import quickstart

tf.keras.utils.set_random_seed(0)
strategy = distribute.make_strategy("mirrored" if replicas > 1 else "single")
assert strategy.num_replicas_in_sync == replicas
config = quickstart()
config.train.batch_size = 8
config.optimizer.name = optimizer
config.optimizer.warmup_epochs = 0
config.optimizer.learning_rate = 0.01
rng = np.random.default_rng(0)
with distribute.precision(precision), strategy.scope():
    inputs = tf.keras.Input((6, 6, 3))
    features = tf.keras.layers.Conv2D(8, 3, activation="relu", kernel_regularizer="l2")(inputs)
    model = noah_tf.attach_noah(tf.keras.Model(inputs, features), num_classes=3)
    model.set_weights([rng.normal(size=w.shape) * 0.3 for w in model.get_weights()])
    optimizer = optim.make_optimizer(config.optimizer, model.trainable_variables, 100, 10)
step = training.make_train_step(config, model, optimizer, strategy)
batch = (rng.normal(size=(8, 6, 6, 3)).astype("float32"), rng.integers(0, 3, 8).astype("int32"))
batches = tf.data.Dataset.from_tensors(batch).repeat(3)
sums = [step(b).numpy().tolist() for b in strategy.experimental_distribute_dataset(batches)]
weights = np.concatenate([np.ravel(w) for w in model.get_weights()]).tolist()
print(json.dumps({{"sums": sums, "weights": weights}}))
"""


def train_steps(replicas, precision="float32", optimizer="sgd"):
    from shared_data import REPOSITORY

    code = STEPS.format(
        tests=str(REPOSITORY / "tests"), replicas=replicas, precision=precision, optimizer=optimizer
    )
    process = run_python(code)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_two_replicas_train_as_one(optimizer):
    one, two = (train_steps(replicas, optimizer=optimizer) for replicas in (1, 2))
    assert two["weights"] == pytest.approx(one["weights"], abs=2e-6)
    for first, second in zip(one["sums"], two["sums"], strict=True):
        assert second == pytest.approx(first, rel=1e-5)
    assert [sums[2] for sums in two["sums"]] == [8, 8, 8]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_on_two_replicas(precision):
    mixed, full = train_steps(2, precision), train_steps(2)
    assert mixed["weights"] == pytest.approx(full["weights"], abs=3e-3)
    assert mixed["weights"] != full["weights"]


# Trains a recipe with BatchNorm on two replicas, and evaluates what it saved on one.
RUN = """
import json, sys
import ml_collections
import tensorflow as tf

config, workdir, replicas = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * replicas)
from noah_tf.evaluate import evaluate_run
from noah_tf.training import train
if replicas > 1:
    result = train(ml_collections.ConfigDict(config), workdir)
else:
    result, _ = evaluate_run(workdir)
print(json.dumps(result))
"""


def test_two_replicas_are_evaluated_as_they_are_saved(shapes, tmp_path):
    config = small_recipe(shapes)
    config.strategy, config.train.epochs = "mirrored", 1
    losses = []
    for replicas in (2, 1):
        process = run_python(RUN, config.to_json(), str(tmp_path), str(replicas))
        assert process.returncode == 0, process.stderr[-3000:]
        losses.append(json.loads(process.stdout.splitlines()[-1])["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_precision_names():
    with distribute.precision("mixed_bfloat16"):
        assert tf.keras.layers.Dense(1).compute_dtype == "bfloat16"
    assert tf.keras.layers.Dense(1).compute_dtype == "float32"
    with (
        pytest.raises(ValueError, match="float32, mixed_bfloat16, mixed_float16, got 'float8'"),
        distribute.precision("float8"),
    ):
        pass


def test_single_and_auto_use_one_cpu():
    for name in ("single", "auto"):
        assert distribute.make_strategy(name).num_replicas_in_sync == 1
    with pytest.raises(ValueError, match="'tpu'"):
        distribute.make_strategy("tpu")


def test_batches_must_divide_over_replicas():
    class Four:
        num_replicas_in_sync = 4

    distribute.check_batch_size(8, Four)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        distribute.check_batch_size(0, Four)
    with pytest.raises(ValueError, match="batch_size=10 does not divide over 4 replicas: use 8"):
        distribute.check_batch_size(10, Four)
