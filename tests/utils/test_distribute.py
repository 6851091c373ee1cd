"""Tests of distribution strategies, dtype policies and training steps on two replicas."""

import functools
import json
import os

import pytest
import tensorflow as tf
from head_helpers import run_python
from recipes import small_recipe
from shared_data import REPOSITORY
from stacks import slow_on_one_stack

from noah_tf.utils import distribute

# Trains a small model without BatchNorm for three steps and prints its weights as JSON.
STEPS = """
import json, sys
import numpy as np
import tensorflow as tf

tests, replicas, changes = json.loads(sys.argv[1])
sys.path.insert(0, tests)
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * replicas)
import noah_tf
from noah_tf.runs.moving_average import MovingAverage
from noah_tf.training.losses import training_loss
from noah_tf.training.optimizer_settings import make_optimizer
from noah_tf.training.plan import TrainingPlan
from noah_tf.training.state import TrainState
from noah_tf.training.train_step import make_train_step
from noah_tf.utils import distribute
from recipes import quickstart

strategy = distribute.make_strategy("mirrored" if replicas > 1 else "single")
assert strategy.num_replicas_in_sync == replicas
config = quickstart()
config.train.batch_size, config.train.epochs = 8, 5
config.optimizer.learning_rate = 0.01
config.optimizer.clip_norm = 1.0
config.ema.decay = 0.5
config.augment.erasing, config.augment.mixup, config.augment.mix_group = 0.5, 0.8, 4
config.update_from_flattened_dict(changes)
plan = TrainingPlan.from_config(config, strategy)
rng = np.random.default_rng(0)
with distribute.dtype_policy(config.precision), strategy.scope():
    inputs = tf.keras.Input((6, 6, 3))
    features = tf.keras.layers.Conv2D(8, 3, activation="relu", kernel_regularizer="l2")(inputs)
    model = noah_tf.attach_noah(tf.keras.Model(inputs, features), num_classes=3)
    model.set_weights([rng.normal(size=w.shape) * 0.3 for w in model.get_weights()])
    float16 = config.precision == "mixed_float16"
    optimizer = make_optimizer(
        plan.optimizer, plan.schedule.for_steps(10), model, loss_scale=float16)
    state = TrainState(model, optimizer, MovingAverage(model, config.ema.decay))
loss = training_loss(plan.loss, multi_label=False)
step = make_train_step(plan, state, loss, state.freeze_until_start(0))
batch = (rng.integers(0, 256, (8, 6, 6, 3), "uint8"), rng.integers(0, 3, 8, "int32"),
         rng.integers(0, 99, (8, 2)), np.array([1, 1, 1, 0, 1, 1, 1, 1], "float32"))
make_batches = lambda shard, replicas: tf.data.Dataset.from_tensors(batch).repeat(3).rebatch(
    8 // replicas)
sums = [step(b).numpy().tolist() for b in distribute.distribute_batches(strategy, make_batches)]
flat = lambda arrays: np.concatenate([np.ravel(array) for array in arrays]).tolist()
weights = flat(model.get_weights())
with state.average.swapped():
    averages = flat(model.get_weights())
print(json.dumps({"sums": sums, "weights": weights, "averages": averages}))
"""


def train_steps(replicas, **changes):
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    process = run_python(STEPS, json.dumps([str(REPOSITORY / "tests"), replicas, changes]))
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def one_replica():
    """Returns a function from an optimizer's name to the result of three steps on one device."""
    return functools.cache(lambda name: train_steps(1, optimizer__name=name))


def assert_same(result, expected, tolerance=3e-6):
    for key in ("weights", "averages"):
        assert result[key] == pytest.approx(expected[key], abs=tolerance)
    for sums, expected_sums in zip(result["sums"], expected["sums"], strict=True):
        assert expected_sums == pytest.approx(sums, rel=1e-5)
    assert [sums[-2:] for sums in result["sums"]] == [[7, 1]] * 3
    assert result["averages"] != result["weights"]


