"""Compares two heads on one backbone and data set, each with the same budget."""

import copy
from collections.abc import Sequence
from typing import Any

import ml_collections

from noah_tf.evaluation import evaluate_run, primary_metric
from noah_tf.training.loop import train
from noah_tf.utils.paths import PathLike, as_path

HEADS = ("gap", "noah")


def compare_heads(
    config: ml_collections.ConfigDict,
    workdir: PathLike,
    learning_rates: Sequence[float],
    search_epochs: int,
    select_split: str = "validation",
    heads: Sequence[str] = HEADS,
) -> dict[str, dict[str, Any]]:
    """Searches the learning rate of each head and trains it, all with the same steps and data.

    Args:
        config: a recipe; its head and its learning rate are replaced.
        workdir: folder of the comparison. Every run has a folder in it, and resumes there.
        learning_rates: the learning rates to try with each head.
        search_epochs: epochs of a trial.
        select_split: the split that chooses the learning rate, and that evaluates runs while they
            train. The split that `config` evaluates on is used once, at the end.
        heads: the heads to compare.

    Returns:
        Dict head → dict of "learning_rate"; "trials", a dict from each learning rate that did not
        diverge to its metric on `select_split`; and "result", the metrics, steps and parameters of
        the full run.

    Raises:
        FloatingPointError: a head diverged with every learning rate.
    """
    workdir = as_path(workdir)
    test_split = config.data.eval_split
    outcome: dict[str, dict[str, Any]] = {}
    for head in heads:
        trials: dict[float, float] = {}
        for rate in learning_rates:
            print(f"\n{head}: trying learning rate {rate:g}, epochs: {search_epochs}")
            trial = _variant(config, head, rate, select_split)
            trial.train.epochs = search_epochs
            try:
                result = train(trial, workdir / f"{head}-search-{rate:g}")
            except FloatingPointError as error:
                print(f"{head} diverges with learning rate {rate:g}: {error}")
            else:
                trials[rate] = result[primary_metric(result)]
        if not trials:
            raise FloatingPointError(
                f"{head} diverges with every learning rate of {list(learning_rates)}: try lower "
                "ones."
            )
        best = max(trials, key=lambda rate: trials[rate])
        print(f"\n{head}: training with learning rate {best:g}, epochs: {config.train.epochs}")
        result = train(_variant(config, head, best, select_split), workdir / head)
        test, _ = evaluate_run(workdir / head, test_split, config.train.batch_size)
        outcome[head] = {"learning_rate": best, "trials": trials, "result": {**result, **test}}
    return outcome


def comparison_table(outcome: dict[str, dict[str, Any]]) -> str:
    """Returns the outcome of `compare_heads` as lines of text."""
    metric = primary_metric(next(iter(outcome.values()))["result"])
    lines = [f"{'head':6} {metric:>7} {'loss':>7} {'parameters':>11} {'learning rate':>14}"]
    for head, row in outcome.items():
        result = row["result"]
        lines.append(
            f"{head:6} {result[metric]:7.2%} {result['loss']:7.3f} "
            f"{result['parameters']:11,} {row['learning_rate']:14g}"
        )
    return "\n".join(lines)


def _variant(
    config: ml_collections.ConfigDict, head: str, learning_rate: float, eval_split: str
) -> ml_collections.ConfigDict:
    variant = copy.deepcopy(config)
    variant.model.head = head
    if head == "gap":
        variant.model.num_groups = variant.model.key_ratio = None
    variant.optimizer.learning_rate = learning_rate
    variant.data.eval_split = eval_split
    return variant
