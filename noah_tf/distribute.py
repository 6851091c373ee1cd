"""Devices and numeric precision of a run."""

import tensorflow as tf
from absl import logging

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def set_precision(policy):
    """Sets the Keras dtype policy of all layers made from now on.

    Args:
        policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Raises:
        ValueError: another policy.
    """
    if policy not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {policy!r}.")
    tf.keras.mixed_precision.set_global_policy(policy)


def make_strategy(name="auto"):
    """The distribution strategy that a run trains under.

    Args:
        name: "auto": MirroredStrategy over all GPUs if there are several, else the one device
            there is. "mirrored": MirroredStrategy over all GPUs, or over all logical CPU devices
            where there is no GPU. "single": one device.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: another name.
    """
    if name not in ("auto", "mirrored", "single"):
        raise ValueError(f"strategy must be 'auto', 'mirrored' or 'single', got {name!r}.")
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        devices = gpus or tf.config.list_logical_devices("CPU")
        strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    else:
        device = gpus[0] if gpus else tf.config.list_logical_devices("CPU")[0]
        strategy = tf.distribute.OneDeviceStrategy(device.name)
    logging.info("Training on %d replica(s): %s", strategy.num_replicas_in_sync, strategy)
    return strategy


def check_batch_size(batch_size, strategy):
    """Raises ValueError unless every replica gets the same number of examples of a batch."""
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        nearest = max(1, round(batch_size / replicas)) * replicas
        raise ValueError(
            f"batch_size={batch_size} does not divide over {replicas} replicas: use {nearest}."
        )
