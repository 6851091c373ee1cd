"""Finds the last feature map of a Keras model, whatever classifier stands on it.

The layers are visited from input to output, and every tensor is labelled: it is a map, or it is
pooled, which means that everything in it went through a layer that reduces the positions to one.
A pooled tensor remembers the maps it summarises. Squeeze-and-excitation needs no case of its own:
its gate is pooled, but gate times map has a map among its inputs and so is a map again.
"""

import dataclasses
import difflib
from typing import Any, NamedTuple

import tensorflow as tf

_GLOBAL_POOLING = tuple(
    getattr(tf.keras.layers, f"Global{kind}Pooling{rank}D")
    for kind in ("Average", "Max")
    for rank in (1, 2, 3)
)
_AVERAGE_POOLING = (tf.keras.layers.AveragePooling1D, tf.keras.layers.AveragePooling2D)
# A mean, or a selection of the class token. Operations without a layer of their own: Keras 3 gives
# each a class, Keras 2 wraps them in a TFOpLambda or SlicingOpLambda.
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
    """A model nested in another, and the tensors and arguments it was called with there."""

    model: tf.keras.Model
    inputs: Any
    kwargs: dict


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureMap:
    """A map (B, H, W, C) or (B, L, C) inside a model.

    Attributes:
        tensor: the symbolic tensor, in the graph of the model that owns it.
        calls: the nested models around that graph, from the outermost inwards.
    """

    tensor: Any
    calls: tuple = ()

    @property
    def layer(self):
        """The layer that made the map."""
        return _node_of(self.tensor).layer

    @property
    def name(self):
        """The layer's name, behind the names of the nested models: "resnet50/conv5_block3_out"."""
        return "/".join([call.model.name for call in self.calls] + [self.layer.name])

    @property
    def models(self):
        """The models that hold the map, from the innermost outwards, without the outermost."""
        nested = [call.model for call in reversed(self.calls)]
        return [self.layer, *nested] if isinstance(self.layer, tf.keras.Model) else nested

    def outer_tensor(self):
        """The map in the outermost model's graph, through the same layers."""
        tensor = self.tensor
        for model, inputs, kwargs in reversed(self.calls):
            inner_inputs = model.inputs if len(model.inputs) > 1 else model.inputs[0]
            tensor = tf.keras.Model(inner_inputs, tensor, name=model.name)(inputs, **kwargs)
        return tensor


def find_feature_map(model):
    """Finds the map under the last layer that reduces the positions to one.

    Args:
        model: a functional or built Sequential model with one output: a feature map, or the
            scores of a classifier.

    Returns:
        A `FeatureMap`; the output itself where nothing reduces the positions.

    Raises:
        ValueError: the model has several outputs, there is no map, or the output pools
            several different ones.
    """
    if len(model.outputs) != 1:
        names = ", ".join(_node_of(output).layer.name for output in model.outputs)
        raise ValueError(
            f"{model.name} has {len(model.outputs)} outputs ({names}), so its last feature map is "
            "ambiguous: pass the name of one as feature_layer=."
        )
    output = model.outputs[0]
    pooled = _Walk().pooled_tensors(model)
    if id(output) not in pooled:
        return FeatureMap(output)
    maps = list(pooled[id(output)].values())
    if not maps:
        raise ValueError(
            f"{model.name} ends in shape {tuple(output.shape)} and no feature map (B, H, W, C) or "
            "(B, L, C) lies before it: attach_noah needs a backbone that keeps positions."
        )
    if len(maps) > 1:
        names = ", ".join(feature.name for feature in maps)
        raise ValueError(
            f"{model.name} pools {len(maps)} feature maps ({names}): pass the name of one as "
            "feature_layer=."
        )
    return maps[0]


def named_feature_map(model, name):
    """The output of the layer called `name`; "outer/inner" names a layer of a nested model.

    A layer that is called several times gives its last output.

    Raises:
        ValueError: there is no such layer, with the nearest names, or it has several outputs.
    """
    tensors = _tensors_by_layer(model)
    if not isinstance(name, str):
        raise ValueError(f"feature_layer must be the name of a layer, got {name!r}.")
    if name not in tensors:
        near = difflib.get_close_matches(name, tensors, n=3, cutoff=0.4) or list(tensors)[-3:]
        raise ValueError(
            f"{model.name} has no layer {name!r} for feature_layer; the nearest names are "
            f"{', '.join(repr(other) for other in near)}."
        )
    if len(tensors[name]) != 1:
        raise ValueError(
            f"layer {name!r} of {model.name} has {len(tensors[name])} outputs; feature_layer "
            "needs a layer with one."
        )
    return tensors[name][0]


def is_functional(model):
    """Whether the model's graph of layers can be read: functional, or Sequential and built."""
    # Keras 3 has no `outputs` on other models, Keras 2 has None there.
    outputs = getattr(model, "outputs", None)
    return bool(outputs) and all(tf.keras.backend.is_keras_tensor(tensor) for tensor in outputs)


def input_structure(model):
    """The symbolic inputs of a model as it takes them: one tensor, a list or a dictionary."""
    # Keras 3's Sequential has no `input` before it is called.
    return model.inputs[0] if len(model.inputs) == 1 else model.input


def output_structure(model: tf.keras.Model) -> Any:
    """Returns the symbolic outputs of a model as it gives them: one tensor, a list or a dict."""
    # Keras 3's Sequential has no `output` before it is called.
    return model.outputs[0] if isinstance(model, tf.keras.Sequential) else model.output


