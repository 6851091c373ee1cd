"""Plans a recipe on many machines: the network, the cores that decode, and the checkpoints."""

import dataclasses
import math
import pathlib
import tempfile
import time
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from noah_tf.datasets import Source, open_source, with_alpha
from noah_tf.datasets.fake import HEIGHT, WIDTH
from noah_tf.head import NOAHHead
from noah_tf.runs import Checkpoints, Workdir
from noah_tf.training.param_groups import backbone_layers
from noah_tf.training.plan import TrainingPlan
from noah_tf.training.recipe_checks import combination_problems, raise_problems
from noah_tf.training.state import TrainState
from noah_tf.utils.validation import check_positive_int, check_positive_number

_MEASURED_IMAGES = 256  # at least so many measure the input pipeline
_IMAGENET_21K_CLASSES = 21_841


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The machines that a recipe is planned for.

    Attributes:
        workers: number of machines, with one process each.
        devices: number of devices of each machine.
        bandwidth: Gbit/s that each machine sends and receives at the same time.
        step_seconds: seconds in which such a device computes its share of a step. None takes the
            time of this machine's device.
        images_per_core: images per second that a core of such a machine prepares, see
            `benchmarks/input_pipeline.py`. None measures this machine on fake photos.

    Raises:
        ValueError: a value is not positive.
    """

    workers: int
    devices: int
    bandwidth: float = 100.0
    step_seconds: float | None = None
    images_per_core: float | None = None

    def __post_init__(self) -> None:
        check_positive_int("workers", self.workers)
        check_positive_int("devices", self.devices)
        check_positive_number("bandwidth", self.bandwidth, "Gbit/s")
        for name, unit in (("step_seconds", "seconds"), ("images_per_core", "images per second")):
            if getattr(self, name) is not None:
                check_positive_number(name, getattr(self, name), unit)

    @property
    def replicas(self) -> int:
        """The number of all devices."""
        return self.workers * self.devices

    def share(self, config: ml_collections.ConfigDict, replicas: int) -> ml_collections.ConfigDict:
        """Returns a recipe in which each replica here has the share of a device of the cluster.

        Args:
            config: the recipe.
            replicas: number of devices of this machine.

        Raises:
            ValueError: the batch cannot be divided among the devices of the cluster.
        """
        raise_problems(list(combination_problems(config, self.replicas)))
        config = ml_collections.ConfigDict(config.to_dict())
        config.train.batch_size = config.train.batch_size // self.replicas * replicas
        # The copies of an example may be those of other devices.
        config.augment.repeats = min(config.augment.repeats, config.train.batch_size)
        return config

    def all_reduce_seconds(self, num_bytes: int) -> float:
        """Returns how long a ring over the machines takes to sum so many bytes of each.

        Each machine sends 2 (W - 1) / W of the bytes. This is the bound of the network: no latency,
        and no overlap with the computation.

        Source: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms (2009), section 3.
        """
        return 2 * (self.workers - 1) / self.workers * num_bytes * 8 / (self.bandwidth * 1e9)


def cluster_lines(
    cluster: Cluster,
    plan: TrainingPlan,
    state: TrainState,
    num_images: int,
    step_seconds: float,
) -> list[str]:
    """Returns what a run needs on a cluster, as lines of a dry run.

    Args:
        cluster: the machines.
        plan: the plan of the run, with its whole batch.
        state: the state of the last epoch, which trains the most weights.
        num_images: images of the whole run.
        step_seconds: the time of this machine's device for the share of a device.
    """
    indices = state.optimizer.trained_indices(num_images // plan.train.batch_size - 1)
    gradients = sum(_num_bytes(state.variables[index]) for index in indices)
    statistics = sum(_num_bytes(weight) for weight in state.statistics)
    network_seconds = cluster.all_reduce_seconds(gradients + statistics)
    computing = cluster.step_seconds or step_seconds
    origin = "--step_seconds" if cluster.step_seconds else "of this machine's device"
    host_images = plan.train.batch_size / cluster.workers
    rate = host_images / (computing + network_seconds)
    per_core, per_core_origin = _images_per_core(cluster, plan, state.model.output_shape[-1])
    size, save_seconds = _checkpoint(plan, state)
    share = plan.train.batch_size // cluster.replicas
    return [
        f"gradients   {_megabytes(gradients)} a step and device, summed once"
        f"{_and_statistics(statistics)}",
        f"all-reduce  {_seconds(network_seconds)} a step: a ring over {cluster.workers} workers at "
        f"{cluster.bandwidth:g} Gbit/s, without latency",
        f"step        {_seconds(computing + network_seconds)}, if nothing overlaps: the "
        f"all-reduce, and {_seconds(computing)} for {share} images ({origin})",
        f"input       each worker must prepare {rate:,.0f} images/s: "
        f"{rate / per_core:,.1f} CPU cores at {per_core:,.0f} images/s ({per_core_origin})",
        f"checkpoint  {_megabytes(size)}, saved in {_seconds(save_seconds)} here; every worker "
        "writes one, and that of the first is kept",
        *_imagenet_21k_lines(cluster, state, gradients + statistics, size),
        f"speed       the run takes {duration(num_images / (rate * cluster.workers))}",
    ]


def fake_source(plan: TrainingPlan, num_classes: int, num_examples: int) -> Source:
    """Returns fake photos that the preprocessing of a plan takes."""
    source = open_source("fake", "train", num_classes=num_classes, num_examples=num_examples)
    return with_alpha(source) if plan.preprocessing.crop_shape[-1] == 4 else source


def duration(seconds: float) -> str:
    """Returns a duration in its largest unit, such as "2.5 hours"."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _num_bytes(weight: Any) -> int:
    # Gradients and statistics are summed in float32 in every precision.
    return 4 * math.prod(weight.shape)