# LAMB has a larger tolerance, because it divides by a gradient that is close to 0.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "tolerance"),
    [("sgd", 3e-6), pytest.param("lamb", 1e-4, marks=pytest.mark.exhaustive)],
)
def test_two_replicas_give_the_weights_of_one(optimizer, tolerance, one_replica):
    two = train_steps(2, optimizer__name=optimizer)
    assert_same(two, one_replica(optimizer), tolerance)


@slow_on_one_stack
@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.exhaustive), 2])
def test_accumulated_gradients_equal_those_of_the_whole_batch(replicas, one_replica):
    accumulated = train_steps(replicas, optimizer__name="sgd", train__accumulate=2)
    assert_same(accumulated, one_replica("sgd"))


@slow_on_one_stack
@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.exhaustive), 2])
def test_xla_gives_the_same_weights(replicas, one_replica):
    assert_same(train_steps(replicas, optimizer__name="sgd", jit_compile=True), one_replica("sgd"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "precision", [pytest.param("mixed_bfloat16", marks=pytest.mark.exhaustive), "mixed_float16"]
)
def test_mixed_precision_trains_on_two_replicas(precision, one_replica):
    mixed = train_steps(2, precision=precision, optimizer__name="sgd")
    full = one_replica("sgd")
    assert mixed["weights"] == pytest.approx(full["weights"], abs=3e-3)
    assert mixed["weights"] != full["weights"]


# Trains a recipe with BatchNorm on two replicas, or evaluates a trained run on one.
RUN = """
import json, sys
import ml_collections
import tensorflow as tf

config, workdir, replicas = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * replicas)
from noah_tf.evaluation.evaluator import evaluate_run
from noah_tf.training.loop import train
if replicas > 1:
    result = train(ml_collections.ConfigDict(config), workdir)
else:
    result, _ = evaluate_run(workdir)
print(json.dumps(result))
"""


@slow_on_one_stack
def test_a_run_of_two_replicas_evaluates_to_the_loss_that_it_reported(shapes, tmp_path):
    config = small_recipe(shapes)
    config.strategy, config.train.epochs = "mirrored", 1
    losses = []
    for replicas in (2, 1):
        process = run_python(RUN, config.to_json(), str(tmp_path), str(replicas))
        assert process.returncode == 0, process.stderr[-3000:]
        losses.append(json.loads(process.stdout.splitlines()[-1])["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_dtype_policy_applies_within_the_context():
    with distribute.dtype_policy("mixed_bfloat16"):
        assert tf.keras.layers.Dense(1).compute_dtype == "bfloat16"
    assert tf.keras.layers.Dense(1).compute_dtype == "float32"
    with (
        pytest.raises(ValueError, match="float32, mixed_bfloat16, mixed_float16, got 'float8'"),
        distribute.dtype_policy("float8"),
    ):
        pass


def test_single_and_auto_use_one_cpu_device():
    for name in ("single", "auto"):
        assert distribute.make_strategy(name).num_replicas_in_sync == 1
    with pytest.raises(ValueError, match="strategy must be one of auto, .*, got 'horovod'"):
        distribute.make_strategy("horovod")


@pytest.mark.parametrize(
    "gpus, threads, variable, expected",
    [(0, 0, None, []), (2, 0, None, [1]), (2, 8, None, []), (2, 0, "8", [])],
)
def test_beside_gpus_an_operation_on_the_cpu_has_one_thread(
    gpus, threads, variable, expected, monkeypatch
):
    devices, growth, threads_set = tf.config.list_physical_devices, [], []
    monkeypatch.setattr(
        tf.config,
        "list_physical_devices",
        lambda kind: ["gpu"] * gpus if kind == "GPU" else devices(kind),
    )
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda *pair: growth.append(pair)
    )
    threading = tf.config.threading
    monkeypatch.setattr(threading, "get_intra_op_parallelism_threads", lambda: threads)
    monkeypatch.setattr(threading, "set_intra_op_parallelism_threads", threads_set.append)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", variable)
    distribute.make_strategy("single")
    assert threads_set == expected and growth == [("gpu", True)] * gpus


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
    ],
)
def test_tf_config_without_workers_raises(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="TF_CONFIG does not describe workers"):
        distribute.make_strategy("multi_worker")


