"""Evaluates a training run on a split of its data set, or of another one.

python trainers/evaluate.py --workdir runs/noah --split validation
"""

import command_line
from absl import flags

from noah_tf import evaluate

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the training run.")
_SPLIT = flags.DEFINE_string("split", None, "Split; by default the run's own.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images at once.", lower_bound=1)


def main(_):
    result, path = evaluate.evaluate_run(_WORKDIR.value, _SPLIT.value, _BATCH_SIZE.value)
    print(", ".join(f"{name} {value:.6g}" for name, value in result.items()))
    print(f"Wrote {path}.")


if __name__ == "__main__":
    command_line.run(main, required=["workdir"])
