"""Trains a recipe; the same --workdir resumes it.

    python trainers/train.py --config configs/quickstart.py --workdir runs/noah
    python trainers/train.py --config configs/quickstart.py --workdir runs/long \\
        --config.train.epochs=20
    python trainers/train.py --config configs/deit.py:noah_deit_tiny_050 --dry_run

With --dry_run it describes the run and tries two steps on fake photos. The ImageNet recipes need no
data set for that; the other recipes open theirs to read its size.
"""

import command_line
from absl import flags
from ml_collections import config_flags

from noah_tf.training import dry_run, loop
from noah_tf.training.callbacks import callbacks_function

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, FILE.py or FILE.py:row.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Describe the run and try two steps on fake data.")
_CALLBACKS = flags.DEFINE_string(
    "callbacks", None, "module:function, which returns a list of Keras callbacks that observe."
)


def main(_: list[str]) -> None:
    callbacks = callbacks_function(_CALLBACKS.value) if _CALLBACKS.value else ()
    if _DRY_RUN.value:
        print(dry_run.dry_run(_CONFIG.value))
        return
    if _WORKDIR.value is None:
        raise ValueError("--workdir is missing: name the folder of the run, or give --dry_run.")
    result = loop.train(_CONFIG.value, _WORKDIR.value, callbacks=callbacks)
    print(", ".join(f"{name} {value:.6g}" for name, value in result.items()))
    print(
        f"Wrote {_WORKDIR.value}: model.keras, model.weights.h5, best.weights.h5, epochs.csv, "
        "events, result.json."
    )


if __name__ == "__main__":
    command_line.run(main, required=["config"])
