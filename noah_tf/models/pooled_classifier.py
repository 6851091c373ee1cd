"""Turns a trained classifier with average pooling into the initial weights of a NOAH head.

With zero keys the attention is 1/L at each of the L positions, so that a group's sum over positions
is the average of its values. A linear layer on pooled features is then a head whose groups have
the kernel's rows of their channels: with the kernel W (C, M), the bias b (M,) and C/N channels in
each group n,

    pooled @ W + b = sum_n (1/L sum_l x[l, n] @ W[n] + b / N).

Keys and values both use all C channels. The gradient of the keys is not zero, because the values of
the positions differ.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from noah_tf.head import Dropout, NOAHHead
from noah_tf.models.feature_map import FeatureMap, is_functional, layer_before

_layers = tf.keras.layers
_AVERAGE_POOLING = (_layers.GlobalAveragePooling1D, _layers.GlobalAveragePooling2D)
# Layers that leave pooled features and logits as they are at inference, apart from their shape.
_IDENTITY = (_layers.Dropout, Dropout, _layers.Flatten, _layers.Reshape)
_ACTIVATION = (_layers.Activation, _layers.Softmax)
# The activations of logits. `attach_noah` has an argument for the activation of the new model.
_OUTPUT_ACTIVATIONS = ("softmax", "sigmoid")


class PooledClassifier(NamedTuple):
    """The linear layer of a classifier with global average pooling.

    Attributes:
        kernel: (C, M).
        bias: (M,).
    """

    kernel: np.ndarray
    bias: np.ndarray

    @property
    def num_classes(self) -> int:
        """The number of classes M."""
        return self.kernel.shape[1]


def check_pooled_options(
    head: str, drop_class_token: Any, initializers: list[Any], head_options: dict[str, Any]
) -> None:
    """Checks the arguments of `attach_noah` that do not apply together with init="pooled".

    Args:
        head: must be "noah".
        drop_class_token: must be "auto", False or 0, because the classifier pools all tokens.
        initializers: the initializers of kernels and biases, which must be None.
        head_options: must have none of the options that choose the channels of keys and values.

    Raises:
        ValueError: an argument has another value.
    """
    if head != "noah":
        raise ValueError(f"init='pooled' is for head='noah', got head={head!r}.")
    if drop_class_token not in ("auto", False):
        raise ValueError(
            "init='pooled' starts from a classifier that pools all tokens, got drop_class_token="
            f"{drop_class_token!r}: leave it out."
        )
    if any(initializer is not None for initializer in initializers):
        raise ValueError(
            "init='pooled' takes the initial weights from the classifier: leave out "
            "kernel_initializer and bias_initializer."
        )
    options = [name for name in ("split_groups", "split_key_value") if name in head_options]
    if options:
        raise ValueError(
            "init='pooled' uses all channels for the keys and cuts those of the values into "
            f"groups: leave out {' and '.join(options)}."
        )


def pooled_classifier(
    model: tf.keras.Model, feature_map: FeatureMap, num_classes: int | None = None
) -> PooledClassifier:
    """Returns the linear layer between a model's last feature map and its output.

    Args:
        model: a classifier: global average pooling, any dropout, and one dense layer or 1x1
            convolution. A softmax or sigmoid after it is left out.
        feature_map: the feature map of the model.
        num_classes: the number of classes M that it must have, if it is given.

    Raises:
        ValueError: the model has other layers after the feature map, or another number of classes.
            The message names them.
    """
    pooling, *layers = _layers_after(model, feature_map) or [None]
    if not isinstance(pooling, _AVERAGE_POOLING):
        raise _refusal(
            model,
            "it has no classifier after its feature map"
            if pooling is None
            else f"{_label(pooling)} is not a global average pooling",
        )
    layers = [layer for layer in layers if not isinstance(layer, _IDENTITY)]
    linear = [layer for layer in layers if _is_linear(layer)]
    for layer in layers:
        if layer not in linear and not isinstance(layer, _ACTIVATION):
            raise _refusal(model, f"{_label(layer)} is neither dropout nor a dense layer")
    if len(linear) != 1:
        names = " and ".join(repr(layer.name) for layer in linear)
        count = f"several dense layers, {names}" if names else "no dense layer"
        raise _refusal(model, f"it has {count}")
    position = layers.index(linear[0])
    for index, layer in enumerate(layers):
        name = _activation_name(layer)
        if name != "linear" and (index < position or name not in _OUTPUT_ACTIVATIONS):
            raise _refusal(model, f"{_label(layer)} has the activation {name!r}")
    weights = linear[0].get_weights()
    kernel = weights[0].reshape(weights[0].shape[-2:])
    if num_classes not in (None, kernel.shape[1]):
        raise ValueError(
            f"init='pooled' keeps the {kernel.shape[1]} classes of {model.name}, but the new model "
            f"is to have {num_classes}: leave init out for a new head."
        )
    bias = weights[1] if len(weights) > 1 else np.zeros(kernel.shape[1], kernel.dtype)
    return PooledClassifier(kernel, bias)


def start_from(head: NOAHHead, classifier: PooledClassifier) -> None:
    """Sets the weights of a head so that its logits are those of a pooled classifier.

    Args:
        head: a built head whose keys and values both use all channels.
        classifier: the classifier.
    """
    groups = head.num_groups
    head.key_kernel.assign(tf.zeros_like(head.key_kernel))
    head.key_bias.assign(tf.zeros_like(head.key_bias))
    head.value_kernel.assign(classifier.kernel.reshape(groups, -1, head.num_classes))
    head.value_bias.assign(np.tile(classifier.bias / groups, (groups, 1)))


def _layers_after(model: tf.keras.Model, feature_map: FeatureMap) -> list[Any]:
    """Returns the layers from a feature map to the model's output, also those of nested models."""
    layers: list[Any] = []
    outer_inputs: list[Any] = []
    tensor = model.outputs[0]
    while tensor is not feature_map.tensor:
        layer, inputs = layer_before(tensor)
        if isinstance(layer, _layers.InputLayer) and outer_inputs:
            tensor = outer_inputs.pop()
        elif len(inputs) != 1:
            raise _refusal(model, f"{_label(layer)} does not have one input")
        elif isinstance(layer, tf.keras.Model) and is_functional(layer):
            outer_inputs.append(inputs[0])
            tensor = layer.outputs[0]
        else:
            layers.insert(0, layer)
            tensor = inputs[0]
    return layers


def _is_linear(layer: Any) -> bool:
    """Returns whether a layer is dense, or a convolution that is dense on pooled features."""
    if type(layer) is _layers.Conv2D:
        return tuple(layer.kernel_size) == (1, 1) and layer.groups == 1
    return type(layer) is _layers.Dense


def _activation_name(layer: Any) -> str:
    if isinstance(layer, _layers.Softmax):
        return "softmax"
    return getattr(layer.activation, "__name__", type(layer.activation).__name__)


def _label(layer: Any) -> str:
    return f"its layer {layer.name!r} ({type(layer).__name__})"


def _refusal(model: tf.keras.Model, reason: str) -> ValueError:
    return ValueError(
        f"init='pooled' cannot convert {model.name}: {reason}. It takes a classifier of global "
        "average pooling, dropout and one dense layer; leave init out for a new head."
    )
