"""Devices, numeric precision and random state of a run."""

import contextlib

import tensorflow as tf
from absl import logging

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@contextlib.contextmanager
def precision(policy):
    """Within it, Keras layers are made with a dtype policy, which they keep.

    Args:
        policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Raises:
        ValueError: another policy.

    Example:

    >>> with precision("mixed_bfloat16"):
    ...     model = make_model()
    """
    if policy not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {policy!r}.")
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def seed_everything(seed):
    """Seeds what is random outside of the data: initial weights and dropout.

    Dropout then draws from generators, whose state checkpoints hold.
    """
    if tf.__version__.startswith("2.15."):
        # Keras 2 would otherwise draw from the state of each op, which no checkpoint holds.
        tf.keras.backend.experimental.enable_tf_random_generator()
    tf.keras.utils.set_random_seed(seed)


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
    _share_gpus()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        devices = gpus or tf.config.list_logical_devices("CPU")
        strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    else:
        device = gpus[0] if gpus else tf.config.list_logical_devices("CPU")[0]
        strategy = tf.distribute.OneDeviceStrategy(device.name)
    logging.info("Training on %d replica(s): %s", strategy.num_replicas_in_sync, strategy)
    return strategy


def _share_gpus():
    """Takes GPU memory as it is needed, so that an evaluation fits beside a training run."""
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError as error:  # TensorFlow has taken the memory already.
            logging.info("GPU memory is not shared: %s", error)


def synchronize(model, strategy):
    """Gives all replicas the mean of the statistics that each keeps for itself (BatchNorm's).

    Evaluations, checkpoints and saved models then see the same numbers on any number of replicas.
    """
    if strategy.num_replicas_in_sync > 1:
        for weight in model.non_trainable_weights:
            weight.assign(tf.convert_to_tensor(weight))


def check_batch_size(batch_size, strategy):
    """Raises ValueError unless every replica gets the same number of examples of a batch."""
    replicas = strategy.num_replicas_in_sync
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    if batch_size % replicas:
        nearest = max(1, round(batch_size / replicas)) * replicas
        raise ValueError(
            f"batch_size={batch_size} does not divide over {replicas} replicas: use {nearest}."
        )
