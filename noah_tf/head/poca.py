"""Pairwise object category attention (POCA), the mathematics of NOAH, in plain TensorFlow.

Letters: B batch, L positions, C channels, N groups, M classes (arXiv 2402.02377, section 3).
For group n and class m, with keys k and values v,

    a[b, l, n, m] = exp(k[b, l, n, m]) / sum_l' exp(k[b, l', n, m])
    logits[b, m]  = sum_n sum_l a[b, l, n, m] * v[b, l, n, m].

Everything stays in (B, L, m) layout, with the classes innermost: a projection is one 2-D matrix
product a group, and the softmax over positions is a maximum, an exponential and two sums over
axis 1. Written so it is several times faster than a grouped convolution and `tf.nn.softmax` over
axis 1, which transposes. The channels are cut into the groups' parts at once, by one `tf.split`:
slices of slices cost as much as the products of a light head.

Two facts save work. A key bias shifts all positions of a (group, class) alike, so the softmax
cancels it. The attention sums to 1, so a value bias that nothing has dropped adds sum_n b[n, m].

`blocked.py` has the same logits with gradients that need less time and memory.
"""

import tensorflow as tf

from noah_tf.head.memory_plan import MASK_OUTPUTS, after, columns, ranges

_SMALL_KEY = 30.0  # exp(30), its inverse, and what they are multiplied with, are float32 numbers.


def split_channels(features, key_kernel, value_kernel):
    """The parts of the channels that each channel block's keys and values are made of.

    Args:
        features: (B, L, C).
        key_kernel: (G, Ck/G, O), with Ck = C, or Ck + Cv = C.
        value_kernel: (G, Cv/G, O), likewise.

    Returns:
        G tensors (B*L, Ck/G), and G tensors (B*L, Cv/G). Where keys and values are made of the
        same channels, they are the same tensors.
    """
    channels, blocks = features.shape[-1], key_kernel.shape[0]
    flat = tf.reshape(features, (-1, channels))
    sizes = [key_kernel.shape[1]] * blocks
    if blocks * key_kernel.shape[1] < channels:
        sizes += [value_kernel.shape[1]] * blocks
    parts = tf.split(flat, sizes, axis=1) if len(sizes) > 1 else [flat]
    return parts[:blocks], parts[-blocks:]


def project(flat, kernel, batch, positions):
    """Multiplies the channels of every position with a kernel.

    Args:
        flat: (B*L, C).
        kernel: (C, m), of the same dtype.
        batch, positions: B and L, integers or tensors.

    Returns:
        (B, L, m).
    """
    return tf.reshape(tf.matmul(flat, kernel), (batch, positions, size(kernel, 1)))


def exponentials(keys, small=None):
    """exp(keys - max over positions): attention before it is divided by its sum.

    Args:
        keys: (B, L, m).
        small: bool tensor, whether the keys are known to be small, see `keys_are_small`: then the
            shift and its two passes are left out. None where nobody looked.

    Returns:
        (B, L, m), in (0, 1] if not `small`; the shift keeps it finite and cancels in every
        quotient.
    """

    def shifted():
        return tf.exp(keys - tf.stop_gradient(tf.reduce_max(keys, axis=1, keepdims=True)))

    return shifted() if small is None else tf.cond(small, lambda: tf.exp(keys), shifted)


def largest_norms(key_kernel):
    """The largest norm of an output's weights, of each channel block.

    Args:
        key_kernel: (G, Ck/G, O).

    Returns:
        float32 (G,).
    """
    squares = tf.square(tf.cast(key_kernel, tf.float32))
    return tf.sqrt(tf.reduce_max(tf.reduce_sum(squares, axis=1), axis=1))


def keys_are_small(features, key_kernel, norms):
    """Whether no exponential of a key can be too large or too small for float32.

    Looks at |x| * |w|, which costs a pass over the features, and none over keys.

    Args:
        features: (B, L, C), whose first Ck channels are keys.
        key_kernel: (G, Ck/G, O), for its shape.
        norms: what `largest_norms` gives.

    Returns:
        G tensors, bool ().
    """
    blocks, channels, _ = key_kernel.shape
    keys = tf.reshape(features[..., : blocks * channels], (-1, blocks, channels))
    squares = tf.reduce_sum(tf.square(tf.cast(keys, tf.float32)), axis=2)
    return tf.unstack(tf.sqrt(tf.reduce_max(squares, axis=0)) * norms < _SMALL_KEY)


