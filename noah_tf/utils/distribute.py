"""Distribution strategies, numeric precision, and what replicas share."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from noah_tf.utils.validation import check_choice

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
STRATEGIES = ("auto", "single", "mirrored", "multi_worker", "slurm", "tpu")


@contextlib.contextmanager
def dtype_policy(policy: str) -> Iterator[None]:
    """Context manager that sets Keras's dtype policy. Layers keep the policy they are made with.

    Args:
        policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Raises:
        ValueError: `policy` is not one of these.

    Example:

    >>> with dtype_policy("mixed_bfloat16"):
    ...     model = make_model()
    """
    check_precision(policy)
    previous_policy = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(previous_policy)


def check_precision(policy: str) -> None:
    """Raises ValueError if `policy` is not one of `PRECISIONS`."""
    check_choice("precision", policy, PRECISIONS)


def check_strategy(name: str) -> None:
    """Raises ValueError if `name` is not one of `STRATEGIES`."""
    check_choice("strategy", name, STRATEGIES)


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """Returns the distribution strategy that a run trains under.

    Args:
        name: one of these names:

            - "auto" is "multi_worker" if the environment variable TF_CONFIG names more than one
              worker, "mirrored" if there is more than one GPU, and "single" otherwise.
            - "single" uses one device.
            - "mirrored" uses all GPUs, or all logical CPU devices if there is no GPU.
            - "multi_worker" uses the workers in TF_CONFIG. Call it before TensorFlow runs an
              operation.
            - "slurm" uses the tasks of a job step of Slurm, one on each node. Call it before
              TensorFlow runs an operation.
            - "tpu" uses the TPU that the environment names.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: `name` is unknown, TF_CONFIG does not describe workers, or Slurm did not start
            one task on each node.
    """
    check_strategy(name)
    workers = workers_of_tf_config()
    if name == "auto" and len(workers) > 1:
        name = "multi_worker"
    if name == "multi_worker" and not workers:
        raise ValueError(
            "strategy='multi_worker' needs the environment variable TF_CONFIG, such as "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
            '"task": {"type": "worker", "index": 0}}.'
        )
    _prepare_gpus()
    if name == "multi_worker":
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif name == "slurm":
        strategy = tf.distribute.MultiWorkerMirroredStrategy(slurm_resolver())
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


def workers_of_tf_config() -> list[str]:
    """Returns the addresses of the workers in TF_CONFIG, or an empty list if it is not set.

    Raises:
        ValueError: TF_CONFIG is set and does not describe workers.
    """
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
        "TF_CONFIG does not describe workers: it needs cluster.worker, a list of host:port, and a "
        f"task of type 'worker' whose index is in that list, got {text}."
    )


def slurm_resolver() -> tf.distribute.cluster_resolver.ClusterResolver:
    """Returns the workers of a job step of Slurm: one task on each node, on port 8888.

    Raises:
        ValueError: the environment variables of such a job step are not set.
    """
    node = os.environ.get("SLURMD_NODENAME")
    try:
        # Without these arguments the resolver calls nvidia-smi, and divides the GPUs of a node
        # among its tasks.
        slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(
            gpus_per_node=1, gpus_per_task=1, auto_set_gpu=False
        )
        cluster = slurm.cluster_spec()
        hosts = [address.rpartition(":")[0] for address in cluster.job_tasks("worker")]
        # The resolver sorts the nodes by name, n10 before n9, so a task's rank is not its index.
        index = hosts.index(node)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            "strategy='slurm' needs the environment of a job step with one task on each node "
            f"(node {node!r}: {str(error).rstrip('.')}): start the command with srun "
            "--ntasks-per-node=1."
        ) from error
    # Without the number of GPUs, MultiWorkerMirroredStrategy uses the CPU.
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        cluster,
        task_type="worker",
        task_id=index,
        num_accelerators={"GPU": num_gpus},
        rpc_layer="grpc",
    )


def _prepare_gpus() -> None:
    """Shares GPU memory between processes, and leaves the CPU to the input pipeline.

    TensorFlow allocates GPU memory only as needed, so that two processes can share it. Operations
    on the CPU are those of the input pipeline, which prepares as many photos at once as there are
    cores; dividing one operation among threads as well costs up to a fifth of the CPU time.
    """
    gpus = tf.config.list_physical_devices("GPU")
    try:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        is_free = not tf.config.threading.get_intra_op_parallelism_threads()
        if gpus and is_free and "TF_NUM_INTRAOP_THREADS" not in os.environ:
            tf.config.threading.set_intra_op_parallelism_threads(1)
    except RuntimeError as error:  # TensorFlow has set up its devices already.
        logging.info("The GPUs keep their settings: %s", error)


def is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    """Returns True if other processes train together with this one."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns True if this process writes the run's files. Only the first worker does."""
    resolver = strategy.cluster_resolver
    return resolver is None or not is_multi_worker(strategy) or resolver.task_id == 0