def _megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _and_statistics(num_bytes: int) -> str:
    return f", and {_megabytes(num_bytes)} of BatchNorm's statistics" if num_bytes else ""


def _images_per_core(cluster: Cluster, plan: TrainingPlan, num_classes: int) -> tuple[float, str]:
    """Returns the images per second that one core prepares, and where the number is from."""
    if cluster.images_per_core:
        return cluster.images_per_core, "--images_per_core"
    steps = math.ceil(_MEASURED_IMAGES * cluster.workers / plan.train.batch_size)
    source = fake_source(plan, num_classes, steps * plan.train.batch_size)
    make_batches = plan.train_batches(source, 0, num_epochs=1)
    batches = make_batches(shard=(0, cluster.workers), replicas=cluster.devices)
    # Whole passes, because tf.data works ahead. The first one optimizes the graph.
    for _ in range(2):
        started = time.process_time()
        num_images = sum(batch[0].shape[0] for batch in batches)
        seconds = time.process_time() - started
    return num_images / seconds, f"CPU time here on fake photos of {WIDTH}x{HEIGHT} pixels"


def _checkpoint(plan: TrainingPlan, state: TrainState) -> tuple[int, float]:
    """Saves a checkpoint of a run, and returns its bytes and the seconds that this took."""
    with tempfile.TemporaryDirectory(prefix="noah_tf_") as folder:
        workdir = Workdir(folder)
        checkpoints = Checkpoints(
            workdir, state.model, optimizer=state.optimizer, average=state.average
        )
        started = time.monotonic()
        checkpoints.save(1)
        seconds = time.monotonic() - started
        files = pathlib.Path(folder).glob("checkpoints/ckpt-1.*")
        return sum(path.stat().st_size for path in files), seconds


def _imagenet_21k_lines(
    cluster: Cluster, state: TrainState, reduced_bytes: int, checkpoint_bytes: int
) -> list[str]:
    """Returns what a head for the classes of ImageNet-21k changes."""
    model = state.model
    num_classes = model.output_shape[-1]
    if num_classes >= _IMAGENET_21K_CLASSES:
        return []
    backbone = {id(weight) for layer in backbone_layers(model) for weight in layer.weights}
    # All of these weights have one row for each class.
    head = [w for w in model.weights if id(w) not in backbone and w.shape[-1] == num_classes]
    before = sum(math.prod(weight.shape) for weight in head)
    after = before * _IMAGENET_21K_CLASSES // num_classes
    copies = checkpoint_bytes / (4 * model.count_params())
    grown = reduced_bytes + 4 * (after - before)
    kernels = sum(math.prod(w.shape) for w in head if _is_kernel(w))
    positions = _num_positions(model)
    products = [
        positions * kernels * classes / num_classes / 1e6
        for classes in (num_classes, _IMAGENET_21K_CLASSES)
    ]
    return [
        f"21k head    for the {_IMAGENET_21K_CLASSES:,} classes of ImageNet-21k the head has "
        f"{after:,} weights instead of {before:,}, and multiplies {products[1]:,.2f} million times "
        f"an image instead of {products[0]:,.2f}; a step sums {_megabytes(grown)} in "
        f"{_seconds(cluster.all_reduce_seconds(grown))}, and a checkpoint has about "
        f"{_megabytes(checkpoint_bytes + copies * 4 * (after - before))}",
    ]


def _is_kernel(weight: Any) -> bool:
    return "bias" not in weight.name


def _num_positions(model: tf.keras.Model) -> int:
    """Returns L, the number of positions at which the head multiplies; 1 for a pooled head."""
    heads = [layer for layer in model.layers if isinstance(layer, NOAHHead)]
    return int(np.prod(heads[0].input.shape[1:-1])) if heads else 1
