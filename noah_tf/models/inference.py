"""for_inference: a model for serving, with precomputed heads."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from noah_tf.head import NOAHHead, precomputed_head
from noah_tf.models.feature_map import (
    Node,
    copy_head_facts,
    input_structure,
    is_functional,
    layer_before,
    nodes_in_order,
    output_structure,
)


def for_inference(model: tf.keras.Model, branches: bool = True) -> tf.keras.Model:
    """Returns a model for inference: the same layers, but with precomputed NOAH heads.

    Instead of each `NOAHHead`, the new model has a layer of the same name whose kernels are in the
    compute dtype and whose value biases are summed over the groups. It shares all other layers and
    their weights with the original, which is not changed. Nested models that contain a head are
    rebuilt. Other nested models are shared as a whole. The new head has its own weights, so later
    changes of the original head do not affect it. A model without a NOAH head keeps all its layers.

    Args:
        model: a functional `tf.keras.Model` or a built Sequential.
        branches: whether the graph decides at run time to skip the softmax's shift if the keys are
            small. This is faster in TensorFlow. Other formats are faster without the branches, and
            average values instead of features.

    Returns:
        A functional `tf.keras.Model` with the logits of the original.

    Raises:
        TypeError: the model is not a Keras model.
        ValueError: the model, or a layer in it that contains a head, has no graph of layers.

    Example:

    >>> model = noah_tf.create_model("noah_resnet18")
    >>> fast = noah_tf.for_inference(model)
    >>> logits = fast(images)
    """
    if not isinstance(model, tf.keras.Model):
        raise TypeError(
            f"model must be a tf.keras.Model, got {type(model).__name__}: wrap a layer as "
            "tf.keras.Model(inputs, layer(inputs))."
        )
    if not is_functional(model):
        raise _no_graph(model)
    return copy_head_facts(model, _Rebuilder(branches).rebuild(model))


class _Rebuilder:
    """Rebuilds models with precomputed heads. A head that is called twice is replaced once."""

    def __init__(self, branches: bool) -> None:
        self._branches = branches
        self._replacements: dict[int, Any] = {}  # by the id of the original layer

    def rebuild(self, model: tf.keras.Model) -> tf.keras.Model:
        """Returns a functional model from the inputs of `model` to its rebuilt outputs."""
        # The original's tensors are reused up to the first head. From there on, the layers are
        # called again.
        new_tensors: dict[int, Any] = {}

        def replace(value: Any) -> Any:
            return new_tensors.get(id(value), value)

        for node in nodes_in_order(model):
            layer = self._replacement(node)
            if layer is node.layer and not any(id(t) in new_tensors for t in node.inputs):
                continue
            args, kwargs = tf.nest.map_structure(replace, (node.args, node.kwargs))
            outputs = tf.nest.flatten(layer(*args, **kwargs))
            _forget_call(layer, [layer_before(replace(tensor))[0] for tensor in node.inputs])
            for tensor, new_tensor in zip(node.outputs, outputs, strict=True):
                new_tensors[id(tensor)] = new_tensor
        outputs = tf.nest.map_structure(replace, output_structure(model))
        return tf.keras.Model(input_structure(model), outputs, name=model.name)

    def _replacement(self, node: Node) -> Any:
        """Returns the layer that a call in the new model uses: a new one if it contains a head."""
        layer = node.layer
        if not _contains_head(layer):
            return layer
        if isinstance(layer, NOAHHead) and node.kwargs.get("training") and layer.dropout:
            return layer  # The model asks for dropout, as Monte Carlo dropout does.
        if id(layer) not in self._replacements:
            if isinstance(layer, NOAHHead):
                new_layer = precomputed_head(layer, self._branches)
            elif isinstance(layer, tf.keras.Model) and is_functional(layer):
                new_layer = self.rebuild(layer)
            else:
                raise _no_graph(layer)
            self._replacements[id(layer)] = new_layer
        return self._replacements[id(layer)]


def _forget_call(layer: Any, sources: list[Any]) -> None:
    """Removes the last call of a layer from the layers that feed it.

    Keras never reads these entries, but they would keep the new head as long as the original model.
    """
    call = layer._inbound_nodes[-1]
    for source in sources:
        source._outbound_nodes[:] = [node for node in source._outbound_nodes if node is not call]


def _contains_head(layer: Any) -> bool:
    # Keras 3 has operations without the methods of a layer.
    if not isinstance(layer, tf.keras.layers.Layer):
        return False
    return any(isinstance(inner, NOAHHead) for inner in layer._flatten_layers())


def _no_graph(layer: tf.keras.layers.Layer) -> ValueError:
    return ValueError(
        f"{layer.name} ({type(layer).__name__}) cannot be rebuilt for inference, because it has no "
        "graph of layers: build it as a functional model, tf.keras.Model(inputs, outputs)."
    )