def any_worker(strategy: tf.distribute.Strategy) -> Callable[..., tuple[bool, ...]]:
    """Returns a function that combines flags of all workers with a logical OR.

    The returned function takes the flags of this worker and returns as many flags, each of which
    is true if it is true on any worker. All workers must call the function at the same time.

    Args:
        strategy: the run's distribution strategy.

    Example:

    >>> on_any_worker = any_worker(strategy)
    >>> (stop, save) = on_any_worker(stop, save)
    """
    if not is_multi_worker(strategy):
        return lambda *flags: flags

    @tf.function
    def sum_over_workers(flags: tf.Tensor) -> tf.Tensor:
        per_replica = strategy.run(tf.identity, args=(flags,))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)

    return lambda *flags: tuple(sum_over_workers(tf.constant(flags, tf.float32)).numpy() > 0)


def distribute_batches(
    strategy: tf.distribute.Strategy, make_batches: Callable[..., tf.data.Dataset]
) -> Any:
    """Returns a dataset for `strategy.run`, of which every host reads its own share.

    Args:
        strategy: the run's distribution strategy.
        make_batches: a function that returns this host's dataset. Its keyword arguments `shard`
            and `replicas` are those of `noah_tf.datasets.pipeline.train_batches`.

    Returns:
        A `tf.distribute.DistributedDataset`.
    """

    def host_batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
        num_hosts = context.num_input_pipelines
        return make_batches(
            shard=(context.input_pipeline_id, num_hosts),
            replicas=context.num_replicas_in_sync // num_hosts,
        )

    return strategy.distribute_datasets_from_function(host_batches)


def synchronize_statistics(statistics: Sequence[Any]) -> None:
    """Replaces the BatchNorm statistics of every replica by their mean over the replicas.

    Call it in replica context and in every training step. If it ran only when a checkpoint is
    saved, the result of a run would depend on how often it saves.

    Args:
        statistics: the moving means and variances, variables that each replica updates by itself.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync > 1 and statistics:
        # A value without a device of its own cannot be reduced on a worker with one device.
        values = [tf.identity(variable) for variable in statistics]
        means = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
        for variable, mean in zip(statistics, means, strict=True):
            variable.assign(mean)


def read_first_replica(statistics: Sequence[Any]) -> None:
    """Makes reading a variable that is the same on all replicas return exactly that value.

    Keras 2 declares BatchNorm's statistics so that reading them returns their mean over the
    replicas. After `synchronize_statistics` they are equal, and the mean of more than four equal
    numbers can round: a checkpoint would then not hold the bits of the run.

    Args:
        statistics: the variables, which `synchronize_statistics` takes as well.
    """
    for variable in statistics:
        if variable.synchronization == tf.VariableSynchronization.ON_READ:
            variable._aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA


def batch_size_problem(batch_size: int, num_replicas: int) -> str | None:
    """Returns an error message if a batch cannot be divided equally over the replicas.

    Args:
        batch_size: examples of a batch, over all replicas.
        num_replicas: the number of replicas.

    Returns:
        A sentence without a full stop, or None if the batch size is divisible.
    """
    if batch_size < 1 or batch_size % num_replicas == 0:
        return None
    nearest = max(1, round(batch_size / num_replicas)) * num_replicas
    return (
        f"train.batch_size={batch_size} is not divisible by the {num_replicas} replicas: "
        f"use {nearest}"
    )
