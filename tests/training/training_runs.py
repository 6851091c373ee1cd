"""Runs that are killed, and their weights."""

import pytest

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
