"""Whether two runs differ: paired differences on the same images, with an interval and a test."""

import dataclasses
import datetime

import numpy as np

from noah_tf.evaluation import report, scores, sets, tables
from noah_tf.export.model_card import running_versions

RESAMPLES = 10_000
_LEVEL = 0.95
_BLOCK = 2**22  # numbers at once in the bootstrap of average precision


@dataclasses.dataclass(frozen=True)
class Difference:
    """A score of A minus that of B on the same images.

    Attributes:
        metric: the score's name.
        a: A's.
        b: B's.
        low: lower end of the 95 % interval of a - b.
        high: its upper end.
        only_a: images of which A alone is right; None of a score that is no share of images.
        only_b: images of which B alone is right.
        p_value: of McNemar's exact test that both are right equally often.
    """

    metric: str
    a: float
    b: float
    low: float
    high: float
    only_a: int | None = None
    only_b: int | None = None
    p_value: float | None = None


def accuracy_interval(right_a, right_b, seed=0, resamples=RESAMPLES):
    """Bootstrap interval of the difference of two accuracies on the same images.

    Args:
        right_a: bool (E,), which images A is right about.
        right_b: bool (E,), B.
        seed: int.
        resamples: how often images are drawn anew.

    Returns:
        The ends of the 95 % percentile interval of A - B.
    """
    size = len(right_a)
    counts = [np.sum(right_a & ~right_b), np.sum(right_b & ~right_a)]
    # To draw E images anew is to draw how many of them are of each of the three kinds.
    shares = np.array([*counts, size - sum(counts)]) / size
    drawn = np.random.default_rng(seed).multinomial(size, shares, size=resamples)
    return _percentiles((drawn[:, 0] - drawn[:, 1]) / size)


