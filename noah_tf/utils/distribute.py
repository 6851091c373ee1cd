"""Devices, numeric precision and random state of a run."""

import contextlib
import json
import os

import tensorflow as tf
from absl import logging

from noah_tf.utils.keras_compat import seed_layers

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
STRATEGIES = ("auto", "single", "mirrored", "multi_worker", "tpu")


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
    check_precision(policy)
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def check_precision(policy):
    """Raises ValueError where there is no such policy."""
    if policy not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {policy!r}.")


def check_strategy(name):
    """Raises ValueError where there is no such strategy."""
    if name not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {name!r}.")


def seed_everything(seed):
    """Seeds what is random outside of the data: initial weights and dropout.

    Dropout then draws from generators, whose state checkpoints hold.
    """
    seed_layers(seed)


def make_strategy(name="auto"):
    """The distribution strategy that a run trains under.

    Args:
        name: "auto": "multi_worker" if the environment variable TF_CONFIG names several workers,
            else "mirrored" over all GPUs if there are several, else the one device there is.
            "single": one device. "mirrored": MirroredStrategy over all GPUs, or over all logical
            CPU devices where there is no GPU. "multi_worker": MultiWorkerMirroredStrategy, of the
            workers in TF_CONFIG; it has to be made before TensorFlow runs anything. "tpu": the TPU
            that the environment names.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: another name, or TF_CONFIG does not describe workers.
    """
    check_strategy(name)
    workers = _workers()
    if name == "auto" and len(workers) > 1:
        name = "multi_worker"
    if name == "multi_worker" and not workers:
        raise ValueError(
            "strategy='multi_worker' needs the environment variable TF_CONFIG, such as "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
            '"task": {"type": "worker", "index": 0}}.'
        )
    _share_gpus()
    if name == "multi_worker":
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif name == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
        strategy = tf.distribute.TPUStrategy(resolver)
    else:
        gpus = tf.config.list_logical_devices("GPU")
        devices = gpus or tf.config.list_logical_devices("CPU")
        if name == "mirrored" or (name == "auto" and len(gpus) > 1):
            strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
        else:
            strategy = tf.distribute.OneDeviceStrategy(devices[0].name)
    logging.info("Training on %d replica(s): %s", strategy.num_replicas_in_sync, strategy)
    return strategy


def _workers():
    """The addresses of the workers in TF_CONFIG; empty where it is not set."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return []
    try:
        cluster = json.loads(text)
        workers, task = cluster["cluster"]["worker"], cluster["task"]
        if task["type"] == "worker" and 0 <= task["index"] < len(workers):
            return workers
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(
        f"TF_CONFIG does not describe workers: it needs cluster.worker, a list of host:port, and a "
        f"task of the type 'worker' with its index in that list; got {text}."
    )


def is_chief(strategy):
    """Whether this process writes the files of a run: the first worker does."""
    resolver = strategy.cluster_resolver
    return resolver is None or not is_multi_worker(strategy) or resolver.task_id == 0


def any_worker(strategy):
    """A function of flags: which of them are set on any worker. All workers have to call it."""
    if not is_multi_worker(strategy):
        return lambda *flags: flags

    @tf.function
    def total(values):
        per_replica = strategy.run(tf.identity, args=(values,))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)

    return lambda *flags: tuple(total(tf.constant(flags, tf.float32)).numpy() > 0)


def is_multi_worker(strategy):
    """Whether other processes train along."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def distributed(strategy, make_batches):
    """Batches for the replicas, of which every host reads its share.

    Args:
        strategy: the distribution strategy.
        make_batches: function of `shard` and `replicas`, as
            `noah_tf.datasets.pipeline.train_batches` has them, to a dataset.

    Returns:
        A distributed dataset, of batches for `strategy.run`.
    """

    def of_host(context):
        hosts = context.num_input_pipelines
        return make_batches(
            shard=(context.input_pipeline_id, hosts), replicas=context.num_replicas_in_sync // hosts
        )

    return strategy.distribute_datasets_from_function(of_host)


def _share_gpus():
    """Takes GPU memory as it is needed, so that an evaluation fits beside a training run."""
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError as error:  # TensorFlow has taken the memory already.
            logging.info("GPU memory is not shared: %s", error)


def synchronize_statistics(statistics):
    """Gives all replicas the mean of what each keeps for itself. Call it in replica context.

    Done in every step, not when a run saves, so that it computes the same however often it does.

    Args:
        statistics: variables, those of BatchNorm.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync > 1 and statistics:
        values = [tf.convert_to_tensor(variable) for variable in statistics]
        means = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
        for variable, mean in zip(statistics, means, strict=True):
            variable.assign(mean)


def batch_size_problem(batch_size, replicas):
    """What keeps a batch from being shared by replicas: a sentence without a stop, or None."""
    if batch_size >= 1 and batch_size % replicas:
        nearest = max(1, round(batch_size / replicas)) * replicas
        return (
            f"train.batch_size={batch_size} does not divide over {replicas} replicas: use {nearest}"
        )
    return None
