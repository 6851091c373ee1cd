"""Compares two runs on the same examples: paired differences with an interval and a test."""

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np

from noah_tf.evaluation import report, scores, sets, tables
from noah_tf.evaluation.options import EvaluationOptions
from noah_tf.export import running_versions
from noah_tf.runs import Workdir, check_same_classes
from noah_tf.utils.paths import Path, PathLike

RESAMPLES = 10_000
_LEVEL = 0.95
_BLOCK = 2**22  # numbers that the bootstrap of average precision holds at once


@dataclasses.dataclass(frozen=True)
class Difference:
    """A score of run A minus that of run B on the same examples.

    Attributes:
        metric: the name of the score.
        a: the score of A.
        b: the score of B.
        low: lower end of the 95% confidence interval of a - b.
        high: upper end of the interval.
        only_a: number of examples for which only A is correct; None if the score is not an
            accuracy.
        only_b: number of examples for which only B is correct; None if the score is not an
            accuracy.
        p_value: of McNemar's exact test of the hypothesis that A and B are equally often correct;
            None if the score is not an accuracy.
    """

    metric: str
    a: float
    b: float
    low: float
    high: float
    only_a: int | None = None
    only_b: int | None = None
    p_value: float | None = None


def accuracy_interval(
    correct_a: np.ndarray, correct_b: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Computes the bootstrap interval of the difference of two accuracies on the same examples.

    Args:
        correct_a: bool (E,), the examples for which A is correct.
        correct_b: bool (E,), the examples for which B is correct.
        seed: seed of the bootstrap.
        resamples: number of bootstrap resamples.

    Returns:
        The ends of the 95% percentile interval of A - B.
    """
    num_examples = len(correct_a)
    counts = [np.sum(correct_a & ~correct_b), np.sum(correct_b & ~correct_a)]
    # A resample is described by the number of its examples for which only A, only B, or neither
    # or both are correct.
    shares = np.array([*counts, num_examples - sum(counts)]) / num_examples
    resampled = np.random.default_rng(seed).multinomial(num_examples, shares, size=resamples)
    return _percentile_interval((resampled[:, 0] - resampled[:, 1]) / num_examples)


def mean_average_precision_interval(
    truth: np.ndarray,
    logits_a: np.ndarray,
    logits_b: np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Computes the bootstrap interval of the difference of two mAPs on the same examples.

    A class that does not occur in a resample is left out of the mean.

    Args:
        truth: bool (E, M).
        logits_a: float (E, M), the logits of A.
        logits_b: float (E, M), the logits of B.
        seed: seed of the bootstrap.
        resamples: number of bootstrap resamples.

    Returns:
        The ends of the 95% percentile interval of A - B.
    """
    rng, num_examples = np.random.default_rng(seed), len(truth)
    sums, num_occurring = np.zeros(resamples), np.zeros(resamples)
    rankings = [
        (_Ranking(truth[:, c], logits_a[:, c]), _Ranking(truth[:, c], logits_b[:, c]))
        for c in np.flatnonzero(truth.any(axis=0))
    ]
    block = max(1, _BLOCK // num_examples)
    for start in range(0, resamples, block):
        rows = slice(start, min(start + block, resamples))
        weights = rng.multinomial(
            num_examples, np.full(num_examples, 1 / num_examples), size=rows.stop - start
        ).astype(np.float64)
        for ranking_a, ranking_b in rankings:
            difference = ranking_a.average_precisions(weights)
            difference -= ranking_b.average_precisions(weights)
            occurs = np.isfinite(difference)
            sums[rows] += np.where(occurs, difference, 0.0)
            num_occurring[rows] += occurs
    return _percentile_interval(sums / np.maximum(num_occurring, 1))


class _Ranking:
    """The examples ordered by the logit of one class, for weighted average precision.

    Args:
        truth: bool (E,), the examples with the class.
        logits: float (E,), the logits of the class.
    """

    def __init__(self, truth: np.ndarray, logits: np.ndarray) -> None:
        self._order = np.argsort(-logits, kind="stable")
        ranked_logits = logits[self._order]
        self._positives = np.flatnonzero(truth[self._order])
        # Examples with equal logits are retrieved together: their precision is that at the last.
        self._last_ties = (
            np.searchsorted(-ranked_logits, -ranked_logits[self._positives], side="right") - 1
        )

    def average_precisions(self, weights: np.ndarray) -> np.ndarray:
        """Computes the average precision (R,) for weights (R, E) of the examples.

        It is NaN if all examples of the class have the weight 0.
        """
        ranked = weights[:, self._order]
        retrieved = np.cumsum(ranked, axis=1)[:, self._last_ties]
        positives = ranked[:, self._positives]
        last_positives = np.searchsorted(self._positives, self._last_ties, side="right") - 1
        retrieved_positives = np.cumsum(positives, axis=1)[:, last_positives]
        with np.errstate(invalid="ignore"):
            # If `retrieved` is 0, the weight of the positive example is 0 as well.
            precision = retrieved_positives / np.maximum(retrieved, 1e-300)
            return (precision * positives).sum(axis=1) / positives.sum(axis=1)


def mcnemar(only_a: int, only_b: int) -> float:
    """Computes the p-value of McNemar's exact test that A and B are equally often correct.

    Args:
        only_a: number of examples for which only A is correct.
        only_b: number of examples for which only B is correct.

    Returns:
        The two-sided p-value; 1 if there are no such examples.
    """
    from scipy.stats import binomtest

    discordant = int(only_a + only_b)
    return float(binomtest(int(only_a), discordant, 0.5).pvalue) if discordant else 1.0


def differences(
    a: scores.Predictions,
    b: scores.Predictions,
    threshold: float = 0.5,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Difference]:
    """Computes the paired differences of two models on one set.

    Args:
        a: `scores.Predictions` of A.
        b: `scores.Predictions` of B for the same examples.
        threshold: the lowest probability at which a multi-label model predicts a class.
        seed: seed of the bootstrap.
        resamples: number of bootstrap resamples.

    Returns:
        List of `Difference`: "top1" of single-label models; "mAP" and "subset_accuracy" of
        multi-label models.

    Raises:
        ValueError: the examples or their labels are not the same.
    """
    is_same = np.array_equal(a.indices, b.indices) and a.truth.shape == b.truth.shape
    if not is_same or (a.truth != b.truth).nnz:
        raise ValueError(
            f"The two runs saw different images or labels ({len(a):,} and {len(b):,} examples): "
            "evaluate both on the same data."
        )
    if a.logits is None:
        return [_accuracy_difference("top1", a.correct, b.correct, seed, resamples)]
    truth = a.truth.toarray()
    correct_a, correct_b = (
        (scores.predicted_labels(predictions, threshold) == truth).all(axis=1)
        for predictions in (a, b)
    )
    interval = mean_average_precision_interval(truth, a.logits, b.logits, seed, resamples)
    mean_a, mean_b = (
        scores.multi_label_scores(predictions, threshold)["mAP"] for predictions in (a, b)
    )
    return [
        Difference("mAP", mean_a, mean_b, *interval),
        _accuracy_difference("subset_accuracy", correct_a, correct_b, seed, resamples),
    ]


def _accuracy_difference(metric, correct_a, correct_b, seed, resamples) -> Difference:
    only_a = int(np.sum(correct_a & ~correct_b))
    only_b = int(np.sum(correct_b & ~correct_a))
    interval = accuracy_interval(correct_a, correct_b, seed, resamples)
    accuracies = float(correct_a.mean()), float(correct_b.mean())
    return Difference(metric, *accuracies, *interval, only_a, only_b, mcnemar(only_a, only_b))


def compare_runs(
    workdirs: Sequence[PathLike], options: EvaluationOptions | None = None
) -> tuple[str, Path]:
    """Compares two runs on the same examples, and writes result.json.

    Args:
        workdirs: the folders of A and B; the same folder twice compares two states of one run.
        options: `EvaluationOptions`. `set_names` without data name splits of A's own data;
            `weights` has one entry for both runs or two, for A and for B, and is ("last",) by
            default; `output` is A/evaluations/compare_NAME by default.

    Returns:
        A table as text, and the path of the folder with result.json.

    Raises:
        ValueError: the runs have different classes or different data.
        FileNotFoundError: a folder holds no run.
    """
    options = options or EvaluationOptions()
    a, b = (sets.open_workdir(workdir) for workdir in workdirs)
    weights = _weights_of_both(options)
    _check_comparable(a, b, options.set_names)
    named_sets = sets.open_sets(a, options)
    name = " ".join(["compare", b.path.name, *(named_set.name for named_set in named_sets)])
    folder = report.new_folder(options.output or a.path / "evaluations" / report.file_name(name))
    both = sets.load_weights(list(zip((a.path, b.path), weights, strict=True)), options.strategy)
    results = []
    for named_set in named_sets:
        predictions_a, predictions_b = (
            sets.evaluate_set(loaded, named_set, options).predictions for loaded in both
        )
        results += [
            (named_set.name, difference)
            for difference in differences(
                predictions_a, predictions_b, options.threshold, options.seed
            )
        ]
    report.write_result(
        folder,
        {
            "results": [{"set": name, **dataclasses.asdict(d)} for name, d in results],
            "a": {"workdir": str(a.path), "weights": weights[0]},
            "b": {"workdir": str(b.path), "weights": weights[1]},
            "resamples": RESAMPLES,
            "seed": options.seed,
            "command": options.command,
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "versions": running_versions(),
        },
    )
    header = ["set", "metric", "A", "B", "A - B", "95% interval", "only A", "only B", "McNemar p"]
    lines = [
        f"A: {a.path}, weights {weights[0]}",
        f"B: {b.path}, weights {weights[1]}",
        tables.text_table(header, [[name, *_table_cells(d)] for name, d in results]),
    ]
    return "\n".join(lines), folder


def _weights_of_both(options: EvaluationOptions) -> tuple[str, str]:
    weights = tuple(options.weights or ("last",))
    if len(weights) > 2:
        raise ValueError(f"--compare takes one or two --weights, got {', '.join(weights)}.")
    return weights[0], weights[-1]


def _check_comparable(a: Workdir, b: Workdir, set_names: Sequence[str]) -> None:
    """Raises ValueError unless both runs have the same classes, and the same data if needed."""
    if a.data().multi_label != b.data().multi_label:
        single, multi = (a, b) if b.data().multi_label else (b, a)
        raise ValueError(
            f"{single.path} is a single-label run and {multi.path} is a multi-label run: compare "
            "runs of the same kind."
        )
    check_same_classes([a, b])
    configs = [workdir.config().data for workdir in (a, b)]
    names = [_data_name(config) for config in configs]
    if any(sets.split_name(text)[0] is None for text in set_names) and names[0] != names[1]:
        raise ValueError(
            f"{a.path} was trained on {names[0]} and {b.path} on {names[1]}: choose the data to "
            "compare them on with --sets=DATA:SPLIT."
        )
    splits = [config.eval_split for config in configs]
    if any(sets.split_name(text)[1] is None for text in set_names) and splits[0] != splits[1]:
        raise ValueError(
            f"{a.path} was evaluated on split {splits[0]} and {b.path} on {splits[1]}: choose the "
            "split to compare them on with --sets=SPLIT."
        )


def _data_name(config: Any) -> str:
    return f"{config.name} in {config.data_dir}" if config.name == "folder" else config.name


def _table_cells(difference: Difference) -> list[str]:
    low, high = (f"{100 * value:+.2f}" for value in (difference.low, difference.high))
    counts = ["", "", ""]
    if difference.p_value is not None:
        counts = [
            f"{difference.only_a:,}",
            f"{difference.only_b:,}",
            f"{difference.p_value:.2g}",
        ]
    return [
        difference.metric,
        f"{difference.a:.2%}",
        f"{difference.b:.2%}",
        f"{100 * (difference.a - difference.b):+.2f}",
        f"[{low}, {high}]",
        *counts,
    ]


def _percentile_interval(values: np.ndarray) -> tuple[float, float]:
    tail = 50 * (1 - _LEVEL)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
