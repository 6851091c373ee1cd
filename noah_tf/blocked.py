"""POCA with gradients in closed form: what `poca.poca` gives, in less time and memory.

With a = exp(k) / s, s = sum_l exp(k), z = sum_l a * v and g the gradient of the logits, the
gradients of values and keys are

    dv[b, l] = a[b, l] * g[b],        dk[b, l] = dv[b, l] * (v[b, l] - z[b]),

for each group and class. So all that the backward pass needs of the forward pass is s and z, one
number each for an image, a group and a class; k and v can be recomputed from the features, one
unit of work (see `blocks.py`) at a time. Where memory allows, exponentials and values are kept
instead, which saves two of eight matrix products. Automatic differentiation keeps more than that
and has more to pass over: it divides by s, and it does not know that the softmax's Jacobian and
the sum over positions share z.

Keys are shifted by their maximum before the exponential only where they can be large, see
`poca.keys_are_small`: the shift cancels in every quotient.
"""

import collections

import tensorflow as tf

# Graphs for XLA have an op of their own to write in place, and no public way to be told.
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.ops import control_flow_util

from noah_tf import blocks, poca

# With more units than this in a graph, the graph takes more memory than a unit.
_MOST_UNITS = 8


def blocked_poca(
    features,
    key_kernel,
    value_kernel,
    value_bias,
    dropout=0.0,
    seed=None,
    accumulate_dtype=tf.float32,
    memory_budget=256,
):
    """Class scores of a feature map, as `poca.poca`, whose gradients are computed unit by unit.

    Args:
        features, key_kernel, value_kernel, value_bias, dropout, seed, accumulate_dtype: as of
            `poca.poca`.
        memory_budget: MiB that a training step may hold beside its inputs, logits and gradients.
            What does not fit is recomputed. A unit has at least MASK_OUTPUTS outputs. Where units
            are spelled out, one gradient is there twice while its pieces are joined, and XLA does
            not heed the budget, as it merges what is recomputed with what it was.

    Returns:
        Logits (B, M).

    Raises:
        NotImplementedError: second or forward-mode derivatives are asked for.
    """
    work = _Work(features, key_kernel, value_kernel, dropout, seed, accumulate_dtype, memory_budget)
    value_bias = tf.cast(value_bias, accumulate_dtype)
    inputs = [features, key_kernel, value_kernel]
    if dropout:
        inputs.append(tf.reshape(value_bias, (work.blocks, work.outputs)))

    @tf.custom_gradient
    def scores(*inputs):
        result, saved = work.forward(*inputs)

        def gradient(upstream):
            @tf.custom_gradient
            def gradients(upstream, *inputs):
                # The inputs are named here so that second derivatives by them are refused, too.
                d_features, *d_weights = work.backward(upstream, *saved)
                return (tf.reshape(d_features, tf.shape(inputs[0])), *d_weights), _refuse

            return gradients(upstream, *inputs)

        return result, gradient

    return poca.to_logits(scores(*inputs), value_bias, dropout)


_Inputs = collections.namedtuple("_Inputs", ["parts", "kernels", "bias", "small"])


