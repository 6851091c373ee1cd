"""The sets that a run is evaluated on, and what its weights say of them."""

import dataclasses
import re
import time

from noah_tf.datasets.source import Source
from noah_tf.evaluation import scores
from noah_tf.evaluation.corruptions import Corruption
from noah_tf.evaluation.evaluator import Evaluator, open_set
from noah_tf.runs.checkpoint import Run, load_run
from noah_tf.runs.workdir import Workdir
from noah_tf.utils import distribute

_BRACKETS = r"(?:[^:\[\]]|\[[^\]]*\])*"


@dataclasses.dataclass(frozen=True)
class NamedSet:
    """A set and what it is called: "SPLIT", or "DATA:SPLIT" where it is not the run's own."""

    name: str
    source: Source


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one state of a run is like on one set, or on a corrupted copy of it.

    Attributes:
        set: the `NamedSet`.
        weights: "last", "ema" or "best".
        corruption: the `Corruption`, or None of the set as it is.
        scores: dict of `scores.single_label_scores` or `multi_label_scores`, with "unlabelled" and
            "skipped" where images without a label were left out, or photos that do not decode.
        predictions: the `scores.Predictions`, or None of a corrupted copy.
    """

    set: NamedSet
    weights: str
    corruption: Corruption | None
    scores: dict
    predictions: scores.Predictions | None


def split_name(text):
    """A set's name, "SPLIT" or "DATA:SPLIT", as (data or None, split or None).

    Both can have colons of their own: "mnist:3.0.1:test[:90%]".

    Raises:
        ValueError: it is neither.
    """
    found = re.fullmatch(rf"(?:([^\[\]]+):)?({_BRACKETS})", text.strip())
    if not found:
        raise ValueError(f"A set is SPLIT or DATA:SPLIT, such as imagenet_v2:test; got {text!r}.")
    return found[1] or None, found[2] or None


def open_sets(run, texts, data_dir=None, label_key=None):
    """Opens sets by their names.

    Args:
        run: a `checkpoint.Run`; or its `Workdir`, before any weights are loaded.
        texts: the names, see `split_name`; an empty split is the one that the run was evaluated
            on while it trained.
        data_dir: where sets are that are not the run's own; None for the run's data_dir.
        label_key: the label of those, where they have several.

    Returns:
        List of `NamedSet`, each name once.

    Raises:
        ValueError: there is no such set, or it has other classes.
        FileNotFoundError: the folder holds no run.
    """
    config = run.config().data
    opened = {}
    for text in texts:
        data, split = split_name(text)
        split = split or config.eval_split
        name = f"{data}:{split}" if data else split
        if name not in opened:
            source = open_set(config, run.data().class_names, split, data, data_dir, label_key)
            opened[name] = NamedSet(name, source)
    return list(opened.values())


def default_weights(workdir):
    """The states that a run is judged by: its last, and their moving average if it keeps one."""
    return ("last", "ema") if workdir.config().ema.decay else ("last",)


def load_runs(workdir, weights, strategy):
    """Loads states of a run.

    Args:
        workdir: its `Workdir`.
        weights: "last", "ema" or "best", each at most once.
        strategy: the name of the distribution strategy, see `distribute.make_strategy`.

    Returns:
        Dict weights → (`Run`, `Evaluator`).

    Raises:
        ValueError: the run has no such weights, or there are other workers.
    """
    strategy = distribute.make_strategy(strategy)
    if distribute.is_multi_worker(strategy):
        raise ValueError("Evaluation takes one machine: unset the environment variable TF_CONFIG.")
    loaded = {}
    for name in weights:
        with strategy.scope():
            run = load_run(workdir.path, name)
        loaded[name] = run, Evaluator(run.model, strategy, run.multi_label)
    return loaded


def evaluate_set(
    run: Run, evaluator, weights, named_set, *, batch_size, threshold, corruption=None
):
    """Evaluates one state of a run on one set.

    Args:
        run: the `checkpoint.Run`.
        evaluator: its `Evaluator`.
        weights: what the state is called.
        named_set: the `NamedSet`.
        batch_size: images at once; it does not change the result.
        threshold: the probability from which on an image is said to have a class, where it can
            have several.
        corruption: a `Corruption` of its pictures, or None.

    Returns:
        `Entry`.
    """
    started, source = time.monotonic(), named_set.source
    seen = 0

    def batches():
        nonlocal seen
        for batch in evaluator.outputs(
            source, run.preprocessing, batch_size, run.config.data.on_corrupt, corruption
        ):
            seen += len(batch[0])
            yield batch

    predictions = scores.collect(batches(), run.multi_label)
    if run.multi_label:
        found = scores.multi_label_scores(predictions, threshold)
    else:
        found = scores.single_label_scores(predictions)
    if seen > len(predictions):
        found["unlabelled"] = seen - len(predictions)
    if seen < source.num_examples:
        found["skipped"] = source.num_examples - seen
    what = f"{named_set.name}{describe(corruption)}, weights {weights}"
    print(f"{what}: {seen} images in {time.monotonic() - started:.1f} s", flush=True)
    return Entry(named_set, weights, corruption, found, None if corruption else predictions)


def describe(corruption):
    """A corruption as words behind a set's name; nothing without one."""
    return f" with {corruption.kind} {corruption.strength}" if corruption else ""


def as_workdir(path):
    """The `Workdir` of a run.

    Raises:
        FileNotFoundError: the folder holds no run.
    """
    workdir = Workdir(path)
    workdir.config()
    return workdir
