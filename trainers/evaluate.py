"""Evaluates a training run on any number of sets, or compares two runs on the same examples.

    python trainers/evaluate.py --workdir runs/noah --split validation
    python trainers/evaluate.py --workdir runs/noah_resnet18 --weights last --weights ema \\
        --sets validation --sets imagenet_v2:test --sets imagenet2012_real:validation \\
        --corruptions all
    python trainers/evaluate.py --compare runs/noah runs/gap --sets test

The report is written to WORKDIR/evaluations/ or to --output. `--data D --split S` is short for
`--sets D:S`.
"""

import shlex
import sys

import command_line
from absl import flags

from noah_tf.evaluation import STRATEGIES, EvaluationOptions, paired, report, tables
from noah_tf.runs import WEIGHTS

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the training run.")
_COMPARE = flags.DEFINE_bool("compare", False, "Compare two runs, given as RUN_A RUN_B.")
_SETS = flags.DEFINE_multi_string(
    "sets", [], "SPLIT of the run's data or DATA:SPLIT of other data; default: the run's own split."
)
_WEIGHTS = flags.DEFINE_multi_enum(
    "weights", None, WEIGHTS, "Weights of the run; default: last, and ema if the run has it."
)
_CORRUPTIONS = flags.DEFINE_list(
    "corruptions", [], "Also corrupt the first set: noise,blur,contrast,jpeg or all."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the report.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images per batch.", lower_bound=1)
_SPLIT = flags.DEFINE_string("split", None, "Split; default: the run's own.")
_DATA = flags.DEFINE_string("data", None, "Another data set, such as imagenet2012_real or folder.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of other data; default: the run's own.")
_LABEL_KEY = flags.DEFINE_string("label_key", None, "Label of other data that has several.")
_THRESHOLD = flags.DEFINE_float(
    "threshold", 0.5, "Probability at which a multi-label model predicts a class.", 0.0, 1.0
)
_MISTAKES = flags.DEFINE_integer("mistakes", 12, "Number of mistakes shown.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise and the bootstrap.", lower_bound=0)
_STRATEGY = flags.DEFINE_enum("strategy", "auto", STRATEGIES, "Devices to use.")


def main(arguments: list[str]) -> None:
    runs = arguments[1:]
    _check_flags(runs)
    default_set = f"{_DATA.value}:{_SPLIT.value or ''}" if _DATA.value else _SPLIT.value or ""
    options = EvaluationOptions(
        set_names=_SETS.value or [default_set],
        weights=_WEIGHTS.value,
        output=_OUTPUT.value,
        data_dir=_DATA_DIR.value,
        label_key=_LABEL_KEY.value,
        batch_size=_BATCH_SIZE.value,
        threshold=_THRESHOLD.value,
        seed=_SEED.value,
        strategy=_STRATEGY.value,
        command=shlex.join(["python", *sys.argv]),
    )
    if _COMPARE.value:
        table, folder = paired.compare_runs(runs, options)
        print(f"\n{table}\nWrote {folder}: result.json.")
    else:
        evaluation, folder = report.report_run(
            _WORKDIR.value, options, _CORRUPTIONS.value, _MISTAKES.value
        )
        text = tables.scores_text(evaluation.results)
        print(f"\n{text}\nWrote {folder}: report.html, result.json and CSV files.")


def _check_flags(runs):
    """Raises ValueError if flags contradict each other."""
    if _COMPARE.value and (len(runs) != 2 or _WORKDIR.value or _CORRUPTIONS.value):
        raise ValueError(
            "--compare takes two runs, RUN_A RUN_B, without --workdir and --corruptions, got "
            f"{' '.join(runs) or 'none'}."
        )
    if runs and not _COMPARE.value:
        raise ValueError(f"Unknown arguments: {' '.join(runs)}")
    if _WORKDIR.value is None and not _COMPARE.value:
        raise ValueError(
            "--workdir is missing: name a run's folder, or give --compare RUN_A RUN_B."
        )
    if _SETS.value and (_DATA.value or _SPLIT.value):
        raise ValueError("--data and --split are for one set: give --sets=DATA:SPLIT for each.")


if __name__ == "__main__":
    command_line.run(main, positional=True)
