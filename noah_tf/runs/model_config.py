"""The model that a recipe describes: one of the paper's, or a backbone of a library with a head."""

import difflib

import tensorflow as tf

from noah_tf.models.attach import attach_noah
from noah_tf.models.backbones import small
from noah_tf.models.paper_table import ARCHITECTURES
from noah_tf.models.zoo import check_weights_options, create_model
from noah_tf.utils.validation import check_key_ratio, check_positive_int, check_rate, error_messages

LIBRARIES = ("tf.keras.applications", "keras_cv.models", "noah_tf.models.backbones.small")
_ABLATIONS = ("split_groups", "split_key_value", "uniform_attention")


def library_backbone(name, **arguments):
    """A backbone of Keras applications, of KerasCV, or of ours for small images.

    Args:
        name: where it is, "tf.keras.applications.MobileNetV2", "keras_cv.models.ResNetBackbone" or
            "noah_tf.models.backbones.small.small_resnet".
        **arguments: what it is called with.

    Returns:
        A Keras model.

    Raises:
        ValueError: the name is of another library, or the library has no such model.

    Example:

    >>> backbone = library_backbone(
    ...     "tf.keras.applications.MobileNetV2", weights=None, input_shape=(96, 96, 3))
    """
    _check_backbone(name)
    library, _, model = name.rpartition(".")
    try:
        return getattr(_namespace(library), model)(**arguments)
    except TypeError as error:
        raise ValueError(
            f"{name} does not take these arguments ({error}): set model.backbone_args in the "
            "recipe's file to what it takes."
        ) from error


def _check_backbone(name):
    library, _, model = name.rpartition(".")
    if library not in LIBRARIES:
        raise ValueError(
            f"backbone must be of {', '.join(LIBRARIES[:-1])} or {LIBRARIES[-1]}, got {name!r}."
        )
    if not callable(getattr(_namespace(library), model, None)):
        raise ValueError(f"{library} has no model {model!r}.")


def _namespace(library):
    if library == "tf.keras.applications":
        return tf.keras.applications
    if library == "noah_tf.models.backbones.small":
        return small
    from keras_cv import models

    return models


def check_model_config(config):
    """Raises ValueError where the `model` section of a recipe contradicts itself."""
    problems = list(
        error_messages(
            lambda: _check_head(config),
            lambda: _check_weights(config),
            lambda: _check_architecture(config),
        )
    )
    if problems:
        raise ValueError("; ".join(problems))


def _check_head(config):
    if config.head not in ("noah", "gap"):
        raise ValueError(f"model.head must be 'noah' or 'gap', got {config.head!r}")
    if config.num_groups is not None:
        check_positive_int("model.num_groups", config.num_groups)
    if config.key_ratio is not None:
        check_key_ratio(config.key_ratio)
    for name in ("dropout", "drop_path", "mlp_dropout"):
        if config[name] is not None:
            check_rate(f"model.{name}", config[name])
    if config.head == "gap" and not config.num_groups is config.key_ratio is None:
        raise ValueError(
            f"model.num_groups={config.num_groups} and model.key_ratio={config.key_ratio} are for "
            "model.head='noah', got 'gap'"
        )
    for name, value in _head_options(config).items():
        if config.head == "gap" and name in _ABLATIONS:
            raise ValueError(f"model.{name}={value!r} is for model.head='noah', got 'gap'")
        if config.architecture is not None:
            raise ValueError(
                f"model.{name}={value!r} is for a model.backbone, and {config.architecture} has "
                "the paper's head: leave it out"
            )
        if name == "kernel_initializer":
            _check_initializer(value)


def _check_initializer(name):
    try:
        tf.keras.initializers.get(name)
    except ValueError:
        raise ValueError(
            f"model.kernel_initializer must be a name of Keras's initializers, such as "
            f"'glorot_uniform', got {name!r}"
        ) from None


def _head_options(config):
    """What is set of the head's other options; runs of before have none of them."""
    options = {name: config.get(name) for name in ("kernel_initializer", *_ABLATIONS)}
    return {name: value for name, value in options.items() if value is not None}


def _check_weights(config):
    check_weights_options(
        config.weights, config.weights_head, config.weights_ema, prefix="model.weights_"
    )


def _check_architecture(config):
    if config.architecture is None:
        if config.backbone is None:
            raise ValueError(
                "model.architecture and model.backbone are both None: name one of the paper's "
                "architectures, or a backbone of a library"
            )
        _check_backbone(config.backbone)
        for option in ("drop_path", "mlp_dropout", "pre_logits"):
            if config[option]:
                raise ValueError(
                    f"model.{option} is for the paper's architectures, and {config.backbone} has "
                    f"no such option: set model.architecture, or leave {option} out"
                )
    elif config.architecture not in ARCHITECTURES:
        near = difflib.get_close_matches(config.architecture, ARCHITECTURES, n=1, cutoff=0)
        raise ValueError(
            f"model.architecture must be one of the paper's, such as {near[0]!r}, got "
            f"{config.architecture!r}; model.head says whether it has a NOAH head"
        )


def model_from_config(config, image_size, num_classes):
    """The classifier that the `model` section of a recipe describes, with random weights.

    Args:
        config: `head` ("noah" or "gap", the standard head), `num_groups`, `key_ratio` and
            `dropout` (None for the paper's choice); and either `architecture`, a key of
            `ARCHITECTURES`, with `drop_path`, `mlp_dropout` and `pre_logits`, or, where that is
            None, `backbone` (a name for `library_backbone`), `backbone_args` (its arguments),
            `kernel_initializer` (None for the head's own) and, for ablations, `split_groups`,
            `split_key_value` and `uniform_attention`.
        image_size: (height, width) in pixels.
        num_classes: number of classes.

    Returns:
        A Keras model, (B, height, width, 3) to logits (B, num_classes).

    Raises:
        ValueError: there is no such architecture, backbone or head.
    """
    check_model_config(config)
    input_shape = (*image_size, 3)
    if config.architecture is not None:
        is_noah = config.head == "noah"
        return create_model(
            f"noah_{config.architecture}" if is_noah else config.architecture,
            num_classes,
            input_shape,
            num_groups=config.num_groups if is_noah else None,
            key_ratio=config.key_ratio if is_noah else None,
            dropout=config.dropout,
            drop_path=config.drop_path,
            mlp_dropout=config.mlp_dropout,
            pre_logits=config.pre_logits,
        )
    backbone = library_backbone(
        config.backbone, input_shape=input_shape, **config.backbone_args.to_dict()
    )
    return attach_noah(
        backbone,
        num_classes=num_classes,
        num_groups=config.num_groups,
        key_ratio=config.key_ratio,
        dropout=config.dropout or 0.0,
        head=config.head,
        **_head_options(config),
    )
