"""attach_noah: puts a head on the last feature map of any Keras image model."""

import math
import warnings
from typing import Any

import tensorflow as tf
from absl import logging

from noah_tf.head import Dropout, NOAHHead, get_kernel_initializer, logits_dtype
from noah_tf.models.feature_map import (
    FeatureMap,
    find_feature_map,
    input_structure,
    is_functional,
    layer_before,
    named_feature_map,
    num_positions,
    weighted_layers,
)
from noah_tf.models.groups_and_ratio import groups_and_ratio
from noah_tf.models.pooled_classifier import (
    check_pooled_options,
    pooled_classifier,
    start_from,
)
from noah_tf.utils.validation import check_key_ratio, check_positive_int, is_int

_HEADS = ("noah", "gap")
_DEFAULT_CLASSES = 1000
# Classes of Keras itself. A model of any other class is a library's own.
_PLAIN_MODELS = ("Functional", "Model", "Sequential")


def attach_noah(
    backbone: tf.keras.Model,
    num_classes: int | None = None,
    num_groups: int | None = None,
    key_ratio: float | None = None,
    dropout: float = 0.0,
    feature_layer: str | None = None,
    head: str = "noah",
    drop_class_token: Any = "auto",
    activation: Any = None,
    kernel_initializer: Any = None,
    bias_initializer: Any = None,
    name: str | None = None,
    init: str | None = None,
    **head_options: Any,
) -> tf.keras.Model:
    """Puts a NOAH head, or a pooled linear head, on the last feature map of a Keras model.

    The model may end in the feature map or be a whole classifier. `attach_noah` searches for the
    last layer that reduces the positions to one (global pooling, flatten, mean, selection of the
    class token) and puts the head on the input of that layer. It leaves out that layer and all
    layers after it (dense, dropout, norm, convolutions on a 1x1 map). The search enters a
    classifier that is nested in another model. The new model shares the backbone's layers and
    weights. Nothing is copied or changed.

    Args:
        backbone: a functional `tf.keras.Model` or a built Sequential, with channels-last features.
        num_classes: M, the number of classes. By default 1000, or with init="pooled" those of the
            classifier.
        num_groups: N of the head. By default it is the paper's N for at least 1,000 classes if the
            backbone belongs to a family that the paper trains (ResNet, MobileNetV2 and V3,
            ShuffleNetV2, ViT, PVT, MLP-Mixer, gMLP) and that N divides the channels. Otherwise it
            is the largest N up to 8 that divides the channels; more than 4 groups need at least 5
            key channels each.
        key_ratio: r of the head. By default it is the paper's in the same case. Otherwise it is the
            largest of 1/2, 1/4, 1/8, 1/16 and 1/32 that gives at most 64 key channels, or the
            nearest one that allows 4 groups.
        dropout: dropout rate of the head in training, in [0, 1).
        feature_layer: name of the layer whose output the head takes, instead of the search;
            "outer/inner" for a layer of a nested model.
        head: "noah", or "gap" for global average pooling, dropout and a linear layer on the same
            feature map, so that a comparison differs only in the head.
        drop_class_token: number of tokens to drop before the patch tokens of features (B, L, C);
            True for 1, False for 0. "auto" knows the number for the paper's models. For other
            models it drops one token if L - 1 is a square and L is not; if L is unknown, it drops
            none and warns.
        activation: activation of the logits. None returns logits.
        kernel_initializer: initializer of the head's kernels. None uses the default of `NOAHHead`,
            which is small for few classes, or for "gap" that of a Keras dense layer. "reference" is
            the reference implementation's for any number of classes.
        bias_initializer: initializer of the head's biases. None uses zeros.
        name: name of the new model. By default the backbone's name plus "_noah" or "_gap".
        init: "pooled" for a head that starts with the logits of a trained classifier: global
            average pooling, any dropout, and one dense layer. A softmax or sigmoid after it is left
            out. The keys are zero, keys and values use all channels (split_key_value=False), and
            the groups share the channels of the dense kernel. None for random weights.
        **head_options: further arguments of `NOAHHead`, such as split_groups=False.

    Returns:
        A functional `tf.keras.Model` from the backbone's inputs to (B, num_classes), float32
        under every precision policy except float64. `model.noah_feature_layer` is the name of the
        layer that feeds the head. `model.noah_discarded_layers` is a tuple with the names of the
        layers with weights that were left out. Files do not store these two;
        `feature_layer_name(model)` finds the first in any loaded model. The layer "noah_head" has N
        and r in its config.

    Raises:
        TypeError: the backbone is not a Keras model.
        ValueError: the backbone has no graph of layers (a subclassed model, or a Sequential that is
            not built), several outputs, no feature map or several of them before the output, or a
            feature map of another rank; an argument is invalid; or init="pooled" cannot convert
            the classifier. The message says what works.

    Example:

    >>> backbone = tf.keras.applications.ResNet50(weights="imagenet")
    >>> model = noah_tf.attach_noah(backbone, num_classes=10)
    >>> model.noah_feature_layer, model.noah_discarded_layers
    ('conv5_block3_out', ('predictions',))
    >>> model.get_layer("noah_head").num_groups, model.get_layer("noah_head").key_ratio
    (8, 0.03125)

    Reference: arXiv 2402.02377, section 3 (the head) and section 4 (N and r of each family).
    """
    _check_backbone(backbone)
    _check_arguments(num_classes, num_groups, key_ratio, head, drop_class_token, kernel_initializer)
    if init not in (None, "pooled"):
        raise ValueError(f"init must be None or 'pooled', got {init!r}.")
    if head_options and head != "noah":
        raise ValueError(f"{', '.join(head_options)}: only head='noah' takes these, got {head!r}.")
    if feature_layer is None:
        feature_map = find_feature_map(backbone)
    else:
        feature_map = named_feature_map(backbone, feature_layer)
    _check_features(backbone, feature_map, head)
    classifier = None
    if init == "pooled":
        initializers = [kernel_initializer, bias_initializer]
        check_pooled_options(head, drop_class_token, initializers, head_options)
        classifier = pooled_classifier(backbone, feature_map, num_classes)
        num_classes, drop_class_token = classifier.num_classes, False
        head_options = {**head_options, "split_key_value": False}
    elif num_classes is None:
        num_classes = _DEFAULT_CLASSES

    inputs, features = _graph(backbone, feature_map)
    if drop_class_token == "auto":
        drop_class_token = _prefix_tokens(features.shape, feature_map.tensor)
    features = _patch_tokens(features, int(drop_class_token))
    if head == "noah":
        names = [model.name for model in (*feature_map.models, backbone)]
        names += [type(model).__name__ for model in (*feature_map.models, backbone)]
        num_groups, key_ratio = groups_and_ratio(
            names, features.shape[-1], num_classes, num_groups, key_ratio
        )
        head_layer = NOAHHead(
            num_classes,
            num_groups,
            key_ratio,
            dropout,
            activation=activation,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer or "zeros",
            name="noah_head",
            **head_options,
        )
        logits = head_layer(features)
        if classifier is not None:
            start_from(head_layer, classifier)
    else:
        logits = _gap_head(
            features,
            num_classes,
            dropout,
            activation=activation,
            kernel_initializer=kernel_initializer or "glorot_uniform",
            bias_initializer=bias_initializer or "zeros",
        )
    model = tf.keras.Model(inputs, logits, name=name or f"{backbone.name}_{head}")
    model.noah_feature_layer = feature_layer_name(model)
    model.noah_discarded_layers = _discarded_layers(backbone, model)
    _log(model, backbone, features, head)
    return model


