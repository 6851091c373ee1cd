"""The model that a recipe describes: one of the paper's, or a backbone of a library with a head."""

import difflib

import tensorflow as tf

from noah_tf.attach import attach_noah
from noah_tf.zoo import ARCHITECTURES, check_weights_options, create_model, load_weights

LIBRARIES = ("tf.keras.applications", "keras_cv.models")


def library_backbone(name, **arguments):
    """A backbone of Keras applications or KerasCV.

    Args:
        name: where it is, "tf.keras.applications.MobileNetV2" or "keras_cv.models.ResNetBackbone".
        **arguments: what it is called with.

    Returns:
        A Keras model.

    Raises:
        ValueError: the name is of another library, or the library has no such model.

    Example:

    >>> backbone = library_backbone(
    ...     "tf.keras.applications.MobileNetV2", weights=None, input_shape=(96, 96, 3))
    """
    library, _, model = name.rpartition(".")
    if library == "tf.keras.applications":
        namespace = tf.keras.applications
    elif library == "keras_cv.models":
        from keras_cv import models as namespace
    else:
        raise ValueError(f"backbone must be of {' or '.join(LIBRARIES)}, got {name!r}.")
    if not callable(getattr(namespace, model, None)):
        raise ValueError(f"{library} has no model {model!r}.")
    return getattr(namespace, model)(**arguments)


def model_from_config(config, image_size, num_classes):
    """The classifier that the `model` section of a recipe describes, with random weights.

    Args:
        config: `head` ("noah" or "gap", the standard head), `num_groups`, `key_ratio` and
            `dropout` (None for the paper's choice); and either `architecture`, a key of
            `ARCHITECTURES`, with `drop_path`, `mlp_dropout` and `pre_logits`, or, where that is
            None, `backbone` (a name for `library_backbone`) and `backbone_args` (its arguments).
        image_size: (height, width) in pixels.
        num_classes: number of classes.

    Returns:
        A Keras model, (B, height, width, 3) to logits (B, num_classes).

    Raises:
        ValueError: there is no such architecture, backbone or head.
    """
    if config.head not in ("noah", "gap"):
        raise ValueError(f"model.head must be 'noah' or 'gap', got {config.head!r}.")
    # Runs from before these options have none of them.
    check_weights_options(
        config.get("weights"),
        config.get("weights_head", "load"),
        config.get("weights_ema", False),
        prefix="model.weights_",
    )
    input_shape = (*image_size, 3)
    architecture = config.get("architecture")
    if architecture is not None:
        if architecture not in ARCHITECTURES:
            near = difflib.get_close_matches(architecture, ARCHITECTURES, n=1, cutoff=0)
            raise ValueError(
                f"model.architecture must be one of the paper's, such as {near[0]!r}, got "
                f"{architecture!r}; model.head says whether it has a NOAH head."
            )
        is_noah = config.head == "noah"
        return create_model(
            f"noah_{architecture}" if is_noah else architecture,
            num_classes,
            input_shape,
            num_groups=config.num_groups if is_noah else None,
            key_ratio=config.key_ratio if is_noah else None,
            dropout=config.dropout,
            drop_path=config.drop_path,
            mlp_dropout=config.mlp_dropout,
            pre_logits=config.pre_logits,
        )
    for option in ("drop_path", "mlp_dropout", "pre_logits"):
        if config.get(option):
            raise ValueError(
                f"model.{option} is for the paper's architectures, and {config.backbone} has no "
                f"such option: set model.architecture, or leave {option} out."
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
    )


def load_initial_weights(model, config):
    """Loads the weights that the `model` section of a recipe names, if it names any.

    Args:
        model: what `model_from_config` made of the section.
        config: the section: `weights`, a path or None, and `weights_head` and `weights_ema` as
            `create_model` has them.

    Raises:
        ValueError: the weights are not the model's.
        FileNotFoundError: there is no such file.
    """
    if config.get("weights"):
        if config.architecture is None and not config.weights.endswith(".h5"):
            raise ValueError(
                f"model.weights={config.weights!r} is of the reference implementation, and needs "
                "model.architecture: give a .weights.h5 file, or the architecture."
            )
        load_weights(model, config.weights, config.weights_head, config.weights_ema)