class _Work:
    """Forward and backward pass of one call.

    Lists of tensors have one for each channel block; those of keys come before those of values.
    """

    def __init__(
        self, features, key_kernel, value_kernel, dropout, seed, accumulate_dtype, memory_budget
    ):
        self.blocks, _, self.outputs = key_kernel.shape
        self._sizes = poca.size(features, 0), poca.size(features, 1)
        self._dropout, self._seed = dropout, seed
        self._dtype = tf.as_dtype(accumulate_dtype)
        self._plan = blocks.training_plan(
            *features.shape[:2],
            self.outputs,
            self.blocks,
            self._dtype.size,
            int(memory_budget * 2**20),
        )

    def forward(self, features, key_kernel, value_kernel, bias=None):
        """The sum over the channel blocks (B, O), and what to keep for `backward`."""
        parts = poca.split_channels(features, key_kernel, value_kernel)
        kernels = tf.unstack(key_kernel), tf.unstack(value_kernel)
        small = poca.keys_are_small(features, key_kernel, poca.largest_norms(key_kernel))
        inputs = _Inputs(parts, kernels, None if bias is None else tf.unstack(bias), small)
        tiles = []

        def run(first, width, _, done):
            totals, means = [], []
            for block in range(self.blocks):
                unit = block, first, width
                tile = self._tile(inputs, self._kernels(inputs, unit, done), unit)
                total, mean = poca.attend(*tile[:2])
                done.append([mean])
                totals.append(total)
                means.append(mean)
                if self._plan.keep_tiles:
                    tiles.append(tile)
            sums = [tf.stack(totals), tf.stack(means)] if self._plan.keep_sums else []
            return [], [tf.add_n(means), *sums]

        leading = [(self._sizes[0], 1)]
        if self._plan.keep_sums:
            leading += 2 * [(self.blocks, self._sizes[0], 1)]
        _, (scores, *sums) = self._over_runs(run, [], leading, [self._dtype] * len(leading))
        return tf.squeeze(scores, axis=1), (inputs, tiles, [tf.unstack(part) for part in sums])

    def backward(self, upstream, inputs, tiles, sums):
        """Gradients of the features (B*L, C), both kernels, and the bias if there is one."""
        dtype = inputs.parts[0][0].dtype
        upstream, tiles = tf.expand_dims(upstream, 1), iter(tiles)

        def run(first, width, d_parts, done):
            d_parts, d_weights = list(d_parts), [[] for _ in dtypes]
            d_scores = blocks.columns(upstream, first, width)
            if not done:
                # Else k and v would be those of the forward pass, and kept for that.
                done += [[upstream]] * self._plan.at_once
            for block in range(self.blocks):
                unit = block, first, width
                kernels = self._kernels(inputs, unit, done)
                exponentials, values, mask = next(tiles, None) or self._tile(inputs, kernels, unit)
                if sums:
                    total, mean = (blocks.columns(part[block], first, width) for part in sums)
                else:
                    total, mean = poca.attend(exponentials, values)
                d_values = exponentials * (d_scores / total)
                d_keys = d_values * (values - mean)
                if mask is not None:
                    d_values = poca.dropped(d_values, mask, self._dropout)
                    d_weights[2].append(tf.reduce_sum(d_values, axis=(0, 1)))
                done.append([])
                for kind, d in enumerate((d_keys, d_values)):
                    d = tf.reshape(tf.cast(d, dtype), (-1, width))
                    d_weight = tf.matmul(inputs.parts[kind][block], d, transpose_a=True)
                    d_weights[kind].append(d_weight)
                    d_part = tf.cast(tf.matmul(d, kernels[kind], transpose_b=True), self._dtype)
                    place = kind * self.blocks + block
                    d_parts[place] = d_part if d_parts[place] is None else d_parts[place] + d_part
                    done[-1].append(d_weight)
                    if not self._plan.keep_tiles:
                        done[-1].append(d_part)
            return d_parts, [tf.stack(parts) for parts in d_weights]

        parts = [*inputs.parts[0], *inputs.parts[1]]
        leading = [(self.blocks, kernels[0].shape[0]) for kernels in inputs.kernels]
        dtypes = [dtype, dtype]
        if inputs.bias:
            leading, dtypes = [*leading, (self.blocks,)], [*dtypes, self._dtype]
        d_parts, d_weights = self._over_runs(run, parts, leading, dtypes)
        if parts[0] is parts[self.blocks]:
            pairs = zip(d_parts[: self.blocks], d_parts[self.blocks :], strict=True)
            d_parts = [of_key + of_value for of_key, of_value in pairs]
        return tf.cast(poca.joined(d_parts), dtype), *d_weights

    def _over_runs(self, run, sums_like, leading, dtypes):
        """Calls a function for each run of outputs, one after another.

        Args:
            run: (first, width, sums, done) to the new sums and a list of tensors (..., width).
                Sums of None are 0. To `done` it adds a list of tensors for each of its units.
            sums_like: tensors of the sums' shapes.
            leading: sizes of the listed tensors' axes before their last.
            dtypes: of the listed tensors.

        Returns:
            The sums, and the listed tensors (..., O).
        """
        width = self._plan.block_outputs
        whole_runs = self.outputs // width
        if (
            whole_runs > 1
            and whole_runs * self.blocks > _MOST_UNITS
            and not self._plan.keep_tiles
            and not tf.executing_eagerly()
        ):
            return self._looped(run, sums_like, leading, dtypes)
        sums, found, done = [None] * len(sums_like), [], []
        for start in range(0, self.outputs, width):
            sums, tensors = run(start, min(width, self.outputs - start), sums, done)
            found.append(tensors)
        whole = []
        for pieces in zip(*found, strict=True):
            # One after another, as each is there twice for a moment.
            whole.append(poca.joined(blocks.after(pieces, whole[-1:]) if whole else pieces))
        return sums, whole

    def _looped(self, run, sums_like, leading, dtypes):
        """`_over_runs` in a loop, as a graph that spells out all runs takes more memory than one.

        The listed tensors are written in place, for the pieces of a gradient would be there twice.
        """
        width = self._plan.block_outputs
        whole_runs = self.outputs // width

        def body(number, sums, whole):
            sums, tensors = run(number * width, width, sums, [])
            pairs = zip(whole, tensors, strict=True)
            return number + 1, sums, [_written(*pair, number * width) for pair in pairs]

        zeros = [tf.zeros(tf.shape(like), self._dtype) for like in sums_like]
        whole = [
            tf.zeros((*sizes, self.outputs), dtype)
            for sizes, dtype in zip(leading, dtypes, strict=True)
        ]
        _, sums, whole = tf.while_loop(
            lambda number, *_: number < whole_runs,
            body,
            (0, zeros, whole),
            parallel_iterations=1,
            maximum_iterations=whole_runs,
        )
        first = whole_runs * width
        if first < self.outputs:
            done = [whole] * self._plan.at_once
            sums, tensors = run(first, self.outputs - first, sums, done)
            whole = [_written(*pair, first) for pair in zip(whole, tensors, strict=True)]
        return sums, whole

    def _kernels(self, inputs, unit, done):
        """A unit's kernels of keys and values, which wait for what has to be done before."""
        block, first, width = unit
        wait = done[-self._plan.at_once] if len(done) >= self._plan.at_once else []
        kernels = [blocks.columns(kernels[block], first, width) for kernels in inputs.kernels]
        return blocks.after(kernels, wait)

    def _tile(self, inputs, kernels, unit):
        """Exponentials of the keys, values, and which of them dropout left: (B, L, m) each."""
        block, first, width = unit
        parts = [parts[block] for parts in inputs.parts]
        weights, values = poca.tile(parts, kernels, inputs.small[block], self._sizes, self._dtype)
        if not self._dropout:
            return weights, values, None
        bias = blocks.columns(inputs.bias[block], first, width)
        seed = poca.fold_in(self._seed, block)
        return weights, *poca.drop(values, bias, self._dropout, seed, first)


def _written(whole, piece, first):
    """`whole` with its last-axis columns from `first` on replaced, in place."""
    before = whole.shape.rank - 1
    begin = [0] * before + [first]
    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return gen_xla_ops.xla_dynamic_update_slice(input=whole, update=piece, indices=begin)
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=whole,
        begin=begin,
        end=[0] * before + [first + piece.shape[-1]],
        strides=[1] * (before + 1),
        value=piece,
        begin_mask=2**before - 1,
        end_mask=2**before - 1,
    )


def _refuse(*_):
    raise NotImplementedError(
        "NOAHHead has no second and no forward-mode derivatives where it computes its gradients "
        "in blocks: give it implementation='direct'."
    )
