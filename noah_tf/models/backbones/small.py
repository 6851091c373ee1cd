"""Small backbones whose feature map has at least 4x4 positions for images of 32 pixels.

The paper's models reduce an image by a factor of 32, or cut it into patches of 16 pixels. At 32
pixels this leaves only one to four positions.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from noah_tf.models.backbones import deit, mobilenet_v2, resnet
from noah_tf.models.backbones.layers import batch_norm, check_input_shape, conv

layers = tf.keras.layers


def small_resnet(
    input_shape: Any, filters: Sequence[int] = (16, 32, 64), blocks: Sequence[int] = (1, 1, 1)
) -> tf.keras.Model:
    """Builds the ResNet for CIFAR, whose 3x3 stem has no strides and no pooling.

    Every stage after the first halves the map. Three stages reduce 32 pixels to 8x8 positions.

    Args:
        input_shape: (height, width, channels). Height and width may be None.
        filters: number of channels of each stage. The stem has as many as the first stage.
        blocks: number of blocks of each stage. A block has two 3x3 convolutions.

    Returns:
        A functional Keras model from images to (B, H, W, filters[-1]).

    Raises:
        ValueError: `blocks` and `filters` have different lengths, or are empty.

    Reference: arXiv 1512.03385, section 4.2.
    """
    check_input_shape("small_resnet", input_shape)
    if not 0 < len(filters) == len(blocks):
        raise ValueError(
            f"filters and blocks must have one value per stage, got filters={tuple(filters)} and "
            f"blocks={tuple(blocks)}."
        )
    images = tf.keras.Input(input_shape)
    x = conv(images, filters[0], 3, "conv1")
    x = layers.ReLU(name="relu")(batch_norm(x, "bn1"))
    for stage, (width, count) in enumerate(zip(filters, blocks, strict=True), start=1):
        for index in range(count):
            strides = 2 if stage > 1 and index == 0 else 1
            x = resnet.block(x, "basic", width, strides, f"layer{stage}.{index}")
    return tf.keras.Model(images, x, name="resnet_small")


def small_mobilenet_v2(
    input_shape: Any, width: str = "035", strides: Sequence[int] = (1, 2, 2, 2, 1)
) -> tf.keras.Model:
    """Builds a MobileNetV2 that reduces 32 pixels to 4x4 positions.

    Args:
        input_shape: (height, width, channels). Height and width may be None.
        width: the width multiplier in percent, one of the paper's: "100", "075", "050" or "035".
        strides: the strides, 1 or 2, of the stem and of the four stages that reduce the map in
            the paper.

    Returns:
        A functional Keras model from images to (B, H, W, 1280).

    Raises:
        ValueError: the width is unknown, or `strides` are not five values of 1 or 2.

    Reference: arXiv 1801.04381.
    """
    return mobilenet_v2.build(f"mobilenetv2_{width}", input_shape, strides=strides)


def small_vit(
    input_shape: Any, patch_size: int = 4, width: int = 96, depth: int = 4, num_heads: int = 3
) -> tf.keras.Model:
    """Builds a vision transformer with the encoder of DeiT, without a class token.

    Args:
        input_shape: (height, width, channels). Height and width are multiples of the patch size.
        patch_size: side of a patch in pixels.
        width: number of channels of a token.
        depth: number of blocks.
        num_heads: number of attention heads of a block, a divisor of the width.

    Returns:
        A functional Keras model from images to (B, L, width).

    Raises:
        ValueError: the image size is not divisible by the patch size, or the width by the heads.

    Reference: arXiv 2010.11929.
    """
    check_input_shape("small_vit", input_shape, patch_size)
    if width % num_heads:
        raise ValueError(f"num_heads must divide width={width}, got {num_heads}.")
    images = tf.keras.Input(input_shape)
    tokens = deit.encoder(images, width, num_heads, depth, patch_size)
    return tf.keras.Model(images, tokens, name="vit_small")
