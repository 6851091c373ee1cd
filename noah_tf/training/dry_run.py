"""The dry run of a recipe: a description of the whole run, and two steps on fake data."""

import dataclasses
import time
from collections.abc import Callable

import ml_collections
import numpy as np
import tensorflow as tf

from noah_tf.datasets import source_from_config
from noah_tf.training import recipe_checks
from noah_tf.training.cluster_plan import Cluster, cluster_lines, duration, fake_source
from noah_tf.training.losses import training_loss
from noah_tf.training.plan import TrainingPlan
from noah_tf.training.state import TrainState, build_state
from noah_tf.training.train_step import SUMS, make_train_step
from noah_tf.utils import distribute

_STEPS = 2
_PLOT_LINES, _BAR_LENGTH = 11, 40


def dry_run(config: ml_collections.ConfigDict, cluster: Cluster | None = None) -> str:
    """Builds the model of a recipe, does two steps on fake photos, and describes the whole run.

    The data set is opened only if the recipe leaves `data.num_examples` or `data.num_classes` out.

    Args:
        config: a recipe, see `recipe.base`.
        cluster: the machines that the run is planned for. None means this machine.

    Returns:
        Lines of text: model, parameters, steps, devices, the batch of each device, the images per
        second that the input pipeline must deliver, and the learning rate over the epochs. With a
        `cluster` also what is sent, the cores that decode, and the checkpoints.

    Raises:
        ValueError: the recipe contradicts itself, or its batch does not suit the cluster.
        FloatingPointError: the loss is not finite.
    """
    plan = TrainingPlan.from_config(config)
    num_classes, num_examples = _data_size(plan)
    recipe_checks.check_data_size(config, num_classes, num_examples)
    steps_per_epoch = plan.steps_per_epoch(num_examples)
    tried_plan = plan
    if cluster is not None:
        share = cluster.share(config, plan.strategy.num_replicas_in_sync)
        tried_plan = TrainingPlan.from_config(share, plan.strategy)
    state = build_state(tried_plan, num_classes, steps_per_epoch)
    # The last epoch trains the most weights.
    trial = _try_steps(tried_plan, state, num_classes, (plan.train.epochs - 1) * steps_per_epoch)
    epochs, batch_size = plan.train.epochs, plan.train.batch_size
    num_images = epochs * steps_per_epoch * batch_size
    lines = [
        f"model       {state.model.name}, head on {state.model.noah_feature_layer!r}",
        f"parameters  {sum(int(np.prod(v.shape)) for v in state.variables):,} trainable, "
        f"{state.model.count_params():,} with BatchNorm's statistics",
        f"data        {config.data.name} {config.data.train_split}: {num_examples:,} examples, "
        f"{num_classes:,} classes",
        f"steps       {epochs} epochs of {steps_per_epoch:,}: {epochs * steps_per_epoch:,} steps, "
        f"{num_images:,} images",
        *([f"pixels      {plan.pixel_advice}"] if plan.pixel_advice else []),
        *_device_lines(plan, cluster),
        f"tried       {_STEPS} steps on fake photos, loss "
        f"{' and '.join(f'{loss:.4g}' for loss in trial.losses)}; the second took "
        f"{trial.seconds:.3g} s",
        *_speed_lines(plan, state, trial, num_images, cluster),
        f"            (a run of one day takes {num_images / 86400:,.0f} images/s)",
        "learning rate after this many epochs:",
        *_schedule_plot(state.optimizer.schedule, epochs, steps_per_epoch),
    ]
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class _Trial:
    """The mean loss of each step on fake photos, and the seconds of the last step."""

    losses: list[float]
    seconds: float


def _data_size(plan: TrainingPlan) -> tuple[int, int]:
    """Returns the number of classes and of training examples."""
    data = plan.config.data
    if data.num_classes is not None and data.num_examples is not None:
        return data.num_classes, data.num_examples
    source = source_from_config(data, data.train_split)
    return source.num_classes, source.num_examples


def _try_steps(plan: TrainingPlan, state: TrainState, num_classes: int, start: int) -> _Trial:
    """Does some steps, with the weights that are trained at the step `start` of the run."""
    source = fake_source(plan, num_classes, _STEPS * plan.train.batch_size)
    loss = training_loss(plan.loss, multi_label=False)
    train_step = make_train_step(plan, state, loss, state.freeze_until_start(start))
    losses = []
    make_batches = plan.train_batches(source, 0, num_epochs=1)
    for batch in distribute.distribute_batches(plan.strategy, make_batches):
        started = time.monotonic()
        sums = dict(zip(SUMS, train_step(batch).numpy(), strict=True))
        seconds = time.monotonic() - started
        losses.append(sums["loss"] / sums["examples"])
    if not np.isfinite(losses).all():
        raise FloatingPointError(
            f"The loss of the first steps is {', '.join(map(str, losses))}: lower "
            "optimizer.learning_rate, warm up for longer, or use another precision."
        )
    return _Trial(losses, seconds)


def _speed_lines(
    plan: TrainingPlan, state: TrainState, trial: _Trial, num_images: int, cluster: Cluster | None
) -> list[str]:
    if cluster is not None:
        return cluster_lines(cluster, plan, state, num_images, trial.seconds)
    images_per_second = plan.train.batch_size / trial.seconds
    return [
        f"speed       the data must come at {images_per_second:,.0f} images/s to keep the devices "
        f"busy; the run then takes {duration(num_images / images_per_second)}"
    ]


def _device_lines(plan: TrainingPlan, cluster: Cluster | None) -> list[str]:
    strategy, accumulate = plan.strategy, plan.train.accumulate
    replicas = cluster.replicas if cluster else strategy.num_replicas_in_sync
    device = tf.DeviceSpec.from_string(strategy.extended.worker_devices[0]).device_type
    xla = ", XLA" if plan.config.jit_compile else ""
    per_replica = plan.train.batch_size // replicas
    parts = f", in {accumulate} parts of {per_replica // accumulate}" if accumulate > 1 else ""
    if cluster:
        devices = f"{replicas} in {cluster.workers} workers with {cluster.devices} each; tried here"
        devices += f" on {strategy.num_replicas_in_sync} x {device}"
    else:
        devices = f"{replicas} x {device}, {type(strategy).__name__}"
    return [
        f"devices     {devices}, {plan.precision}{xla}",
        f"batch       {plan.train.batch_size}: {per_replica} per device{parts}",
    ]


def _schedule_plot(schedule: Callable, epochs: int, steps_per_epoch: int) -> list[str]:
    """Returns a line for each of some epochs: its learning rate, and a bar of that length."""
    indices = sorted({round(x) for x in np.linspace(0, epochs - 1, _PLOT_LINES)})
    rates = [float(schedule(epoch * steps_per_epoch)) for epoch in indices]
    largest = max(rates)
    return [
        f"  {epoch:>6}  {rate:<10.4g} {'#' * round(_BAR_LENGTH * rate / largest)}"
        for epoch, rate in zip(indices, rates, strict=True)
    ]
