"""Saves and restores the state of a run."""

import dataclasses
import re

import ml_collections
import tensorflow as tf
from absl import logging

from noah_tf.images import preprocessing as preprocess
from noah_tf.runs.model_config import model_from_config
from noah_tf.runs.moving_average import MovingAverage
from noah_tf.runs.workdir import Workdir
from noah_tf.utils.distribute import dtype_policy
from noah_tf.utils.keras_compat import KERAS_NAME, random_states

WEIGHTS = ("last", "ema", "best")


class Checkpoints:
    """The state of a run on disk: weights, random state, step, and what else it is given.

    A checkpoint is written under a temporary name first, so that a kill leaves the one before.

    Args:
        workdir: the run's `Workdir`.
        model: the Keras model.
        keep: how many of the newest stay.
        **state: further objects that hold variables, such as the optimizer; those that are None
            are left out.

    Example:

    >>> checkpoints = Checkpoints(Workdir("runs/noah"), model, optimizer=optimizer)
    >>> step = checkpoints.restore()
    """

    def __init__(self, workdir, model, keep=2, **state):
        self._folder = workdir.checkpoints
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        parts = {"model": model, "step": self._step}
        parts.update({name: part for name, part in state.items() if part is not None})
        for number, random_state in enumerate(random_states(model)):
            parts[f"random_state_{number}"] = random_state
        self._checkpoint = tf.train.Checkpoint(**parts)
        folder = workdir.output / self._folder.name
        try:
            tf.train.get_checkpoint_state(str(folder))
        except (ValueError, tf.errors.OpError):
            # TensorFlow's list of checkpoints; `restore` looks at the files themselves.
            (folder / "checkpoint").unlink(missing_ok=True)
        # Of several workers all have to save, for a weight may be read from all of them.
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=keep)
        self._on_disk = None

    @property
    def newest(self):
        """The newest checkpoint, as words for a message."""
        paths = self._paths()
        return f"the last checkpoint is {paths[0]}" if paths else "there is no checkpoint yet"

    def save(self, step):
        """Saves the state after `step` steps, unless this object has saved or restored it."""
        if step != self._on_disk:
            self._step.assign(step)
            self._manager.save(checkpoint_number=step)
            self._on_disk = step

    def restore(self):
        """Restores the newest checkpoint that can be read.

        Resuming from an older one costs time and changes nothing, since every step is a function
        of the state before it; so a damaged one is logged and passed over.

        Returns:
            The number of steps done, 0 if nothing was ever saved.

        Raises:
            OSError: there are checkpoints, and none can be read.
        """
        paths = self._paths()
        for path in paths:
            try:
                status = self._checkpoint.restore(path)
                status.assert_existing_objects_matched()
                # Without an optimizer to restore, its part of the file stays unread.
                status.expect_partial()
            # A short file is an IndexError or an OpError, another model's an AssertionError.
            except (tf.errors.OpError, IndexError, AssertionError, ValueError) as error:
                cause = str(error).strip().split("\n")[0][:200]
                logging.error(
                    "Checkpoint %s cannot be read (%s): trying an older one.", path, cause
                )
            else:
                self._on_disk = int(self._step.numpy())
                return self._on_disk
        if paths:
            raise OSError(
                f"None of the checkpoints {', '.join(paths)} can be read: "
                "restore them from a copy, or train into another --workdir."
            )
        return 0

    def _paths(self):
        """All checkpoints, the newest first, whatever TensorFlow's list of them says."""
        found = {}
        for index in self._folder.glob("ckpt-*.index"):
            number = re.fullmatch(r"ckpt-(\d+)\.index", index.name)
            if number:
                found[int(number[1])] = str(index.with_suffix(""))
        return [found[number] for number in sorted(found, reverse=True)]


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


def load_run(path, weights="last"):
    """Loads a state of a training run, in the precision it was trained in.

    The weights are those of a .weights.h5 file where there is one, which either Keras reads: of
    the best evaluation so far, and of a run that is complete. Else they are those of the newest
    checkpoint, which only the Keras that wrote it reads.

    Args:
        path: its --workdir.
        weights: "last", the newest; "ema", their moving average; or "best", those of the best
            evaluation.

    Returns:
        A `Run`.

    Raises:
        FileNotFoundError: no run was begun there, or none of its states was saved.
        ValueError: it is not complete, and was begun with the other Keras; or it has no such
            weights.
        OSError: no checkpoint can be read.
    """
    workdir = Workdir(path)
    config, data = workdir.config(), workdir.data()
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}.")
    if weights == "ema" and not config.ema.decay:
        raise ValueError(f"{workdir.path} keeps no moving average (config.ema.decay is 0).")
    preprocessing = preprocess.Preprocessing.from_dict(config.preprocess.to_dict())
    with dtype_policy(config.precision):
        model = model_from_config(config.model, preprocessing.image_size, len(data.class_names))
    result = workdir.result()
    if weights == "best":
        step = workdir.best().get("step", 0)
        if step:
            model.load_weights(str(workdir.weights("best")))
    elif result is not None:
        model.load_weights(str(workdir.weights("model" if weights == "last" else weights)))
        step = result["steps"]
    else:
        check_stack(workdir)
        average = MovingAverage(model, config.ema.decay) if weights == "ema" else None
        step = Checkpoints(workdir, model, average=average).restore()
        if average and step:
            average.apply()
    if not step:
        raise FileNotFoundError(
            f"{workdir.path} has no checkpoint yet: let trainers/train.py finish an epoch there."
        )
    return Run(
        workdir, config, model, preprocessing, tuple(data.class_names), data.multi_label, step
    )


def check_stack(workdir):
    """Raises ValueError if the run was begun with the other Keras: its checkpoints differ."""
    begun = workdir.data().stack
    if begun != KERAS_NAME:
        raise ValueError(
            f"{workdir.path} was begun with {begun} and this is {KERAS_NAME} (TensorFlow "
            f"{tf.__version__}), whose checkpoints differ: finish the run there; a finished one "
            "can be used with either."
        )
