"""Mixup and CutMix of training batches, as functions of (seed, epoch, step)."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from noah_tf.datasets.source import Source
from noah_tf.images import Augmentation
from noah_tf.utils.seeds import derived_seed

_MIX = 2  # the purpose of the seeds, see pipeline.py


def mixing(
    source: Source,
    augmentation: Augmentation,
    seed: int,
    epochs: range,
    steps: int,
    host_batch: int,
    shard: tuple[int, int],
) -> Callable[..., Any]:
    """Returns a function that mixes one host's share of a batch.

    Args:
        source: the source of the examples.
        augmentation: the options of mixup and CutMix.
        seed: the seed of the run.
        epochs: the epochs that are mixed.
        steps: steps of an epoch.
        host_batch: examples of a batch that this host makes.
        shard: (index, count) of the host.

    Returns:
        A function of the number of a batch, from the first epoch on, and the batch (images, labels,
        weights).

    Raises:
        ValueError: `mix_group` does not divide the host's share of a batch.
    """
    group = augmentation.mix_group
    if group is not None and host_batch % group:
        raise ValueError(
            f"augment.mix_group must divide the {host_batch} examples of a batch that one host "
            f"makes, got {group}."
        )
    groups = host_batch // group if group else 1
    # Without groups, each host has draws of its own for its share.
    purpose = (_MIX, shard[0]) if group is None else (_MIX,)
    mix_seeds = tf.constant([derived_seed(seed, number, *purpose) for number in epochs], tf.int64)
    first_group, all_groups = (shard[0] * groups, shard[1] * groups) if group else (0, 1)
    mix_images = _traced_mix(augmentation)

    def mix(step, batch):
        images, targets, weights = batch
        if not source.multi_label:
            targets = tf.one_hot(targets, source.num_classes)
        parts = [
            mix_images(image_group, target_group, mix_seed(step, first_group + number))
            for number, (image_group, target_group) in enumerate(
                zip(tf.split(images, groups), tf.split(targets, groups), strict=True)
            )
        ]
        images, targets = (tf.concat(values, 0) for values in zip(*parts, strict=True))
        return images, targets, weights

    def mix_seed(step, group):
        return tf.stack([mix_seeds[step // steps], step % steps * all_groups + group])

    return mix


@functools.lru_cache(maxsize=8)
def _traced_mix(augmentation: Augmentation) -> Callable[..., Any]:
    """Returns `augmentation.mix` as a `tf.function` of (images, targets, seed)."""
    return tf.function(augmentation.mix, autograph=False)
