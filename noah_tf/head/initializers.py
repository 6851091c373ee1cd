"""How a head's weights begin."""

import numbers

import tensorflow as tf


def reference_initializer():
    """The reference's: Kaiming normal by fan-out, of standard deviation sqrt(2 / (N * M))."""
    # Keras reads the fan-out of a (G, C/G, N*M/G) kernel as N*M: the reference's.
    return tf.keras.initializers.VarianceScaling(
        scale=2.0, mode="fan_out", distribution="untruncated_normal"
    )


def independent(initializer, draw):
    """A copy of an initializer for the `draw`-th weight of its kind.

    Keras initializers are pure functions of their seed: without this, key and value weights of
    one shape would start equal. One without a seed of that kind (a constant, a function, one
    that holds a Keras 3 SeedGenerator) is used as it is.
    """
    if not isinstance(initializer, tf.keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    seed = config.get("seed", "none to vary")
    if seed is not None and not isinstance(seed, numbers.Integral):
        return initializer
    return type(initializer).from_config({**config, "seed": None if seed is None else seed + draw})