def feature_layer_name(model: tf.keras.Model) -> str:
    """Returns the name of the layer that feeds the head of a model made by `attach_noah`.

    Args:
        model: a model made by `attach_noah`, also if it was loaded from a file.

    Returns:
        The name; "outer/inner" for a layer inside a nested model. A backbone of a library's own
        class, such as those of KerasCV and KerasHub, counts as one layer.

    Raises:
        ValueError: the model has no head that `attach_noah` made.
    """
    names = {layer.name for layer in model.layers}
    heads = [head_name for head_name in ("noah_head", "gap_pool") if head_name in names]
    if not heads:
        raise ValueError(
            f"{model.name} has no layer 'noah_head' or 'gap_pool': attach_noah did not make it."
        )
    _, (features,) = layer_before(model.get_layer(heads[0]).output)
    layer, inputs = layer_before(features)
    if layer.name == "noah_drop_class_token":
        layer, _ = layer_before(inputs[0])
    path = [layer.name]
    while _is_entered(layer):
        layer, _ = layer_before(layer.outputs[0])
        path.append(layer.name)
    return "/".join(path)


def _check_backbone(backbone):
    if not isinstance(backbone, tf.keras.Model):
        raise TypeError(
            f"backbone must be a tf.keras.Model, got {type(backbone).__name__}: pass a built model."
        )
    if not is_functional(backbone):
        raise ValueError(
            f"{backbone.name} ({type(backbone).__name__}) has no graph of layers to read: pass a "
            "functional model, or a Sequential that starts with its input shape."
        )
    if tf.keras.backend.image_data_format() != "channels_last":
        raise ValueError(
            "the image data format is channels_first, and the head needs channels last: call "
            "tf.keras.backend.set_image_data_format('channels_last') before building the backbone."
        )


