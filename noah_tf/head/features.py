"""The feature map that a head takes: its checks, and its positions in one axis or in two."""

from typing import Any

import tensorflow as tf

from noah_tf.head import poca


def check_features(layer: tf.keras.layers.Layer, features: Any, channels: int | None) -> None:
    """Checks the features that a layer is called with.

    Args:
        layer: the layer, for its name in the message.
        features: a tensor, concrete or symbolic.
        channels: C that the layer was built for, or None before it is built.

    Raises:
        TypeError: the features are not floating point.
        ValueError: the rank is neither 3 nor 4, or the channels are unknown or not `channels`.
    """
    dtype = tf.as_dtype(features.dtype)
    if not dtype.is_floating:
        raise TypeError(
            f"{layer.name} needs floating-point features, got {dtype.name}: cast them first, for "
            "example with tf.cast(features, tf.float32)."
        )
    received = known_channels(layer, features.shape)
    if channels is not None and received != channels:
        raise ValueError(
            f"{layer.name} was built for {channels} channels, got features of shape "
            f"{tuple(features.shape)}."
        )


def known_channels(layer: tf.keras.layers.Layer, shape: Any) -> int:
    """Returns C of the shape (B, H, W, C) or (B, L, C).

    Raises:
        ValueError: the rank is neither 3 nor 4, or C is unknown.
    """
    shape = tuple(shape)
    if len(shape) not in (3, 4):
        raise ValueError(
            f"{layer.name} needs features (B, H, W, C) or (B, L, C), got shape {shape}: give it "
            "the feature map before pooling."
        )
    if shape[-1] is None:
        raise ValueError(f"{layer.name} needs a known number of channels, got shape {shape}.")
    return shape[-1]


def flatten_positions(features: tf.Tensor) -> tf.Tensor:
    """Returns features (B, H, W, C) or (B, L, C) as (B, L, C), with static sizes where known."""
    if features.shape.rank == 3:
        return features
    positions = features.shape[1:3].num_elements()
    if positions is None:
        positions = tf.reduce_prod(tf.shape(features)[1:3])
    return tf.reshape(features, (poca.axis_size(features, 0), positions, features.shape[-1]))


def restore_positions(maps: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
    """Returns maps (B, L, ...) in the shape of the features: (B, H, W, ...) or (B, L, ...)."""
    positions = tf.shape(features)[1:-1]
    return tf.reshape(maps, tf.concat([tf.shape(maps)[:1], positions, tf.shape(maps)[2:]], 0))
