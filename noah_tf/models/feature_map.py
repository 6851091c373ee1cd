"""Finds the last feature map of a Keras model, whatever classifier follows it.

The search visits the layers from input to output and labels every tensor as a map or as pooled. A
tensor is pooled if all its data went through a layer that reduces the positions to one. For a
pooled tensor, the label has the maps that it summarizes. Squeeze-and-excitation needs no special
case: its gate is pooled, but gate times map has a map among its inputs and is therefore a map.
"""

import dataclasses
import difflib
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from noah_tf.utils.keras_compat import IS_KERAS_3

_GLOBAL_POOLING = tuple(
    getattr(tf.keras.layers, f"Global{kind}Pooling{rank}D")
    for kind in ("Average", "Max")
    for rank in (1, 2, 3)
)
_AVERAGE_POOLING = (tf.keras.layers.AveragePooling1D, tf.keras.layers.AveragePooling2D)
# A mean, or the selection of the class token. Keras 3 has a class for each operation that is not a
# layer, Keras 2 wraps them in a TFOpLambda or SlicingOpLambda.
_REDUCING_OPERATIONS = frozenset(
    ("Mean", "Max", "GetItem", "TFOpLambda", "SlicingOpLambda", "Lambda", "Cropping1D")
)


class Node(NamedTuple):
    """One call of a layer in a model's graph.

    Attributes:
        layer: the layer, or with Keras 3 the operation.
        inputs: the symbolic tensors among its arguments, a flat list.
        outputs: the symbolic tensors it returned, a flat list.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """

    layer: Any
    inputs: list[Any]
    outputs: list[Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Call(NamedTuple):
    """A model nested in another, with the tensors and arguments of its call."""

    model: tf.keras.Model
    inputs: Any
    kwargs: dict


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureMap:
    """A map (B, H, W, C) or (B, L, C) inside a model.

    Attributes:
        tensor: the symbolic tensor, in the graph of the innermost model that contains it.
        calls: the calls of the nested models around that graph, the outermost first.
    """

    tensor: Any
    calls: tuple[_Call, ...] = ()

    @property
    def layer(self) -> Any:
        """The layer that returned the map."""
        return _node_of(self.tensor).layer

    @property
    def name(self) -> str:
        """The layer's name after the names of the nested models: "resnet50/conv5_block3_out"."""
        return "/".join([call.model.name for call in self.calls] + [self.layer.name])

    @property
    def models(self) -> list[tf.keras.Model]:
        """The nested models that contain the map, the innermost first."""
        nested = [call.model for call in reversed(self.calls)]
        return [self.layer, *nested] if isinstance(self.layer, tf.keras.Model) else nested

    def outer_tensor(self) -> Any:
        """Returns the map as a tensor of the outermost model's graph, from the same layers."""
        tensor = self.tensor
        for model, inputs, kwargs in reversed(self.calls):
            inner_inputs = model.inputs if len(model.inputs) > 1 else model.inputs[0]
            tensor = tf.keras.Model(inner_inputs, tensor, name=model.name)(inputs, **kwargs)
        return tensor


def find_feature_map(model: tf.keras.Model) -> FeatureMap:
    """Returns the input of the last layer that reduces the positions to one.

    Args:
        model: a functional or built Sequential model with one output: a feature map, or the
            scores of a classifier.

    Returns:
        A `FeatureMap`; the output itself if no layer reduces the positions.

    Raises:
        ValueError: the model has several outputs or no map, or the output pools several maps.
    """
    if len(model.outputs) != 1:
        names = ", ".join(_node_of(output).layer.name for output in model.outputs)
        raise ValueError(
            f"{model.name} has {len(model.outputs)} outputs ({names}), so its last feature map is "
            "ambiguous: pass the name of one as feature_layer=."
        )
    output = model.outputs[0]
    pooled = _Search().pooled_tensors(model)
    if id(output) not in pooled:
        return FeatureMap(output)
    maps = list(pooled[id(output)].values())
    if not maps:
        raise ValueError(
            f"{model.name} ends in shape {tuple(output.shape)} and has no feature map (B, H, W, C) "
            "or (B, L, C) before it: attach_noah needs a backbone that keeps positions."
        )
    if len(maps) > 1:
        names = ", ".join(feature.name for feature in maps)
        raise ValueError(
            f"{model.name} pools {len(maps)} feature maps ({names}): pass the name of one as "
            "feature_layer=."
        )
    return maps[0]


def named_feature_map(model: tf.keras.Model, name: str) -> FeatureMap:
    """Returns the output of a layer, or its last output if it is called several times.

    Args:
        model: a functional or built Sequential model.
        name: the layer's name; "outer/inner" for a layer of a nested model.

    Raises:
        ValueError: there is no such layer (the message has the nearest names), or it has several
            outputs.
    """
    tensors = _tensors_by_layer(model)
    if not isinstance(name, str):
        raise ValueError(f"feature_layer must be the name of a layer, got {name!r}.")
    if name not in tensors:
        similar = difflib.get_close_matches(name, tensors, n=3, cutoff=0.4)
        similar = similar or list(tensors)[-3:]
        raise ValueError(
            f"{model.name} has no layer {name!r} for feature_layer; the nearest names are "
            f"{', '.join(repr(other) for other in similar)}."
        )
    if len(tensors[name]) != 1:
        raise ValueError(
            f"layer {name!r} of {model.name} has {len(tensors[name])} outputs; feature_layer "
            "needs a layer with one."
        )
    return tensors[name][0]


def is_functional(model: Any) -> bool:
    """Returns whether a model has a graph of layers: functional, or Sequential and built."""
    # Other models have no `outputs` in Keras 3, and None in Keras 2.
    outputs: Any = getattr(model, "outputs", None)
    return bool(outputs) and all(tf.keras.backend.is_keras_tensor(tensor) for tensor in outputs)


def takes_images(model: tf.keras.Model) -> bool:
    """Returns whether the only input of a functional model is a batch of images (B, H, W, C)."""
    return len(model.inputs) == 1 and len(model.inputs[0].shape) == 4


def input_structure(model: tf.keras.Model) -> Any:
    """Returns the symbolic inputs of a model as it takes them: one tensor, a list or a dict."""
    # Keras 3's Sequential has no `input` before it is called.
    return model.inputs[0] if len(model.inputs) == 1 else model.input


def output_structure(model: tf.keras.Model) -> Any:
    """Returns the symbolic outputs of a model as it gives them: one tensor, a list or a dict."""
    # Keras 3's Sequential has no `output` before it is called.
    return model.outputs[0] if isinstance(model, tf.keras.Sequential) else model.output


def copy_head_facts(source: tf.keras.Model, target: tf.keras.Model) -> tf.keras.Model:
    """Copies what `attach_noah` has noted on a model to a model that was made from it.

    Args:
        source: the model that may have come from `attach_noah`.
        target: the new model.

    Returns:
        `target`.
    """
    for attribute in ("noah_feature_layer", "noah_discarded_layers"):
        if hasattr(source, attribute):
            setattr(target, attribute, getattr(source, attribute))
    return target


def weighted_layers(model: tf.keras.Model, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (name, layer) of the layers with weights, also inside of nested models."""
    for layer in model.layers:
        if isinstance(layer, tf.keras.Model) and is_functional(layer):
            yield from weighted_layers(layer, f"{prefix}{layer.name}/")
        elif layer.weights:
            yield prefix + layer.name, layer


def layer_before(tensor: Any) -> tuple[Any, list[Any]]:
    """Returns the layer that returned a symbolic tensor, and the tensors of that call."""
    node = _node_of(tensor)
    return node.layer, node.inputs


def num_positions(shape: Any) -> int | None:
    """Returns the number of positions of a shape (B, ..., C), or None if it is unknown."""
    return tf.TensorShape(shape[1:-1]).num_elements()


class _Search:
    """Labels the tensors of a model. In a nested model, it starts from the labels of its inputs.

    Args:
        calls: the calls of the nested models around this one.
        outer_maps: the feature map of the outer model that each input of this model is, by the
            input's id.
    """

    def __init__(self, calls=(), outer_maps=None):
        self._calls = calls
        self._outer_maps = outer_maps or {}

    def pooled_tensors(self, model, pooled_inputs=None):
        """Returns {id of a pooled tensor: {id of a map: FeatureMap}}; all other tensors are maps.

        A tensor that does not depend on a map, such as a vector of metadata, has an empty dict.
        """
        pooled = dict(pooled_inputs or {})
        for tensor in model.inputs:
            if len(tensor.shape) < 3:
                pooled.setdefault(id(tensor), {})
        for node in nodes_in_order(model):
            for output, maps in zip(node.outputs, self._label(node, pooled), strict=True):
                if maps is not None:
                    pooled[id(output)] = maps
        return pooled

    def _label(self, node, pooled):
        """Returns for each output of a call the maps it pools, or None if it is a map."""
        nested_labels = self._label_nested(node, pooled)
        if nested_labels is not None:
            return nested_labels
        has_map = any(id(tensor) not in pooled for tensor in node.inputs)
        summary = {}
        for tensor in node.inputs:
            summary.update(pooled.get(id(tensor)) or {})
            if id(tensor) not in pooled:
                feature = self._outer_maps.get(id(tensor)) or FeatureMap(tensor, self._calls)
                summary[id(feature.tensor)] = feature
        labels = []
        for output in node.outputs:
            if not tf.as_dtype(output.dtype).is_floating:
                labels.append({})  # A shape or an index, which has no features.
            elif has_map:
                labels.append(summary if _reduces_positions(node, output) else None)
            else:
                labels.append(summary if _has_one_position(output) else None)
        return labels

    def _label_nested(self, node, pooled):
        """Returns the labels of a nested model's outputs, or None if it is to be seen as a layer.

        A model whose outputs all have positions is seen as a layer.
        """
        model = node.layer
        if not isinstance(model, tf.keras.Model):
            return None
        if not any(_has_one_position(output) for output in node.outputs):
            return None
        if not is_functional(model):
            if all(id(tensor) in pooled for tensor in node.inputs):
                return None
            raise ValueError(
                f"the nested model {model.name!r} is subclassed and returns shape "
                f"{tuple(node.outputs[0].shape)}, so its layers cannot be read: pass its own "
                "feature extractor, or a functional model."
            )
        inner_pooled, outer_maps = {}, {}
        for inner, tensor in zip(model.inputs, node.inputs, strict=True):
            if id(tensor) in pooled:
                inner_pooled[id(inner)] = pooled[id(tensor)]
            else:
                outer_maps[id(inner)] = self._outer_maps.get(id(tensor)) or FeatureMap(
                    tensor, self._calls
                )
        search = _Search((*self._calls, _call_of(node)), outer_maps)
        inner_pooled = search.pooled_tensors(model, inner_pooled)
        return [inner_pooled.get(id(output)) for output in model.outputs]


def _reduces_positions(node, output):
    """Returns whether a layer that is called on a map reduces the positions to one."""
    if len(output.shape) < 3 or isinstance(node.layer, _GLOBAL_POOLING):
        return True
    shapes = [tensor.shape for tensor in node.inputs]
    if not _has_one_position(output) or all(num_positions(shape) == 1 for shape in shapes):
        return False
    if isinstance(node.layer, _AVERAGE_POOLING):
        # A window of 2 on a map of 2x2 is the downsampling of a backbone.
        return node.layer.padding == "valid" and min(node.layer.pool_size) > 2
    return type(node.layer).__name__ in _REDUCING_OPERATIONS


def _has_one_position(tensor):
    return len(tensor.shape) < 3 or num_positions(tensor.shape) == 1


def _call_of(node):
    inputs = node.inputs if len(node.inputs) > 1 else node.inputs[0]
    # Only `training` matters: a frozen backbone is often called with training=False.
    kwargs = {key: value for key, value in node.kwargs.items() if key == "training"}
    return _Call(node.layer, inputs, {} if kwargs.get("training") is None else kwargs)


def _tensors_by_layer(model, calls=()):
    """Returns {layer's name: FeatureMaps of its last call}, nested layers as "outer/inner"."""
    tensors = {}
    prefix = "".join(f"{call.model.name}/" for call in calls)
    for node in nodes_in_order(model):
        tensors[prefix + node.layer.name] = [FeatureMap(tensor, calls) for tensor in node.outputs]
        if isinstance(node.layer, tf.keras.Model) and is_functional(node.layer):
            tensors.update(_tensors_by_layer(node.layer, (*calls, _call_of(node))))
    return tensors


def nodes_in_order(model: tf.keras.Model) -> list[Node]:
    """Returns the calls between a model's inputs and outputs, each after the calls that feed it."""
    done = {id(tensor) for tensor in model.inputs}
    pending = list(model.outputs)
    nodes = []
    while pending:  # A loop, because deep networks exceed Python's recursion limit.
        tensor = pending[-1]
        if id(tensor) in done:
            pending.pop()
            continue
        node = _node_of(tensor)
        waiting = [source for source in node.inputs if id(source) not in done]
        if waiting:
            pending.extend(waiting)
            continue
        nodes.append(node)
        done.update(id(output) for output in node.outputs)
        done.add(id(tensor))
    return nodes


def _node_of(tensor):
    """Returns the call that returned a symbolic tensor."""
    layer, index, _ = tensor._keras_history
    node = layer._inbound_nodes[index]
    if IS_KERAS_3:  # The attributes of nodes are not public in either Keras.
        arguments = node.arguments
        return Node(
            layer, node.input_tensors, node.output_tensors, arguments.args, arguments.kwargs
        )
    outputs = tf.nest.flatten(node.outputs)
    return Node(layer, node.keras_inputs, outputs, node.call_args, node.call_kwargs)
