"""Which examples share the statistics of BatchNorm in training: groups, or all replicas."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf


def batch_norm_layers(model: tf.keras.Model) -> list[Any]:
    """Returns the BatchNorm layers of a model, also those of nested models and layers."""
    return [layer for layer in model._flatten_layers() if is_batch_norm(layer)]


def is_batch_norm(layer: Any) -> bool:
    """Returns whether a layer normalizes by the statistics of a batch."""
    return isinstance(layer, tf.keras.layers.BatchNormalization)


@contextlib.contextmanager
def momentum_set_to(value: float, layers: Sequence[Any]) -> Iterator[None]:
    """Changes how BatchNorm layers update their moving averages, and restores it afterwards.

    Args:
        value: the momentum meanwhile. With 1 the moving averages stay as they are, and with 0 they
            become the statistics of the last batch.
        layers: the BatchNorm layers.
    """
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = value
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def normalize_in_groups(model: tf.keras.Model, num_groups: int) -> None:
    """Makes BatchNorm normalize groups of a batch on their own in training ("ghost batches").

    One device then computes what several devices would with a group each. The moving averages
    follow the first group, as the reference saves the averages of its first GPU. Evaluation and
    saved files do not change.

    Args:
        model: the model, whose BatchNorm layers are changed.
        num_groups: number of groups of consecutive examples, which must divide the batch.

    Raises:
        ValueError: the model has no BatchNorm.

    Source: Hoffer et al. (arXiv 1705.08741), section 4.
    """
    for layer in _layers_to_change(model, "model.batch_norm_group"):
        layer.call = functools.partial(_call_in_groups, layer, num_groups)


def normalize_over_replicas(model: tf.keras.Model) -> None:
    """Makes BatchNorm normalize by the statistics of all replicas in training.

    Args:
        model: the model, whose BatchNorm layers are changed.

    Raises:
        ValueError: the model has no BatchNorm.
    """
    for layer in _layers_to_change(model, "model.synchronized_batch_norm"):
        layer.synchronized = True
        layer.fused = False  # Keras 2 has no fused kernel for it.


def _layers_to_change(model: tf.keras.Model, option: str) -> list[Any]:
    layers = batch_norm_layers(model)
    if not layers:
        raise ValueError(f"{model.name} has no BatchNorm: leave {option} out.")
    return layers


@tf.autograph.experimental.do_not_convert
def _call_in_groups(
    layer: Any, num_groups: int, inputs: tf.Tensor, training: Any = None, **options: Any
) -> tf.Tensor:
    """Calls a BatchNorm layer on each group of a batch."""
    call = functools.partial(type(layer).call, layer)
    if not training or not layer.trainable:
        return call(inputs, training=training, **options)
    first, *others = tf.split(inputs, num_groups)
    outputs = [call(first, training=True)]
    with momentum_set_to(1.0, [layer]):
        outputs += [call(group, training=True) for group in others]
    return tf.concat(outputs, 0)
