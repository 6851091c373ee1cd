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

from noah_tf.head import memory_plan, poca


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
            What does not fit is recomputed. A unit has at least MASK_OUTPUTS outputs. XLA does not
            heed the budget, as it merges what is recomputed with what it was.

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


_Inputs = collections.namedtuple("_Inputs", ["flat", "parts", "kernels", "bias", "small"])
_Tile = collections.namedtuple("_Tile", ["exponentials", "values", "mask"])
# One channel block and a run of its outputs; block and first are tensors in a loop.
_Unit = collections.namedtuple("_Unit", ["block", "first", "width"])


class _Work:
    """Forward and backward pass of one call.

    A graph that recomputes is a loop over units, which writes in place: units that are spelled out
    make a graph that takes more memory than they do, and their pieces of a gradient are there
    twice while they are joined.
    """

    def __init__(
        self, features, key_kernel, value_kernel, dropout, seed, accumulate_dtype, memory_budget
    ):
        self.blocks, key_channels, self.outputs = key_kernel.shape
        self._channels = key_channels, value_kernel.shape[1]
        # Whether keys and values are made of the same channels.
        self._shared = self.blocks * key_channels == features.shape[-1]
        self._begins = 0, 0 if self._shared else self.blocks * key_channels
        self._sizes = poca.size(features, 0), poca.size(features, 1)
        self._dropout, self._seed = dropout, seed
        self._dtype = tf.as_dtype(accumulate_dtype)
        self._plan = memory_plan.training_plan(
            *features.shape[:2],
            self.outputs,
            self.blocks,
            self._dtype.size,
            int(memory_budget * 2**20),
            # Blocks of equal size have no rest, which would be a part of the graph of its own.
            multiple=memory_plan.MASK_OUTPUTS if dropout else 1,
        )
        self._loops = not (self._plan.keep_tiles or tf.executing_eagerly())

    def forward(self, features, key_kernel, value_kernel, bias=None):
        """The sum over the channel blocks (B, O), and what to keep for `backward`."""
        small = poca.keys_are_small(features, key_kernel, poca.largest_norms(key_kernel))
        flat, parts = tf.reshape(features, (-1, features.shape[-1])), None
        if self._loops:
            small = tf.stack(small)
        else:
            parts = poca.split_channels(features, key_kernel, value_kernel)
        inputs = _Inputs(flat, parts, (key_kernel, value_kernel), bias, small)
        forward = self._looped_forward if self._loops else self._spelled_forward
        scores, *kept = forward(inputs)
        return tf.squeeze(scores, axis=1), (inputs, *kept)

    def backward(self, upstream, *kept):
        """Gradients of the features (B*L, C), both kernels, and the bias if there is one."""
        backward = self._looped_backward if self._loops else self._spelled_backward
        d_flat, *d_weights = backward(tf.expand_dims(upstream, 1), *kept)
        return tf.cast(d_flat, kept[0].flat.dtype), *d_weights

    def _looped_forward(self, inputs):
        def block_step(block, state):
            parts = self._parts(inputs, block)

            def step(unit, scores, *sums):
                tile = self._tile(inputs, parts, self._kernels(inputs, unit), unit)
                total, mean = poca.attend(tile.exponentials, tile.values)
                before = memory_plan.columns(scores, unit.first, unit.width)
                scores = _written(scores, before + mean, (None, None, unit.first))
                begin = block, None, None, unit.first
                pairs = zip(sums, (total, mean), strict=False)
                return scores, *(_written(sum_, new[None], begin) for sum_, new in pairs)

            return self._over_runs(block, step, state)

        shape = self._sizes[0], 1, self.outputs
        shapes = [shape] + 2 * [(self.blocks, *shape)] * self._plan.keep_sums
        scores, *sums = self._over_blocks(block_step, [_zeros(s, self._dtype) for s in shapes])
        return scores, None, sums

    def _looped_backward(self, upstream, inputs, _, sums):
        rows, dtype = poca.size(inputs.flat, 0), inputs.flat.dtype

        def block_step(block, state):
            parts = self._parts(inputs, block)

            def step(unit, *state):
                kernels = self._kernels(inputs, unit)
                tile = self._tile(inputs, parts, kernels, unit)
                begin, size = (block, 0, 0, unit.first), (1, self._sizes[0], 1, unit.width)
                kept = [tf.squeeze(tf.slice(sum_, begin, size), axis=0) for sum_ in sums]
                d_scores = memory_plan.columns(upstream, unit.first, unit.width)
                d_parts, news = self._gradients(d_scores, parts, kernels, tile, kept)
                added = [part + new for part, new in zip(state, d_parts, strict=False)]
                written = []
                for d_weight, new in zip(state[2:], news, strict=True):
                    begin = (block, *(new.shape.rank - 1) * [None], unit.first)
                    written.append(_written(d_weight, new[None], begin))
                return *added, *written

            d_flat, *d_weights = state
            d_parts = [_zeros((rows, count), self._dtype) for count in self._channels]
            by_key, by_value, *d_weights = self._over_runs(block, step, [*d_parts, *d_weights])
            d_parts = [by_key + by_value] if self._shared else [by_key, by_value]
            for kind, d_part in enumerate(d_parts):
                d_flat = _written(d_flat, d_part, (None, self._begin(kind, block)))
            return d_flat, *d_weights

        # Else the forward pass would hold them, too.
        with tf.control_dependencies([upstream]):
            state = [_zeros((rows, inputs.flat.shape[1]), self._dtype)]
            state += [_zeros(kernel.shape, dtype) for kernel in inputs.kernels]
            if inputs.bias is not None:
                state.append(_zeros(inputs.bias.shape, self._dtype))
        # Else what is recomputed would be that of the forward pass, and kept for that.
        return self._over_blocks(block_step, state, wait=[upstream])

    def _over_blocks(self, step, state, wait=()):
        """Calls a function for each channel block, one after another.

        Args:
            step: (block, state) to the new state, a list of tensors.
            state: the first.
            wait: tensors that have to be there before the first block begins.

        Returns:
            The last state.
        """
        (first,) = memory_plan.after([tf.constant(0)], wait)
        return tf.while_loop(
            lambda block, _: block < self.blocks,
            lambda block, state: (block + 1, list(step(block, state))),
            (first, state),
            parallel_iterations=1,
            maximum_iterations=self.blocks,
        )[1]

    def _over_runs(self, block, step, state):
        """Calls a function, (unit, *state) to the new state, for each run of a block's outputs."""
        width = self._plan.block_outputs
        runs, rest = divmod(self.outputs, width)
        if runs > 1:
            (first,) = memory_plan.after([tf.constant(0)], [block])
            _, state = tf.while_loop(
                lambda run, _: run < runs,
                lambda run, state: (run + 1, list(step(_Unit(block, run * width, width), *state))),
                (first, state),
                parallel_iterations=1,
                maximum_iterations=runs,
            )
        else:
            state = step(_Unit(block, 0, width), *state)
        if rest:
            (block,) = memory_plan.after([block], state)
            state = step(_Unit(block, runs * width, rest), *state)
        return state

    def _spelled_forward(self, inputs):
        tiles, scores, sums, done = [], [], [], []
        for first, last in memory_plan.ranges(self.outputs, self._plan.block_outputs):
            found = []
            for block in range(self.blocks):
                unit = _Unit(block, first, last - first)
                parts = self._parts(inputs, block)
                tile = self._tile(inputs, parts, self._kernels(inputs, unit, done), unit)
                found.append(poca.attend(tile.exponentials, tile.values))
                done.append(found[-1][1:])
                tiles.append(tile if self._plan.keep_tiles else None)
            scores.append(tf.add_n([mean for _, mean in found]))
            sums += found
        return poca.joined(scores), tiles, sums

    def _spelled_backward(self, upstream, inputs, tiles, sums):
        d_parts, d_weights, done = {}, [[] for _ in range(2 + (inputs.bias is not None))], []
        units = iter(zip(tiles, sums, strict=True))
        for first, last in memory_plan.ranges(self.outputs, self._plan.block_outputs):
            found = []
            for block in range(self.blocks):
                unit = _Unit(block, first, last - first)
                parts, kernels = self._parts(inputs, block), self._kernels(inputs, unit, done)
                tile, kept = next(units)
                tile = tile or self._tile(inputs, parts, kernels, unit)
                d_scores = memory_plan.columns(upstream, first, unit.width)
                news, weights = self._gradients(d_scores, parts, kernels, tile, kept)
                done.append(weights)
                found.append(weights)
                for kind, new in enumerate(news):
                    place = self._begin(kind, block)
                    d_parts[place] = d_parts[place] + new if place in d_parts else new
            for pieces, new in zip(d_weights, zip(*found, strict=True), strict=True):
                pieces.append(tf.stack(new))
        whole = []
        for pieces in d_weights:
            # One after another, as each is there twice for a moment.
            whole.append(poca.joined(memory_plan.after(pieces, whole[-1:])))
        return poca.joined([d_parts[place] for place in sorted(d_parts)]), *whole

    def _gradients(self, d_scores, parts, kernels, tile, kept):
        """Gradients of a unit's channels, and of its kernels and bias.

        Args:
            d_scores: of the scores, (B, 1, m).
            parts, kernels: what `_parts` and `_kernels` give.
            tile: what `_tile` gives.
            kept: what `poca.attend` gave for the tile, or an empty list.
        """
        total, mean = kept or poca.attend(tile.exponentials, tile.values)
        d_values = tile.exponentials * (d_scores / total)
        d_keys = d_values * (tile.values - mean)
        d_bias = []
        if tile.mask is not None:
            d_values = poca.dropped(d_values, tile.mask, self._dropout)
            d_bias.append(tf.reduce_sum(d_values, axis=(0, 1)))
        d_parts, d_kernels = [], []
        for part, kernel, d in zip(parts, kernels, (d_keys, d_values), strict=True):
            d = tf.reshape(tf.cast(d, part.dtype), (-1, kernel.shape[1]))
            d_kernels.append(tf.matmul(part, d, transpose_a=True))
            d_parts.append(tf.cast(tf.matmul(d, kernel, transpose_b=True), self._dtype))
        return d_parts, d_kernels + d_bias

    def _begin(self, kind, block):
        """Where the channels of a block's keys (0) or values (1) begin."""
        return self._begins[kind] + block * self._channels[kind]

    def _parts(self, inputs, block):
        """A block's channels of keys and of values."""
        if inputs.parts:
            return [parts[block] for parts in inputs.parts]
        rows = poca.size(inputs.flat, 0)
        return [
            tf.slice(inputs.flat, (0, self._begin(kind, block)), (rows, self._channels[kind]))
            for kind in (0, 1)
        ]

    def _kernels(self, inputs, unit, done=()):
        """A unit's kernels of keys and of values.

        They wait for what was done so many units before as may be under way at once.
        """
        kernels = []
        for kernel, channels in zip(inputs.kernels, self._channels, strict=True):
            size = 1, channels, unit.width
            part = tf.slice(kernel, (unit.block, 0, unit.first), size)
            kernels.append(tf.reshape(part, size[1:]))
        wait = done[-self._plan.at_once] if len(done) >= self._plan.at_once else []
        return memory_plan.after(kernels, wait)

    def _tile(self, inputs, parts, kernels, unit):
        """Exponentials of the keys, values, and which of them dropout left: (B, L, m) each."""
        small = inputs.small[unit.block]
        weights, values = poca.tile(parts, kernels, small, self._sizes, self._dtype)
        if not self._dropout:
            return _Tile(weights, values, None)
        bias = tf.slice(inputs.bias, (unit.block, unit.first), (1, unit.width))[0]
        seed = poca.fold_in(self._seed, unit.block)
        return _Tile(weights, *poca.drop(values, bias, self._dropout, seed, unit.first))


def _zeros(shape, dtype):
    """Zeros to write in: tf.zeros may be a constant of the graph, there twice once written to."""
    return tf.raw_ops.Empty(shape=shape, dtype=dtype, init=True)


def _written(whole, piece, begin):
    """`whole` with a piece of it replaced, in place; `begin` has None for axes that are whole."""
    starts = [0 if start is None else start for start in begin]
    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return gen_xla_ops.xla_dynamic_update_slice(input=whole, update=piece, indices=starts)
    ends = [
        0 if start is None else start + size for start, size in zip(begin, piece.shape, strict=True)
    ]
    mask = sum(2**axis for axis, start in enumerate(begin) if start is None)
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=whole,
        begin=starts,
        end=ends,
        strides=[1] * len(starts),
        value=piece,
        begin_mask=mask,
        end_mask=mask,
    )


def _refuse(*_):
    raise NotImplementedError(
        "NOAHHead has no second and no forward-mode derivatives where it computes its gradients "
        "in blocks: give it implementation='direct'."
    )
