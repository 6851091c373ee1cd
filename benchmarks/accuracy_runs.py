"""Trains the runs of `accuracy.py`, next to other processes that do the same."""

import contextlib
import datetime
import pathlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import accuracy_settings
import filelock
import ml_collections
import numpy as np
import tensorflow as tf
from absl import logging
from accuracy_settings import Run

from noah_tf.datasets.registry import source_from_config
from noah_tf.evaluation import metrics
from noah_tf.runs.workdir import Workdir
from noah_tf.training.loop import train

RECORD = "study.json"


def run_folder(output: pathlib.Path, run: Run) -> pathlib.Path:
    """Returns the folder of a run, which is the --workdir of its training."""
    return output / run.name


def is_done(output: pathlib.Path, run: Run) -> bool:
    """Returns True if the run has a record."""
    return (run_folder(output, run) / RECORD).exists()


def import_records(records: Iterable[dict[str, Any]], output: pathlib.Path) -> int:
    """Writes records of runs that were trained elsewhere, so that they count as done.

    Args:
        records: records as `train_run` returns them. Runs that are done already are skipped.
        output: the study's folder.

    Returns:
        The number of records written.
    """
    num_written = 0
    for record in records:
        run = Run(*(record[key] for key in Run._fields))
        if not is_done(output, run):
            run_folder(output, run).mkdir(parents=True, exist_ok=True)
            Workdir(run_folder(output, run)).write_result(record, RECORD)
            num_written += 1
    return num_written


def limit_threads(count: int) -> None:
    """Limits TensorFlow to `count` threads. Call it before TensorFlow runs an operation."""
    logging.set_verbosity(logging.ERROR)  # TFDS logs warnings about its own deprecations.
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(count)


def prepare_data(runs: Sequence[Run], data_dir: str | None = None) -> None:
    """Opens the data sets of all runs, so that missing data is reported before any training.

    Args:
        runs: the runs of the study.
        data_dir: TFDS's folder with CIFAR-10. None uses TFDS's default.

    Raises:
        FileNotFoundError: CIFAR-10 is not in the folder and cannot be downloaded.
    """
    for run in {run.setting: run for run in runs}.values():
        config = accuracy_settings.make_recipe(run, data_dir)
        source_from_config(config.data, config.data.eval_split)


def describe_plan(runs: Sequence[Run], output: pathlib.Path, num_processes: int) -> str:
    """Returns a text that says how many runs are left and about how long they take.

    Args:
        runs: the runs of the study.
        output: the study's folder.
        num_processes: how many processes train at the same time.
    """
    left = [run for run in runs if not is_done(output, run)]
    seconds = sum(accuracy_settings.estimate_seconds(run) for run in left) / num_processes
    minutes = max(1, round(seconds / 60)) if left else 0
    return (
        f"{len(runs)} runs, {len(runs) - len(left)} of them done. The others take about {minutes} "
        f"minutes with {num_processes} processes, if each has a core to itself. Each run logs to "
        f"train.log in {output}/SETTING/PART/VARIANT/seedN."
    )


def train_runs(
    runs: Sequence[Run], output: pathlib.Path, data_dir: str | None = None, quick: bool = False
) -> None:
    """Trains every run that is not done and that no other process is training.

    Args:
        runs: the runs of the study.
        output: the study's folder.
        data_dir: TFDS's folder with CIFAR-10. None uses TFDS's default.
        quick: whether to train only a few steps, as a test.
    """
    for run in runs:
        folder = run_folder(output, run)
        folder.mkdir(parents=True, exist_ok=True)
        # The trainer has its own lock, but releases it before the record is written.
        lock = filelock.FileLock(folder / ".study.lock", timeout=0)
        with contextlib.suppress(filelock.Timeout), lock:
            if is_done(output, run):
                continue
            record = train_run(run, folder, data_dir, quick)
            left = sum(not is_done(output, other) for other in runs)
            value = "diverged" if record["value"] is None else f"{record['value']:.2%}"
            print(
                f"{datetime.datetime.now():%H:%M} {run.name}: {record['metric']} {value}, "
                f"{record['step_ms']:.0f} ms per step, {record['seconds']:.0f} s; {left} of "
                f"{len(runs)} runs are left",
                flush=True,
            )


def train_run(
    run: Run, folder: pathlib.Path, data_dir: str | None = None, quick: bool = False
) -> dict[str, Any]:
    """Trains or resumes one run, and writes and returns its record.

    Args:
        run: the run.
        folder: its folder.
        data_dir: TFDS's folder with CIFAR-10. None uses TFDS's default.
        quick: whether to train only a few steps, as a test.
    """
    tf.keras.backend.clear_session()
    config = accuracy_settings.make_recipe(run, data_dir, quick)
    start, cpu_start = time.monotonic(), time.process_time()
    with (folder / "train.log").open("a") as log, contextlib.redirect_stdout(log):
        result = _train(config, folder, may_diverge=run.part == "search")
    seconds = time.monotonic() - start
    cpu_seconds = time.process_time() - cpu_start
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
        # Unlike the wall-clock time, this is independent of other programs.
        "cpu_seconds": round(cpu_seconds, 1),
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "date": f"{datetime.date.today()}",
        "tensorflow": tf.__version__,
    }
    workdir.write_result(record, RECORD)
    return record


def _train(
    config: ml_collections.ConfigDict, folder: pathlib.Path, may_diverge: bool
) -> dict[str, Any]:
    try:
        return train(config, folder)
    except FloatingPointError:
        if not may_diverge:
            raise
        return {"top1": None, "loss": None, "parameters": None, "steps": None}


def step_milliseconds(workdir: Workdir, batch_size: int) -> float:
    """Returns the median time of a training step in milliseconds, from the run's event files.

    Args:
        workdir: the run's `Workdir`.
        batch_size: examples per step.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(workdir.path / "events"), size_guidance={"tensors": 0}).Reload()
    rates = [
        float(tf.make_ndarray(event.tensor_proto))
        for event in events.Tensors("speed/images_per_second")
    ]
    # A run of a single step has no rate above 0.
    return float(np.median([1000 * batch_size / rate for rate in rates if rate > 0] or [np.nan]))
