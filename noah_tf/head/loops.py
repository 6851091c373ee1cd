"""Loops over the units of a head's work, see `memory_plan.py`, in a graph."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from noah_tf.head.memory_plan import wait_for


class Unit(NamedTuple):
    """A channel block and a range of its outputs. In a loop, `block` and `first` are tensors."""

    block: Any
    first: Any
    width: int


def over_blocks(blocks: int, step: Callable, state: list[Any], dependencies: Any = ()) -> Any:
    """Calls a function for each channel block, one after another.

    Args:
        blocks: G.
        step: a function of (block, state) that returns the new state, a list of tensors.
        state: the initial state.
        dependencies: tensors that must be computed before the first block starts.

    Returns:
        The last state.
    """
    (first,) = wait_for([tf.constant(0)], dependencies)
    return tf.while_loop(
        lambda block, _: block < blocks,
        lambda block, state: (block + 1, list(step(block, state))),
        (first, state),
        parallel_iterations=1,
        maximum_iterations=blocks,
    )[1]


def over_ranges(width: int, outputs: int, block: Any, step: Callable, state: Any) -> Any:
    """Calls a function for each range of a block's outputs, one after another.

    Args:
        width: the number of outputs in a range. The last range may be smaller.
        outputs: the outputs of the block.
        block: the index of the channel block.
        step: a function of (unit, *state) that returns the new state.
        state: the initial state.

    Returns:
        The last state.
    """
    num_ranges, remainder = divmod(outputs, width)
    if num_ranges > 1:
        (first,) = wait_for([tf.constant(0)], [block])
        _, state = tf.while_loop(
            lambda index, _: index < num_ranges,
            lambda index, state: (index + 1, list(step(Unit(block, index * width, width), *state))),
            (first, state),
            parallel_iterations=1,
            maximum_iterations=num_ranges,
        )
    else:
        state = step(Unit(block, 0, width), *state)
    if remainder:
        (block,) = wait_for([block], state)
        state = step(Unit(block, num_ranges * width, remainder), *state)
    return state
