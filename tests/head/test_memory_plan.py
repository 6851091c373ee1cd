"""The division of work into units: sizes, budgets and order."""

import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st

from noah_tf.head import memory_plan
from noah_tf.head.memory_plan import MASK_OUTPUTS

pytestmark = pytest.mark.one_stack

MIB = 2**20
sizes = st.integers(1, 300)


multiples = st.sampled_from([1, MASK_OUTPUTS])


@given(
    sizes, sizes, st.integers(1, 10**6), st.sampled_from([4, 8]), st.integers(1, 2**31), multiples
)
def test_ranges_cover_the_outputs_and_start_at_multiples(
    batch, positions, outputs, itemsize, budget, multiple
):
    width = memory_plan.block_outputs(
        batch, positions, outputs, itemsize, budget, multiple=multiple
    )
    assert width == outputs or (width < outputs and width % multiple == 0)
    ranges = memory_plan.output_ranges(outputs, width)
    firsts, lasts = zip(*ranges, strict=True)
    assert (firsts[0], lasts[-1]) == (0, outputs) and firsts[1:] == lasts[:-1]
    assert len(ranges) <= 64
    tile = memory_plan.tensor_bytes(batch, positions, width, itemsize)
    assert tile <= min(budget, 8 * MIB) or width <= MASK_OUTPUTS or len(ranges) > 32


@pytest.mark.parametrize(
    ("batch", "positions", "outputs", "expected"),
    [(32, 49, 1000, 1000), (32, 196, 1000, 256), (8, 196, 21843, 1280), (256, 49, 1000, 128)],
)
def test_block_outputs_of_common_heads(batch, positions, outputs, expected):
    assert memory_plan.block_outputs(batch, positions, outputs, itemsize=4) == expected


def test_unknown_sizes_count_as_32_images_and_256_positions():
    assert memory_plan.tensor_bytes(None, None, 10, 4) == memory_plan.tensor_bytes(32, 256, 10, 4)
    unknown = memory_plan.training_plan(None, None, 1000, 4, 4, 64 * MIB)
    assert unknown == memory_plan.training_plan(32, 256, 1000, 4, 4, 64 * MIB)


@given(sizes, sizes, st.integers(1, 30000), st.integers(1, 8), st.integers(1, 10**10), multiples)
@example(1, 105, 513, 3, 647168, MASK_OUTPUTS)  # Only the four tensors of a unit would fit.
def test_plan_stays_within_its_budget(batch, positions, outputs, channel_blocks, budget, multiple):
    plan = memory_plan.training_plan(batch, positions, outputs, channel_blocks, 4, budget, multiple)
    tile = memory_plan.tensor_bytes(batch, positions, plan.block_outputs, 4)
    held_bytes = 4 * tile * plan.max_concurrent
    outputs_in_all = channel_blocks * outputs
    if plan.keep_tiles:  # two numbers and a bool per output
        held_bytes += memory_plan.tensor_bytes(batch, positions, outputs_in_all, 9)
    elif plan.keep_sums:
        held_bytes += memory_plan.tensor_bytes(batch, 1, outputs_in_all, 8)
    if plan.keep_tiles or plan.block_outputs > MASK_OUTPUTS:
        assert held_bytes <= budget
    assert 1 <= plan.max_concurrent <= channel_blocks * -(-outputs // plan.block_outputs)
    assert plan.keep_sums or not plan.keep_tiles


def test_ranges_without_masks_have_equal_size_if_possible():
    assert memory_plan.block_outputs(32, 196, 1000, 4) == 256
    assert memory_plan.block_outputs(32, 196, 1000, 4, multiple=1) == 250


def test_larger_budgets_keep_more():
    plans = [memory_plan.training_plan(32, 49, 1000, 8, 4, mib * MIB) for mib in (1, 16, 32, 256)]
    assert [plan.block_outputs for plan in plans] == [128, 512, 1000, 1000]
    # The four tensors of a unit and 2 MiB for the sums just fit 26 MiB.
    assert memory_plan.training_plan(32, 49, 1000, 8, 4, 25 * MIB).block_outputs == 512
    assert memory_plan.training_plan(32, 49, 1000, 8, 4, 26 * MIB).block_outputs == 1000
    assert [plan.keep_tiles for plan in plans] == [False, False, False, True]
    assert [plan.keep_sums for plan in plans] == [False, True, True, True]
    assert plans[-1].max_concurrent > 1


def test_columns_of_a_tensor():
    tensor = tf.random.stateless_normal((2, 3, 5), (1, 2))
    assert memory_plan.columns(tensor, 0, 5) is tensor
    for first in (1, tf.constant(1)):
        tf.debugging.assert_equal(memory_plan.columns(tensor, first, 3), tensor[..., 1:4])


def test_wait_for_adds_control_dependencies_in_graphs_only():
    tensor = tf.constant(1.0)
    assert memory_plan.wait_for([tensor], [tensor])[0] is tensor

    @tf.function
    def traced(first, second):
        finished = tf.exp(first)
        (waiting,) = memory_plan.wait_for([second], [finished])
        assert [op.name for op in waiting.op.control_inputs] == [finished.op.name]
        assert memory_plan.wait_for([second], [])[0] is second
        return waiting

    assert traced(tensor, tensor + 1) == 2
