"""Small backbones for small images, whose last map keeps several positions at 32 pixels.

The paper's models reduce an image 32 times, or cut it in patches of 16 pixels: at 32 pixels that
leaves a head one to four positions to choose from.
"""

import tensorflow as tf

from noah_tf.models.backbones import deit, mobilenet_v2, resnet
from noah_tf.models.backbones.layers import batch_norm, check_input_shape, conv

layers = tf.keras.layers


def small_resnet(input_shape, filters=(16, 32, 64), blocks=(1, 1, 1)):
    """The ResNet for CIFAR (arXiv 1512.03385, section 4.2): a 3x3 stem without strides or pooling.

    Every stage after the first halves the map: 32 pixels end in 8x8 with three stages.

    Args:
        input_shape: (height, width, channels); height and width may be None.
        filters: channels of each stage; the stem has those of the first.
        blocks: basic blocks of two 3x3 convolutions in each stage.

    Returns:
        A functional Keras model, images to (B, H, W, filters[-1]).

    Raises:
        ValueError: there are not as many `blocks` as `filters`.
    """
    check_input_shape("small_resnet", input_shape)
    if not 0 < len(filters) == len(blocks):
        raise ValueError(
            f"small_resnet needs filters and blocks of each stage, got filters={tuple(filters)} "
            f"and blocks={tuple(blocks)}."
        )
    images = tf.keras.Input(input_shape)
    x = conv(images, filters[0], 3, "conv1")
    x = layers.ReLU(name="relu")(batch_norm(x, "bn1"))
    for stage, (width, count) in enumerate(zip(filters, blocks, strict=True), start=1):
        for index in range(count):
            strides = 2 if stage > 1 and index == 0 else 1
            x = resnet.block(x, "basic", width, strides, f"layer{stage}.{index}")
    return tf.keras.Model(images, x, name="resnet_small")


def small_mobilenet_v2(input_shape, width="035", strides=(1, 2, 2, 2, 1)):
    """MobileNetV2 (arXiv 1801.04381) whose map is reduced less: 32 pixels end in 4x4.

    Args:
        input_shape: (height, width, channels); height and width may be None.
        width: the width multiplier as in the paper's models: "100", "075", "050" or "035".
        strides: of the stem and of the four stages that reduce the map in the paper, 1 or 2.

    Returns:
        A functional Keras model, images to (B, H, W, 1280).

    Raises:
        ValueError: there is no such width, or there are not five strides.
    """
    return mobilenet_v2.build(f"mobilenetv2_{width}", input_shape, strides=strides)


def small_vit(input_shape, patch_size=4, width=96, depth=4, num_heads=3):
    """A vision transformer (arXiv 2010.11929) as DeiT builds it, without a class token.

    Args:
        input_shape: (height, width, channels), multiples of the patch size.
        patch_size: side of a patch, in pixels.
        width: channels of a token.
        depth: blocks.
        num_heads: attention heads of a block; divides the width.

    Returns:
        A functional Keras model, images to (B, L, width).

    Raises:
        ValueError: the sizes do not divide.
    """
    check_input_shape("small_vit", input_shape, patch_size)
    if width % num_heads:
        raise ValueError(f"num_heads={num_heads} does not divide width={width} of small_vit.")
    images = tf.keras.Input(input_shape)
    tokens = deit.encoder(images, width, num_heads, depth, patch_size)
    return tf.keras.Model(images, tokens, name="vit_small")
