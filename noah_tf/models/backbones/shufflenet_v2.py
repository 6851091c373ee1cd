"""ShuffleNetV2 (arXiv 1807.11164)."""

from typing import Any

import tensorflow as tf

from noah_tf.models.backbones.layers import (
    ChannelShuffle,
    ChannelSplit,
    batch_norm,
    check_input_shape,
    conv,
    depthwise_conv,
    max_pool,
    torch_uniform,
)

layers = tf.keras.layers

# Architecture → channels of the three stages and of the last convolution.
VARIANTS = {
    "shufflenetv2_050": (48, 96, 192, 1024),
    "shufflenetv2_100": (116, 232, 464, 1024),
    "shufflenetv2_150": (176, 352, 704, 1024),
    "shufflenetv2_200": (244, 488, 976, 2048),
}
_NUM_BLOCKS = (4, 8, 4)


def build(architecture: str, input_shape: Any) -> tf.keras.Model:
    """Builds a ShuffleNetV2 up to its last feature map, which is 1/32 of the image's size.

    Args:
        architecture: a key of `VARIANTS`.
        input_shape: (height, width, channels). Height and width may be None.

    Returns:
        A functional Keras model from images to (B, H, W, C).
    """
    check_input_shape(architecture, input_shape)
    *widths, last = VARIANTS[architecture]
    images = tf.keras.Input(input_shape)
    x = max_pool(_conv(images, 24, 3, "conv1.0", strides=2), "maxpool")
    for stage, (width, blocks) in enumerate(zip(widths, _NUM_BLOCKS, strict=True), start=2):
        for index in range(blocks):
            x = _block(x, width, f"stage{stage}.{index}", downsample=index == 0)
    x = _conv(x, last, 1, "conv5.0")
    return tf.keras.Model(images, x, name=architecture)


def _block(x: Any, width: int, name: str, downsample: bool) -> Any:
    """Filters half of the channels and keeps the other half, or downsamples both."""
    half, strides = width // 2, 2 if downsample else 1
    if downsample:
        shortcut, branch = x, x
        shortcut = _depthwise(shortcut, f"{name}.branch1.0", strides)
        shortcut = _conv(shortcut, half, 1, f"{name}.branch1.2")
    else:
        shortcut, branch = ChannelSplit((half, half), name=f"{name}.split")(x)
    branch = _conv(branch, half, 1, f"{name}.branch2.0")
    branch = _depthwise(branch, f"{name}.branch2.3", strides)
    branch = _conv(branch, half, 1, f"{name}.branch2.5")
    x = layers.Concatenate(name=f"{name}.concat")([shortcut, branch])
    return ChannelShuffle(2, name=f"{name}.shuffle")(x)


def _conv(x: Any, filters: int, kernel_size: int, name: str, strides: int = 1) -> Any:
    """Applies a convolution, batch normalization and ReLU."""
    fan_in = kernel_size**2 * x.shape[-1]
    x = conv(x, filters, kernel_size, name, strides, lambda: torch_uniform(fan_in))
    return layers.ReLU(name=f"{name}.relu")(batch_norm(x, _next_name(name)))


def _depthwise(x: Any, name: str, strides: int) -> Any:
    """Applies a 3x3 depthwise convolution and batch normalization."""
    x = depthwise_conv(x, 3, name, strides, torch_uniform(9))
    return batch_norm(x, _next_name(name))


def _next_name(name: str) -> str:
    """Returns the name of the next module in a sequence: "conv1.1" for "conv1.0"."""
    sequence, _, index = name.rpartition(".")
    return f"{sequence}.{int(index) + 1}"