def _check_arguments(
    num_classes, num_groups, key_ratio, head, drop_class_token, kernel_initializer
):
    if num_classes is not None:
        check_positive_int("num_classes", num_classes)
    if num_groups is not None:
        check_positive_int("num_groups", num_groups)
    if key_ratio is not None:
        check_key_ratio(key_ratio)
    if head not in _HEADS:
        raise ValueError(f"head must be 'noah' or 'gap', got {head!r}.")
    if head == "gap" and isinstance(kernel_initializer, str) and kernel_initializer == "reference":
        raise ValueError(
            "kernel_initializer='reference' is for head='noah', got head='gap': name one of "
            "Keras's initializers, such as 'glorot_uniform' or 'zeros'."
        )
    get_kernel_initializer(kernel_initializer)
    is_count = isinstance(drop_class_token, bool) or (
        is_int(drop_class_token) and drop_class_token >= 0
    )
    if drop_class_token != "auto" and not is_count:
        raise ValueError(
            "drop_class_token must be 'auto', True, False or a number of tokens, got "
            f"{drop_class_token!r}."
        )


def _check_features(backbone, feature_map, head):
    shape = tuple(feature_map.tensor.shape)
    if len(shape) == 5:
        raise ValueError(
            f"the feature map of {backbone.name} has shape {shape}, a video's: the head takes "
            "(B, H, W, C) or (B, L, C); reduce the frames first."
        )
    if len(shape) not in (3, 4):
        raise ValueError(
            f"layer {feature_map.name!r} of {backbone.name} has shape {shape}, and the head needs "
            "(B, H, W, C) or (B, L, C): name a layer before the pooling as feature_layer=."
        )
    if isinstance(feature_map.layer, tf.keras.layers.InputLayer):
        raise ValueError(
            f"the last feature map of {backbone.name} is its own input {feature_map.name!r} of "
            f"shape {shape}, so the head would have no backbone: name a layer as feature_layer=."
        )
    if shape[-1] is None:
        raise ValueError(
            f"the channels of {feature_map.name!r} are unknown, its shape is {shape}: build the "
            "backbone with an input_shape."
        )
    if num_positions(shape) == 1 and head == "noah":
        warnings.warn(
            f"the feature map of {backbone.name} has one position, shape {shape}, so NOAH is a "
            "linear layer: give the backbone larger inputs.",
            stacklevel=3,
        )


