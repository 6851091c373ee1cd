"""MobileNetV3-Small (arXiv 1905.02244), as the reference implementation has it."""

import tensorflow as tf

from noah_tf.models.backbones.layers import (
    batch_norm,
    check_input_shape,
    conv,
    depthwise_conv,
    hard_sigmoid,
    hard_swish,
    kaiming_normal,
    linear_head,
    normal,
    residual,
    rising,
)

layers = tf.keras.layers

# Architecture: of each block the kernel size, expanded channels, channels, whether it squeezes,
# whether it uses hard-swish, strides (table 2 of the paper; its SE after the last convolution,
# which the reference takes for a mistake, is left out).
VARIANTS = {
    "mobilenetv3_small": (
        (3, 16, 16, True, False, 2),
        (3, 72, 24, False, False, 2),
        (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2),
        (5, 240, 40, True, True, 1),
        (5, 240, 40, True, True, 1),
        (5, 120, 48, True, True, 1),
        (5, 144, 48, True, True, 1),
        (5, 288, 96, True, True, 2),
        (5, 576, 96, True, True, 1),
        (5, 576, 96, True, True, 1),
    ),
}
_SQUEEZE = 4


def build(architecture, input_shape, drop_path=0.0, expand_map=True):
    """A MobileNetV3 up to its last feature map, a 32nd of the image's size.

    Args:
        architecture: a key of `VARIANTS`.
        input_shape: (height, width, channels); height and width may be None.
        drop_path: drop rate of the last block; the others rise to it linearly from 0.
        expand_map: whether the last 1x1 convolution, from 576 channels to 1280, runs on the map,
            as NOAH has it; else it is the standard head's, behind the pooling.

    Returns:
        A functional Keras model, images to (B, H, W, 1280) or (B, H, W, 576).
    """
    check_input_shape(architecture, input_shape)
    blocks = VARIANTS[architecture]
    rates = rising(drop_path, len(blocks))
    images = tf.keras.Input(input_shape)
    x = conv(images, 16, 3, "features.0.0", strides=2)
    x = _activated(x, "features.0.1", hard_swish)
    for number, (block, rate) in enumerate(zip(blocks, rates, strict=True), start=1):
        x = _block(x, *block, f"features.{number}", rate)
    x = conv(x, blocks[-1][1], 1, "features.12.0")
    x = _activated(x, "features.12.1", hard_swish)
    if expand_map:
        x = _expand(x, "features.13")
    return tf.keras.Model(images, x, name=architecture)


def standard_head(features, num_classes, dropout, activation):
    """Logits of the standard model: pooling, the last 1x1 convolution, a linear layer."""
    x = layers.GlobalAveragePooling2D(keepdims=True, name="gap_pool")(features)
    x = layers.Flatten(name="classifier.0")(_expand(x, "features.14"))
    return linear_head(x, num_classes, dropout, activation, "classifier.1", normal(0.01))


def _block(x, kernel_size, expanded, filters, squeeze, swish, strides, name, drop_path):
    """Expand, filter each channel, weigh the channels if `squeeze`, project."""
    activation = hard_swish if swish else "relu"
    branch = conv(x, expanded, 1, f"{name}.conv.0")
    branch = _activated(branch, f"{name}.conv.1", activation)
    branch = depthwise_conv(branch, kernel_size, f"{name}.conv.3", strides)
    branch = batch_norm(branch, f"{name}.conv.4")
    if squeeze:
        branch = _squeeze_and_excite(branch, f"{name}.conv.5")
    branch = layers.Activation(activation, name=f"{name}.conv.6")(branch)
    branch = conv(branch, filters, 1, f"{name}.conv.7")
    branch = batch_norm(branch, f"{name}.conv.8")
    if strides > 1 or x.shape[-1] != filters:
        return branch
    return residual(x, branch, f"{name}.add", drop_path)


def _squeeze_and_excite(x, name):
    """Weighs each channel by a function of the means of all."""
    channels = x.shape[-1]
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}.avg_pool")(x)
    for index, units, activation in (
        (0, channels // _SQUEEZE, "relu"),
        (2, channels, hard_sigmoid),
    ):
        gate = layers.Dense(
            units,
            activation,
            use_bias=False,
            kernel_initializer=normal(0.01),
            name=f"{name}.fc.{index}",
        )(gate)
    return layers.Multiply(name=name)([x, gate])


def _expand(x, name):
    return layers.Conv2D(
        1280, 1, activation=hard_swish, kernel_initializer=kaiming_normal(), name=name
    )(x)


def _activated(x, name, activation):
    return layers.Activation(activation, name=f"{name}.act")(batch_norm(x, name))
