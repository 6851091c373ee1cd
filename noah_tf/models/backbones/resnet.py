"""ResNet (arXiv 1512.03385), with the strides in the 3x3 convolution of a bottleneck ("v1.5")."""

from typing import Any

import tensorflow as tf

from noah_tf.models.backbones.layers import (
    batch_norm,
    check_input_shape,
    conv,
    drop_path_rates,
    max_pool,
    residual,
)

layers = tf.keras.layers

# Architecture → kind of block, number of blocks in each of the four stages.
VARIANTS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
}
_EXPANSION = {"basic": 1, "bottleneck": 4}


def build(architecture: str, input_shape: Any, drop_path: float = 0.0) -> tf.keras.Model:
    """Builds a ResNet up to its last feature map, which is 1/32 of the image's size.

    Args:
        architecture: a key of `VARIANTS`.
        input_shape: (height, width, channels). Height and width may be None.
        drop_path: drop rate of the last block. It increases linearly from 0 in the first block.

    Returns:
        A functional Keras model from images to (B, H, W, C).
    """
    check_input_shape(architecture, input_shape)
    kind, blocks = VARIANTS[architecture]
    rates = iter(drop_path_rates(drop_path, sum(blocks)))
    images = tf.keras.Input(input_shape)
    x = conv(images, 64, 7, "conv1", strides=2)
    x = layers.ReLU(name="relu")(batch_norm(x, "bn1"))
    x = max_pool(x, "maxpool")
    for stage, count in enumerate(blocks, start=1):
        for index in range(count):
            strides = 2 if stage > 1 and index == 0 else 1
            width = 64 * 2 ** (stage - 1)
            x = block(x, kind, width, strides, f"layer{stage}.{index}", next(rates))
    return tf.keras.Model(images, x, name=architecture)


def block(x: Any, kind: str, width: int, strides: int, name: str, drop_path: float = 0.0) -> Any:
    """Applies a residual block, "basic" or "bottleneck". `width` is that before the expansion."""
    filters = width * _EXPANSION[kind]
    if kind == "basic":
        convolutions = [(width, 3, strides), (filters, 3, 1)]
    else:
        convolutions = [(width, 1, 1), (width, 3, strides), (filters, 1, 1)]

    branch = x
    for number, (channels, kernel_size, stride) in enumerate(convolutions, start=1):
        branch = conv(branch, channels, kernel_size, f"{name}.conv{number}", stride)
        branch = batch_norm(branch, f"{name}.bn{number}")
        if number < len(convolutions):
            branch = layers.ReLU(name=f"{name}.relu{number}")(branch)

    shortcut = x
    if strides > 1 or x.shape[-1] != filters:
        shortcut = conv(x, filters, 1, f"{name}.downsample.0", strides)
        shortcut = batch_norm(shortcut, f"{name}.downsample.1")
    x = residual(shortcut, branch, f"{name}.add", drop_path)
    return layers.ReLU(name=f"{name}.relu")(x)
