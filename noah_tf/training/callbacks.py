"""Keras callbacks that observe a run, as they observe `Model.fit`."""

import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from noah_tf.training.optimizer import Optimizer
from noah_tf.utils.keras_compat import raw_variable

_BATCH_HOOKS = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
)


def load_callbacks(name: str) -> list[tf.keras.callbacks.Callback]:
    """Returns the callbacks that a function of a module makes.

    Args:
        name: "module:function". The function takes no arguments and returns a list of
            `tf.keras.callbacks.Callback`. The module is found in the current folder or installed.

    Raises:
        ValueError: there is no such function, or it returns something else.

    Example:

    >>> load_callbacks("my_logging:callbacks")
    """
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"--callbacks must be module:function, the name of a function that returns Keras "
            f"callbacks, got {name!r} ({error})."
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    callbacks = function()
    is_list = isinstance(callbacks, (list, tuple))
    if not is_list or not all(isinstance(c, tf.keras.callbacks.Callback) for c in callbacks):
        raise ValueError(
            f"{name} must return a list of tf.keras.callbacks.Callback, got {callbacks!r}."
        )
    return list(callbacks)


class OptimizerView:
    """What callbacks see of a run's optimizer as `model.optimizer`. It cannot be changed.

    Args:
        optimizer: the optimizer of the run.
        settings: the `optimizer` section of the recipe.
    """

    _optimizer: Optimizer
    _settings: dict[str, Any]

    def __init__(self, optimizer: Optimizer, settings: Mapping[str, Any]) -> None:
        vars(self).update(_optimizer=optimizer, _settings=dict(settings))

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError(
            f"A callback sets optimizer.{name}={value!r}, but callbacks only observe a run: set "
            "the learning rate with optimizer.learning_rate and schedule of the recipe."
        )

    @property
    def learning_rate(self) -> tf.Tensor:
        """The learning rate of the next step, a float32 scalar."""
        return self._optimizer.learning_rate

    @property
    def iterations(self) -> tf.Tensor:
        """The number of steps done, an int64 scalar."""
        return tf.convert_to_tensor(self._optimizer.iterations)

    def get_config(self) -> dict[str, Any]:
        """Returns the `optimizer` section of the recipe."""
        return dict(self._settings)


class Callbacks:
    """Calls Keras callbacks in a run, and checks that they only observe.

    They see the model, the epochs and the logs as under `Model.fit`: `loss`, `top1` and `top5` of
    training, averaged over the epoch so far, and the metrics of the evaluation with the prefix
    `val_`. Their own state is not part of the run's checkpoints.

    Args:
        callbacks: the callbacks.
        model: the model that is trained.
        optimizer: what `model.optimizer` is for the callbacks.
        epochs: epochs of the run.
        steps: steps of an epoch.
    """

    def __init__(
        self,
        callbacks: Sequence[tf.keras.callbacks.Callback],
        model: tf.keras.Model,
        optimizer: OptimizerView,
        epochs: int,
        steps: int,
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._list: Any = None
        if callbacks:
            self._list = tf.keras.callbacks.CallbackList(
                list(callbacks), model=model, epochs=epochs, steps=steps, verbose=0
            )
        # Logs of every batch wait for the device, so they are made only if they are used.
        self.has_batch_hooks = any(
            getattr(getattr(callback, hook), "__func__", None)
            is not getattr(tf.keras.callbacks.Callback, hook)
            for callback in callbacks
            for hook in _BATCH_HOOKS
        )

    def begin(self) -> None:
        """Calls `on_train_begin`."""
        self._model.stop_training = False
        self._call("on_train_begin")

    def begin_epoch(self, epoch: int) -> None:
        """Calls `on_epoch_begin`; epochs count from 0."""
        self._call("on_epoch_begin", epoch)

    def begin_batch(self, batch: int) -> None:
        """Calls `on_train_batch_begin`; batches count from 0 in each epoch."""
        if self.has_batch_hooks:
            self._call("on_train_batch_begin", batch)

    def end_batch(self, batch: int, logs: Callable[[], dict[str, float]]) -> None:
        """Calls `on_train_batch_end` with the logs that a function returns."""
        if self.has_batch_hooks:
            self._call("on_train_batch_end", batch, logs())

    def begin_test(self) -> None:
        """Calls `on_test_begin`."""
        self._call("on_test_begin")

    def end_test(self, logs: dict[str, float]) -> None:
        """Calls `on_test_end`."""
        self._call("on_test_end", logs)

    def end_epoch(self, epoch: int, logs: dict[str, float]) -> None:
        """Calls `on_epoch_end`."""
        self._call("on_epoch_end", epoch, logs)

    def end(self, logs: dict[str, float]) -> None:
        """Calls `on_train_end`."""
        self._call("on_train_end", logs)

    @property
    def stop_training(self) -> bool:
        """Whether a callback has asked to end the run after this epoch."""
        return bool(self._list) and bool(self._model.stop_training)

    def _call(self, hook: str, *arguments: Any) -> None:
        if self._list is None:
            return
        previous = getattr(self._model, "optimizer", None)
        before = self._fingerprint().numpy()
        self._model.optimizer = self._optimizer
        try:
            getattr(self._list, hook)(*arguments)
        finally:
            self._model.optimizer = previous
        if self._fingerprint().numpy() != before:
            raise ValueError(
                f"A callback changed the weights of the model in {hook}, but callbacks only "
                "observe a run: remove it, or set its option that changes weights (such as "
                "restore_best_weights) to False."
            )

    @functools.cached_property
    def _fingerprint(self) -> Callable[[], tf.Tensor]:
        """A function that returns a number that another weight changes, also in its last bit."""
        weights = [raw_variable(variable) for variable in self._model.variables]

        @tf.function
        def fingerprint() -> tf.Tensor:
            sums = []
            for weight in weights:
                word = tf.int32 if weight.dtype.size % 4 == 0 else tf.uint8
                bits = tf.bitcast(tf.convert_to_tensor(weight), word)
                bits = tf.cast(tf.reshape(bits, [-1]), tf.int64)
                positions = tf.range(1, tf.size(bits, tf.int64) + 1)
                sums.append(tf.reduce_sum(bits * positions))
            return tf.add_n([total * (3 * index + 1) for index, total in enumerate(sums)])

        return fingerprint
