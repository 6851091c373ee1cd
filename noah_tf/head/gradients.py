"""POCA with gradients in closed form: the results of `poca.poca` in less time and memory.

With a = exp(k) / s, s = sum_l exp(k), z = sum_l a * v and g the gradient of the logits, the
gradients of values and keys are, for each group and class,

    dv[b, l] = a[b, l] * g[b],        dk[b, l] = dv[b, l] * (v[b, l] - z[b]).

The backward pass therefore needs only s and z from the forward pass, one number each per image,
group and class. Keys and values can be recomputed from the features, one unit of work at a time
(see `memory_plan.py`). If memory allows, the exponentials and values are kept instead, which saves
two of eight matrix products. Automatic differentiation keeps more tensors and makes more passes:
it divides by s, and it does not use that the softmax's Jacobian and the sum over positions share z.

Keys are shifted by their maximum before the exponential only if they can be large, see
`poca.keys_are_small`. The shift cancels in every quotient.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from noah_tf.head import feature_averages, memory_plan, poca
from noah_tf.head.buffers import write_slice, zeros_buffer
from noah_tf.head.loops import Unit, over_blocks, over_ranges


def blocked_poca(
    features: tf.Tensor,
    key_kernel: tf.Tensor,
    value_kernel: tf.Tensor,
    value_bias: tf.Tensor,
    dropout: float = 0.0,
    seed: Any = None,
    accumulate_dtype: Any = tf.float32,
    memory_budget: float = 256,
) -> tf.Tensor:
    """Computes the class scores of `poca.poca`, with gradients that are computed unit by unit.

    Args:
        features: (B, L, C).
        key_kernel: (G, Ck/G, N*M/G), see `poca.poca`.
        value_kernel: (G, Cv/G, N*M/G).
        value_bias: (N, M).
        dropout: the dropout rate of the values, 0 for none.
        seed: two integers, needed if `dropout` is not 0.
        accumulate_dtype: the dtype of softmax, sums and result.
        memory_budget: MiB that a training step may hold apart from its inputs, logits and
            gradients. Tensors that do not fit are recomputed. A unit has at least MASK_OUTPUTS
            outputs. XLA does not respect the budget, because it merges the recomputed tensors with
            those of the forward pass.

    Returns:
        Logits (B, M).

    Raises:
        NotImplementedError: second or forward-mode derivatives are requested.
    """
    work = _BlockedPoca(
        features, key_kernel, value_kernel, dropout, seed, accumulate_dtype, memory_budget
    )
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
                # The inputs are arguments so that second derivatives by them raise as well.
                d_features, *d_weights = work.backward(upstream, *saved)
                d_features = tf.reshape(d_features, tf.shape(inputs[0]))
                return (d_features, *d_weights), _raise_not_implemented

            return gradients(upstream, *inputs)

        return result, gradient

    return poca.to_logits(scores(*inputs), value_bias, dropout)


class _Inputs(NamedTuple):
    """The inputs of the units.

    Attributes:
        flat: the features, (B*L, C).
        parts: the channels of each block's keys and values, or None where a loop slices `flat`.
        kernels: the key kernel and the value kernel.
        bias: the value bias (G, O), or None without dropout.
        keys_small: a bool for each channel block, see `poca.keys_are_small`.
    """

    flat: tf.Tensor
    parts: Any
    kernels: tuple[tf.Tensor, tf.Tensor]
    bias: Any
    keys_small: Any


class _Tile(NamedTuple):
    """The intermediate tensors of a unit, (B, L, m) each.

    Attributes:
        exponentials: of the keys.
        values: the values, or the (B, c+1, m) of `feature_averages.feature_sums`.
        mask: the dropout mask, or None without dropout.
    """

    exponentials: tf.Tensor
    values: tf.Tensor
    mask: Any


class _BlockedPoca:
    """The forward and the backward pass of one call.

    A graph that recomputes is a loop over units, which writes the gradients in place. An unrolled
    graph of many units would take more memory than the units themselves, and would hold the pieces
    of each gradient twice during their concatenation.
    """

    def __init__(
        self, features, key_kernel, value_kernel, dropout, seed, accumulate_dtype, memory_budget
    ):
        self.blocks, key_channels, self.outputs = key_kernel.shape
        self._channels = key_channels, value_kernel.shape[1]
        # True if keys and values use the same channels.
        self._shared_channels = self.blocks * key_channels == features.shape[-1]
        self._first_channels = 0, 0 if self._shared_channels else self.blocks * key_channels
        self._sizes = poca.axis_size(features, 0), poca.axis_size(features, 1)
        self._dropout, self._seed = dropout, seed
        self._dtype = tf.as_dtype(accumulate_dtype)
        self._plan = memory_plan.training_plan(
            *features.shape[:2],
            self.outputs,
            self.blocks,
            self._dtype.size,
            int(memory_budget * 2**20),
            # Ranges of equal size leave no remainder, which would need a graph of its own.
            multiple=memory_plan.MASK_OUTPUTS if dropout else 1,
        )
        # If everything is recomputed, averages of features would take more memory than values.
        self._features_first = self._plan.keep_tiles and feature_averages.is_faster(
            features, value_kernel, dropout, self._dtype
        )
        self._loops = not (self._plan.keep_tiles or tf.executing_eagerly())

    def forward(self, features, key_kernel, value_kernel, bias=None):
        """Returns the sum over the channel blocks (B, O), and further arguments of `backward`."""
        keys_small = poca.keys_are_small(features, key_kernel, poca.largest_norms(key_kernel))
        flat, parts = tf.reshape(features, (-1, features.shape[-1])), None
        if self._loops:
            keys_small = tf.stack(keys_small)
        else:
            parts = poca.split_channels(features, key_kernel, value_kernel)
        inputs = _Inputs(flat, parts, (key_kernel, value_kernel), bias, keys_small)
        forward = self._looped_forward if self._loops else self._unrolled_forward
        scores, tiles, sums = forward(inputs)
        return tf.squeeze(scores, axis=1), (inputs, tiles, sums)

    def backward(self, upstream, inputs, tiles, sums):
        """Returns the gradients of the features (B*L, C), of both kernels, and of any bias."""
        backward = self._looped_backward if self._loops else self._unrolled_backward
        d_flat, *d_weights = backward(tf.expand_dims(upstream, 1), inputs, tiles, sums)
        return tf.cast(d_flat, inputs.flat.dtype), *d_weights

    def _looped_forward(self, inputs):
        def block_step(block, state):
            parts = self._parts(inputs, block)

            def step(unit, scores, *sums):
                kernels = self._kernels(inputs, unit)
                tile = self._tile(inputs, parts, kernels, unit)
                total, mean = self._attend(tile, kernels)
                partial = memory_plan.columns(scores, unit.first, unit.width)
                scores = write_slice(scores, partial + mean, (None, None, unit.first))
                begin = block, None, None, unit.first
                # `sums` is empty if the backward pass recomputes them.
                pairs = zip(sums, (total, mean), strict=False)
                return scores, *(write_slice(buffer, new[None], begin) for buffer, new in pairs)

            return over_ranges(self._plan.block_outputs, self.outputs, block, step, state)

        shape = self._sizes[0], 1, self.outputs
        shapes = [shape] + 2 * [(self.blocks, *shape)] * self._plan.keep_sums
        buffers = [zeros_buffer(s, self._dtype) for s in shapes]
        scores, *sums = over_blocks(self.blocks, block_step, buffers)
        return scores, None, sums

    def _looped_backward(self, upstream, inputs, _, sums):
        rows, dtype = poca.axis_size(inputs.flat, 0), inputs.flat.dtype

        def block_step(block, state):
            parts = self._parts(inputs, block)

            def step(unit, *state):
                kernels = self._kernels(inputs, unit)
                tile = self._tile(inputs, parts, kernels, unit)
                begin, shape = (block, 0, 0, unit.first), (1, self._sizes[0], 1, unit.width)
                unit_sums = [tf.squeeze(tf.slice(buffer, begin, shape), axis=0) for buffer in sums]
                d_scores = memory_plan.columns(upstream, unit.first, unit.width)
                d_parts, d_unit_weights = self._gradients(d_scores, parts, kernels, tile, unit_sums)
                # The state has the gradients of both channel parts, then those of the weights.
                added = [total + new for total, new in zip(state, d_parts, strict=False)]
                written = []
                for d_weight, new in zip(state[2:], d_unit_weights, strict=True):
                    begin = (block, *(new.shape.rank - 1) * [None], unit.first)
                    written.append(write_slice(d_weight, new[None], begin))
                return *added, *written

            d_flat, *d_weights = state
            d_parts = [zeros_buffer((rows, count), self._dtype) for count in self._channels]
            by_key, by_value, *d_weights = over_ranges(
                self._plan.block_outputs, self.outputs, block, step, [*d_parts, *d_weights]
            )
            d_parts = [by_key + by_value] if self._shared_channels else [by_key, by_value]
            for kind, d_part in enumerate(d_parts):
                d_flat = write_slice(d_flat, d_part, (None, self._first_channel(kind, block)))
            return d_flat, *d_weights

        # Without this dependency the buffers would exist during the forward pass already.
        with tf.control_dependencies([upstream]):
            state = [zeros_buffer((rows, inputs.flat.shape[1]), self._dtype)]
            state += [zeros_buffer(kernel.shape, dtype) for kernel in inputs.kernels]
            if inputs.bias is not None:
                state.append(zeros_buffer(inputs.bias.shape, self._dtype))
        # Without this dependency TensorFlow would reuse the forward pass's tensors, and keep them
        # in memory until then.
        return over_blocks(self.blocks, block_step, state, dependencies=[upstream])

    def _unrolled_forward(self, inputs):
        tiles, scores, sums, finished = [], [], [], []
        for first, last in memory_plan.output_ranges(self.outputs, self._plan.block_outputs):
            range_sums = []
            for block in range(self.blocks):
                unit = Unit(block, first, last - first)
                parts = self._parts(inputs, block)
                kernels = self._kernels(inputs, unit, finished)
                tile = self._tile(inputs, parts, kernels, unit)
                range_sums.append(self._attend(tile, kernels))
                finished.append(range_sums[-1][1:])
                tiles.append(tile if self._plan.keep_tiles else None)
            scores.append(tf.add_n([mean for _, mean in range_sums]))
            sums += range_sums
        return poca.concat(scores), tiles, sums

    def _unrolled_backward(self, upstream, inputs, tiles, sums):
        d_parts = {}  # by the first channel
        d_weights = [[] for _ in range(2 + (inputs.bias is not None))]
        finished = []
        saved = iter(zip(tiles, sums, strict=True))
        for first, last in memory_plan.output_ranges(self.outputs, self._plan.block_outputs):
            range_weights = []
            for block in range(self.blocks):
                unit = Unit(block, first, last - first)
                parts = self._parts(inputs, block)
                kernels = self._kernels(inputs, unit, finished)
                tile, unit_sums = next(saved)
                tile = tile or self._tile(inputs, parts, kernels, unit)
                d_scores = memory_plan.columns(upstream, first, unit.width)
                d_unit_parts, d_unit_weights = self._gradients(
                    d_scores, parts, kernels, tile, unit_sums
                )
                finished.append(d_unit_weights)
                range_weights.append(d_unit_weights)
                for kind, new in enumerate(d_unit_parts):
                    channel = self._first_channel(kind, block)
                    d_parts[channel] = d_parts[channel] + new if channel in d_parts else new
            for pieces, new in zip(d_weights, zip(*range_weights, strict=True), strict=True):
                pieces.append(tf.stack(new))
        concatenated = []
        for pieces in d_weights:
            # One after another, because the pieces exist twice during their concatenation.
            concatenated.append(poca.concat(memory_plan.wait_for(pieces, concatenated[-1:])))
        return poca.concat([d_parts[channel] for channel in sorted(d_parts)]), *concatenated

    def _gradients(self, d_scores, parts, kernels, tile, sums):
        """Returns the gradients of a unit's channels, and those of its kernels and any bias.

        Args:
            d_scores: the gradient of the scores, (B, 1, m).
            parts: from `_parts`.
            kernels: from `_kernels`.
            tile: from `_tile`.
            sums: the result of `poca.attend` for the tile, or an empty list to recompute it.
        """
        total, mean = sums or self._attend(tile, kernels)
        if self._features_first:
            d_keys, d_part, d_kernel = feature_averages.gradients(
                d_scores, parts[1], kernels[1], *tile[:2], total, mean
            )
            d_key_part, d_key_kernel = self._product_gradients(parts[0], kernels[0], d_keys)
            return [d_key_part, d_part], [d_key_kernel, d_kernel]
        d_values = tile.exponentials * (d_scores / total)
        d_keys = d_values * (tile.values - mean)
        d_bias = []
        if tile.mask is not None:
            d_values = poca.apply_dropout_mask(d_values, tile.mask, self._dropout)
            d_bias.append(tf.reduce_sum(d_values, axis=(0, 1)))
        pairs = map(self._product_gradients, parts, kernels, (d_keys, d_values))
        d_parts, d_kernels = zip(*pairs, strict=True)
        return d_parts, [*d_kernels, *d_bias]

    def _product_gradients(self, part, kernel, d):
        """Returns the gradients of channels and kernel, from that of their product (B, L, m)."""
        d = tf.reshape(tf.cast(d, part.dtype), (-1, kernel.shape[1]))
        d_part = tf.cast(tf.matmul(d, kernel, transpose_b=True), self._dtype)
        return d_part, tf.matmul(part, d, transpose_a=True)

    def _attend(self, tile, kernels):
        """Returns the sum of the weights and the average of the values, see `poca.attend`."""
        if self._features_first:
            return feature_averages.attend(tile.values, kernels[1])
        return poca.attend(tile.exponentials, tile.values)

    def _first_channel(self, kind, block):
        """Returns the first channel of a block's keys (kind 0) or values (kind 1)."""
        return self._first_channels[kind] + block * self._channels[kind]

    def _parts(self, inputs, block):
        """Returns a block's channels of keys and of values, the latter with ones if needed."""
        if inputs.parts:
            keys, values = (parts[block] for parts in inputs.parts)
        else:
            rows = poca.axis_size(inputs.flat, 0)
            keys, values = (
                tf.slice(inputs.flat, (0, self._first_channel(kind, block)), (rows, channels))
                for kind, channels in enumerate(self._channels)
            )
        if self._features_first:
            values = feature_averages.append_ones(values, self._sizes)
        return keys, values

    def _kernels(self, inputs, unit, finished=()):
        """Returns a unit's kernels of keys and of values.

        They wait for one of the `finished` units, so that at most `Plan.max_concurrent` units run
        at the same time.
        """
        kernels = []
        for kernel, channels in zip(inputs.kernels, self._channels, strict=True):
            shape = 1, channels, unit.width
            part = tf.slice(kernel, (unit.block, 0, unit.first), shape)
            kernels.append(tf.reshape(part, shape[1:]))
        limit = self._plan.max_concurrent
        return memory_plan.wait_for(kernels, finished[-limit] if len(finished) >= limit else [])

    def _tile(self, inputs, parts, kernels, unit):
        """Returns a unit's exponentials, values and dropout mask."""
        if self._features_first:
            keys = poca.project(parts[0], kernels[0], *self._sizes)
            weights = poca.exponentials(keys, inputs.keys_small[unit.block])
            return _Tile(weights, feature_averages.feature_sums(weights, parts[1]), None)
        weights, values = poca.exponentials_and_values(
            parts, kernels, inputs.keys_small[unit.block], self._sizes, self._dtype
        )
        if not self._dropout:
            return _Tile(weights, values, None)
        bias = tf.slice(inputs.bias, (unit.block, unit.first), (1, unit.width))[0]
        seed = poca.fold_in(self._seed, unit.block)
        values, mask = poca.drop_biased_values(values, bias, self._dropout, seed, unit.first)
        return _Tile(weights, values, mask)


def _raise_not_implemented(*_):
    raise NotImplementedError(
        "NOAHHead has no second and no forward-mode derivatives if it computes its gradients in "
        "blocks: give it implementation='direct'."
    )
