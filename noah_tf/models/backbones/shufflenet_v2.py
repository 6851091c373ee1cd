"""ShuffleNetV2 (arXiv 1807.11164)."""

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

# Architecture: channels of the three stages and of the last convolution.
VARIANTS = {"shufflenetv2_100": (116, 232, 464, 1024)}
_BLOCKS = (4, 8, 4)


def build(architecture, input_shape):
    """A ShuffleNetV2 up to its last feature map, a 32nd of the image's size.

    Args:
        architecture: a key of `VARIANTS`.
        input_shape: (height, width, channels); height and width may be None.

    Returns:
        A functional Keras model, images to (B, H, W, 1024).
    """
    check_input_shape(architecture, input_shape)
    *widths, last = VARIANTS[architecture]
    images = tf.keras.Input(input_shape)
    x = max_pool(_conv(images, 24, 3, "conv1.0", strides=2), "maxpool")
    for stage, (width, blocks) in enumerate(zip(widths, _BLOCKS, strict=True), start=2):
        for index in range(blocks):
            x = _block(x, width, f"stage{stage}.{index}", downsample=index == 0)
    x = _conv(x, last, 1, "conv5.0")
    return tf.keras.Model(images, x, name=architecture)


def _block(x, width, name, downsample):
    """Half of the channels pass, or are only downsampled; the other half is filtered."""
    half, strides = width // 2, 2 if downsample else 1
    if downsample:
        passed, branch = x, x
        passed = _depthwise(passed, f"{name}.branch1.0", strides)
        passed = _conv(passed, half, 1, f"{name}.branch1.2")
    else:
        passed, branch = ChannelSplit((half, half), name=f"{name}.split")(x)
    branch = _conv(branch, half, 1, f"{name}.branch2.0")
    branch = _depthwise(branch, f"{name}.branch2.3", strides)
    branch = _conv(branch, half, 1, f"{name}.branch2.5")
    x = layers.Concatenate(name=f"{name}.concat")([passed, branch])
    return ChannelShuffle(2, name=f"{name}.shuffle")(x)


def _conv(x, filters, kernel_size, name, strides=1):
    """Convolution, batch normalisation, ReLU."""
    fan_in = kernel_size**2 * x.shape[-1]
    x = conv(x, filters, kernel_size, name, strides, lambda: torch_uniform(fan_in))
    return layers.ReLU(name=f"{name}.relu")(batch_norm(x, _next(name)))


def _depthwise(x, name, strides):
    """3x3 depthwise convolution and batch normalisation."""
    x = depthwise_conv(x, 3, name, strides, torch_uniform(9))
    return batch_norm(x, _next(name))


def _next(name):
    """The module after `name` in its sequence: "conv1.1" for "conv1.0"."""
    sequence, _, index = name.rpartition(".")
    return f"{sequence}.{int(index) + 1}"
