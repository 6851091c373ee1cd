"""Two processes on 127.0.0.1 train as one, and the loss of one of them costs no result."""

import json
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

pytestmark = pytest.mark.slow

STEPS = 12  # four epochs of three

# Trains a recipe as the worker of TF_CONFIG. It writes the hashes of the images of each step, and
# can send itself a signal before a step.
RUN = """
import hashlib, json, os, sys
import ml_collections
import numpy as np

config, workdir, images_path, steps, signum = json.loads(sys.argv[1])
from noah_tf.training import interrupt, loop
make = loop.make_train_step
seen = []

def watching(plan, *arguments):
    step = make(plan, *arguments)
    def watched(batch):
        if len(seen) == steps:
            os.kill(os.getpid(), signum)
        local_images = plan.strategy.experimental_local_results(batch[0])
        images = np.concatenate([x.numpy() for x in local_images])
        seen.append([hashlib.sha1(image.tobytes()).hexdigest() for image in images])
        return step(batch)
    return watched

loop.make_train_step = watching
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


def run(config, workdir, workers, stop=None):
    """Runs the workers, and returns their return codes, outputs and images.

    `stop` is (worker, steps, signal).
    """
    with reserved_ports(workers) as ports:
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        processes = [start(config, workdir, cluster, index, stop) for index in range(workers)]
        outputs = [process.communicate(timeout=400)[0] for process in processes]
    codes = [process.returncode for process in processes]
    paths = [images_path(workdir, index) for index in range(workers)]
    return codes, outputs, [json.loads(path.read_text()) for path in paths if path.exists()]


def start(config, workdir, cluster, index, stop):
    """Returns the process of one worker."""
    steps, signum = stop[1:] if stop and stop[0] == index else (-1, 0)
    path = str(images_path(workdir, index))
    arguments = json.dumps([json.loads(config.to_json()), str(workdir), path, steps, signum])
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
    config.train.epochs = STEPS // 3
    config.train.log_every = 1
    config.train.checkpoint_every = 2
    config.ema.decay = 0.5
    return config


def weights(workdir, which="last"):
    return load_run(workdir, which).model.get_weights()


def assert_close(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


@pytest.fixture(scope="module")
def two_workers(shapes, tmp_path_factory):
    """The workdir of an uninterrupted run of two workers, and the images of each worker."""
    workdir = tmp_path_factory.mktemp("workers") / "run"
    codes, outputs, seen = run(plain_recipe(shapes), workdir, workers=2)
    assert codes == [0, 0], outputs
    return workdir, seen


def test_two_workers_see_disjoint_data_and_match_one_process(shapes, tmp_path, two_workers):
    workdir, seen = two_workers
    codes, outputs, (alone,) = run(plain_recipe(shapes), tmp_path / "one", workers=1)
    assert codes == [0], outputs
    assert len(alone) == len(seen[0]) == len(seen[1]) == STEPS
    for step in range(STEPS):
        first, second = set(seen[0][step]), set(seen[1][step])
        assert len(first) == len(second) == 4 and not first & second
        assert first | second == set(alone[step])
    for epoch in range(STEPS // 3):
        steps = range(3 * epoch, 3 * epoch + 3)
        assert len({image for step in steps for image in alone[step]}) == TRAIN_EXAMPLES
    for which in ("last", "ema"):
        assert_close(weights(workdir, which), weights(tmp_path / "one", which))
    results = [json.loads((w / "result.json").read_text()) for w in (workdir, tmp_path / "one")]
    assert results[0]["examples"] == results[1]["examples"] == 10
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-4)


@slow_on_one_stack
def test_run_with_a_lost_and_a_stopped_worker_ends_as_a_whole_one(shapes, tmp_path, two_workers):
    config, workdir = plain_recipe(shapes), tmp_path / "run"
    codes, outputs, _ = run(config, workdir, workers=2, stop=(1, 5, signal.SIGKILL))
    assert codes == [78, -signal.SIGKILL], outputs
    assert "Another worker is gone" in outputs[0]
    assert "start all workers again with the same command" in outputs[0]

    codes, outputs, _ = run(config, workdir, workers=2, stop=(1, 2, signal.SIGTERM))
    assert codes == [77, 77], outputs
    assert all(f"4 of {STEPS} steps done, starting from its checkpoint" in o for o in outputs)
    assert all(f"Stopped after step 7 of {STEPS} and saved it" in output for output in outputs)

    codes, outputs, _ = run(config, workdir, workers=2)
    assert codes == [0, 0], outputs
    assert all(f"7 of {STEPS} steps done, starting from its checkpoint" in o for o in outputs)
    assert_close(weights(workdir), weights(two_workers[0]))
