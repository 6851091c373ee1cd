"""Pairwise object category attention (POCA), the mathematics of NOAH, in plain TensorFlow.

Letters: B batch, L positions, C channels, N groups, M classes (arXiv 2402.02377, section 3).
For group n and class m, with keys k and values v,

    a[b, l, n, m] = exp(k[b, l, n, m]) / sum_l' exp(k[b, l', n, m])
    logits[b, m]  = sum_n sum_l a[b, l, n, m] * v[b, l, n, m].

A channel block is the range of channels that one group sees, or all channels if the groups are not
split. G is the number of channel blocks, and each has O = N*M/G outputs, ordered by group, then
class. A letter m stands for a range of outputs.

All tensors have the layout (B, L, m), with the classes innermost. A projection is then one 2-D
matrix product per channel block, and the softmax over positions is a maximum, an exponential and
two sums over axis 1. This is several times faster than a grouped convolution followed by
`tf.nn.softmax` over axis 1, which transposes. One `tf.split` cuts the channels into the parts of
all groups, because slices of slices cost as much time as the products of a light head.

Two facts save work. A key bias shifts all positions of a (group, class) equally, so the softmax
cancels it. The attention sums to 1, so a value bias without dropout adds sum_n b[n, m].

`gradients.py` computes the same logits with gradients that need less time and memory.
"""

import math
from typing import Any

import tensorflow as tf

from noah_tf.head import feature_averages
from noah_tf.head.memory_plan import MASK_OUTPUTS, columns, output_ranges, wait_for

# exp(30), exp(-30) and their products with values and sums are within the range of float32.
_SMALL_KEY = 30.0