def _graph(backbone: tf.keras.Model, feature_map: FeatureMap) -> tuple[Any, Any]:
    """Returns the new model's inputs and the features, as symbolic tensors."""
    is_output = not feature_map.calls and feature_map.tensor is backbone.outputs[0]
    if not is_output or type(backbone).__name__ in _PLAIN_MODELS:
        return input_structure(backbone), feature_map.outer_tensor()
    # A library's own class, such as KerasCV's backbones, stays one layer, because several of them
    # can save and load themselves but not their layers.
    inputs = [
        tf.keras.Input(tensor.shape[1:], batch_size=tensor.shape[0], dtype=tensor.dtype)
        for tensor in backbone.inputs
    ]
    inputs = tf.nest.pack_sequence_as(input_structure(backbone), inputs)
    return inputs, backbone(inputs)


def _is_entered(layer):
    """Returns whether a layer is a nested model of Keras's own classes with a graph of layers."""
    return type(layer).__name__ in _PLAIN_MODELS and is_functional(layer)


def _prefix_tokens(shape, tensor):
    """Returns the number of tokens before the patch tokens of features with this shape."""
    if len(shape) != 3:
        return 0
    # In the paper's models the layer that embeds the positions has this number.
    pending, seen = [tensor], set()
    while pending:
        layer, inputs = layer_before(pending.pop(0))
        if hasattr(layer, "num_prefix_tokens"):
            return layer.num_prefix_tokens
        pending += [source for source in inputs if id(source) not in seen]
        seen.update(id(source) for source in inputs)
    tokens = shape[1]
    if tokens is None:
        warnings.warn(
            "the number of tokens is unknown, so no class token is dropped: set drop_class_token.",
            stacklevel=3,
        )
        return 0
    return int(_is_square(tokens - 1) and not _is_square(tokens))


def _patch_tokens(features, count):
    """Returns the features without the first `count` tokens."""
    if len(features.shape) != 3 or not count:
        return features
    tokens = features.shape[1]
    if tokens is not None and tokens <= count:
        raise ValueError(
            f"drop_class_token={count!r} leaves none of the {tokens} tokens: drop fewer."
        )
    # A layer, because Keras 2 and Keras 3 save a slice differently.
    return tf.keras.layers.Cropping1D((count, 0), name="noah_drop_class_token")(features)


def _is_square(number):
    return number > 0 and math.isqrt(number) ** 2 == number


def _gap_head(features, num_classes, dropout, **dense_arguments):
    """Returns logits of average pooling, dropout and a linear layer, in NOAH's logits dtype."""
    layers = tf.keras.layers
    dtype = logits_dtype(features.dtype)
    pool = layers.GlobalAveragePooling1D if len(features.shape) == 3 else None
    pool = pool or layers.GlobalAveragePooling2D
    vector = pool(name="gap_pool", dtype=dtype)(features)
    vector = Dropout(dropout, name="gap_dropout", dtype=dtype)(vector)
    return layers.Dense(num_classes, name="gap_logits", dtype=dtype, **dense_arguments)(vector)


def _discarded_layers(backbone, model):
    """Returns the names of the backbone's layers none of whose weights are in the new model."""
    model_weights = {id(variable) for variable in model.weights}
    return tuple(
        name
        for name, layer in weighted_layers(backbone)
        if not any(id(variable) in model_weights for variable in layer.weights)
    )


def _log(model, backbone, features, head):
    logging.info(
        "%s: %s head on layer %r of %s, features %s%s; discarded layers with weights: %s.",
        model.name,
        head,
        model.noah_feature_layer,
        backbone.name,
        tuple(features.shape),
        _groups_and_ratio_text(model) if head == "noah" else "",
        ", ".join(model.noah_discarded_layers) or "none",
    )


def _groups_and_ratio_text(model):
    layer = model.get_layer("noah_head")
    return f", num_groups={layer.num_groups}, key_ratio={layer.key_ratio}"
