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
        trainable = {id(weight) for weight in model.trainable_weights}
        pairs = [(raw_variable(weight), id(weight) in trainable) for weight in model.weights]
        pairs = [(weight, is_trained) for weight, is_trained in pairs if weight.dtype.is_floating]
        self.averages = [_make_average(weight, is_trained) for weight, is_trained in pairs]
        # A function, so that checkpoints of the average do not save the model's weights.
        self._weights = lambda: [weight for weight, _ in pairs]
        self.reset()

    def update(self) -> None:
        """Moves the average towards the weights. Call it in replica context, after a step."""
        for average, weight in zip(self.averages, self._weights(), strict=True):
            average.assign_sub((average - weight) * (1 - self.decay))

    def reset(self) -> None:
        """Sets the average to the weights. Call it after loading initial weights."""
        self._on_each_copy(lambda average, weight: average.assign(weight))

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Within it, the model has the averaged weights, the same on all replicas.

        Weights and averages are swapped one by one, so this needs the memory of one more weight.
        Save no checkpoint of the model or of the average within it. All workers must enter it.
        """
        self._synchronize()
        self._on_each_copy(_swap)
        try:
            yield
        finally:
            self._on_each_copy(_swap)

    def apply(self) -> None:
        """Sets the model's weights to the average."""
        self._on_each_copy(lambda average, weight: weight.assign(average))

    def _synchronize(self) -> None:
        """Sets the averages of BatchNorm's statistics to their mean over the replicas."""
        if self._strategy.num_replicas_in_sync > 1:
            for average in self.averages:
                if average.aggregation == tf.VariableAggregation.MEAN:
                    average.assign(tf.convert_to_tensor(average))

    def _on_each_copy(self, function: Callable[[Any, Any], Any]) -> None:
        """Calls function(average, weight) with the copies of each replica."""
        with self._strategy.scope():
            for average, weight in zip(self.averages, self._weights(), strict=True):
                self._strategy.extended.update(average, function, args=(weight,), group=False)


def _make_average(weight: tf.Variable, is_trained: bool) -> tf.Variable:
    # Every replica updates its own copy without communication. Trained weights are equal on all
    # replicas, so reading their average takes the first replica's. BatchNorm's statistics differ
    # between replicas, although Keras 3 declares them as mirrored, so reading takes the mean.
    aggregation = tf.VariableAggregation
    return tf.Variable(
        tf.zeros(weight.shape, weight.dtype),
        trainable=False,
        name=f"average/{weight.name.split(':')[0]}",
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=aggregation.ONLY_FIRST_REPLICA if is_trained else aggregation.MEAN,
    )


def _swap(average: Any, weight: Any) -> None:
    value = tf.identity(weight)
    weight.assign(average)
    average.assign(value)
