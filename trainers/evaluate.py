"""Evaluates a training run on any number of sets, or compares two runs on the same images.

    python trainers/evaluate.py --workdir runs/noah --split validation
    python trainers/evaluate.py --workdir runs/noah_resnet18 --weights last --weights ema \\
        --sets validation --sets imagenet_v2:test --sets imagenet2012_real:validation \\
        --corruptions all
    python trainers/evaluate.py --compare runs/noah runs/gap --sets test

The report goes to WORKDIR/evaluations/, or to --output. `--split S --data D` is `--sets D:S`.
"""

import shlex
import sys

import command_line
from absl import flags

from noah_tf.evaluation import paired, report
from noah_tf.runs.checkpoint import WEIGHTS

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the training run.")
_COMPARE = flags.DEFINE_bool("compare", False, "Compare two runs, which follow: RUN_A RUN_B.")
_SETS = flags.DEFINE_multi_string(
    "sets", [], "SPLIT of the run's data or DATA:SPLIT of other data; by default its own split."
)
_WEIGHTS = flags.DEFINE_multi_enum(
    "weights", None, WEIGHTS, "Which weights of the run; by default last, and ema if there is."
)
_CORRUPTIONS = flags.DEFINE_list(
    "corruptions", [], "Damage the first set, too: noise,blur,contrast,jpeg or all."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the report.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images at once.", lower_bound=1)
_SPLIT = flags.DEFINE_string("split", None, "Split; by default the run's own.")
_DATA = flags.DEFINE_string("data", None, "Another TFDS data set, such as imagenet2012_real.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where other data are; by default the run's own.")
_LABEL_KEY = flags.DEFINE_string("label_key", None, "Their label, where they have several.")
_THRESHOLD = flags.DEFINE_float("threshold", 0.5, "Probability of a class.", 0.0, 1.0)
_MISTAKES = flags.DEFINE_integer("mistakes", 12, "How many mistakes are shown.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise and of the bootstrap.", lower_bound=0)
_STRATEGY = flags.DEFINE_enum("strategy", "auto", ("auto", "single", "mirrored"), "Devices.")


def main(arguments):
    runs = arguments[1:]
    options = {
        "weights": _WEIGHTS.value,
        "output": _OUTPUT.value,
        "data_dir": _DATA_DIR.value,
        "label_key": _LABEL_KEY.value,
        "batch_size": _BATCH_SIZE.value,
        "threshold": _THRESHOLD.value,
        "seed": _SEED.value,
        "strategy": _STRATEGY.value,
        "command": shlex.join(["python", *sys.argv]),
    }
    if _COMPARE.value:
        if len(runs) != 2 or _WORKDIR.value or _CORRUPTIONS.value:
            raise ValueError(
                "--compare takes two runs, RUN_A RUN_B, without --workdir and --corruptions; got "
                f"{' '.join(runs) or 'none'}."
            )
        table, folder = paired.compare_runs(runs, _set_names(), **options)
        print(f"\n{table}\nWrote {folder}: result.json.")
        return
    if runs:
        raise ValueError(f"Not understood: {' '.join(runs)}")
    if _WORKDIR.value is None:
        raise ValueError(
            "--workdir is missing: name a run's folder, or give --compare RUN_A RUN_B."
        )
    evaluation, folder = report.report_run(
        _WORKDIR.value,
        _set_names(),
        corruptions=_CORRUPTIONS.value,
        mistakes=_MISTAKES.value,
        **options,
    )
    print(f"\n{evaluation.table()}\nWrote {folder}: report.html, result.json and CSV files.")


def _set_names():
    if _SETS.value and (_DATA.value or _SPLIT.value):
        raise ValueError("--data and --split are for one set: give --sets=DATA:SPLIT for each.")
    split = _SPLIT.value or ""
    return _SETS.value or [f"{_DATA.value}:{split}" if _DATA.value else split]


if __name__ == "__main__":
    command_line.run(main, positional=True)
