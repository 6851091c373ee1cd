"""Saves and restores the state of a run."""

import dataclasses

import ml_collections
import tensorflow as tf
from absl import logging

from noah_tf import preprocess, zoo
from noah_tf.workdir import Workdir


class Checkpoints:
    """The training state of a run on disk: weights, optimizer, random state and step.

    A checkpoint is written under a temporary name first, so that a kill leaves the one before.

    Args:
        folder: where they are.
        model: the Keras model.
        optimizer: its optimizer, or None to restore the model alone.
        keep: how many of the newest stay.
    """

    def __init__(self, folder, model, optimizer=None, keep=2):
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        parts = {"model": model, "step": self._step}
        if optimizer is not None:
            parts["optimizer"] = optimizer
        self._checkpoint = tf.train.Checkpoint(**parts)
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=keep)

    def save(self, step):
        """Saves the state after `step` steps, unless it is on disk already."""
        self._step.assign(step)
        newest = self._manager.latest_checkpoint
        if newest is None or not newest.endswith(f"-{step}"):
            self._manager.save(checkpoint_number=step)

    def restore(self):
        """Restores the newest checkpoint that can be read.

        Resuming from an older one costs time and changes nothing, since every step is a function
        of the state before it; so a damaged one is logged and passed over.

        Returns:
            The number of steps done, 0 if nothing was ever saved.

        Raises:
            OSError: there are checkpoints, and none can be read.
        """
        for path in reversed(self._manager.checkpoints):
            try:
                status = self._checkpoint.restore(path)
                status.assert_existing_objects_matched()
                # Without an optimizer to restore, its part of the file stays unread.
                status.expect_partial()
            # A short file is an IndexError or an OpError, another model's an AssertionError.
            except (tf.errors.OpError, IndexError, AssertionError, ValueError) as error:
                logging.error(
                    "Checkpoint %s cannot be read (%s); trying the one before it.", path, error
                )
            else:
                return int(self._step.numpy())
        if self._manager.checkpoints:
            raise OSError(
                f"None of the checkpoints {', '.join(self._manager.checkpoints)} can be read: "
                "restore them from a copy, or train into another --workdir."
            )
        return 0


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model with what is needed to use it."""

    workdir: Workdir
    config: ml_collections.ConfigDict
    model: tf.keras.Model
    preprocessing: preprocess.Preprocessing
    class_names: tuple
    multi_label: bool
    step: int


def load_run(path):
    """Loads the newest state of a training run.

    The weights are those of model.weights.h5 once the run is complete, which either Keras reads;
    before that, those of the newest checkpoint, which only the Keras that wrote it reads.

    Args:
        path: its --workdir.

    Returns:
        A `Run`.

    Raises:
        FileNotFoundError: no run was begun there, or none of its states was saved.
        OSError: no checkpoint can be read.
    """
    workdir = Workdir(path)
    config = workdir.config()
    classes = workdir.classes()
    class_names = classes["names"]
    preprocessing = preprocess.Preprocessing.from_dict(config.preprocess.to_dict())
    model = zoo.model_from_config(config.model, preprocessing.image_size, len(class_names))
    result = workdir.result()
    if result is not None:
        model.load_weights(str(workdir.weights))
        step = result["steps"]
    else:
        step = Checkpoints(workdir.checkpoints, model).restore()
    if not step:
        raise FileNotFoundError(
            f"{workdir.path} has no checkpoint yet: let trainers/train.py finish an epoch there."
        )
    return Run(workdir, config, model, preprocessing, class_names, classes["multi_label"], step)
