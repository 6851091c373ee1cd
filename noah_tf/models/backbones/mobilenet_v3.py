"""MobileNetV3 (arXiv 1905.02244), as in the reference implementation."""

from typing import Any, NamedTuple

import tensorflow as tf

from noah_tf.models.backbones.layers import (
    batch_norm,
    check_input_shape,
    conv,
    depthwise_conv,
    drop_path_rates,
    hard_sigmoid,
    hard_swish,
    kaiming_normal,
    linear_head,
    normal,
    residual,
)

layers = tf.keras.layers


class _Block(NamedTuple):
    """The sizes of one block.

    Attributes:
        kernel_size: side of the depthwise kernel.
        expanded: number of channels after the expansion.
        filters: number of channels of the output.
        squeeze: whether the block has a squeeze-and-excite module.
        swish: whether the activation is hard-swish instead of ReLU.
        strides: strides of the depthwise convolution.
    """

    kernel_size: int
    expanded: int
    filters: int
    squeeze: bool
    swish: bool
    strides: int


# Architecture → blocks (tables 1 and 2 of the paper). The reference considers the
# squeeze-and-excite after the last convolution of table 2 a mistake, and so it is left out.
VARIANTS = {
    "mobilenetv3_small": (
        _Block(3, 16, 16, True, False, 2),
        _Block(3, 72, 24, False, False, 2),
        _Block(3, 88, 24, False, False, 1),
        _Block(5, 96, 40, True, True, 2),
        _Block(5, 240, 40, True, True, 1),
        _Block(5, 240, 40, True, True, 1),
        _Block(5, 120, 48, True, True, 1),
        _Block(5, 144, 48, True, True, 1),
        _Block(5, 288, 96, True, True, 2),
        _Block(5, 576, 96, True, True, 1),
        _Block(5, 576, 96, True, True, 1),
    ),
    "mobilenetv3_large": (
        _Block(3, 16, 16, False, False, 1),
        _Block(3, 64, 24, False, False, 2),
        _Block(3, 72, 24, False, False, 1),
        _Block(5, 72, 40, True, False, 2),
        _Block(5, 120, 40, True, False, 1),
        _Block(5, 120, 40, True, False, 1),
        _Block(3, 240, 80, False, True, 2),
        _Block(3, 200, 80, False, True, 1),
        _Block(3, 184, 80, False, True, 1),
        _Block(3, 184, 80, False, True, 1),
        _Block(3, 480, 112, True, True, 1),
        _Block(3, 672, 112, True, True, 1),
        _Block(5, 672, 160, True, True, 2),
        _Block(5, 960, 160, True, True, 1),
        _Block(5, 960, 160, True, True, 1),
    ),
}
_SQUEEZE = 4


def build(
    architecture: str, input_shape: Any, drop_path: float = 0.0, expand_map: bool = True
) -> tf.keras.Model:
    """Builds a MobileNetV3 up to its last feature map, which is 1/32 of the image's size.

    Args:
        architecture: a key of `VARIANTS`.
        input_shape: (height, width, channels). Height and width may be None.
        drop_path: drop rate of the last block. It increases linearly from 0 in the first block.
        expand_map: whether the last 1x1 convolution, to 1280 channels, runs on the map, as in the
            NOAH model. False leaves it to `standard_head`, which runs it after pooling.

    Returns:
        A functional Keras model from images to (B, H, W, C), where C is 1280, or without
        `expand_map` 576 (Small) or 960 (Large).
    """
    check_input_shape(architecture, input_shape)
    blocks = VARIANTS[architecture]
    rates = drop_path_rates(drop_path, len(blocks))
    images = tf.keras.Input(input_shape)
    x = conv(images, 16, 3, "features.0.0", strides=2)
    x = _norm_and_activation(x, "features.0.1", hard_swish)
    for number, (block, rate) in enumerate(zip(blocks, rates, strict=True), start=1):
        x = _apply_block(x, block, f"features.{number}", rate)
    last = len(blocks) + 1
    x = conv(x, blocks[-1].expanded, 1, f"features.{last}.0")
    x = _norm_and_activation(x, f"features.{last}.1", hard_swish)
    if expand_map:
        x = _expand(x, f"features.{last + 1}")
    return tf.keras.Model(images, x, name=architecture)


def standard_head(
    backbone: tf.keras.Model, num_classes: int, dropout: float, activation: Any
) -> Any:
    """Returns the standard model's logits: pooling, the last 1x1 convolution, a linear layer."""
    x = layers.GlobalAveragePooling2D(keepdims=True, name="gap_pool")(backbone.output)
    # In the reference the pooling is a module, too, with the number before this one.
    x = _expand(x, f"features.{len(VARIANTS[backbone.name]) + 3}")
    x = layers.Flatten(name="classifier.0")(x)
    return linear_head(x, num_classes, dropout, activation, "classifier.1", normal(0.01))


def _apply_block(x: Any, block: _Block, name: str, drop_path: float) -> Any:
    """Expands the channels, filters each one, weights them if `squeeze`, and projects."""
    activation = hard_swish if block.swish else "relu"
    branch = conv(x, block.expanded, 1, f"{name}.conv.0")
    branch = _norm_and_activation(branch, f"{name}.conv.1", activation)
    branch = depthwise_conv(branch, block.kernel_size, f"{name}.conv.3", block.strides)
    branch = batch_norm(branch, f"{name}.conv.4")
    if block.squeeze:
        branch = _squeeze_and_excite(branch, f"{name}.conv.5")
    branch = layers.Activation(activation, name=f"{name}.conv.6")(branch)
    branch = conv(branch, block.filters, 1, f"{name}.conv.7")
    branch = batch_norm(branch, f"{name}.conv.8")
    if block.strides > 1 or x.shape[-1] != block.filters:
        return branch
    return residual(x, branch, f"{name}.add", drop_path)


def _squeeze_and_excite(x: Any, name: str) -> Any:
    """Multiplies each channel by a weight that two dense layers compute from all channel means."""
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


def _expand(x: Any, name: str) -> Any:
    return layers.Conv2D(
        1280, 1, activation=hard_swish, kernel_initializer=kaiming_normal(), name=name
    )(x)


def _norm_and_activation(x: Any, name: str, activation: Any) -> Any:
    return layers.Activation(activation, name=f"{name}.act")(batch_norm(x, name))
