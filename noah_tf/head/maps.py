"""Attention and contributions of each group and class, see `poca.py`."""

from typing import Any

import tensorflow as tf

from noah_tf.head.poca import attention, axis_size, concat, project


def attention_maps(
    key_features: tf.Tensor, key_kernel: tf.Tensor, accumulate_dtype: Any = tf.float32
) -> tf.Tensor:
    """Returns the attention of each group and class.

    Args:
        key_features: (B, L, Ck).
        key_kernel: (G, Ck/G, N/G, K), for K classes. K may be unknown.
        accumulate_dtype: the dtype of softmax and result.

    Returns:
        (B, L, N, K), summing to 1 over axis 1.
    """
    return attention(_project_groups(key_features, key_kernel, accumulate_dtype))


def contribution_maps(
    key_features: tf.Tensor,
    value_features: tf.Tensor,
    key_kernel: tf.Tensor,
    value_kernel: tf.Tensor,
    value_bias: tf.Tensor,
    accumulate_dtype: Any = tf.float32,
) -> tf.Tensor:
    """Returns the summands of the logits: attention times biased value for each position and group.

    Args:
        key_features: (B, L, Ck).
        value_features: (B, L, Cv).
        key_kernel: (G, Ck/G, N/G, K), for K classes. K may be unknown.
        value_kernel: (G, Cv/G, N/G, K).
        value_bias: (N, K). The attention sums to 1, and so the attention's shares of the bias sum
            to the bias.
        accumulate_dtype: the dtype of softmax and result.

    Returns:
        (B, L, N, K), summing to the logits over axes 1 and 2.
    """
    weights = attention_maps(key_features, key_kernel, accumulate_dtype)
    values = _project_groups(value_features, value_kernel, accumulate_dtype)
    return weights * (values + tf.cast(value_bias, accumulate_dtype))


def _project_groups(features: tf.Tensor, kernel: tf.Tensor, dtype: Any) -> tf.Tensor:
    """Returns keys or values (B, L, N, K) of features (B, L, C) and a kernel (G, C/G, N/G, K)."""
    blocks, channels, groups, _ = kernel.shape
    classes = axis_size(kernel, 3)
    batch, positions = axis_size(features, 0), axis_size(features, 1)
    parts = tf.split(tf.reshape(features, (-1, blocks * channels)), blocks, axis=1)
    projected = [
        project(part, tf.reshape(block, (channels, groups * classes)), batch, positions)
        for part, block in zip(parts, tf.unstack(kernel), strict=True)
    ]
    return tf.reshape(
        tf.cast(concat(projected), dtype), (batch, positions, blocks * groups, classes)
    )
