"""POCA without values: the attention averages the features, and the kernel projects the averages.

With weights e, s = sum_l e[l], value features x and the value kernel w of a unit, both sides of

    sum_l e[l] (x[l] . w) / s = (sum_l e[l] x[l]) . w / s

need the same multiplications. The left side computes L values per output and makes several passes
over them. The right side makes its passes over the c channels of a block, so it is faster if c is
much smaller than L, as on the maps of vision transformers. Let z be the average, g its gradient and
r = g / s. Then the gradients are

    dk[l] = e[l] (x[l] . w r - z r),    dx[l] = e[l] w r,    dw = sum_b r sum_l e[l] x[l].

Here, too, products of the per-image kernels w r replace passes over L numbers per output.
"""

from typing import Any

import tensorflow as tf


def is_faster(features: tf.Tensor, value_kernel: tf.Tensor, dropout: float, dtype: Any) -> bool:
    """Returns whether a head is computed in this way.

    Dropout needs the single values. Weights of a higher precision than the features would have to
    be rounded.

    Args:
        features: (B, L, C).
        value_kernel: (G, Cv/G, O).
        dropout: the dropout rate.
        dtype: the dtype of the weights.
    """
    positions = features.shape[1]
    few_channels = positions is not None and 2 * value_kernel.shape[1] <= positions
    return few_channels and not dropout and features.dtype == dtype


def append_ones(flat: tf.Tensor, sizes: Any) -> tf.Tensor:
    """Returns value features (B*L, c) as (B, L, c+1) with ones in the last channel.

    The product with the ones is the sum of the weights.
    """
    rows = tf.concat([flat, tf.ones_like(flat[:, :1])], axis=1)
    return tf.reshape(rows, (*sizes, rows.shape[1]))


def feature_sums(weights: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
    """Returns the weighted sums over positions of the features and of ones.

    Args:
        weights: (B, L, m), positive.
        features: (B, L, c+1) from `append_ones`.

    Returns:
        (B, c+1, m).
    """
    return tf.matmul(features, weights, transpose_a=True)


def attend(sums: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what `poca.attend` returns for the values, from the feature sums and a kernel (c, m).

    Returns:
        The sum of the weights over positions and the average of the values, both (B, 1, m).
    """
    sums, total = tf.split(sums, [kernel.shape[0], 1], axis=1)
    return total, tf.reduce_sum(sums * kernel, axis=1, keepdims=True) / total


def gradients(
    d_scores: tf.Tensor,
    features: tf.Tensor,
    kernel: tf.Tensor,
    weights: tf.Tensor,
    sums: tf.Tensor,
    total: tf.Tensor,
    mean: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the gradients of the keys (B, L, m), the value features and the kernel (c, m).

    Args:
        d_scores: the gradient of the average, (B, 1, m).
        features: (B, L, c+1) from `append_ones`.
        kernel: (c, m).
        weights: (B, L, m).
        sums: (B, c+1, m) from `feature_sums`.
        total: (B, 1, m) from `attend`.
        mean: (B, 1, m), likewise.

    Returns:
        The gradient of the features is (B*L, c), without the ones.
    """
    channels = kernel.shape[0]
    scale = d_scores / total
    scaled_kernel = kernel * scale
    d_keys = weights * tf.matmul(features, tf.concat([scaled_kernel, -mean * scale], axis=1))
    d_features = tf.matmul(weights, scaled_kernel, transpose_b=True)
    d_kernel = tf.reduce_sum(sums[:, :channels] * scale, axis=0)
    return d_keys, tf.reshape(d_features, (-1, channels)), d_kernel
