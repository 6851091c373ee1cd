"""Trains a recipe; the same --workdir resumes it.

    python trainers/train.py --config configs/quickstart.py --workdir runs/noah
    python trainers/train.py --config configs/quickstart.py --workdir runs/long \\
        --config.train.epochs=20
    python trainers/train.py --config configs/deit.py:noah_deit_tiny_050 --dry_run
    python trainers/train.py --config configs/deit.py:noah_deit_tiny_050 --dry_run \\
        --workers 16 --devices 8

With --dry_run it describes the run and tries two steps on fake photos. The ImageNet recipes need no
data set for that; the other recipes open theirs to read its size. With --workers and --devices it
describes the run on so many machines with so many devices each.
"""

from typing import Any

import command_line
from absl import flags
from ml_collections import config_flags

from noah_tf.training import dry_run, loop
from noah_tf.training.callbacks import callbacks_function
from noah_tf.training.cluster_plan import Cluster

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, FILE.py or FILE.py:row.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Describe the run and try two steps on fake data.")
_WORKERS = flags.DEFINE_integer("workers", None, "Machines that --dry_run plans for.")
_DEVICES = flags.DEFINE_integer("devices", None, "Devices of each of these machines.")
_BANDWIDTH = flags.DEFINE_float("bandwidth", 100.0, "Network of each machine, in Gbit/s.")
_STEP_SECONDS = flags.DEFINE_float(
    "step_seconds", None, "Seconds of such a device for its share of a step; by default, of ours."
)
_IMAGES_PER_CORE = flags.DEFINE_float(
    "images_per_core",
    None,
    "Images/s that one core prepares (benchmarks/input_pipeline.py); by default, measured.",
)
_CALLBACKS = flags.DEFINE_string(
    "callbacks", None, "module:function, which returns a list of Keras callbacks that observe."
)


def main(_: list[str]) -> None:
    callbacks = callbacks_function(_CALLBACKS.value) if _CALLBACKS.value else ()
    if _DRY_RUN.value:
        print(dry_run.dry_run(_CONFIG.value, _cluster()))
        return
    if given := _given():
        raise ValueError(f"--{', --'.join(given)} plans a run: give --dry_run, or leave it out.")
    if _WORKDIR.value is None:
        raise ValueError("--workdir is missing: name the folder of the run, or give --dry_run.")
    result = loop.train(_CONFIG.value, _WORKDIR.value, callbacks=callbacks)
    print(", ".join(f"{name} {value:.6g}" for name, value in result.items()))
    print(
        f"Wrote {_WORKDIR.value}: model.keras, model.weights.h5, best.weights.h5, epochs.csv, "
        "events, result.json."
    )


def _cluster() -> Cluster | None:
    return Cluster(**{"workers": 1, "devices": 1, **_given()}) if _given() else None


def _given() -> dict[str, Any]:
    """Returns the flags of the command line that describe a cluster."""
    cluster = (_WORKERS, _DEVICES, _BANDWIDTH, _STEP_SECONDS, _IMAGES_PER_CORE)
    return {flag.name: flag.value for flag in cluster if flag.present}


if __name__ == "__main__":
    command_line.run(main, required=["config"])
