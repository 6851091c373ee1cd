"""Dropout whose masks resume exactly from a checkpoint and differ between replicas."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from noah_tf.head.poca import fold_in
from noah_tf.utils.keras_compat import add_seed_stream
from noah_tf.utils.validation import check_rate


class SeedRecord:
    """The seeds of the dropout in one pass of some layers, for another pass with the same masks.

    Example:

    >>> record = SeedRecord()
    >>> with record.recorded():
    ...     first = layer(x, training=True)
    >>> with record.replayed():
    ...     second = layer(x, training=True)  # equals `first`, and draws nothing
    """

    def __init__(self) -> None:
        self._seeds: list[tf.Tensor] = []

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Keeps the seeds that the current thread draws."""

        def keep(draw: Callable[[], tf.Tensor]) -> tf.Tensor:
            self._seeds.append(draw())
            return self._seeds[-1]

        with _through(keep):
            yield

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Gives the current thread the kept seeds again, in the same order."""
        seeds = iter(self._seeds)
        with _through(lambda draw: next(seeds)):
            yield


# A thread's seeds go through this function, which takes the function that draws a seed.
_filter: contextvars.ContextVar[Callable | None] = contextvars.ContextVar("seeds", default=None)


@contextlib.contextmanager
def _through(function: Callable) -> Iterator[None]:
    token = _filter.set(function)
    try:
        yield
    finally:
        _filter.reset(token)


def next_seed(layer: tf.keras.layers.Layer) -> tf.Tensor:
    """Returns the next seed, two integers, from the stream that `add_seed_stream` gave a layer.

    Within a `SeedRecord` the seed is kept, or is the one that was kept.
    """
    function = _filter.get()
    return _draw_seed(layer) if function is None else function(lambda: _draw_seed(layer))


def _draw_seed(layer: tf.keras.layers.Layer) -> tf.Tensor:
    stream = layer._seed_stream
    if isinstance(stream, tf.random.Generator):
        return stream.make_seeds()[:, 0]
    # Under a distribution strategy all replicas read the same state, but need different masks.
    replica = tf.distribute.get_replica_context()
    replica = replica.replica_id_in_sync_group if replica else 0
    return fold_in(tf.cast(stream.next(), tf.int64), replica)


@tf.keras.utils.register_keras_serializable("noah_tf")
class Dropout(tf.keras.layers.Layer):
    """Sets random values to zero in training, and scales the others by 1 / (1 - rate).

    With Keras 3, Keras's own layer uses the same mask on all replicas of a MirroredStrategy.

    Args:
        rate: the dropout rate, in [0, 1).
        per_example: whether an example is dropped as a whole. On the branch of a residual block
            this is drop path (stochastic depth, arXiv 1603.09382).
        **kwargs: as for any Keras layer.
    """

    def __init__(self, rate: float, per_example: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = check_rate("rate", rate)
        self.per_example = bool(per_example)
        if self.rate:
            add_seed_stream(self)

    def build(self, input_shape: Any) -> None:
        """Does nothing: the layer has no weights."""
        self.built = True

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns the values with dropout in training, and unchanged at inference."""
        if not training or not self.rate:
            return x
        shape = tf.shape(x)
        if self.per_example:
            shape = tf.concat([shape[:1], tf.ones_like(shape[1:])], axis=0)
        return tf.nn.experimental.stateless_dropout(
            x, self.rate, next_seed(self), noise_shape=shape
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal layer."""
        return {**super().get_config(), "rate": self.rate, "per_example": self.per_example}
