"""Training: the loop, the train step, optimizers, schedules, recipe checks, the dry run."""

from noah_tf.training.interrupt import Interrupted

__all__ = [
    "Interrupted",
]
