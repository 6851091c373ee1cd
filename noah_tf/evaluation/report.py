"""Evaluates a run on any number of sets and writes what was found."""

import dataclasses
import datetime
import json
import pathlib
import re

from noah_tf.evaluation import page, sets, tables
from noah_tf.evaluation.corruptions import named_corruptions
from noah_tf.evaluation.mistakes import worst_mistakes
from noah_tf.export.model_card import running_versions
from noah_tf.utils.files import write_text_atomically

_LONGEST_NAME = 80


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was found about a run.

    Attributes:
        entries: list of `sets.Entry`, state by state.
        sets: list of `sets.NamedSet`.
        class_names: the run's classes.
        multi_label: whether its model gives an image several.
        threshold: the probability from which on an image is said to have a class, then.
        mistakes: dict of a set's name → list of `mistakes.Mistake`, of the last of the weights.
        about: dict of what the run and the evaluation are, plain data.
    """

    entries: list
    sets: list
    class_names: tuple
    multi_label: bool
    threshold: float
    mistakes: dict
    about: dict

    def table(self):
        """The scores as text."""
        text = tables.text_table(*tables.score_rows(self.entries))
        header, rows = tables.corruption_rows(self.entries)
        return f"{text}\n\n{tables.text_table(header, rows)}" if rows else text


def report_run(
    workdir,
    set_names=("",),
    weights=None,
    corruptions=(),
    *,
    output=None,
    data_dir=None,
    label_key=None,
    batch_size=64,
    threshold=0.5,
    mistakes=12,
    seed=0,
    strategy="auto",
    command="",
):
    """Evaluates a run and writes the report.

    The folder gets report.html, result.json, metrics.csv, classes.csv, calibration.csv and, where
    an image has one class, confusion.csv.

    Args:
        workdir: the run's folder.
        set_names: "SPLIT" of the run's own data, or "DATA:SPLIT" of other data with its classes;
            without a split the one that it was evaluated on while it trained.
        weights: "last", "ema", "best"; None for the last ones, and for their moving average if the
            run keeps one.
        corruptions: kinds, see `corruptions.KINDS`, or "all", that the first set is damaged with,
            at five strengths.
        output: the folder to write; None for RUN/evaluations/NAME, the name made of the sets.
        data_dir: where sets are that are not the run's own; None for the run's data_dir.
        label_key: the label of those, where they have several.
        batch_size: images at once, over all devices; it does not change the result.
        threshold: the probability from which on an image is said to have a class, where it can
            have several.
        mistakes: how many of the worst mistakes are shown of a set.
        seed: int, of the noise.
        strategy: the name of the distribution strategy, see `distribute.make_strategy`.
        command: the command line, for the record.

    Returns:
        `Evaluation`, and the `pathlib.Path` of the folder.

    Raises:
        ValueError: there is no such set, state or corruption, or a set has other classes.
        FileNotFoundError: the folder holds no run.
        FloatingPointError: a logit is not finite.
    """
    folder = sets.as_workdir(workdir)
    # All that can be wrong comes before what takes time.
    usual = sets.default_weights(folder)
    weights = tuple(dict.fromkeys(weights or usual))
    copies = named_corruptions(corruptions, seed)
    opened = sets.open_sets(folder, set_names, data_dir, label_key)
    name = _name(opened, () if weights == usual else weights, copies)
    output = new_folder(output or folder.path / "evaluations" / name)
    loaded = sets.load_runs(folder, weights, strategy)

    entries, shown = [], {}
    run, _ = loaded[weights[0]]
    about = {
        "workdir": str(folder.path),
        "command": command,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seed": seed,
        "threshold": threshold,
        "model": run.model.name,
        "parameters": run.model.count_params(),
        "steps": {name: run.step for name, (run, _) in loaded.items()},
        "versions": running_versions(),
        "config": run.config.to_dict(),
    }
    for name, (run, evaluator) in loaded.items():
        for place, named_set in enumerate(opened):
            for corruption in (None, *(copies if place == 0 else ())):
                entry = sets.evaluate_set(
                    run,
                    evaluator,
                    name,
                    named_set,
                    batch_size=batch_size,
                    threshold=threshold,
                    corruption=corruption,
                )
                entries.append(entry)
                if corruption is None and name == weights[-1] and mistakes:
                    shown[named_set.name] = worst_mistakes(run, entry, mistakes, threshold)
    names, several = run.class_names, run.multi_label
    evaluation = Evaluation(entries, opened, names, several, threshold, shown, about)
    write_report(evaluation, output)
    return evaluation, output


def write_report(evaluation, folder):
    """Writes the files of an evaluation, each whole or not at all, result.json at the end.

    Args:
        evaluation: `Evaluation`.
        folder: the `pathlib.Path` of a folder that is there.
    """
    entries, names = evaluation.entries, evaluation.class_names
    write_text_atomically(folder / "metrics.csv", tables.metrics_csv(entries))
    write_text_atomically(
        folder / "classes.csv", tables.classes_csv(entries, names, evaluation.threshold)
    )
    write_text_atomically(folder / "calibration.csv", tables.calibration_csv(entries))
    if not evaluation.multi_label:
        write_text_atomically(folder / "confusion.csv", tables.confusion_csv(entries, names))
    write_text_atomically(folder / "report.html", page.page(evaluation))
    keys = ("set", "weights", "corruption", "strength")
    results = [{**dict(zip(keys, tables.key(e), strict=True)), **e.scores} for e in entries]
    write_result(folder, {"results": results, **evaluation.about})


def write_result(folder, result):
    """Writes result.json."""
    write_text_atomically(folder / "result.json", json.dumps(result, indent=2) + "\n")


def new_folder(path):
    """Makes a folder, which may be there.

    Raises:
        ValueError: there is a file of that name.
    """
    path = pathlib.Path(path).expanduser()
    if path.exists() and not path.is_dir():
        raise ValueError(f"--output={path} is a file: give the folder of the report.")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _name(opened, weights, copies):
    parts = [named_set.name for named_set in opened]
    parts += ["corrupted"] if copies else []
    return file_name(" ".join([*parts, *weights]))


def file_name(text):
    """A text as the name of a file or folder: letters, digits, - and _."""
    return re.sub(r"[^\w-]+", "_", text).strip("_")[:_LONGEST_NAME]
