"""Loads several runs, or several weights of one run, that have the same classes."""

import contextlib
from collections.abc import Sequence

import tensorflow as tf

from noah_tf.runs.checkpoint import Run, load_run
from noah_tf.runs.workdir import Workdir
from noah_tf.utils.paths import PathLike


def load_runs(
    states: Sequence[tuple[PathLike, str]],
    strategy: tf.distribute.Strategy | None = None,
) -> list[Run]:
    """Loads trained states of runs that have the same classes.

    Args:
        states: pairs of a run's folder and the weights to load, "last", "ema" or "best".
        strategy: the distribution strategy that the models are created under, or None.

    Returns:
        A list of `Run`, in the order of `states`.

    Raises:
        ValueError: the runs have different classes, or a run does not have these weights.
        FileNotFoundError: a folder holds no run, or none of its states was saved.
    """
    check_same_classes([Workdir(path) for path, _ in states])
    runs = []
    for path, weights in states:
        with strategy.scope() if strategy else contextlib.nullcontext():
            runs.append(load_run(path, weights))
    return runs


def check_same_classes(workdirs: Sequence[Workdir]) -> None:
    """Raises ValueError unless all runs have the same classes in the same order."""
    for workdir in workdirs:
        workdir.config()  # Raises FileNotFoundError if the folder holds no run.
    first, *others = workdirs
    expected = list(first.data().class_names)
    for other in others:
        class_names = list(other.data().class_names)
        if class_names != expected:
            raise ValueError(
                f"{first.path} has {describe_classes(expected)} and {other.path} has "
                f"{describe_classes(class_names)}: compare runs with the same classes in the same "
                "order."
            )


def describe_classes(class_names: Sequence[str]) -> str:
    """Returns the number of classes and the first three names, for an error message."""
    more = ", ..." if len(class_names) > 3 else ""
    return f"{len(class_names)} classes ({', '.join(class_names[:3])}{more})"