def split_channels(
    features: tf.Tensor, key_kernel: tf.Tensor, value_kernel: tf.Tensor
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Returns the channels of each channel block's keys and of its values.

    Args:
        features: (B, L, C).
        key_kernel: (G, Ck/G, O), with Ck = C, or Ck + Cv = C.
        value_kernel: (G, Cv/G, O), likewise.

    Returns:
        G tensors (B*L, Ck/G) for the keys and G tensors (B*L, Cv/G) for the values. They are the
        same tensors if keys and values use the same channels.
    """
    channels, blocks = features.shape[-1], key_kernel.shape[0]
    flat = tf.reshape(features, (-1, channels))
    sizes = [key_kernel.shape[1]] * blocks
    if blocks * key_kernel.shape[1] < channels:
        sizes += [value_kernel.shape[1]] * blocks
    parts = tf.split(flat, sizes, axis=1) if len(sizes) > 1 else [flat]
    return parts[:blocks], parts[-blocks:]


def project(flat: tf.Tensor, kernel: tf.Tensor, batch: Any, positions: Any) -> tf.Tensor:
    """Returns the product of the channels at every position with a kernel.

    Args:
        flat: (B*L, C).
        kernel: (C, m), of the same dtype.
        batch: B, an integer or a tensor.
        positions: L, likewise.

    Returns:
        (B, L, m).
    """
    return tf.reshape(tf.matmul(flat, kernel), (batch, positions, axis_size(kernel, 1)))


def exponentials(keys: tf.Tensor, keys_small: tf.Tensor | None = None) -> tf.Tensor:
    """Returns exp(keys - max over positions), the attention before the division by its sum.

    Args:
        keys: (B, L, m).
        keys_small: bool tensor from `keys_are_small`. If it is true, the shift by the maximum
            and its two passes over the keys are skipped. With None the keys are always shifted.

    Returns:
        (B, L, m), in (0, 1] if shifted. The shift keeps the exponentials finite, and every quotient
        cancels it.
    """

    def shifted():
        return tf.exp(keys - tf.stop_gradient(tf.reduce_max(keys, axis=1, keepdims=True)))

    return shifted() if keys_small is None else tf.cond(keys_small, lambda: tf.exp(keys), shifted)


def largest_norms(key_kernel: tf.Tensor) -> tf.Tensor:
    """Returns for each channel block the largest Euclidean norm of an output's weights.

    Args:
        key_kernel: (G, Ck/G, O).

    Returns:
        float32 (G,).
    """
    squares = tf.square(tf.cast(key_kernel, tf.float32))
    return tf.sqrt(tf.reduce_max(tf.reduce_sum(squares, axis=1), axis=1))


def keys_are_small(features: tf.Tensor, key_kernel: tf.Tensor, norms: tf.Tensor) -> list[tf.Tensor]:
    """Returns for each channel block whether no exponential of a key leaves float32's range.

    The bound is |x| * |w|. It costs one pass over the features, and none over the keys.

    Args:
        features: (B, L, C), whose first Ck channels are keys.
        key_kernel: (G, Ck/G, O). Only its shape is used.
        norms: (G,), from `largest_norms`.

    Returns:
        G bool tensors ().
    """
    blocks, channels, _ = key_kernel.shape
    keys = tf.reshape(features[..., : blocks * channels], (-1, blocks, channels))
    squares = tf.reduce_sum(tf.square(tf.cast(keys, tf.float32)), axis=2)
    return tf.unstack(tf.sqrt(tf.reduce_max(squares, axis=0)) * norms < _SMALL_KEY)


def attention(keys: tf.Tensor) -> tf.Tensor:
    """Returns the softmax over positions.

    Args:
        keys: (B, L, ...), float32 or float64.

    Returns:
        (B, L, ...), summing to 1 over axis 1.
    """
    weights = exponentials(keys)
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)


def attend(weights: tf.Tensor, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the sum of the weights and the weighted average of the values (POCA's inner sum).

    The division comes after the sum, which costs B*m divisions instead of B*L*m.

    Args:
        weights: (B, L, m), float32 or float64, positive: the attention times any factor.
        values: (B, L, m), of the same dtype.

    Returns:
        The sum of the weights over positions and the average, both (B, 1, m).
    """
    total = tf.reduce_sum(weights, axis=1, keepdims=True)
    return total, tf.reduce_sum(weights * values, axis=1, keepdims=True) / total


def dropout_mask(shape: Any, rate: float, seed: Any, first: Any = 0) -> tf.Tensor:
    """Returns a mask that is false where dropout sets a value to zero.

    Args:
        shape: (B, L, m).
        rate: the probability of false, in [0, 1), which is rounded to a multiple of 2^-16.
        seed: two integers. The same seed draws the same mask.
        first: the index of the first of these m outputs in a larger mask of that seed, a multiple
            of MASK_OUTPUTS. It may be a tensor.

    Returns:
        bool (B, L, m).
    """
    batch, positions, outputs = shape
    # Integers, because XLA converts the same random bits to other fractions than TensorFlow. Each
    # value has only 16 bits, because drawing them takes most of the time.
    threshold = min(round(rate * 2**16), 2**16 - 1) - 2**15
    parts = []
    for start in range(0, outputs, MASK_OUTPUTS):
        width = min(MASK_OUTPUTS, outputs - start)
        words = math.ceil(width / 2)
        bits = tf.random.stateless_uniform(
            (batch, positions, words),
            fold_in(seed, first // MASK_OUTPUTS + start // MASK_OUTPUTS),
            minval=None,
            maxval=None,
            dtype=tf.int32,
            alg="philox",
        )
        halves = tf.reshape(tf.bitcast(bits, tf.int16), (batch, positions, 2 * words))
        parts.append(halves[..., :width] >= threshold)
    return concat(parts)


def fold_in(seed: Any, number: Any) -> tf.Tensor:
    """Returns a new seed for each number, the same with and without XLA."""
    return tf.random.experimental.stateless_fold_in(seed, number, alg="philox")


def apply_dropout_mask(values: tf.Tensor, mask: tf.Tensor, rate: float) -> tf.Tensor:
    """Returns values / (1 - rate) where the mask is true, and zero elsewhere (inverted dropout).

    Args:
        values: (B, L, m).
        mask: bool (B, L, m).
        rate: the dropout rate.

    Returns:
        (B, L, m).
    """
    return tf.where(mask, values / (1 - rate), tf.zeros_like(values))


def drop_biased_values(
    values: tf.Tensor, bias: tf.Tensor, rate: float, seed: Any, first: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the biased values after dropout, and the mask.

    The reference drops elements of the biased values, so the bias must be added before dropout.

    Args:
        values: (B, L, m), without their bias.
        bias: (m,).
        rate: the dropout rate.
        seed: as for `dropout_mask`.
        first: as for `dropout_mask`.

    Returns:
        The values (B, L, m) and the bool mask (B, L, m).
    """
    mask = dropout_mask([axis_size(values, axis) for axis in range(3)], rate, seed, first)
    return apply_dropout_mask(values + bias, mask, rate), mask


def exponentials_and_values(
    parts: Any, kernels: Any, keys_small: tf.Tensor | None, sizes: Any, dtype: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the exponentials of the keys, and the values, of a channel block.

    Args:
        parts: the channels of the keys and of the values, (B*L, c) each.
        kernels: the kernels of both, (c, m) each.
        keys_small: as for `exponentials`.
        sizes: B and L.
        dtype: the dtype of the results.

    Returns:
        (B, L, m) each. The values are without their bias.
    """
    keys, values = (
        tf.cast(project(part, kernel, *sizes), dtype)
        for part, kernel in zip(parts, kernels, strict=True)
    )
    return exponentials(keys, keys_small), values


def to_logits(scores: tf.Tensor, value_bias: tf.Tensor, dropout: float) -> tf.Tensor:
    """Returns the logits, from the sum of the channel blocks' averages.

    Args:
        scores: (B, O), ordered by group, then class.
        value_bias: (N, M), or (M,) if it is already summed over the groups.
        dropout: the dropout rate. If it is not 0, the values already contain their bias.

    Returns:
        (B, M).
    """
    outputs, num_classes = scores.shape[-1], value_bias.shape[-1]
    if outputs > num_classes:
        groups = outputs // num_classes
        scores = tf.reduce_sum(tf.reshape(scores, (-1, groups, num_classes)), axis=1)
    if dropout:
        return scores
    return scores + (value_bias if value_bias.shape.rank == 1 else tf.reduce_sum(value_bias, 0))


def poca(
    features: tf.Tensor,
    key_kernel: tf.Tensor,
    value_kernel: tf.Tensor,
    value_bias: tf.Tensor,
    dropout: float = 0.0,
    seed: Any = None,
    accumulate_dtype: Any = tf.float32,
    block_outputs: int | None = None,
    key_norms: tf.Tensor | None = None,
    average_features: bool = True,
) -> tf.Tensor:
    """Computes the class scores of a feature map by pairwise object category attention.

    The matrix products run in the dtype of the features, softmax and sums in `accumulate_dtype`.

    Args:
        features: (B, L, C). The first Ck channels are for the keys and the last Cv for the values:
            Ck + Cv = C, or Ck = Cv = C if both use all channels.
        key_kernel: (G, Ck/G, N*M/G), with G = N for split groups and G = 1 otherwise. Block g reads
            the g-th range of channels. Its outputs are ordered by group, then class.
        value_kernel: (G, Cv/G, N*M/G).
        value_bias: (N, M), or (M,) summed over the groups if there is no dropout.
        dropout: the dropout rate of the values, 0 for none (as at inference).
        seed: two integers, needed if `dropout` is not 0.
        accumulate_dtype: the dtype of softmax, sums and result.
        block_outputs: the number of outputs to compute at a time, a multiple of MASK_OUTPUTS. None
            computes all at once.
        key_norms: (G,) from `largest_norms`, to skip the shift of small keys, see `exponentials`.
            None shifts all keys.
        average_features: whether to average features instead of values where that is faster, see
            `feature_averages`.

    Returns:
        Logits (B, M).

    Reference: arXiv 2402.02377, section 3.
    """
    blocks, _, outputs = key_kernel.shape
    value_bias = tf.cast(value_bias, accumulate_dtype)
    sizes = axis_size(features, 0), axis_size(features, 1)
    parts = list(zip(*split_channels(features, key_kernel, value_kernel), strict=True))
    features_first = average_features and feature_averages.is_faster(
        features, value_kernel, dropout, accumulate_dtype
    )
    if features_first:
        parts = [(keys, feature_averages.append_ones(values, sizes)) for keys, values in parts]
    keys_small = [None] * blocks
    if key_norms is not None:
        keys_small = keys_are_small(features, key_kernel, key_norms)
    block_kernels = list(zip(tf.unstack(key_kernel), tf.unstack(value_kernel), strict=True))
    width = block_outputs or outputs
    scores: list[tf.Tensor] = []
    previous: list[tf.Tensor] = []
    for first, last in output_ranges(outputs, width):
        means = []
        for block in range(blocks):
            kernels = [columns(kernel, first, last - first) for kernel in block_kernels[block]]
            if width < outputs:
                kernels = wait_for(kernels, previous)
            if features_first:
                keys = project(parts[block][0], kernels[0], *sizes)
                weights = exponentials(keys, keys_small[block])
                sums = feature_averages.feature_sums(weights, parts[block][1])
                means.append(feature_averages.attend(sums, kernels[1])[1])
            else:
                weights, values = exponentials_and_values(
                    parts[block], kernels, keys_small[block], sizes, accumulate_dtype
                )
                if dropout:
                    bias = tf.reshape(value_bias, (blocks, outputs))[block, first:last]
                    seed_of_block = fold_in(seed, block)
                    values, _ = drop_biased_values(values, bias, dropout, seed_of_block, first)
                means.append(attend(weights, values)[1])
            previous = means[-1:]
        scores.append(tf.add_n(means))
    return to_logits(tf.squeeze(concat(scores), axis=1), value_bias, dropout)


def concat(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Returns tensors (..., m) concatenated along their last axis; a single one as it is."""
    return tensors[0] if len(tensors) == 1 else tf.concat(tensors, axis=-1)


def axis_size(tensor: tf.Tensor, axis: int) -> Any:
    """Returns the size of an axis, as an int if it is known: XLA and TFLite then see a constant."""
    static_size = tensor.shape[axis]
    return tf.shape(tensor)[axis] if static_size is None else static_size


def logits_dtype(compute_dtype: str) -> str:
    """Returns the dtype of softmax, sums and logits under a compute dtype."""
    return "float64" if compute_dtype == "float64" else "float32"
