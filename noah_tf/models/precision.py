"""Copies of a model that compute in another precision."""

import tensorflow as tf

from noah_tf.head.layer import NOAHHead
from noah_tf.models.feature_map import is_functional, layer_before, positions
from noah_tf.utils import distribute


def with_precision(model, policy):
    """A copy of a model that computes by another policy, with the same weights in float32.

    What normalises pixels, and a plain head from the pooling on, stay in float32. A NOAH head takes
    the policy, which its softmax and sums leave out by themselves.

    Args:
        model: a functional Keras model, which stays as it is; nested ones are copied, too.
        policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Returns:
        A functional Keras model.

    Raises:
        ValueError: there is no such policy, or the model or a layer of it cannot be copied.

    Example:

    >>> fast = with_precision(noah_tf.create_model("noah_resnet18"), "mixed_bfloat16")
    """
    distribute.check_precision(policy)
    _check_functional(model, "copied")
    # Layers that make layers of their own often leave the policy to the global one.
    with distribute.dtype_policy(policy):
        copy = _copy(model, policy, has_head=True)
    shapes = [[tuple(weight.shape) for weight in m.weights] for m in (model, copy)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{model.name} cannot be copied: it has {len(shapes[0])} weights, and a copy made of "
            f"its layers' configs has {len(shapes[1])}, or others; build it anew inside "
            "noah_tf.utils.distribute.dtype_policy(...)."
        )
    copy.set_weights(model.get_weights())
    _finalize_normalization(copy)
    for attribute in ("noah_feature_layer", "noah_discarded_layers"):
        if hasattr(model, attribute):
            setattr(copy, attribute, getattr(model, attribute))
    return copy


def in_precision(model, policy):
    """The model itself where it computes by the policy, else a copy `with_precision`.

    Args:
        model: a functional Keras model.
        policy: as of `with_precision`.

    Returns:
        A functional Keras model.
    """
    wanted = set() if policy == "float32" else {policy.removeprefix("mixed_")}
    return model if _low_precisions(model) == wanted else with_precision(model, policy)


def _low_precisions(model):
    """The dtypes below float32 that a model's layers compute in."""
    found = set()
    for layer in model.layers:
        if isinstance(layer, tf.keras.Model):
            found |= _low_precisions(layer)
        elif layer.compute_dtype in ("bfloat16", "float16"):
            found.add(layer.compute_dtype)
    return found


def _check_functional(model, what):
    if not isinstance(model, tf.keras.Model) or not is_functional(model):
        name = getattr(model, "name", repr(model))
        raise ValueError(
            f"{name} ({type(model).__name__}) cannot be {what}: it has no graph of layers to read, "
            "as functional models have; build it anew inside "
            "noah_tf.utils.distribute.dtype_policy(...)."
        )


def _copy(model, policy, has_head):
    """A functional model or Sequential with fresh weights, its layers under the policy."""
    exact = _linear_head(model) if has_head else set()

    def copy_of(layer):
        if isinstance(layer, tf.keras.Model) and is_functional(layer):
            return _copy(layer, policy, has_head=id(layer) in exact)
        config = layer.get_config()
        if isinstance(layer, tf.keras.layers.Layer):
            pixels = isinstance(layer, (tf.keras.layers.Rescaling, tf.keras.layers.Normalization))
            config = _with_dtype(config, "float32" if pixels or id(layer) in exact else policy)
        return type(layer).from_config(config)

    def checked_copy_of(layer):
        try:
            return copy_of(layer)
        except (NotImplementedError, TypeError) as error:
            raise ValueError(
                f"{model.name} cannot be copied, for the config of its layer {layer.name!r} "
                f"({type(layer).__name__}) makes no such layer: {error}"
            ) from error

    return tf.keras.models.clone_model(model, clone_function=checked_copy_of)


def _linear_head(model):
    """Ids of the last layer with weights, what is behind it, and the pooling before it.

    Of a NOAH head only what is behind it: it keeps its own sums exact.
    """
    found, pending = set(), [(tensor, False) for tensor in model.outputs]
    while pending:
        tensor, behind_weights = pending.pop()
        layer, inputs = layer_before(tensor)
        weighted = bool(getattr(layer, "weights", ()))
        is_map = len(tensor.shape) > 2 and positions(tensor.shape) != 1
        if isinstance(layer, NOAHHead) or (behind_weights and (weighted or is_map)):
            continue
        found.add(id(layer))
        pending += [(source, behind_weights or weighted) for source in inputs]
    return found


def _with_dtype(config, dtype):
    """A layer's config with another dtype, also of layers that it wraps."""
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
    """Lets the layers that read their weights into constants do so."""
    for layer in model.layers:
        if isinstance(layer, tf.keras.Model):
            _finalize_normalization(layer)
        elif isinstance(layer, tf.keras.layers.Normalization) and layer.weights:
            layer.finalize_state()