def test_multi_worker_without_tf_config_raises(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="needs the environment variable TF_CONFIG, such as"):
        distribute.make_strategy("multi_worker")


def set_slurm(monkeypatch, nodes, rank, node, tasks_per_node="1"):
    """Sets the variables of a task of a job step, as srun does."""
    for name, value in (
        ("SLURM_PROCID", str(rank)),
        ("SLURM_STEP_NODELIST", nodes),
        ("SLURM_STEP_NUM_TASKS", "3"),
        ("SLURM_STEP_TASKS_PER_NODE", tasks_per_node),
        ("SLURMD_NODENAME", node),
    ):
        monkeypatch.setenv(name, value)


def test_each_task_of_slurm_has_the_address_of_its_node(monkeypatch):
    seen = []
    for rank, node in enumerate(["n9", "n10", "n11"]):
        set_slurm(monkeypatch, "n[9-11]", rank, node, "1(x3)")
        resolver = distribute.slurm_resolver()
        cluster = resolver.cluster_spec()
        assert cluster.job_tasks("worker") == ["n10:8888", "n11:8888", "n9:8888"]
        assert cluster.task_address("worker", resolver.task_id) == f"{node}:8888"
        assert resolver.num_accelerators() == {"GPU": 0}
        assert resolver.task_type == "worker" and "CUDA_VISIBLE_DEVICES" not in os.environ
        seen.append(resolver.task_id)
    assert sorted(seen) == [0, 1, 2]


def test_a_task_of_slurm_has_all_gpus_of_its_node(monkeypatch):
    set_slurm(monkeypatch, "n[1-3]", 0, "n1", "1(x3)")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * 8)
    assert distribute.slurm_resolver().num_accelerators() == {"GPU": 8}


@pytest.mark.parametrize(
    ("node", "tasks_per_node", "reason"),
    [
        ("n1", "3", "Requested more GPUs"),  # three tasks on one node
        ("n4", "1(x3)", "'n4' is not in list"),
    ],
)
def test_other_tasks_of_slurm_raise(node, tasks_per_node, reason, monkeypatch):
    set_slurm(monkeypatch, "n[1-3]", 0, node, tasks_per_node)
    with pytest.raises(ValueError, match=f"one task on each node .*{reason}.* with srun"):
        distribute.make_strategy("slurm")


def test_slurm_without_srun_raises(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match="SLURM_PROCID.*start the command with srun"):
        distribute.make_strategy("slurm")


# A job step of one task, the only one that fits on one address, because all tasks use port 8888.
SLURM = """
import tensorflow as tf
from noah_tf.utils import distribute

strategy = distribute.make_strategy("slurm")
assert distribute.is_multi_worker(strategy) and distribute.is_chief(strategy)
print(strategy.num_replicas_in_sync, strategy.run(lambda: tf.constant(7)).numpy())
"""


@pytest.mark.slow
def test_a_step_runs_in_a_task_of_slurm(monkeypatch):
    set_slurm(monkeypatch, "127.0.0.1", 0, "127.0.0.1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    process = run_python(SLURM)
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout.split() == ["1", "7"]


def test_batch_size_problem_suggests_a_divisible_size():
    assert distribute.batch_size_problem(8, 4) is None
    assert "=10 is not divisible by the 4 replicas: use 8" in distribute.batch_size_problem(10, 4)
    assert "=2 is not divisible by the 4 replicas: use 4" in distribute.batch_size_problem(2, 4)
