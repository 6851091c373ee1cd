"""Initializers of a head's weights."""

from typing import Any

import tensorflow as tf

from noah_tf.utils.validation import is_int

# The number of ImageNet's classes, for which the reference implementation chose its initializer.
REFERENCE_CLASSES = 1000
# The default kernels of a head with fewer classes are smaller if it has more than this many
# channels per class.
_CHANNELS_PER_CLASS = 8


def get_kernel_initializer(initializer: Any) -> Any:
    """Returns the initializer that the argument `kernel_initializer` of a head stands for.

    Args:
        initializer: None for the default, "reference" for the reference's initializer with any
            number of classes, or what `tf.keras.initializers.get` takes.

    Returns:
        A Keras initializer; None for the default, which depends on the channels.

    Raises:
        ValueError: Keras has no such initializer.
    """
    if isinstance(initializer, str) and initializer == "reference":
        return _normal(1.0)
    try:
        return tf.keras.initializers.get(initializer)
    except ValueError as error:
        raise ValueError(
            "kernel_initializer must be None, 'reference' or one of Keras's initializers, such as "
            f"'glorot_uniform', got {initializer!r}."
        ) from error


def default_initializer(num_classes: int, channels: int) -> tf.keras.initializers.Initializer:
    """Returns the default initializer of the kernels of a head.

    With at least 1,000 classes it is the reference's: a normal distribution with standard deviation
    s = sqrt(2 / (N * M)). With fewer classes M and C channels, the standard deviation is
    s * min(1, 8 * M / C). The reference's initializer is chosen for the 1,000 classes of ImageNet.
    With few classes and many channels it is so large that a few training images do not correct
    the random part of the values. With few channels even a few images correct it, and there a
    small standard deviation slows the training of a backbone from scratch.

    Args:
        num_classes: M, the number of classes.
        channels: C, the number of channels of the features.

    Example:

    >>> default_initializer(num_classes=1000, channels=2048).scale  # N * M times the variance
    2.0
    >>> default_initializer(num_classes=10, channels=1280).scale
    0.0078125
    """
    if num_classes >= REFERENCE_CLASSES:
        return _normal(1.0)
    return _normal(min(1.0, _CHANNELS_PER_CLASS * num_classes / channels))


def _normal(factor):
    """Returns the reference's initializer with its standard deviation multiplied by a factor."""
    # Keras computes the fan-out of a kernel (G, C/G, N*M/G) as N*M, like the reference.
    return tf.keras.initializers.VarianceScaling(
        scale=2.0 * factor**2, mode="fan_out", distribution="untruncated_normal"
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
