"""The activation that a classifier ends in, and the same classifier without it."""

from typing import Any

import tensorflow as tf

from noah_tf.models.feature_map import (
    Node,
    copy_head_facts,
    input_structure,
    nodes_in_order,
)

_LINEAR = tf.keras.activations.linear


def final_activation(model: tf.keras.Model) -> str | None:
    """Returns the name of the activation that a model ends in, or None if it returns logits.

    Args:
        model: a functional model with one output.
    """
    layer = _final_call(model).layer
    if isinstance(layer, tf.keras.Model):
        return final_activation(layer)
    operation = _operation_name(layer)
    if operation in ("softmax", "sigmoid"):
        return operation
    activation = getattr(layer, "activation", None)
    if activation in (None, _LINEAR):
        return None
    return getattr(activation, "__name__", str(activation))


def without_final_activation(model: tf.keras.Model) -> tf.keras.Model:
    """Returns a model without the activation at its end.

    The new model has a copy of the last layer. It shares the other layers and their weights with
    the original, which is not changed.

    Args:
        model: a functional model with one output.

    Returns:
        A functional model, or `model` itself if it ends in no activation.

    Raises:
        ValueError: the last layer cannot be copied without its activation.

    Example:

    >>> classifier = tf.keras.applications.MobileNetV2(weights=None)
    >>> final_activation(classifier)
    'softmax'
    >>> logits = without_final_activation(classifier)(images)
    """
    if final_activation(model) is None:
        return model
    call = _final_call(model)
    layer = call.layer
    if _operation_name(layer) is not None or isinstance(layer, tf.keras.layers.Activation):
        outputs = call.inputs[0]
    elif isinstance(layer, tf.keras.Model):
        outputs = without_final_activation(layer)(*call.args, **call.kwargs)
    else:
        config = layer.get_config()
        if "activation" not in config:
            raise ValueError(
                f"The last layer, {layer.name!r} ({type(layer).__name__}), cannot be copied "
                "without its activation, which is not in its config: end the model in logits."
            )
        copy = type(layer).from_config({**config, "activation": None})
        outputs = copy(*call.args, **call.kwargs)
        copy.set_weights(layer.get_weights())
    return copy_head_facts(model, tf.keras.Model(input_structure(model), outputs, name=model.name))


def _final_call(model: tf.keras.Model) -> Node:
    """Returns the last call of a layer that changes values."""
    calls = {id(output): call for call in nodes_in_order(model) for output in call.outputs}
    call = calls[id(model.outputs[0])]
    # Under mixed precision, such a layer casts the output to float32.
    while isinstance(call.layer, tf.keras.layers.Activation) and call.layer.activation is _LINEAR:
        call = calls[id(call.inputs[0])]
    return call


def _operation_name(layer: Any) -> str | None:
    """Returns "softmax" for a layer or a function that is only that, likewise for "sigmoid"."""
    name = type(layer).__name__
    if name == "TFOpLambda":  # a function of TensorFlow on Keras 2
        name = str(layer.get_config()["function"]).rpartition(".")[2]
    return name.lower() if name.lower() in ("softmax", "sigmoid") else None
