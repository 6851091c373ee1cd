"""Trains the runs of `accuracy.py`, beside other processes that do the same."""

import contextlib
import datetime
import time

import accuracy_settings
import filelock
import numpy as np
import tensorflow as tf
from absl import logging

from noah_tf.datasets.registry import source_from_config
from noah_tf.evaluation import metrics
from noah_tf.runs.workdir import Workdir
from noah_tf.training.loop import train

RECORD = "study.json"


def folder_of(output, run):
    """The folder of a run, which is the --workdir of its training."""
    return output / run.name


def is_done(output, run):
    """Whether the run has its result."""
    return (folder_of(output, run) / RECORD).exists()


def take_over(records, output):
    """Writes the records of runs that were done elsewhere, where there are none.

    Args:
        records: a list of dicts, as `train_one` gives.
        output: folder of the study.

    Returns:
        How many were written.
    """
    written = 0
    for record in records:
        run = accuracy_settings.Run(*(record[key] for key in accuracy_settings.Run._fields))
        if not is_done(output, run):
            folder_of(output, run).mkdir(parents=True, exist_ok=True)
            Workdir(folder_of(output, run)).write_result(record, RECORD)
            written += 1
    return written


def use_threads(count):
    """Limits TensorFlow to so many threads, before it runs anything."""
    logging.set_verbosity(logging.ERROR)  # TFDS warns of its own deprecations
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(count)


def prepare_data(runs, data_dir=None):
    """Opens the data of all runs, so that what is missing is said, or made, once and before.

    Args:
        runs: a list of `accuracy_settings.Run`.
        data_dir: as in `train_all`.

    Raises:
        FileNotFoundError: CIFAR-10 is not in the folder and cannot be downloaded.
    """
    for run in {run.setting: run for run in runs}.values():
        config = accuracy_settings.recipe_of(run, data_dir)
        source_from_config(config.data, config.data.eval_split)


def plan(runs, output, processes):
    """What is left to do, and about how long it takes, as a sentence.

    Args:
        runs: a list of `accuracy_settings.Run`.
        output: folder of the study.
        processes: how many train at a time.
    """
    left = [run for run in runs if not is_done(output, run)]
    seconds = sum(accuracy_settings.seconds_of(run) for run in left) / processes
    return (
        f"{len(runs)} runs, of which {len(runs) - len(left)} are done; the others take about "
        f"{max(1, round(seconds / 60)) if left else 0} minutes, processes: {processes}, if each "
        "has a core like those of the study to itself. Their logs are train.log in "
        f"{output}/SETTING/PART/VARIANT/seedN."
    )


def train_all(runs, output, data_dir=None, quick=False):
    """Trains what is not done and what no other process trains.

    Args:
        runs: a list of `accuracy_settings.Run`.
        output: folder of the study.
        data_dir: TFDS's folder with CIFAR-10; None for TFDS's own.
        quick: see `accuracy_settings.recipe_of`.
    """
    for run in runs:
        folder = folder_of(output, run)
        folder.mkdir(parents=True, exist_ok=True)
        # The trainer's own lock ends before the record is written.
        lock = filelock.FileLock(folder / ".study.lock", timeout=0)
        with contextlib.suppress(filelock.Timeout), lock:
            if is_done(output, run):
                continue
            record = train_one(run, folder, data_dir, quick)
            left = sum(not is_done(output, other) for other in runs)
            reached = "diverged" if record["value"] is None else f"{record['value']:.2%}"
            print(
                f"{datetime.datetime.now():%H:%M} {run.name}: {record['metric']} {reached}, "
                f"{record['step_ms']:.0f} ms a step, {record['seconds']:.0f} s; {left} of "
                f"{len(runs)} runs are left",
                flush=True,
            )


def train_one(run, folder, data_dir=None, quick=False):
    """Trains one run, or goes on with it, and writes its record.

    Args:
        run: an `accuracy_settings.Run`.
        folder: its folder.
        data_dir: as in `train_all`.
        quick: as in `train_all`.

    Returns:
        The record, a dict.
    """
    tf.keras.backend.clear_session()
    config = accuracy_settings.recipe_of(run, data_dir, quick)
    started, processor_started = time.monotonic(), time.process_time()
    with (folder / "train.log").open("a") as log, contextlib.redirect_stdout(log):
        result = _trained(config, folder, may_diverge=run.part == "search")
    seconds = time.monotonic() - started
    processor_seconds = time.process_time() - processor_started
    workdir = Workdir(folder)
    metric = metrics.primary_metric(result)
    record = {
        **run._asdict(),
        "metric": metric,
        "value": result[metric],
        "loss": result["loss"],
        "parameters": result["parameters"],
        "steps": result["steps"],
        "batch_size": config.train.batch_size,
        "step_ms": step_milliseconds(workdir, config.train.batch_size),
        "seconds": round(seconds, 1),
        # What other programs take does not count in it.
        "processor_seconds": round(processor_seconds, 1),
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "date": f"{datetime.date.today()}",
        "tensorflow": tf.__version__,
    }
    workdir.write_result(record, RECORD)
    return record


def _trained(config, folder, may_diverge):
    try:
        return train(config, folder)
    except FloatingPointError:
        if not may_diverge:
            raise
        return {"top1": None, "loss": None, "parameters": None, "steps": None}


def step_milliseconds(workdir, batch_size):
    """The median time of a training step, over the looks of a run at its speed.

    Args:
        workdir: the run's `Workdir`.
        batch_size: images of a step.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(workdir.path / "events"), size_guidance={"tensors": 0}).Reload()
    rates = [
        float(tf.make_ndarray(event.tensor_proto))
        for event in events.Tensors("speed/images_per_second")
    ]
    # A run of one look has no second step to time.
    return float(np.median([1000 * batch_size / rate for rate in rates if rate > 0] or [np.nan]))
