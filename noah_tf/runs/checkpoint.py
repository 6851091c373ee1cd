"""Saves and restores the state of a run."""

import dataclasses
import re
from typing import Any

import ml_collections
import tensorflow as tf
from absl import logging

from noah_tf.images import Preprocessing
from noah_tf.runs.model_config import model_from_config
from noah_tf.runs.moving_average import MovingAverage
from noah_tf.runs.workdir import Workdir
from noah_tf.utils.distribute import dtype_policy
from noah_tf.utils.files import local_file
from noah_tf.utils.keras_compat import KERAS_NAME, random_states
from noah_tf.utils.paths import Path, PathLike

WEIGHTS = ("last", "ema", "best")


class Checkpoints:
    """The checkpoints of a run: weights, random state, step, and other objects with variables.

    A checkpoint is written under a temporary name first, so a kill leaves the previous one intact.

    Args:
        workdir: the run's `Workdir`.
        model: the Keras model.
        keep: number of newest checkpoints to keep.
        **state: further objects that hold variables, such as the optimizer. Objects that are None
            are ignored.

    Example:

    >>> checkpoints = Checkpoints(Workdir("runs/noah"), model, optimizer=optimizer)
    >>> step = checkpoints.restore()
    """

    def __init__(
        self, workdir: Workdir, model: tf.keras.Model, keep: int = 2, **state: Any
    ) -> None:
        self._folder = workdir.checkpoints
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        objects = {"model": model, "step": self._step}
        objects.update({name: value for name, value in state.items() if value is not None})
        for index, random_state in enumerate(random_states(model)):
            objects[f"random_state_{index}"] = random_state
        self._checkpoint = tf.train.Checkpoint(**objects)
        folder = workdir.output / self._folder.name
        try:
            tf.train.get_checkpoint_state(str(folder))
        except (ValueError, tf.errors.OpError):
            # This file is TensorFlow's list of checkpoints. `restore` does not need it.
            (folder / "checkpoint").unlink(missing_ok=True)
        # All workers have to save, because TensorFlow may read a weight from all of them.
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=keep)
        self._on_disk: int | None = None

    @property
    def newest(self) -> str:
        """A clause for messages that names the newest checkpoint."""
        paths = self._paths()
        return f"the last checkpoint is {paths[0]}" if paths else "there is no checkpoint yet"

    def save(self, step: int) -> None:
        """Saves the state after `step` steps, unless this object has just saved or restored it."""
        if step != self._on_disk:
            self._step.assign(step)
            self._manager.save(checkpoint_number=step)
            self._on_disk = step

    def restore(self) -> int:
        """Restores the newest checkpoint that can be read.

        A damaged checkpoint is logged and skipped. Resuming from an older one costs time but does
        not change the result, because every step is a function of the state before it.

        Returns:
            The number of steps done; 0 if there is no checkpoint.

        Raises:
            OSError: there are checkpoints, and none of them can be read.
        """
        paths = self._paths()
        for path in paths:
            try:
                status = self._checkpoint.restore(path)
                status.assert_existing_objects_matched()
                # If this object has no optimizer, the optimizer in the file is not restored.
                status.expect_partial()
            # A truncated file raises IndexError or OpError, that of another model AssertionError.
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

    def _paths(self) -> list[str]:
        """Returns the paths of all checkpoint files, the newest first."""
        paths = {}
        for index_file in self._folder.glob("ckpt-*.index"):
            match = re.fullmatch(r"ckpt-(\d+)\.index", index_file.name)
            if match:
                paths[int(match[1])] = str(index_file.with_suffix(""))
        return [paths[step] for step in sorted(paths, reverse=True)]


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model, and the data that are needed to use it.

    Attributes:
        workdir: the folder of the run.
        config: the recipe.
        model: the Keras model with the loaded weights.
        preprocessing: the `Preprocessing` of the recipe.
        class_names: names of the classes, in the order of the logits.
        multi_label: whether an example can have several classes.
        step: the step of the run that the weights are of.
    """

    workdir: Workdir
    config: ml_collections.ConfigDict
    model: tf.keras.Model
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    multi_label: bool
    step: int


def load_run(path: PathLike, weights: str = "last") -> Run:
    """Loads the model of a training run, in the precision that it was trained in.

    The best weights, and all weights of a complete run, are in .weights.h5 files, which both Keras
    2 and 3 read. The weights of other runs are in checkpoints, which only the Keras that wrote them
    reads.

    Args:
        path: the folder of the run.
        weights: "last", the newest weights; "ema", their moving average; or "best", the weights of
            the best evaluation.

    Returns:
        A `Run`.

    Raises:
        FileNotFoundError: the folder holds no run, or the run has not saved anything yet.
        ValueError: the run has no such weights, or is not complete and was begun with the other
            Keras, or an earlier version of noah_tf did not record its head.
        OSError: no checkpoint can be read.
    """
    workdir = Workdir(path)
    config, data = workdir.config(), workdir.data()
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}.")
    _check_head_is_recorded(workdir.path, config.model)
    if weights == "ema" and not config.ema.decay:
        raise ValueError(f"{workdir.path} keeps no moving average (config.ema.decay is 0).")
    preprocessing = Preprocessing.from_dict(config.preprocess.to_dict())
    with dtype_policy(config.precision):
        model = model_from_config(
            config.model, preprocessing.input_shape, len(data.class_names), workdir.backbone()
        )
    result = workdir.result()
    if weights == "best":
        step = workdir.best().get("step", 0)
        if step:
            _load_weights(model, workdir.weights("best"))
    elif result is not None:
        _load_weights(model, workdir.weights("model" if weights == "last" else weights))
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


def _load_weights(model: tf.keras.Model, path: Path) -> None:
    with local_file(path) as file:
        model.load_weights(str(file))


def _check_head_is_recorded(path, model):
    """Raises ValueError if N and r of the run's NOAH head are the defaults of another version."""
    has_default = model.num_groups is None or model.key_ratio is None
    if model.head == "noah" and model.architecture is None and has_default:
        raise ValueError(
            f"{path} was begun with an earlier version, which did not record "
            f"model.num_groups={model.num_groups} and model.key_ratio={model.key_ratio}: set both "
            "in its config.json, to the paper's for the backbone's family or else to 4 and 0.5."
        )


def check_stack(workdir: Workdir) -> None:
    """Raises ValueError if the run was begun with the other Keras, whose checkpoints differ."""
    stack = workdir.data().stack
    if stack != KERAS_NAME:
        raise ValueError(
            f"{workdir.path} was begun with {stack} and this is {KERAS_NAME} (TensorFlow "
            f"{tf.__version__}), whose checkpoints differ: finish the run there; a finished one "
            "can be used with either."
        )
