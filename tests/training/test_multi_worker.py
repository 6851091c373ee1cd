"""Processes on 127.0.0.1 train as one, and the loss of some of them costs no result."""

import concurrent.futures
import json
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
from head_helpers import child_environment
from ports import reserved_ports
from recipes import TRAIN_EXAMPLES, small_recipe
from stacks import slow_on_one_stack

from noah_tf.runs.checkpoint import load_run
from noah_tf.utils.keras_compat import IS_KERAS_3

pytestmark = pytest.mark.slow

STEPS, EPOCH, EVERY = 12, 3, 2  # a checkpoint after every second step and after each epoch
# The larger cluster is enough on one stack.
WORKERS, DEVICES = (4, 2) if IS_KERAS_3 else (2, 1)

# Trains a recipe as the worker of TF_CONFIG, and writes the hashes of the images of each step.
# `stops` are triples (worker, step, signal): this worker sends itself the signal before that step
# of the run, once.
RUN = """
import hashlib, json, os, pathlib, sys
import ml_collections
import numpy as np
import tensorflow as tf
from tensorflow.python.distribute import collective_all_reduce_strategy as strategies

config, workdir, images_path, devices, worker, stops = json.loads(sys.argv[1])
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * devices)

def local_devices(self, resolver, worker_device):
    # TensorFlow takes all GPUs of a worker, but only one device of its CPU.
    return tuple(f"{worker_device}/device:CPU:{i}" for i in range(devices)), "CPU"

strategies.CollectiveAllReduceExtended._initialize_local_devices = local_devices
from noah_tf.training import interrupt, loop
make, restore = loop.make_train_step, loop.Checkpoints.restore
seen, start = [], [0]

def watching(plan, *arguments):
    assert plan.strategy.num_replicas_in_sync % devices == 0
    step = make(plan, *arguments)
    def watched(batch):
        for stopped, number, signum in stops:
            mark = pathlib.Path(f"{workdir}_stopped_before_{number}")
            if (stopped, number) == (worker, start[0] + len(seen)) and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signum)
        local_images = plan.strategy.experimental_local_results(batch[0])
        images = np.concatenate([x.numpy() for x in local_images])
        seen.append([hashlib.sha1(image.tobytes()).hexdigest() for image in images])
        return step(batch)
    return watched

def restoring(self):
    start[0] = restore(self)
    return start[0]

loop.make_train_step, loop.Checkpoints.restore = watching, restoring
try:
    loop.train(ml_collections.ConfigDict(config), workdir)
except interrupt.Interrupted as interruption:
    print(interruption)
    sys.exit(77)
except ConnectionError as error:
    print(error)
    os._exit(78)
json.dump(seen, open(images_path, "w"))
"""


def run(config, workdir, workers, devices=1, stops=()):
    """Runs the workers, and starts each one again when it fails, as Kubernetes does.

    `stops` are triples (worker, step, signal). Returns for each worker its return codes, its
    outputs, and the images of its last process.
    """
    limit = 3 * len(stops) + 1
    with reserved_ports(workers) as ports:
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}

        def run_worker(index):
            codes, outputs = [], []
            while not codes or codes[-1] and len(codes) < limit:
                process = start(config, workdir, cluster, index, devices, stops)
                outputs.append(process.communicate(timeout=500)[0])
                codes.append(process.returncode)
            return codes, outputs

        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            codes, outputs = zip(*pool.map(run_worker, range(workers)), strict=True)
    paths = [images_path(workdir, index) for index in range(workers)]
    assert all(code[-1] == 0 for code in codes), (codes, outputs)
    return codes, outputs, [json.loads(path.read_text()) for path in paths]


