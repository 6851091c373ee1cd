"""Trains a recipe; the same --workdir resumes it.

    python trainers/train.py --config configs/quickstart.py --workdir runs/noah
    python trainers/train.py --config configs/quickstart.py --workdir runs/long \\
        --config.train.epochs=20
"""

import command_line
from absl import flags
from ml_collections import config_flags

from noah_tf import training

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, FILE.py or FILE.py:row.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")


def main(_):
    result = training.train(_CONFIG.value, _WORKDIR.value)
    print(", ".join(f"{name} {value:.6g}" for name, value in result.items()))
    print(
        f"Wrote {_WORKDIR.value}: model.keras, model.weights.h5, epochs.csv, events, result.json."
    )


if __name__ == "__main__":
    command_line.run(main, required=["config", "workdir"])
