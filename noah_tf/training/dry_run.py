"""What a recipe will do, before it does it: the plan, and two steps on fake data."""

import time

import numpy as np
import tensorflow as tf

from noah_tf.datasets.registry import open_source, source_from_config
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.training import recipe_checks
from noah_tf.training.loop import batches_of, build, train_steps
from noah_tf.training.train_step import SUMS
from noah_tf.utils import distribute

_STEPS = 2
_COLUMNS, _BAR = 11, 40


def dry_run(config):
    """Builds what a recipe trains, does two steps on fake photos, and describes the whole run.

    The data set is opened for its size, and left alone where `data.num_examples` and
    `data.num_classes` say it.

    Args:
        config: a recipe, see `recipe.base`.

    Returns:
        The plan, lines of text: model, parameters, steps, the learning rate over the epochs,
        devices, the batch of each, and how many images a second the data must come at.

    Raises:
        ValueError: the recipe contradicts itself.
        FloatingPointError: the loss is not finite.
    """
    strategy = recipe_checks.checked_strategy(config)
    replicas = strategy.num_replicas_in_sync
    num_classes, num_examples = _data_size(config)
    batch_size, epochs = config.train.batch_size, config.train.epochs
    recipe_checks.validate_size(config, num_classes, num_examples)
    steps_per_epoch = num_examples // batch_size
    parts = build(config, strategy, num_classes, steps_per_epoch)
    source = open_source("fake", "train", num_classes=num_classes, num_examples=_STEPS * batch_size)
    losses, seconds = _try_steps(config, strategy, parts, source)

    per_replica = batch_size // replicas
    speed = batch_size / seconds
    total = epochs * steps_per_epoch * batch_size
    lines = [
        f"model       {parts.model.name}, head on {parts.model.noah_feature_layer!r}",
        f"parameters  {sum(int(np.prod(v.shape)) for v in parts.variables):,} trainable, "
        f"{parts.model.count_params():,} with BatchNorm's statistics",
        f"data        {config.data.name} {config.data.train_split}: {num_examples:,} examples, "
        f"{num_classes:,} classes",
        f"steps       {epochs} epochs of {steps_per_epoch:,}: {epochs * steps_per_epoch:,} steps, "
        f"{total:,} images",
        f"devices     {replicas} x {_device_type(strategy)}, {type(strategy).__name__}, "
        f"{config.precision}{', XLA' if config.jit_compile else ''}",
        f"batch       {batch_size}: {per_replica} a device"
        + (
            f", in {config.train.accumulate} parts of {per_replica // config.train.accumulate}"
            if config.train.accumulate > 1
            else ""
        ),
        f"tried       {_STEPS} steps on fake photos, loss "
        f"{' and '.join(f'{loss:.4g}' for loss in losses)}; the second took {seconds:.3g} s",
        f"speed       so the data must come at {speed:,.0f} images/s to keep the devices busy, and "
        f"the run takes {_duration(total / speed)}",
        f"            (to be done in a day it takes {total / 86400:,.0f} images/s)",
        "learning rate after this many epochs:",
        *_schedule_plot(parts.optimizer.schedule, epochs, steps_per_epoch),
    ]
    return "\n".join(lines)


def _data_size(config):
    data = config.data
    if None in (data.num_classes, data.num_examples):
        source = source_from_config(data, data.train_split)
        return source.num_classes, source.num_examples
    return data.num_classes, data.num_examples


def _try_steps(config, strategy, parts, source):
    """The mean losses of the steps, and the seconds of the last one."""
    preprocessing = Preprocessing.from_dict(config.preprocess.to_dict())
    make_batches = batches_of(config, source, preprocessing, epoch=0, step=0)
    # Of an epoch in which all weights are trained.
    step = train_steps(config, strategy, parts, multi_label=False)(config.train.frozen_epochs)
    losses = []
    for batch in distribute.distribute_batches(strategy, make_batches):
        started = time.monotonic()
        sums = dict(zip(SUMS, step(batch).numpy(), strict=True))
        seconds = time.monotonic() - started
        losses.append(sums["loss"] / sums["examples"])
    if not np.isfinite(losses).all():
        raise FloatingPointError(
            f"The loss of the first steps is {', '.join(map(str, losses))}: lower "
            "optimizer.learning_rate, warm up for longer, or use another precision."
        )
    return losses, seconds


def _schedule_plot(schedule, epochs, steps_per_epoch):
    """A line for each of some epochs: its learning rate, and a bar of that length."""
    at = sorted({round(x) for x in np.linspace(0, epochs - 1, _COLUMNS)})
    rates = [float(schedule(epoch * steps_per_epoch)) for epoch in at]
    top = max(rates)
    return [
        f"  {epoch:>6}  {rate:<10.4g} {'#' * round(_BAR * rate / top)}"
        for epoch, rate in zip(at, rates, strict=True)
    ]


def _device_type(strategy):
    return tf.DeviceSpec.from_string(strategy.extended.worker_devices[0]).device_type


def _duration(seconds):
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