def weighted_layers(model, prefix=""):
    """(name, layer) of the layers with weights, in place of nested models the layers in them."""
    for layer in model.layers:
        if isinstance(layer, tf.keras.Model) and is_functional(layer):
            yield from weighted_layers(layer, f"{prefix}{layer.name}/")
        elif layer.weights:
            yield prefix + layer.name, layer


def layer_before(tensor):
    """The layer that made a symbolic tensor, and the list of tensors it was called with."""
    node = _node_of(tensor)
    return node.layer, node.inputs


def positions(shape):
    """The number of positions of a shape (B, ..., C), or None where it is unknown."""
    return tf.TensorShape(shape[1:-1]).num_elements()


class _Walk:
    """Labels the tensors of a model; nested models are walked with the labels of their inputs."""

    def __init__(self, calls=(), outer=None):
        self._calls = calls
        # What a nested model's inputs are outside of it, by id.
        self._outer = outer or {}

    def pooled_tensors(self, model, pooled_inputs=None):
        """{id of a pooled tensor: {id of a map: FeatureMap}}; tensors that are left out are maps.

        A tensor that no map is part of, such as a vector of metadata, has an empty mapping.
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
        """For each output of the node: the maps it pools, or None where it is a map."""
        nested = self._label_nested(node, pooled)
        if nested is not None:
            return nested
        has_map = any(id(tensor) not in pooled for tensor in node.inputs)
        summary = {}
        for tensor in node.inputs:
            summary.update(pooled.get(id(tensor)) or {})
            if id(tensor) not in pooled:
                feature = self._outer.get(id(tensor)) or FeatureMap(tensor, self._calls)
                summary[id(feature.tensor)] = feature
        labels = []
        for output in node.outputs:
            if not tf.as_dtype(output.dtype).is_floating:
                labels.append({})  # A shape or an index: it carries no features.
            elif has_map:
                labels.append(summary if _reduces_positions(node, output) else None)
            else:
                labels.append(summary if _has_one_position(output) else None)
        return labels

    def _label_nested(self, node, pooled):
        """The labels of a nested model's outputs; None for a layer, or a model from map to map."""
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
                f"{tuple(node.outputs[0].shape)}, so the layers in it cannot be seen: pass its own "
                "feature extractor, or a functional model."
            )
        inner_pooled, outer = {}, {}
        for inner, tensor in zip(model.inputs, node.inputs, strict=True):
            if id(tensor) in pooled:
                inner_pooled[id(inner)] = pooled[id(tensor)]
            else:
                outer[id(inner)] = self._outer.get(id(tensor)) or FeatureMap(tensor, self._calls)
        walk = _Walk((*self._calls, _call_of(node)), outer)
        inner_pooled = walk.pooled_tensors(model, inner_pooled)
        return [inner_pooled.get(id(output)) for output in model.outputs]


def _reduces_positions(node, output):
    """Whether the output of a layer that is called on a map has lost the positions."""
    if len(output.shape) < 3 or isinstance(node.layer, _GLOBAL_POOLING):
        return True
    before = [tensor.shape for tensor in node.inputs]
    if not _has_one_position(output) or all(positions(shape) == 1 for shape in before):
        return False
    if isinstance(node.layer, _AVERAGE_POOLING):
        # A window of 2 that happens to cover a map of 2x2 is a backbone's downsampling.
        return node.layer.padding == "valid" and min(node.layer.pool_size) > 2
    return type(node.layer).__name__ in _REDUCING_OPERATIONS


def _has_one_position(tensor):
    return len(tensor.shape) < 3 or positions(tensor.shape) == 1


def _call_of(node):
    inputs = node.inputs if len(node.inputs) > 1 else node.inputs[0]
    # Only `training` matters here: a frozen backbone is often called with training=False.
    kwargs = {key: value for key, value in node.kwargs.items() if key == "training"}
    return _Call(node.layer, inputs, {} if kwargs.get("training") is None else kwargs)


def _tensors_by_layer(model, calls=()):
    """{name of a layer: the FeatureMaps of its last call}, nested layers as "outer/inner"."""
    tensors = {}
    prefix = "".join(f"{call.model.name}/" for call in calls)
    for node in nodes_in_order(model):
        tensors[prefix + node.layer.name] = [FeatureMap(tensor, calls) for tensor in node.outputs]
        if isinstance(node.layer, tf.keras.Model) and is_functional(node.layer):
            tensors.update(_tensors_by_layer(node.layer, (*calls, _call_of(node))))
    return tensors


def nodes_in_order(model):
    """The calls between a model's inputs and outputs, each after those that feed it."""
    done = {id(tensor) for tensor in model.inputs}
    pending = list(model.outputs)
    nodes = []
    while pending:  # A loop, for Python's recursion ends before a deep network does.
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
    """The call that made a symbolic tensor."""
    layer, index, _ = tensor._keras_history
    node = layer._inbound_nodes[index]
    if hasattr(node, "arguments"):  # Keras 3; nodes are public in neither.
        arguments = node.arguments
        return Node(
            layer, node.input_tensors, node.output_tensors, arguments.args, arguments.kwargs
        )
    outputs = tf.nest.flatten(node.outputs)
    return Node(layer, node.keras_inputs, outputs, node.call_args, node.call_kwargs)
