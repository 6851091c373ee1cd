"""Runs that are killed or in processes of their own, and their weights."""

import json
import signal

import pytest
from head_helpers import run_python

from noah_tf.runs.checkpoint import load_run
from noah_tf.training import loop
from noah_tf.training.loop import train


def weights(workdir):
    return load_run(workdir).model.get_weights()


class Killed(Exception):
    """Stands for a kill, because nothing in the package catches it."""


def kill_after(monkeypatch, steps):
    make = loop.make_train_step
    left = [steps]

    def killing(*arguments):
        step = make(*arguments)

        def counted(batch):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return step(batch)

        return counted

    monkeypatch.setattr(loop, "make_train_step", killing)


def train_and_kill(monkeypatch, steps, config, workdir, **options):
    """Starts or resumes a run, and kills it after some steps."""
    with monkeypatch.context() as context, pytest.raises(Killed):
        kill_after(context, steps)
        train(config, workdir, **options)


# Trains a recipe on several logical CPU devices, and sends itself a signal after some steps.
RUN = """
import json, os, signal, sys
import ml_collections
import tensorflow as tf

config, workdir, replicas, steps, signum = json.loads(sys.argv[1])
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * replicas)
from noah_tf.training import interrupt, loop
make = loop.make_train_step
left = [steps]

def killing(*arguments):
    step = make(*arguments)
    def counted(batch):
        if left[0] == 0:
            os.kill(os.getpid(), signum)
        left[0] -= 1
        return step(batch)
    return counted

loop.make_train_step = killing
try:
    loop.train(ml_collections.ConfigDict(config), workdir)
except interrupt.Interrupted as interruption:
    print(interruption)
    sys.exit(77)
"""


def run(config, workdir, replicas=1, steps=-1, signum=signal.SIGKILL):
    arguments = json.dumps([json.loads(config.to_json()), str(workdir), replicas, steps, signum])
    return run_python(RUN, arguments, timeout=540)
