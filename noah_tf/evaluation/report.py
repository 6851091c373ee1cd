"""Evaluates a run on any number of sets, and writes a report."""

import datetime
import json
import re
from collections.abc import Sequence
from typing import Any

from noah_tf.evaluation import page, sets, tables
from noah_tf.evaluation.corruptions import Corruption, named_corruptions
from noah_tf.evaluation.mistakes import most_confident_mistakes
from noah_tf.evaluation.options import EvaluationOptions
from noah_tf.evaluation.results import Evaluation, NamedSet
from noah_tf.export import running_versions
from noah_tf.utils.files import write_text_atomically
from noah_tf.utils.paths import Path, PathLike, as_path

_MAX_NAME_LENGTH = 80


def report_run(
    workdir: PathLike,
    options: EvaluationOptions | None = None,
    corruptions: Sequence[str] = (),
    num_mistakes: int = 12,
) -> tuple[Evaluation, Path]:
    """Evaluates a run and writes the report.

    The folder gets report.html, result.json, metrics.csv, classes.csv, calibration.csv and, for a
    single-label model, confusion.csv.

    Args:
        workdir: the run's folder.
        options: `EvaluationOptions`. `weights` is ("last",) by default, or ("last", "ema") if the
            run keeps a moving average; `output` is RUN/evaluations/NAME by default, with a name
            made of the sets.
        corruptions: kinds of corruption that are applied to the first set at five severities, see
            `corruptions.KINDS`; "all" stands for all of them.
        num_mistakes: the number of mistakes shown for each set.

    Returns:
        `results.Evaluation`, and the path of the folder.

    Raises:
        ValueError: there is no such set, state or corruption, or a set has different classes.
        FileNotFoundError: the folder holds no run.
        FloatingPointError: a logit is not finite.

    Example:

    >>> report_run("runs/noah", EvaluationOptions(set_names=["test"]), corruptions=["blur"])
    """
    options = options or EvaluationOptions()
    run_workdir = sets.open_workdir(workdir)
    # Everything that can be wrong is checked before the models are loaded, which takes time.
    default_weights = sets.default_weights(run_workdir)
    weights = tuple(dict.fromkeys(options.weights or default_weights))
    corruption_copies = named_corruptions(corruptions, options.seed)
    named_sets = sets.open_sets(run_workdir, options)
    name = _report_name(named_sets, corruption_copies, weights, default_weights)
    folder = new_folder(options.output or run_workdir.path / "evaluations" / name)
    states = sets.load_weights([(run_workdir.path, name) for name in weights], options.strategy)

    results, mistakes = [], {}
    for loaded in states:
        for named_set in named_sets:
            result = sets.evaluate_set(loaded, named_set, options)
            results.append(result)
            if named_set is named_sets[0]:
                results += [
                    sets.evaluate_set(loaded, named_set, options, corruption)
                    for corruption in corruption_copies
                ]
            if loaded is states[-1] and num_mistakes:
                mistakes[named_set.name] = most_confident_mistakes(
                    loaded.run, result, num_mistakes, options.threshold
                )
    run = states[0].run
    evaluation = Evaluation(
        results=results,
        sets=named_sets,
        class_names=run.class_names,
        multi_label=run.multi_label,
        threshold=options.threshold,
        mistakes=mistakes,
        metadata=_metadata(states, options),
    )
    write_report(evaluation, folder)
    return evaluation, folder


def _metadata(states: list[sets.LoadedWeights], options: EvaluationOptions) -> dict[str, Any]:
    run = states[0].run
    return {
        "workdir": str(run.workdir.path),
        "command": options.command,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seed": options.seed,
        "threshold": options.threshold,
        "model": run.model.name,
        "parameters": run.model.count_params(),
        "steps": {loaded.name: loaded.run.step for loaded in states},
        "versions": running_versions(),
        "config": run.config.to_dict(),
    }


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """Writes the files of an evaluation, each one atomically and result.json last.

    Args:
        evaluation: `results.Evaluation`.
        folder: path of an existing folder.
    """
    results, class_names = evaluation.results, evaluation.class_names
    texts = {
        "metrics.csv": tables.metrics_csv(results),
        "classes.csv": tables.classes_csv(results, class_names, evaluation.threshold),
        "calibration.csv": tables.calibration_csv(results),
    }
    if not evaluation.multi_label:
        texts["confusion.csv"] = tables.confusion_csv(results, class_names)
    texts["report.html"] = page.render(evaluation)
    for name, text in texts.items():
        write_text_atomically(folder / name, text)
    rows = [{**tables.result_key(result), **result.scores} for result in results]
    write_result(folder, {"results": rows, **evaluation.metadata})


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Writes result.json."""
    write_text_atomically(folder / "result.json", json.dumps(result, indent=2) + "\n")


def new_folder(path: PathLike) -> Path:
    """Creates a folder unless it exists, and returns its path.

    Raises:
        ValueError: there is a file of that name.
    """
    path = as_path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"The report needs a folder, but --output={path} is a file.")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _report_name(
    named_sets: list[NamedSet],
    corruptions: list[Corruption],
    weights: tuple[str, ...],
    default_weights: tuple[str, ...],
) -> str:
    words = [named_set.name for named_set in named_sets]
    words += ["corrupted"] if corruptions else []
    words += weights if weights != default_weights else ()
    return file_name(" ".join(words))


def file_name(text: str) -> str:
    """Returns a text as the name of a file or folder: letters, digits, "-" and "_"."""
    return re.sub(r"[^\w-]+", "_", text).strip("_")[:_MAX_NAME_LENGTH]
