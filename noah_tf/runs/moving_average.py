"""The exponential moving average of a model's weights."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from noah_tf.utils.keras_compat import raw_variable
from noah_tf.utils.validation import check_rate


class MovingAverage(tf.Module):
    """An exponential moving average of all float weights, including BatchNorm's statistics.

        average = decay * average + (1 - decay) * weight

    It starts at the current weights of the model; call `reset` after loading other weights.
    Construct it under the strategy's scope. `tf.train.Checkpoint(average=...)` saves it.

    Args:
        model: a built Keras model, with weights in float32, as every mixed policy has them.
        decay: share of the old average in the new one, in [0, 1).

    Raises:
        ValueError: the decay is out of range.

    Example:

    >>> average = MovingAverage(model, decay=0.99996)
    >>> strategy.run(lambda: average.update())  # after each step of the optimizer
    >>> with average.swapped():
    ...     evaluate(model)

    Source: timm's ModelEma (the DeiT and Mixer recipes of arXiv 2402.02377).
    """

    def __init__(self, model: tf.keras.Model, decay: float) -> None:
        super().__init__(name="moving_average")
        self.decay = check_rate("the decay of a moving average", decay)
        self._strategy = tf.distribute.get_strategy()
        weights = [raw_variable(weight) for weight in model.weights]
        weights = [weight for weight in weights if weight.dtype.is_floating]
        self.averages = [_make_average(weight) for weight in weights]
        # A function, so that checkpoints of the average do not save the model's weights.
        self._weights = lambda: weights
        self.reset()

    def update(self) -> None:
        """Moves the average towards the weights, which are the same on all replicas.

        Call it in replica context, after a step and after `distribute.synchronize_statistics`.
        """
        for average, weight in zip(self.averages, self._weights(), strict=True):
            average.assign_sub((average - weight) * (1 - self.decay))

    def reset(self) -> None:
        """Sets the average to the weights. Call it after loading initial weights."""
        self._on_each_copy(lambda average, weight: average.assign(weight))

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Within it, the model has the averaged weights.

        Weights and averages are swapped one by one, so this needs the memory of one more weight.
        Save no checkpoint of the model or of the average within it.
        """
        self._on_each_copy(_swap)
        try:
            yield
        finally:
            self._on_each_copy(_swap)

    def apply(self) -> None:
        """Sets the model's weights to the average."""
        self._on_each_copy(lambda average, weight: weight.assign(average))

    def _on_each_copy(self, function: Callable[[Any, Any], Any]) -> None:
        """Calls function(average, weight) with the copies of each replica."""
        with self._strategy.scope():
            for average, weight in zip(self.averages, self._weights(), strict=True):
                self._strategy.extended.update(average, function, args=(weight,), group=False)


def _make_average(weight: tf.Variable) -> tf.Variable:
    # Every replica updates its own copy without communication. The copies are equal, and reading
    # them takes the first replica's: a mean of equal numbers over more than four replicas rounds,
    # so that a checkpoint would not hold the bits of the run.
    return tf.Variable(
        tf.zeros(weight.shape, weight.dtype),
        trainable=False,
        name=f"average/{weight.name.split(':')[0]}",
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


def _swap(average: Any, weight: Any) -> None:
    value = tf.identity(weight)
    weight.assign(average)
    average.assign(value)
