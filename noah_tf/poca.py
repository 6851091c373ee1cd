"""Pairwise object category attention (POCA), the mathematics of NOAH, in plain TensorFlow.

Letters: B batch, L positions, C channels, N groups, M classes (arXiv 2402.02377, section 3).
For group n and class m, with keys k and values v,

    a[b, l, n, m] = exp(k[b, l, n, m]) / sum_l' exp(k[b, l', n, m])
    logits[b, m]  = sum_n sum_l a[b, l, n, m] * v[b, l, n, m].

Everything stays in (B, L, m) layout, with the classes innermost: a projection is one 2-D matrix
product a group, and the softmax over positions is a maximum, an exponential and two sums over
axis 1. Written so it is several times faster than a grouped convolution and `tf.nn.softmax` over
axis 1, which transposes.

Two facts save work. A key bias shifts all positions of a (group, class) alike, so the softmax
cancels it. The attention sums to 1, so a value bias that nothing has dropped adds sum_n b[n, m].
"""

import tensorflow as tf


def project(features, kernel):
    """Multiplies the channels of every position with a kernel.

    Args:
        features: (B, L, C).
        kernel: (C, m), of the same dtype.

    Returns:
        (B, L, m).
    """
    flat = tf.reshape(features, (-1, features.shape[-1]))
    shape = _size(features, 0), _size(features, 1), _size(kernel, 1)
    return tf.reshape(tf.matmul(flat, kernel), shape)


def exponentials(keys):
    """exp(keys - max over positions): attention before it is divided by its sum.

    Args:
        keys: (B, L, m).

    Returns:
        (B, L, m), in (0, 1]; the shift keeps it finite and cancels in every quotient.
    """
    return tf.exp(keys - tf.stop_gradient(tf.reduce_max(keys, axis=1, keepdims=True)))


def attention(keys):
    """Softmax over positions: where each class of each group looks.

    Args:
        keys: (B, L, m), float32 or float64.

    Returns:
        (B, L, m), summing to 1 over axis 1.
    """
    weights = exponentials(keys)
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)


def attend(keys, values):
    """Averages values over positions with the attention of the keys (the inner sum of POCA).

    Dividing after the sum costs B*m divisions in place of B*L*m.

    Args:
        keys: (B, L, m), float32 or float64.
        values: (B, L, m), of the same dtype.

    Returns:
        (B, m).
    """
    weights = exponentials(keys)
    return tf.reduce_sum(weights * values, axis=1) / tf.reduce_sum(weights, axis=1)


def drop(values, rate, seed):
    """Inverted dropout on values, drawn from a stateless seed.

    Args:
        values: (B, L, m).
        rate: probability of a zero, in [0, 1).
        seed: two integers; the same seed draws the same mask.

    Returns:
        (B, L, m).
    """
    return tf.nn.experimental.stateless_dropout(values, rate, seed)


def poca(
    key_features,
    value_features,
    key_kernel,
    value_kernel,
    value_bias,
    dropout=0.0,
    seed=None,
    accumulate_dtype=tf.float32,
):
    """Class scores of a feature map by pairwise object category attention.

    Products run in the dtype of the features; softmax and sums in `accumulate_dtype`.

    Args:
        key_features: (B, L, Ck).
        value_features: (B, L, Cv).
        key_kernel: (G, Ck/G, N*M/G), with G = N for split groups and 1 otherwise. Block g reads
            the g-th run of channels; its outputs are ordered by group, then class.
        value_kernel: (G, Cv/G, N*M/G).
        value_bias: (N, M).
        dropout: rate of the dropout on the values, 0 for none (as at inference).
        seed: two integers, needed when `dropout` is not 0.
        accumulate_dtype: dtype of the softmax, the sums and the result.

    Returns:
        Logits (B, M).
    """
    num_groups, num_classes = value_bias.shape
    value_bias = tf.cast(value_bias, accumulate_dtype)
    blocks = key_kernel.shape[0]
    scores = []
    for block in range(blocks):
        keys = project(_channel_block(key_features, block, blocks), key_kernel[block])
        values = project(_channel_block(value_features, block, blocks), value_kernel[block])
        keys, values = tf.cast(keys, accumulate_dtype), tf.cast(values, accumulate_dtype)
        if dropout:
            # The reference drops elements of the biased value, so the bias cannot wait.
            bias = value_bias[block] if blocks > 1 else tf.reshape(value_bias, [-1])
            block_seed = tf.random.experimental.stateless_fold_in(seed, block)
            values = drop(values + bias, dropout, block_seed)
        scores.append(attend(keys, values))
    if blocks > 1 or num_groups == 1:
        logits = tf.add_n(scores)
    else:
        logits = tf.reduce_sum(tf.reshape(scores[0], (-1, num_groups, num_classes)), axis=1)
    return logits if dropout else logits + tf.reduce_sum(value_bias, axis=0)


def poca_attention(key_features, key_kernel, accumulate_dtype=tf.float32):
    """Where each group sees each class.

    Args:
        key_features: (B, L, Ck).
        key_kernel: (G, Ck/G, N/G, K), with K classes; K may be unknown.
        accumulate_dtype: dtype of the softmax and the result.

    Returns:
        (B, L, N, K), summing to 1 over axis 1.
    """
    blocks, channels, groups, _ = key_kernel.shape
    classes = _size(key_kernel, 3)
    maps = []
    for block in range(blocks):
        kernel = tf.reshape(key_kernel[block], (channels, groups * classes))
        keys = project(_channel_block(key_features, block, blocks), kernel)
        maps.append(attention(tf.cast(keys, accumulate_dtype)))
    shape = _size(key_features, 0), _size(key_features, 1), blocks * groups, classes
    return tf.reshape(tf.concat(maps, axis=-1), shape)


def _size(tensor, axis):
    """The length of an axis, static where it is known, so that XLA and TFLite see constants."""
    static = tensor.shape[axis]
    return tf.shape(tensor)[axis] if static is None else static


def _channel_block(features, block, blocks):
    size = features.shape[-1] // blocks
    return features[..., block * size : (block + 1) * size]
