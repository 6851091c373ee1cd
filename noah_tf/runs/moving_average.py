"""The exponential moving average of a model's weights."""

import contextlib

import tensorflow as tf

from noah_tf.utils.keras_compat import raw_variable
from noah_tf.utils.validation import is_number


class MovingAverage(tf.Module):
    """An exponential moving average of all float weights, BatchNorm's statistics too.

        average = decay * average + (1 - decay) * weight

    It starts at the weights that the model has when it is made; call `reset` after loading
    others. Make it under the strategy's scope. `tf.train.Checkpoint(average=...)` holds it.

    Args:
        model: a built Keras model, with its weights in float32 as under every mixed policy.
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

    def __init__(self, model, decay):
        super().__init__(name="moving_average")
        if not is_number(decay) or not 0 <= decay < 1:
            raise ValueError(f"the decay of a moving average must be in [0, 1), got {decay!r}.")
        self.decay = float(decay)
        self._strategy = tf.distribute.get_strategy()
        shared = {id(weight) for weight in model.trainable_weights}
        pairs = [(raw_variable(weight), id(weight) in shared) for weight in model.weights]
        pairs = [(weight, is_shared) for weight, is_shared in pairs if weight.dtype.is_floating]
        self.averages = [_make_average(weight, is_shared) for weight, is_shared in pairs]
        # A function hides them: the model's checkpoint holds them, and this one need not.
        self._weights = lambda: [weight for weight, _ in pairs]
        self.reset()

    def update(self):
        """Moves the average towards the weights. Call it in replica context, after a step."""
        for average, weight in zip(self.averages, self._weights(), strict=True):
            average.assign_sub((average - weight) * (1 - self.decay))

    def reset(self):
        """Makes the average equal to the weights, as after loading initial weights."""
        self._on_each_copy(lambda average, weight: average.assign(weight))

    @contextlib.contextmanager
    def swapped(self):
        """Within it the model has the averaged weights, on all replicas the same; then its own.

        The two change places, so it needs the memory of one weight. Save no checkpoint of the
        model or the average within it. On several workers all must enter it.
        """
        self._synchronize()
        self._on_each_copy(_swap)
        try:
            yield
        finally:
            self._on_each_copy(_swap)

    def apply(self):
        """Gives the model the averaged weights for good."""
        self._on_each_copy(lambda average, weight: weight.assign(average))

    def _synchronize(self):
        """Gives all replicas the mean of the averages of what each replica keeps for itself."""
        if self._strategy.num_replicas_in_sync > 1:
            for average in self.averages:
                if average.aggregation == tf.VariableAggregation.MEAN:
                    average.assign(tf.convert_to_tensor(average))

    def _on_each_copy(self, function):
        """Calls function(average, weight) with the copies of each replica."""
        with self._strategy.scope():
            for average, weight in zip(self.averages, self._weights(), strict=True):
                self._strategy.extended.update(average, function, args=(weight,), group=False)


def _make_average(weight, is_shared):
    # Every replica updates its own copy, without a word to the others. What is trained is the same
    # on all of them. Statistics of BatchNorm are not, though Keras 3 declares them as if they were
    # (mirrored, so that reading one gives the first replica's): of these reading gives the mean.
    aggregation = tf.VariableAggregation
    return tf.Variable(
        tf.zeros(weight.shape, weight.dtype),
        trainable=False,
        name=f"average/{weight.name.split(':')[0]}",
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=aggregation.ONLY_FIRST_REPLICA if is_shared else aggregation.MEAN,
    )


def _swap(average, weight):
    value = tf.identity(weight)
    weight.assign(average)
    average.assign(value)
