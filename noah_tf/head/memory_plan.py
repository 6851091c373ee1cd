"""Plans how a head's work is divided, so that memory does not grow with the number of classes.

A unit of work is one channel block (see `poca.py`) and a range of m of its outputs: B*L*m numbers
of each kind (keys, values, ...). Each unit waits for an earlier one. Without this dependency
TensorFlow would compute all units at once.
"""

import math
from typing import Any, NamedTuple

import tensorflow as tf

# Dropout masks are drawn for this many outputs at a time. A range of outputs that starts at a
# multiple of it therefore gets the same mask as within the whole.
MASK_OUTPUTS = 128
# Larger tensors no longer fit the caches. Smaller ones cost more in calls than they save.
_MAX_TENSOR_BYTES = 2**23
# Keeps unrolled graphs small. With more outputs the ranges become larger instead.
_MAX_RANGES = 64
# A unit holds four tensors of B*L*m numbers: exponentials, values and their gradients.
_TENSORS_PER_UNIT = 4
# The sizes that are assumed if the batch or the positions are unknown.
_ASSUMED_BATCH, _ASSUMED_POSITIONS = 32, 256


class Plan(NamedTuple):
    """How a training step is divided.

    Attributes:
        block_outputs: the number of outputs per unit.
        keep_tiles: whether the forward pass keeps exponentials and values for the backward pass.
        keep_sums: whether it keeps their sums over positions.
        max_concurrent: how many units may run at the same time; 1 if the backward pass recomputes.
    """

    block_outputs: int
    keep_tiles: bool
    keep_sums: bool
    max_concurrent: int


def tensor_bytes(batch: int | None, positions: int | None, outputs: int, itemsize: int) -> int:
    """Returns the bytes of B*L*m numbers. None counts as 32 images or 256 positions."""
    return (batch or _ASSUMED_BATCH) * (positions or _ASSUMED_POSITIONS) * outputs * itemsize


def block_outputs(
    batch: int | None,
    positions: int | None,
    outputs: int,
    itemsize: int,
    max_bytes: int = _MAX_TENSOR_BYTES,
    max_ranges: int = _MAX_RANGES,
    multiple: int = MASK_OUTPUTS,
) -> int:
    """Returns how many outputs to compute at a time.

    Args:
        batch: B, or None.
        positions: L, or None.
        outputs: the number of all outputs.
        itemsize: the bytes of a number.
        max_bytes: a bound on the bytes of B*L*m numbers. A range of MASK_OUTPUTS outputs may exceed
            it.
        max_ranges: a bound on the number of ranges. It takes precedence over `max_bytes`.
        multiple: the result is a multiple of it. It must divide MASK_OUTPUTS.

    Returns:
        `outputs`, or a multiple of `multiple`.
    """
    max_bytes = min(max_bytes, _MAX_TENSOR_BYTES)
    if tensor_bytes(batch, positions, outputs, itemsize) <= max_bytes:
        return outputs
    chunks = max_bytes // tensor_bytes(batch, positions, MASK_OUTPUTS, itemsize)
    count = min(max_ranges, math.ceil(outputs / (MASK_OUTPUTS * max(1, chunks))))
    return min(outputs, multiple * math.ceil(outputs / (multiple * count)))


def training_plan(
    batch: int | None,
    positions: int | None,
    outputs: int,
    channel_blocks: int,
    itemsize: int,
    budget_bytes: int,
    multiple: int = MASK_OUTPUTS,
) -> Plan:
    """Returns a plan whose memory, apart from inputs and results, fits a budget.

    If everything that the backward pass needs fits the budget, the forward pass keeps it.
    Otherwise the backward pass recomputes keys and values.

    Args:
        batch: B, or None.
        positions: L, or None.
        outputs: the outputs of a channel block, O = N*M/G.
        channel_blocks: G.
        itemsize: the bytes of a number.
        budget_bytes: the budget. Units of MASK_OUTPUTS outputs may exceed it.
        multiple: as for `block_outputs`.
    """
    sizes = batch, positions, outputs, itemsize
    width = block_outputs(*sizes, budget_bytes // _TENSORS_PER_UNIT, multiple=multiple)
    unit_bytes = _TENSORS_PER_UNIT * tensor_bytes(batch, positions, width, itemsize)
    all_outputs = channel_blocks * outputs
    # Exponentials, values, and a dropout mask.
    tile_bytes = tensor_bytes(batch, positions, all_outputs, 2 * itemsize + 1)
    spare_bytes = budget_bytes - tile_bytes - unit_bytes
    if spare_bytes >= 0:
        num_units = channel_blocks * math.ceil(outputs / width)
        max_concurrent = min(1 + spare_bytes // unit_bytes, num_units)
        return Plan(width, keep_tiles=True, keep_sums=True, max_concurrent=max_concurrent)
    sum_bytes = tensor_bytes(batch, 1, all_outputs, 2 * itemsize)
    keep_sums = sum_bytes <= budget_bytes // 4
    max_bytes = (budget_bytes - keep_sums * sum_bytes) // _TENSORS_PER_UNIT
    # A loop does not make the graph larger, so any number of ranges is allowed.
    width = block_outputs(*sizes, max_bytes, outputs, multiple)
    return Plan(width, keep_tiles=False, keep_sums=keep_sums, max_concurrent=1)


def output_ranges(outputs: int, width: int) -> list[tuple[int, int]]:
    """Returns (first, end) of each range of at most `width` outputs."""
    return [(first, min(first + width, outputs)) for first in range(0, outputs, width)]


def columns(tensor: tf.Tensor, first: Any, width: int) -> tf.Tensor:
    """Returns `width` columns of the last axis from `first` on."""
    if tensor.shape[-1] == width:
        return tensor
    leading_axes = tensor.shape.rank - 1
    return tf.slice(tensor, [0] * leading_axes + [first], [-1] * leading_axes + [width])


def wait_for(tensors: list[tf.Tensor], others: Any) -> list[tf.Tensor]:
    """Returns the tensors, computed after the others. Eager tensors are returned as they are."""
    if not others or tf.executing_eagerly():
        return tensors
    with tf.control_dependencies(others):
        return [tf.identity(tensor) for tensor in tensors]
