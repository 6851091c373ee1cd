"""Buffers that a graph writes into in place."""

from typing import Any

import tensorflow as tf

# TensorFlow has no public op that writes into a part of a tensor in XLA, and no public way to ask
# whether a graph is traced for XLA.
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.ops import control_flow_util


def zeros_buffer(shape: Any, dtype: Any) -> tf.Tensor:
    """Returns a buffer of zeros to write into.

    `tf.zeros` may become a constant of the graph, which would be copied before the first write.
    """
    return tf.raw_ops.Empty(shape=shape, dtype=dtype, init=True)


def write_slice(tensor: tf.Tensor, piece: tf.Tensor, begin: Any) -> tf.Tensor:
    """Returns the tensor after a piece of it is overwritten, in place if possible.

    Args:
        tensor: the buffer.
        piece: the new values, of the same rank.
        begin: for each axis the index where the piece starts, or None for the whole axis.
    """
    starts = [0 if start is None else start for start in begin]
    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return gen_xla_ops.xla_dynamic_update_slice(input=tensor, update=piece, indices=starts)
    ends = [
        0 if start is None else start + length
        for start, length in zip(begin, piece.shape, strict=True)
    ]
    mask = sum(2**axis for axis, start in enumerate(begin) if start is None)
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=tensor,
        begin=starts,
        end=ends,
        strides=[1] * len(starts),
        value=piece,
        begin_mask=mask,
        end_mask=mask,
    )
