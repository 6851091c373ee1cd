"""Models by name."""

import tensorflow as tf

from noah_tf.attach import attach_noah

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
    """The classifier that the `model` section of a recipe describes.

    Args:
        config: `backbone` (a name for `library_backbone`), `backbone_args` (its arguments),
            `head` ("noah" or "gap"), `num_groups`, `key_ratio` (None for the paper's choice) and
            `dropout`.
        image_size: (height, width) in pixels.
        num_classes: number of classes.

    Returns:
        A Keras model, (B, height, width, 3) to logits (B, num_classes).
    """
    backbone = library_backbone(
        config.backbone, input_shape=(*image_size, 3), **config.backbone_args.to_dict()
    )
    return attach_noah(
        backbone,
        num_classes=num_classes,
        num_groups=config.num_groups,
        key_ratio=config.key_ratio,
        dropout=config.dropout,
        head=config.head,
    )
