"""How the work of a head is cut into blocks, so that memory does not grow with the classes.

A unit of work is one channel block and a run of its outputs: B*L x m numbers of each kind. Each
begins when an earlier one is done: that, and nothing else, keeps TensorFlow from making all of
them at once.
"""

import collections
import math

import tensorflow as tf

# Masks of dropout are drawn for so many outputs at a time, so that a block of outputs that begins
# at a multiple of it has the mask that it has in the whole.
MASK_OUTPUTS = 128
# Larger tensors no longer fit the caches; smaller ones cost more in calls than they save.
_TILE_BYTES = 2**23
# So that graphs which spell out their blocks stay small: then blocks grow with the outputs.
_MOST_BLOCKS = 64
# Tensors of B*L*m numbers that a unit holds at once: exponentials, values and their gradients.
_TILES_OF_A_UNIT = 4
# What an unknown size counts as.
_BATCH, _POSITIONS = 32, 256

Plan = collections.namedtuple("Plan", ["block_outputs", "keep_tiles", "keep_sums", "at_once"])


def tensor_bytes(batch, positions, outputs, itemsize):
    """Bytes of B*L*m numbers; a size of None counts as 32 images or 256 positions."""
    return (batch or _BATCH) * (positions or _POSITIONS) * outputs * itemsize


def block_outputs(
    batch,
    positions,
    outputs,
    itemsize,
    most_bytes=_TILE_BYTES,
    most_blocks=_MOST_BLOCKS,
    multiple=MASK_OUTPUTS,
):
    """How many outputs to make at a time.

    Args:
        batch, positions: B and L, or None.
        outputs: how many there are.
        itemsize: bytes of a number.
        most_bytes: what B*L*m numbers should not exceed.
        most_blocks: how many blocks there may be, whatever their bytes.
        multiple: what a block is a multiple of, a divisor of MASK_OUTPUTS.

    Returns:
        `outputs`, or a multiple of `multiple`.
    """
    most_bytes = min(most_bytes, _TILE_BYTES)
    if tensor_bytes(batch, positions, outputs, itemsize) <= most_bytes:
        return outputs
    chunks = most_bytes // tensor_bytes(batch, positions, MASK_OUTPUTS, itemsize)
    count = min(most_blocks, math.ceil(outputs / (MASK_OUTPUTS * max(1, chunks))))
    return min(outputs, multiple * math.ceil(outputs / (multiple * count)))


def training_plan(
    batch, positions, outputs, channel_blocks, itemsize, budget_bytes, multiple=MASK_OUTPUTS
):
    """Cuts a training step so that what it holds beside inputs and results fits a budget.

    A step that fits keeps all that its backward pass needs. One that does not recomputes keys and
    values.

    Args:
        batch, positions: B and L, or None.
        outputs: outputs of a channel block, N*M/G.
        channel_blocks: G.
        itemsize: bytes of a number.
        budget_bytes: what to stay under, as far as units of MASK_OUTPUTS outputs can.
        multiple: as of `block_outputs`.

    Returns:
        `Plan`: `block_outputs` of a unit; whether the forward pass keeps exponentials and values
        (`keep_tiles`), and whether their sums over positions (`keep_sums`); and how many units may
        be under way `at_once`, at most all, and one where it recomputes.
    """
    sizes = batch, positions, outputs, itemsize
    width = block_outputs(*sizes, budget_bytes // _TILES_OF_A_UNIT, multiple=multiple)
    under_way = _TILES_OF_A_UNIT * tensor_bytes(batch, positions, width, itemsize)
    everything = channel_blocks * outputs
    # Exponentials, values, and the mask of a dropout.
    tiles = tensor_bytes(batch, positions, everything, 2 * itemsize + 1)
    spare = budget_bytes - tiles - under_way
    if spare >= 0:
        at_once = min(1 + spare // under_way, channel_blocks * math.ceil(outputs / width))
        return Plan(width, keep_tiles=True, keep_sums=True, at_once=at_once)
    sums = tensor_bytes(batch, 1, everything, 2 * itemsize)
    keep_sums = sums <= budget_bytes // 4
    most_bytes = (budget_bytes - keep_sums * sums) // _TILES_OF_A_UNIT
    # A loop may have any number of blocks.
    width = block_outputs(*sizes, most_bytes, outputs, multiple)
    return Plan(width, keep_tiles=False, keep_sums=keep_sums, at_once=1)


def ranges(outputs, width):
    """(first, last) of each run of outputs."""
    return [(first, min(first + width, outputs)) for first in range(0, outputs, width)]


def columns(tensor, first, width):
    """The `width` last-axis columns from `first` on; the tensor itself, if it has no others."""
    if tensor.shape[-1] == width:
        return tensor
    before = tensor.shape.rank - 1
    return tf.slice(tensor, [0] * before + [first], [-1] * before + [width])


def after(tensors, others):
    """The tensors, which wait until the others are there. In eager mode there is nothing to do."""
    if not others or tf.executing_eagerly():
        return tensors
    with tf.control_dependencies(others):
        return [tf.identity(tensor) for tensor in tensors]
