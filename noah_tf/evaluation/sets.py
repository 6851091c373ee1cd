"""Opens evaluation sets by their names, and evaluates the weights of a run on them."""

import dataclasses
import re
import time
from collections.abc import Sequence

from noah_tf.evaluation import scores
from noah_tf.evaluation.corruptions import Corruption
from noah_tf.evaluation.evaluator import Evaluator, default_split, open_set
from noah_tf.evaluation.options import EvaluationOptions
from noah_tf.evaluation.results import NamedSet, SetResult
from noah_tf.runs import Run, Workdir, load_runs
from noah_tf.utils import distribute
from noah_tf.utils.paths import PathLike

_SPLIT = r"(?:[^:\[\]]|\[[^\]]*\])*"  # a colon may stand within brackets only


@dataclasses.dataclass(frozen=True)
class LoadedWeights:
    """Some weights of a run, ready for evaluation.

    Attributes:
        name: "last", "ema" or "best".
        run: the `checkpoint.Run` with these weights.
        evaluator: the `Evaluator` of its model.
    """

    name: str
    run: Run
    evaluator: Evaluator


def split_name(text: str) -> tuple[str | None, str | None]:
    """Splits the name of a set, "SPLIT" or "DATA:SPLIT", into data and split.

    Both may contain colons, as in "mnist:3.0.1:test[:90%]".

    Args:
        text: the name.

    Returns:
        The data or None, and the split or None.

    Raises:
        ValueError: the text is not a name of a set.
    """
    match = re.fullmatch(rf"(?:([^\[\]]+):)?({_SPLIT})", text.strip())
    if not match:
        raise ValueError(f"A set is SPLIT or DATA:SPLIT, such as imagenet_v2:test, got {text!r}.")
    return match[1] or None, match[2] or None


def open_sets(workdir: Workdir, options: EvaluationOptions) -> list[NamedSet]:
    """Opens the sets that the options name, each once.

    Args:
        workdir: the run's `Workdir`.
        options: `EvaluationOptions`.

    Returns:
        List of `NamedSet`.

    Raises:
        ValueError: there is no such set, or it has different classes.
        FileNotFoundError: the folder holds no run.
    """
    config, class_names = workdir.config().data, workdir.data().class_names
    sets = {}
    for text in options.set_names:
        data, split = split_name(text)
        split = split or default_split(config, data)
        name = f"{data}:{split}" if data else split
        if name not in sets:
            source = open_set(config, class_names, split, data, options.data_dir, options.label_key)
            sets[name] = NamedSet(name, source)
    return list(sets.values())


def default_weights(workdir: Workdir) -> tuple[str, ...]:
    """Returns "last", and "ema" if the run keeps a moving average of its weights."""
    return ("last", "ema") if workdir.config().ema.decay else ("last",)


def load_weights(states: Sequence[tuple[PathLike, str]], strategy_name: str) -> list[LoadedWeights]:
    """Loads weights of runs that have the same classes, with an evaluator for each.

    Args:
        states: pairs of a run's folder and "last", "ema" or "best".
        strategy_name: name of the distribution strategy, see `distribute.make_strategy`.

    Returns:
        List of `LoadedWeights`, in the order of `states`.

    Raises:
        ValueError: a run does not have these weights, or TF_CONFIG names other workers.
    """
    strategy = distribute.make_strategy(strategy_name)
    if distribute.is_multi_worker(strategy):
        raise ValueError(
            "Evaluation runs on one machine: unset the environment variable TF_CONFIG."
        )
    runs = load_runs(states, strategy)
    return [
        LoadedWeights(name, run, Evaluator(run.model, strategy, run.multi_label))
        for (_, name), run in zip(states, runs, strict=True)
    ]


def evaluate_set(
    loaded: LoadedWeights,
    named_set: NamedSet,
    options: EvaluationOptions,
    corruption: Corruption | None = None,
) -> SetResult:
    """Evaluates some weights of a run on one set, and prints how long that took.

    Args:
        loaded: the `LoadedWeights`.
        named_set: the `NamedSet`.
        options: `EvaluationOptions`.
        corruption: a `Corruption` that is applied to the images, or None.

    Returns:
        `SetResult`.
    """
    start_time, source, run = time.monotonic(), named_set.source, loaded.run
    num_decoded = 0

    def batches():
        nonlocal num_decoded
        for batch in loaded.evaluator.outputs(
            source, run.preprocessing, options.batch_size, run.config.data.on_corrupt, corruption
        ):
            num_decoded += len(batch[0])
            yield batch

    predictions = scores.collect(batches(), run.multi_label)
    if run.multi_label:
        values = scores.multi_label_scores(predictions, options.threshold)
    else:
        values = scores.single_label_scores(predictions)
    if num_decoded > len(predictions):
        values["unlabeled"] = num_decoded - len(predictions)
    if num_decoded < source.num_examples:
        values["skipped"] = source.num_examples - num_decoded
    suffix = f" with {corruption.kind} {corruption.severity}" if corruption else ""
    seconds = time.monotonic() - start_time
    print(
        f"{named_set.name}{suffix}, weights {loaded.name}: {num_decoded} examples in "
        f"{seconds:.1f} s",
        flush=True,
    )
    return SetResult(
        named_set, loaded.name, corruption, values, None if corruption else predictions
    )


def open_workdir(path: PathLike) -> Workdir:
    """Returns the `Workdir` of a run.

    Raises:
        FileNotFoundError: the folder holds no run.
    """
    workdir = Workdir(path)
    workdir.config()
    return workdir