def mean_average_precision_interval(truth, logits_a, logits_b, seed=0, resamples=RESAMPLES):
    """Bootstrap interval of the difference of two mAPs on the same images.

    A class that does not occur in a resample is left out of its mean.

    Args:
        truth: bool (E, M).
        logits_a: float (E, M), A's.
        logits_b: float (E, M), B's.
        seed: int.
        resamples: how often images are drawn anew.

    Returns:
        The ends of the 95 % percentile interval of A - B.
    """
    rng, size = np.random.default_rng(seed), len(truth)
    sums, occurring = np.zeros(resamples), np.zeros(resamples)
    rankings = [
        (_Ranking(truth[:, c], logits_a[:, c]), _Ranking(truth[:, c], logits_b[:, c]))
        for c in np.flatnonzero(truth.any(axis=0))
    ]
    block = max(1, _BLOCK // size)
    for start in range(0, resamples, block):
        part = slice(start, min(start + block, resamples))
        counts = rng.multinomial(size, np.full(size, 1 / size), size=part.stop - start)
        counts = counts.astype(np.float64)
        for of_a, of_b in rankings:
            difference = of_a.average_precisions(counts) - of_b.average_precisions(counts)
            there = np.isfinite(difference)
            sums[part] += np.where(there, difference, 0.0)
            occurring[part] += there
    return _percentiles(sums / np.maximum(occurring, 1))


class _Ranking:
    """The images of a class in the order of its logit, for average precision by weights."""

    def __init__(self, truth, logits):
        self._order = np.argsort(-logits, kind="stable")
        ranked = logits[self._order]
        self._hits = np.flatnonzero(truth[self._order])
        # Equal logits are told together: the precision is that of the last of them.
        self._ends = np.searchsorted(-ranked, -ranked[self._hits], side="right") - 1

    def average_precisions(self, weights):
        """(R,) of weights (R, E) of the images; NaN where no image of the class has any."""
        ranked = weights[:, self._order]
        all_before = np.cumsum(ranked, axis=1)[:, self._ends]
        of_hits = ranked[:, self._hits]
        # Places among the hits of the last of equal logits.
        last = np.searchsorted(self._hits, self._ends, side="right") - 1
        hits_before = np.cumsum(of_hits, axis=1)[:, last]
        with np.errstate(invalid="ignore"):
            # Where all_before is 0 the weight of the hit is, too.
            precision = hits_before / np.maximum(all_before, 1e-300)
            return (precision * of_hits).sum(axis=1) / of_hits.sum(axis=1)


def mcnemar(only_a, only_b):
    """McNemar's exact test: the p-value that each is as often right alone as the other.

    Args:
        only_a: how many images A alone is right about.
        only_b: B.

    Returns:
        Float, two-sided; 1 where there are no such images.
    """
    from scipy.stats import binomtest

    alone = int(only_a + only_b)
    return float(binomtest(int(only_a), alone, 0.5).pvalue) if alone else 1.0


def differences(a, b, threshold=0.5, seed=0, resamples=RESAMPLES):
    """The paired differences of two models on one set.

    Args:
        a: `scores.Predictions` of A.
        b: those of B, of the same images.
        threshold: the probability from which on an image is said to have a class, where it can
            have several.
        seed: int, of the bootstrap.
        resamples: how often images are drawn anew.

    Returns:
        List of `Difference`: of "top1"; of models that give an image several classes of "exact",
        the share of images whose classes are all right, and of "mAP".

    Raises:
        ValueError: the images or their classes are not the same.
    """
    same = np.array_equal(a.places, b.places) and a.truth.shape == b.truth.shape
    if not same or (a.truth != b.truth).nnz:
        raise ValueError(
            f"The two runs saw different images or labels ({len(a):,} and {len(b):,} examples): "
            "evaluate both on the same data."
        )
    if a.logits is None:
        right = [a.right, b.right]
    else:
        truth = a.truth.toarray()
        right = [(scores.decisions(p, threshold) == truth).all(axis=1) for p in (a, b)]
    only_a, only_b = (int(np.sum(one & ~other)) for one, other in (right, right[::-1]))
    counts = (only_a, only_b, mcnemar(only_a, only_b))
    interval = accuracy_interval(*right, seed, resamples)
    shares = [float(r.mean()) for r in right]
    found = [Difference("top1" if a.logits is None else "exact", *shares, *interval, *counts)]
    if a.logits is not None:
        interval = mean_average_precision_interval(truth, a.logits, b.logits, seed, resamples)
        means = [scores.multi_label_scores(p, threshold)["mAP"] for p in (a, b)]
        found.insert(0, Difference("mAP", *means, *interval))
    return found


def compare_runs(
    workdirs,
    set_names=("",),
    weights=None,
    *,
    output=None,
    data_dir=None,
    label_key=None,
    batch_size=64,
    threshold=0.5,
    seed=0,
    strategy="auto",
    command="",
):
    """Compares two runs on the same images.

    Args:
        workdirs: the folders of A and B; the same one twice to compare two states of it.
        set_names: see `report.report_run`; those without data are of A's own data.
        weights: one of "last", "ema", "best" for both, or two, of A and of B; None for "last".
        output: the folder to write; None for A/evaluations/compare_NAME.
        data_dir: see `report.report_run`, as for the next three.
        label_key: see there.
        batch_size: see there.
        threshold: see there.
        seed: int, of the bootstrap.
        strategy: see there.
        command: the command line, for the record.

    Returns:
        A table as text, and the `pathlib.Path` of the folder, whose result.json has the figures.

    Raises:
        ValueError: the runs have other classes or other data.
        FileNotFoundError: a folder holds no run.
    """
    folders = [sets.as_workdir(workdir) for workdir in workdirs]
    weights = tuple(weights or ("last",))
    if len(weights) > 2:
        raise ValueError(f"--compare takes one or two --weights; got {', '.join(weights)}.")
    weights = weights if len(weights) == 2 else weights * 2
    _check_same_data(folders, set_names)
    opened = sets.open_sets(folders[0], set_names, data_dir, label_key)
    name = report.file_name(f"compare {folders[1].path.name} {' '.join(s.name for s in opened)}")
    folder = report.new_folder(output or folders[0].path / "evaluations" / name)
    loaded = [
        sets.load_runs(workdir, [which], strategy)[which]
        for workdir, which in zip(folders, weights, strict=True)
    ]
    header = ["set", "metric", "A", "B", "A - B", "95 % interval", "only A", "only B", "McNemar p"]
    rows, results = [], []
    for named_set in opened:
        both = [
            sets.evaluate_set(
                run, evaluator, which, named_set, batch_size=batch_size, threshold=threshold
            ).predictions
            for (run, evaluator), which in zip(loaded, weights, strict=True)
        ]
        for found in differences(*both, threshold, seed):
            results.append({"set": named_set.name, **dataclasses.asdict(found)})
            rows.append([named_set.name, *_texts(found)])
    about = {
        "a": {"workdir": str(folders[0].path), "weights": weights[0]},
        "b": {"workdir": str(folders[1].path), "weights": weights[1]},
        "resamples": RESAMPLES,
        "seed": seed,
        "command": command,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": running_versions(),
    }
    report.write_result(folder, {"results": results, **about})
    names = [
        f"{key.upper()}: {{workdir}}, weights {{weights}}".format(**about[key]) for key in "ab"
    ]
    return "\n".join([*names, tables.text_table(header, rows)]), folder


def _check_same_data(folders, set_names):
    """Raises ValueError unless both runs have the same classes, and data where it is needed."""
    a, b = (folder.data() for folder in folders)
    paths = [folder.path for folder in folders]
    if a.multi_label != b.multi_label:
        one, several = paths if b.multi_label else paths[::-1]
        raise ValueError(
            f"{one} gives an image one class and {several} several: only runs that do the same can "
            "be compared."
        )
    if list(a.class_names) != list(b.class_names):
        raise ValueError(
            f"{paths[0]} has {len(a.class_names)} classes, {', '.join(a.class_names[:3])} ..., and "
            f"{paths[1]} has {len(b.class_names)}, {', '.join(b.class_names[:3])} ...: only runs "
            "with the same ones, in the same order, can be compared."
        )
    configs = [folder.config().data for folder in folders]
    own = any(sets.split_name(text)[0] is None for text in set_names)
    names = [_data_name(config) for config in configs]
    if own and names[0] != names[1]:
        raise ValueError(
            f"{paths[0]} was trained on {names[0]} and {paths[1]} on {names[1]}: say what to "
            "compare them on with --sets=DATA:SPLIT."
        )
    splits = [config.eval_split for config in configs]
    if any(sets.split_name(text)[1] is None for text in set_names) and splits[0] != splits[1]:
        raise ValueError(
            f"{paths[0]} was evaluated on split {splits[0]} and {paths[1]} on {splits[1]}: say "
            "which to compare them on with --sets=SPLIT."
        )


def _data_name(config):
    return f"{config.name} in {config.data_dir}" if config.name == "folder" else config.name


def _texts(found):
    signed = (found.a - found.b, found.low, found.high)
    difference, low, high = (f"{100 * value:+.2f}" for value in signed)
    counts = ["", "", ""]
    if found.p_value is not None:
        counts = [f"{found.only_a:,}", f"{found.only_b:,}", f"{found.p_value:.2g}"]
    return [
        found.metric,
        f"{found.a:.2%}",
        f"{found.b:.2%}",
        difference,
        f"[{low}, {high}]",
        *counts,
    ]


def _percentiles(values):
    tail = 50 * (1 - _LEVEL)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
