"""Copies of a model that compute in another precision."""

import tensorflow as tf

from noah_tf.head import NOAHHead
from noah_tf.models.feature_map import (
    copy_head_facts,
    is_functional,
    layer_before,
    num_positions,
)
from noah_tf.utils import distribute


def with_precision(model: tf.keras.Model, policy: str) -> tf.keras.Model:
    """Returns a copy of a model under another dtype policy, with the same float32 weights.

    Layers that normalize pixels stay in float32, and so does a pooled head from the pooling on. A
    NOAH head takes the policy, because it keeps its softmax and sums in float32 itself.

    Args:
        model: a functional Keras model, which is not changed. Nested models are copied as well.
        policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Returns:
        A functional Keras model.

    Raises:
        ValueError: the policy is unknown, or the model or one of its layers cannot be copied.

    Example:

    >>> fast = with_precision(noah_tf.create_model("noah_resnet18"), "mixed_bfloat16")
    """
    distribute.check_precision(policy)
    _check_functional(model)
    # Layers that create layers often give them the global policy.
    with distribute.dtype_policy(policy):
        copy = _copy(model, policy, has_head=True)
    shapes = [[tuple(weight.shape) for weight in m.weights] for m in (model, copy)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{model.name} cannot be copied: a copy made from the configs of its layers has "
            f"{len(shapes[1])} weights, and the model has {len(shapes[0])} or other shapes; build "
            "the model again inside noah_tf.utils.distribute.dtype_policy(...)."
        )
    copy.set_weights(model.get_weights())
    _finalize_normalization(copy)
    return copy_head_facts(model, copy)


def in_precision(model: tf.keras.Model, policy: str) -> tf.keras.Model:
    """Returns the model itself if it computes under the policy, and a copy of it otherwise.

    Args:
        model: a functional Keras model.
        policy: as for `with_precision`.

    Returns:
        A functional Keras model.
    """
    dtypes = set() if policy == "float32" else {policy.removeprefix("mixed_")}
    return model if _low_precisions(model) == dtypes else with_precision(model, policy)


def _low_precisions(model):
    """Returns the compute dtypes of a model's layers that are below float32."""
    dtypes = set()
    for layer in model.layers:
        if isinstance(layer, tf.keras.Model):
            dtypes |= _low_precisions(layer)
        elif layer.compute_dtype in ("bfloat16", "float16"):
            dtypes.add(layer.compute_dtype)
    return dtypes


def _check_functional(model):
    if not isinstance(model, tf.keras.Model) or not is_functional(model):
        name = getattr(model, "name", repr(model))
        raise ValueError(
            f"{name} ({type(model).__name__}) cannot be copied: it has no graph of layers to read, "
            "as functional models have; build it again inside "
            "noah_tf.utils.distribute.dtype_policy(...)."
        )


def _copy(model, policy, has_head):
    """Returns a copy with new weights, whose layers have the policy."""
    float32_layers = _pooled_head(model) if has_head else set()

    def copy_of(layer):
        if isinstance(layer, tf.keras.Model) and is_functional(layer):
            return _copy(layer, policy, has_head=id(layer) in float32_layers)
        config = layer.get_config()
        if isinstance(layer, tf.keras.layers.Layer):
            normalizers = (tf.keras.layers.Rescaling, tf.keras.layers.Normalization)
            is_float32 = isinstance(layer, normalizers) or id(layer) in float32_layers
            config = _with_dtype(config, "float32" if is_float32 else policy)
        return type(layer).from_config(config)

    def checked_copy_of(layer):
        try:
            return copy_of(layer)
        except (NotImplementedError, TypeError) as error:
            raise ValueError(
                f"{model.name} cannot be copied: the config of its layer {layer.name!r} "
                f"({type(layer).__name__}) does not recreate the layer: {error}"
            ) from error

    return tf.keras.models.clone_model(model, clone_function=checked_copy_of)


def _pooled_head(model):
    """Returns the ids of the last layer with weights, the layers after it and the pooling before.

    For a NOAH head, these are only the layers after it: it keeps its sums in float32 itself.
    """
    layer_ids, pending = set(), [(tensor, False) for tensor in model.outputs]
    while pending:
        tensor, before_weights = pending.pop()
        layer, inputs = layer_before(tensor)
        weighted = bool(getattr(layer, "weights", ()))
        is_map = len(tensor.shape) > 2 and num_positions(tensor.shape) != 1
        if isinstance(layer, NOAHHead) or (before_weights and (weighted or is_map)):
            continue
        layer_ids.add(id(layer))
        pending += [(source, before_weights or weighted) for source in inputs]
    return layer_ids


def _with_dtype(config, dtype):
    """Returns a layer's config with another dtype, also for the layers that it wraps."""
    changed = {}
    for key, value in config.items():
        is_object = isinstance(value, dict) and isinstance(value.get("config"), dict)
        if key == "dtype":
            value = dtype
        elif is_object and "dtype" in value["config"]:
            value = {**value, "config": _with_dtype(value["config"], dtype)}
        changed[key] = value
    return changed


def _finalize_normalization(model):
    """Updates the layers whose constants are computed from their weights."""
    for layer in model.layers:
        if isinstance(layer, tf.keras.Model):
            _finalize_normalization(layer)
        elif isinstance(layer, tf.keras.layers.Normalization) and layer.weights:
            layer.finalize_state()