def start(config, workdir, cluster, index, devices, stops):
    """Returns the process of one worker."""
    path = str(images_path(workdir, index))
    arguments = json.dumps(
        [json.loads(config.to_json()), str(workdir), path, devices, index, list(stops)]
    )
    environment = child_environment()
    environment.pop("TF_CONFIG", None)
    if len(cluster["worker"]) > 1:
        task = {"type": "worker", "index": index}
        environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    return subprocess.Popen(
        [sys.executable, "-c", RUN, arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def images_path(workdir, index):
    return workdir.parent / f"{workdir.name}_images_{index}.json"


def plain_recipe(shapes):
    """Returns a recipe without dropout, with all other random options.

    BatchNorm normalizes over the examples of all workers, as in one process.
    """
    config = small_recipe(shapes)
    config.model.dropout = 0.0
    config.model.synchronized_batch_norm = True
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.01
    config.optimizer.clip_norm = 1.0
    config.train.epochs = STEPS // EPOCH
    config.train.log_every = 1
    config.train.checkpoint_every = EVERY
    config.ema.decay = 0.5
    return config


def weights(workdir, which="last"):
    return load_run(workdir, which).model.get_weights()


def assert_close(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


def assert_same_bits(workdir, other):
    for which in ("last", "ema", "best"):
        for a, b in zip(weights(workdir, which), weights(other, which), strict=True):
            np.testing.assert_array_equal(a, b)
    results = [json.loads((path / "result.json").read_text()) for path in (workdir, other)]
    assert results[0] == results[1]


@pytest.fixture(scope="module")
def whole_run(shapes, tmp_path_factory):
    """The workdir of an uninterrupted run of all workers, and the images of each worker."""
    workdir = tmp_path_factory.mktemp("workers") / "run"
    _, _, seen = run(plain_recipe(shapes), workdir, WORKERS, DEVICES)
    return workdir, seen


def test_workers_see_disjoint_data_and_match_one_process(shapes, tmp_path, whole_run):
    workdir, seen = whole_run
    _, _, (alone,) = run(plain_recipe(shapes), tmp_path / "one", workers=1)
    assert {len(images) for images in (alone, *seen)} == {STEPS}
    for step in range(STEPS):
        shares = [set(images[step]) for images in seen]
        assert [len(share) for share in shares] == [8 // WORKERS] * WORKERS
        assert len(set().union(*shares)) == 8 and set().union(*shares) == set(alone[step])
    for epoch in range(STEPS // EPOCH):
        steps = range(EPOCH * epoch, EPOCH * (epoch + 1))
        assert len({image for step in steps for image in alone[step]}) == TRAIN_EXAMPLES
    for which in ("last", "ema"):
        assert_close(weights(workdir, which), weights(tmp_path / "one", which))
    results = [json.loads((w / "result.json").read_text()) for w in (workdir, tmp_path / "one")]
    assert results[0]["examples"] == results[1]["examples"] == 10
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-4)


@slow_on_one_stack
def test_run_with_a_lost_and_a_stopped_worker_ends_as_a_whole_one(shapes, tmp_path, whole_run):
    config, workdir = plain_recipe(shapes), tmp_path / "run"
    last = WORKERS - 1
    stops = [(1, 5, signal.SIGKILL), (last, 7, signal.SIGTERM)]
    codes, outputs, _ = run(config, workdir, WORKERS, DEVICES, stops)
    assert codes[1][0] == -signal.SIGKILL and codes[0][0] == 78, codes
    assert "Another worker is gone" in outputs[0][0]
    assert "start all workers again with the same command" in outputs[0][0]
    # All of them stop at the same step.
    assert all(77 in worker_codes for worker_codes in codes), codes
    for output in map("".join, outputs):
        assert f"4 of {STEPS} steps done, starting from its checkpoint" in output
        assert f"Stopped after step 8 of {STEPS} and saved it" in output
        assert f"8 of {STEPS} steps done, starting from its checkpoint" in output
    assert_same_bits(workdir, whole_run[0])


@pytest.mark.exhaustive
def test_five_random_kills_change_no_bit(shapes, tmp_path, whole_run):
    chance = random.Random(0)
    steps = sorted(chance.sample(range(1, STEPS), 5))
    stops = [(chance.randrange(WORKERS), step, signal.SIGKILL) for step in steps]
    config, workdir = plain_recipe(shapes), tmp_path / "run"
    codes, outputs, _ = run(config, workdir, WORKERS, DEVICES, stops)
    killed = [code for worker_codes in codes for code in worker_codes].count(-signal.SIGKILL)
    assert killed == len(stops), (codes, outputs)
    text = "".join("".join(worker_outputs) for worker_outputs in outputs)
    for step in steps:
        done = max(step - step % EVERY, step - step % EPOCH)
        assert f"{done} of {STEPS} steps done" in text
    assert_same_bits(workdir, whole_run[0])
