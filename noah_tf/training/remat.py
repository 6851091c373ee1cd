"""Rematerialization: the backward pass computes the blocks of a model again instead of keeping
their activations.
"""

import collections
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from noah_tf.head import SeedRecord
from noah_tf.models import Node, nodes_in_order
from noah_tf.training.batch_norm import is_batch_norm, momentum_set_to

# The paper's architectures name their layers as the reference's modules: "layer1.0.conv2" and
# "blocks.11.mlp.fc1" belong to the blocks "layer1.0" and "blocks.11".
_BLOCK = re.compile(r"\w+\.\d+(?=\.)")
_FEWEST_CALLS = 3  # of a block; fewer layers would be computed again and keep about as much


def rematerialized(model: tf.keras.Model) -> Callable[..., tf.Tensor]:
    """Returns the training pass of a model, of which only the inputs of the blocks are kept.

    The backward pass computes a block again when it needs the block's activations, so they take
    memory for one block at a time. The layers before and between the blocks, such as the stem, are
    treated in the same way, and those after the last block are kept.

    The logits, the gradients and the moving averages of BatchNorm are those of
    `model(images, training=True)`: the second pass draws no random numbers, but has the dropout of
    the first, and it does not update the averages.

    Args:
        model: one of the paper's architectures, with either head. It does not change.

    Returns:
        A function of the images and `training=True`.

    Raises:
        ValueError: the model has no blocks.

    Example:

    >>> forward = rematerialized(noah_tf.create_model("noah_deit_base_patch16_224"))
    >>> with tf.GradientTape() as tape:
    ...     loss = loss_function(labels, forward(images, training=True))

    Source: Chen et al. (arXiv 1604.06174), section 4.
    """
    nodes = nodes_in_order(model)
    sizes = collections.Counter(_name_of_block(node) for node in nodes)

    def block(node: Node) -> str | None:
        name = _name_of_block(node)
        return name if sizes[name] >= _FEWEST_CALLS else None

    groups = [list(group) for _, group in itertools.groupby(nodes, block)]
    if len(groups) < 2:
        raise ValueError(
            f"{model.name} has no blocks to compute again: leave model.remat out, or use one of "
            "the paper's architectures."
        )
    steps: list[Callable[[dict[int, Any]], None]] = [
        _Block(calls, _used_outside(calls, nodes)) if len(calls) >= _FEWEST_CALLS else _Calls(calls)
        for calls in groups[:-1]
    ]
    steps.append(_Calls(groups[-1]))
    (image_input,), (output,) = model.inputs, model.outputs

    @tf.autograph.experimental.do_not_convert
    def forward(images: tf.Tensor, training: bool = True) -> tf.Tensor:
        if not training:
            return model(images, training=False)
        values = {id(image_input): images}
        for step in steps:
            step(values)
        return values[id(output)]

    return forward


class _Calls:
    """Consecutive calls of layers, as functions of tensors by the id of the symbolic tensor."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes

    def __call__(self, values: dict[int, Any]) -> None:
        """Adds the results of the calls to `values`."""
        for node in self.nodes:
            args, kwargs = tf.nest.map_structure(
                lambda value: values.get(id(value), value), (node.args, node.kwargs)
            )
            results = tf.nest.flatten(node.layer(*args, **{**kwargs, "training": True}))
            values.update((id(out), x) for out, x in zip(node.outputs, results, strict=True))


class _Block(_Calls):
    """Calls that the backward pass makes again.

    Args:
        nodes: the calls.
        outputs: ids of the symbolic tensors that are used outside of the block.
    """

    def __init__(self, nodes: Sequence[Node], outputs: Sequence[int]) -> None:
        super().__init__(nodes)
        inner = {id(tensor) for node in nodes for tensor in node.outputs}
        # In a fixed order, and each of them once.
        tensors = dict.fromkeys(id(tensor) for node in nodes for tensor in node.inputs)
        self.inputs = [tensor for tensor in tensors if tensor not in inner]
        self.outputs = outputs
        self.norms = [node.layer for node in nodes if is_batch_norm(node.layer)]

    def __call__(self, values: dict[int, Any]) -> None:
        """Adds the results of the block to `values`."""
        seeds = SeedRecord()
        passes = itertools.count()

        def compute(*inputs: tf.Tensor) -> list[tf.Tensor]:
            inner = dict(zip(self.inputs, inputs, strict=True))
            if next(passes) == 0:
                with seeds.recorded():
                    super(_Block, self).__call__(inner)
            else:
                with seeds.replayed(), momentum_set_to(1.0, self.norms):
                    super(_Block, self).__call__(inner)
            return [inner[output] for output in self.outputs]

        results = tf.recompute_grad(compute)(*(values[tensor] for tensor in self.inputs))
        values.update(zip(self.outputs, results, strict=True))


def _name_of_block(node: Node) -> str | None:
    match = _BLOCK.match(node.layer.name)
    return match[0] if match else None


def _used_outside(calls: Sequence[Node], nodes: Sequence[Node]) -> list[int]:
    """Returns the ids of the tensors of some calls that the other calls of a model use."""
    inside = {id(node.layer) for node in calls}
    used = {id(x) for node in nodes if id(node.layer) not in inside for x in node.inputs}
    return [id(tensor) for node in calls for tensor in node.outputs if id(tensor) in used]
