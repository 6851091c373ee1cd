"""Initializers of a head's weights."""

from typing import Any

import tensorflow as tf

from noah_tf.utils.validation import is_int


def reference_initializer() -> tf.keras.initializers.Initializer:
    """Returns the reference's: Kaiming normal by fan-out, standard deviation sqrt(2 / (N * M))."""
    # Keras computes the fan-out of a kernel (G, C/G, N*M/G) as N*M, like the reference.
    return tf.keras.initializers.VarianceScaling(
        scale=2.0, mode="fan_out", distribution="untruncated_normal"
    )


def independent_copy(initializer: Any, index: int) -> Any:
    """Returns a copy of an initializer whose seed differs for each `index`.

    Keras initializers are pure functions of their seed. Without a copy, key and value weights of
    the same shape would start with equal values. An initializer without an integer seed (a
    constant, a function, one with a Keras 3 SeedGenerator) is returned as it is.

    Args:
        initializer: a Keras initializer or a callable.
        index: the number that is added to the seed.
    """
    if not isinstance(initializer, tf.keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    seed = config.get("seed", "no seed")
    if seed is not None and not is_int(seed):
        return initializer
    return type(initializer).from_config({**config, "seed": None if seed is None else seed + index})
