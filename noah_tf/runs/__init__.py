"""A training run: its recipe, its folder, its checkpoints, the model built from its config."""

from noah_tf.runs.checkpoint import WEIGHTS, Checkpoints, Run, check_stack, load_run
from noah_tf.runs.loading import check_same_classes, describe_classes, load_runs
from noah_tf.runs.model_config import ModelSpec, SavedBackbone, is_keras_file
from noah_tf.runs.moving_average import MovingAverage
from noah_tf.runs.pretrained_pixels import pixel_advice
from noah_tf.runs.recipe import from_section
from noah_tf.runs.workdir import Workdir, short_names

__all__ = [
    "Checkpoints",
    "ModelSpec",
    "MovingAverage",
    "Run",
    "SavedBackbone",
    "WEIGHTS",
    "Workdir",
    "check_same_classes",
    "check_stack",
    "describe_classes",
    "from_section",
    "is_keras_file",
    "load_run",
    "load_runs",
    "pixel_advice",
    "short_names",
]
