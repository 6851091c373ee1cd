"""Keras callbacks that observe a run, as they observe `Model.fit`."""

import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import tensorflow as tf

from noah_tf.training.optimizer import Optimizer
from noah_tf.utils.keras_compat import raw_variable

_BATCH_HOOKS = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
)


def callbacks_function(name: str) -> Callable[[], list[tf.keras.callbacks.Callback]]:
    """Returns a function that makes callbacks, from its name.

    Args:
        name: "module:function". The function takes no arguments and returns a list of
            `tf.keras.callbacks.Callback`. The module is found in the current folder or installed.

    Returns:
        The function. It raises ValueError if the named function returns something else.

    Raises:
        ValueError: there is no such function.

    Example:

    >>> train(config, "runs/noah", callbacks=callbacks_function("my_logging:callbacks"))
    """
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            "--callbacks must be module:function, the name of a function that returns Keras "
            f"callbacks, got {name!r} ({error})."
        ) from error

    def make() -> list[tf.keras.callbacks.Callback]:
        callbacks = function()
        is_list = isinstance(callbacks, (list, tuple))
        if not is_list or not all(isinstance(c, tf.keras.callbacks.Callback) for c in callbacks):
            raise ValueError(
                f"{name} must return a list of tf.keras.callbacks.Callback, got {callbacks!r}."
            )
        return list(callbacks)

    return make


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
        _refuse(name, value)

    @property
    def learning_rate(self) -> tf.Variable:
        """The learning rate of the next step, a float32 scalar."""
        return _read_only(self._optimizer.learning_rate, "learning_rate")

    lr = learning_rate  # Keras 2 uses both names.

    @property
    def iterations(self) -> tf.Variable:
        """The number of steps done, an int64 scalar."""
        return _read_only(self._optimizer.iterations, "iterations")

    def get_config(self) -> dict[str, Any]:
        """Returns the `optimizer` section of the recipe."""
        return dict(self._settings)


def _refuse(name: str, value: Any) -> NoReturn:
    raise ValueError(
        f"A callback sets optimizer.{name}={value!r}, but callbacks only observe a run: set the "
        "learning rate with optimizer.learning_rate and schedule of the recipe."
    )


def _read_only(value: Any, name: str) -> tf.Variable:
    """Returns a copy of a value as a variable, whose `assign` raises ValueError."""
    variable = tf.Variable(tf.convert_to_tensor(value), trainable=False, name=name)
    variable.assign = functools.partial(_refuse, name)
    return variable


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
        self._known: tuple[Any, ...] | None = None  # the state after the last call
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
        self._known = None  # The run may have unfrozen layers.
        self._call("on_epoch_begin", epoch)

    def begin_batch(self, batch: int) -> None:
        """Calls `on_train_batch_begin`, before a step; batches count from 0 in each epoch."""
        if self.has_batch_hooks:
            self._call("on_train_batch_begin", batch)
        self._known = None  # The step changes the weights.

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
        before = self._state() if self._known is None else self._known
        self._model.optimizer = self._optimizer
        try:
            getattr(self._list, hook)(*arguments)
        finally:
            self._model.optimizer = previous
        self._known = self._state()
        if self._known != before:
            raise ValueError(
                f"A callback changed the weights of the model, or which layers are trained, in "
                f"{hook}, but callbacks only observe a run: remove it, or set its option that "
                "changes weights (such as restore_best_weights) to False."
            )

    def _state(self) -> tuple[Any, ...]:
        """Returns numbers that change with the weights, and which layers are trained."""
        layers = tuple(layer.trainable for layer in self._model._flatten_layers())
        return (int(self._fingerprint()), *layers)

    @functools.cached_property
    def _fingerprint(self) -> Callable[[], tf.Tensor]:
        """A function that returns a hash of the bits of all weights."""
        local = tf.distribute.get_strategy().experimental_local_results
        # The copies of one device: reading a variable of several workers would wait for them.
        weights = [local(raw_variable(variable))[0] for variable in self._model.variables]

        @tf.function
        def fingerprint() -> tf.Tensor:
            total = tf.constant(0, tf.int64)
            for index, weight in enumerate(weights):
                word = tf.int32 if weight.dtype.size % 4 == 0 else tf.uint8
                bits = tf.reshape(tf.bitcast(weight.read_value(), word), [-1])
                positions = tf.range(tf.size(bits, tf.int64)) + (index << 40)
                total += tf.reduce_sum(_mixed(tf.cast(bits, tf.int64), positions))
            return total

        return fingerprint


def _mixed(bits: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Returns a hash of each number and its position, after the finalizer of MurmurHash3."""
    values = bits + positions * 0x1E3779B97F4A7C15
    for factor in (0x4F51AFD7ED558CCD, 0x44CEB9FE1A85EC53):
        values = tf.bitwise.bitwise_xor(values, tf.bitwise.right_shift(values, 33)) * factor
    return tf.bitwise.bitwise_xor(values, tf.bitwise.right_shift(values, 33))