def attention(keys):
    """Softmax over positions: where each class of each group looks.

    Args:
        keys: (B, L, ...), float32 or float64.

    Returns:
        (B, L, ...), summing to 1 over axis 1.
    """
    weights = exponentials(keys)
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)


def attend(weights, values):
    """Averages values over positions (the inner sum of POCA).

    Dividing after the sum costs B*m divisions in place of B*L*m.

    Args:
        weights: (B, L, m), float32 or float64, positive: attention times any factor.
        values: (B, L, m), of the same dtype.

    Returns:
        The sum of the weights, and the average: (B, 1, m) each.
    """
    total = tf.reduce_sum(weights, axis=1, keepdims=True)
    return total, tf.reduce_sum(weights * values, axis=1, keepdims=True) / total


def kept(shape, rate, seed, first=0):
    """Which values a dropout leaves, drawn from a stateless seed.

    Args:
        shape: (B, L, m).
        rate: probability of a zero, in [0, 1).
        seed: two integers; the same seed draws the same mask.
        first: where the m outputs begin in a larger mask of that seed: a multiple of MASK_OUTPUTS,
            which may be a tensor.

    Returns:
        bool (B, L, m).
    """
    batch, positions, outputs = shape
    # Whole numbers, as XLA makes other fractions of the same bits than TensorFlow does.
    least = min(round(rate * 2**32) - 2**31, 2**31 - 1)
    parts = []
    for start in range(0, outputs, MASK_OUTPUTS):
        drawn = tf.random.stateless_uniform(
            (batch, positions, min(MASK_OUTPUTS, outputs - start)),
            fold_in(seed, first // MASK_OUTPUTS + start // MASK_OUTPUTS),
            minval=None,
            maxval=None,
            dtype=tf.int32,
            alg="philox",
        )
        parts.append(drawn >= least)
    return joined(parts)


def fold_in(seed, number):
    """Another seed for each number, in XLA the same as elsewhere."""
    return tf.random.experimental.stateless_fold_in(seed, number, alg="philox")


def dropped(values, mask, rate):
    """Inverted dropout.

    Args:
        values: (B, L, m).
        mask: bool (B, L, m), false where a zero shall be.
        rate: the share of those.

    Returns:
        (B, L, m).
    """
    return tf.where(mask, values / (1 - rate), tf.zeros_like(values))


def drop(values, bias, rate, seed, first):
    """Dropout as the reference has it: of elements of the biased values, so the bias cannot wait.

    Args:
        values: (B, L, m), without their bias.
        bias: (m,).
        rate, seed, first: as of `kept`.

    Returns:
        What is left of the biased values, (B, L, m), and the mask.
    """
    mask = kept([size(values, axis) for axis in range(3)], rate, seed, first)
    return dropped(values + bias, mask, rate), mask


def tile(parts, kernels, small, sizes, dtype):
    """Exponentials and values of one channel block.

    Args:
        parts: channels of the keys and of the values, (B*L, c) each.
        kernels: of both, (c, m) each.
        small: as of `exponentials`.
        sizes: B and L.
        dtype: of the result.

    Returns:
        (B, L, m) each; the values without their bias.
    """
    keys, values = (
        tf.cast(project(part, kernel, *sizes), dtype)
        for part, kernel in zip(parts, kernels, strict=True)
    )
    return exponentials(keys, small), values


def to_logits(scores, value_bias, dropout):
    """Logits of what the channel blocks sum up to.

    Args:
        scores: (B, O), ordered by group, then class.
        value_bias: (N, M), or (M,) of their sums over the groups.
        dropout: the rate. Where it is not 0, the values had their bias.

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
    features,
    key_kernel,
    value_kernel,
    value_bias,
    dropout=0.0,
    seed=None,
    accumulate_dtype=tf.float32,
    block_outputs=None,
    key_norms=None,
):
    """Class scores of a feature map by pairwise object category attention.

    Products run in the dtype of the features; softmax and sums in `accumulate_dtype`.

    Args:
        features: (B, L, C), whose first Ck channels are keys and last Cv values: Ck + Cv = C, or
            Ck = Cv = C where both see all.
        key_kernel: (G, Ck/G, N*M/G), with G = N for split groups and 1 otherwise. Block g reads
            the g-th run of channels; its outputs are ordered by group, then class.
        value_kernel: (G, Cv/G, N*M/G).
        value_bias: (N, M), or (M,) of their sums over the groups where nothing is dropped.
        dropout: rate of the dropout on the values, 0 for none (as at inference).
        seed: two integers, needed when `dropout` is not 0.
        accumulate_dtype: dtype of the softmax, the sums and the result.
        block_outputs: how many outputs to make at a time, a multiple of MASK_OUTPUTS; None for all.
        key_norms: what `largest_norms` gives of the key kernel, to look for small keys by, see
            `exponentials`; None not to look.

    Returns:
        Logits (B, M).
    """
    blocks, _, outputs = key_kernel.shape
    value_bias = tf.cast(value_bias, accumulate_dtype)
    sizes = size(features, 0), size(features, 1)
    parts = list(zip(*split_channels(features, key_kernel, value_kernel), strict=True))
    small = [None] * blocks
    if key_norms is not None:
        small = keys_are_small(features, key_kernel, key_norms)
    whole = list(zip(tf.unstack(key_kernel), tf.unstack(value_kernel), strict=True))
    width = block_outputs or outputs
    scores, before = [], []
    for first, last in ranges(outputs, width):
        means = []
        for block in range(blocks):
            kernels = [columns(kernel, first, last - first) for kernel in whole[block]]
            if width < outputs:
                kernels = after(kernels, before)
            weights, values = tile(parts[block], kernels, small[block], sizes, accumulate_dtype)
            if dropout:
                bias = tf.reshape(value_bias, (blocks, outputs))[block, first:last]
                values, _ = drop(values, bias, dropout, fold_in(seed, block), first)
            means.append(attend(weights, values)[1])
            before = means[-1:]
        scores.append(tf.add_n(means))
    return to_logits(tf.squeeze(joined(scores), axis=1), value_bias, dropout)


def poca_attention(key_features, key_kernel, accumulate_dtype=tf.float32):
    """Where each group sees each class.

    Args:
        key_features: (B, L, Ck).
        key_kernel: (G, Ck/G, N/G, K), with K classes; K may be unknown.
        accumulate_dtype: dtype of the softmax and the result.

    Returns:
        (B, L, N, K), summing to 1 over axis 1.
    """
    return attention(_project_groups(key_features, key_kernel, accumulate_dtype))


def poca_contributions(
    key_features, value_features, key_kernel, value_kernel, value_bias, accumulate_dtype=tf.float32
):
    """The summands of the logits: attention times biased value, of each position and group.

    Args:
        key_features: (B, L, Ck).
        value_features: (B, L, Cv).
        key_kernel: (G, Ck/G, N/G, K), with K classes; K may be unknown.
        value_kernel: (G, Cv/G, N/G, K).
        value_bias: (N, K). As the attention sums to 1, so do its shares of the bias.
        accumulate_dtype: dtype of the softmax and the result.

    Returns:
        (B, L, N, K), summing to the logits over axes 1 and 2.
    """
    weights = poca_attention(key_features, key_kernel, accumulate_dtype)
    values = _project_groups(value_features, value_kernel, accumulate_dtype)
    return weights * (values + tf.cast(value_bias, accumulate_dtype))


def _project_groups(features, kernel, dtype):
    """Keys or values (B, L, N, K) of features (B, L, C) and a kernel (G, C/G, N/G, K)."""
    blocks, channels, groups, _ = kernel.shape
    classes = size(kernel, 3)
    batch, positions = size(features, 0), size(features, 1)
    parts = tf.split(tf.reshape(features, (-1, blocks * channels)), blocks, axis=1)
    projected = [
        project(part, tf.reshape(block, (channels, groups * classes)), batch, positions)
        for part, block in zip(parts, tf.unstack(kernel), strict=True)
    ]
    whole = tf.cast(joined(projected), dtype)
    return tf.reshape(whole, (batch, positions, blocks * groups, classes))


def joined(tensors):
    """Tensors (..., m) in a row along their last axis."""
    return tensors[0] if len(tensors) == 1 else tf.concat(tensors, axis=-1)


def size(tensor, axis):
    """The length of an axis, static where it is known, so that XLA and TFLite see constants."""
    static = tensor.shape[axis]
    return tf.shape(tensor)[axis] if static is None else static


def logits_dtype(compute_dtype):
    """What sums over features of a dtype, and so the logits, are computed in."""
    return "float64" if compute_dtype == "float64" else "float32"
