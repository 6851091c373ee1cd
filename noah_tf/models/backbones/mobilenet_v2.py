"""MobileNetV2 (arXiv 1801.04381)."""

import tensorflow as tf

from noah_tf.models.backbones.layers import (
    batch_norm,
    check_input_shape,
    conv,
    depthwise_conv,
    residual,
    rising,
)

layers = tf.keras.layers

# Architecture: width multiplier.
VARIANTS = {
    "mobilenetv2_100": 1.0,
    "mobilenetv2_075": 0.75,
    "mobilenetv2_050": 0.5,
    "mobilenetv2_035": 0.35,
}
# Expansion, channels, blocks, strides of the first block (table 2 of the paper).
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_REDUCTIONS = 1 + sum(strides > 1 for _, _, _, strides in _STAGES)


def build(architecture, input_shape, drop_path=0.0, strides=(2, 2, 2, 2, 2)):
    """A MobileNetV2 up to its last feature map.

    Args:
        architecture: a key of `VARIANTS`.
        input_shape: (height, width, channels); height and width may be None.
        drop_path: drop rate of the last block; the others rise to it linearly from 0.
        strides: of the stem and of the four stages that reduce the map in the paper; some of them
            1 for small images.

    Returns:
        A functional Keras model, images to (B, H, W, 1280).

    Raises:
        ValueError: there is no such architecture, or there are not five strides.
    """
    check_input_shape(architecture, input_shape)
    if architecture not in VARIANTS:
        raise ValueError(f"MobileNetV2 is one of {', '.join(VARIANTS)}, got {architecture!r}.")
    if len(strides) != _REDUCTIONS or not all(stride in (1, 2) for stride in strides):
        raise ValueError(f"strides must be {_REDUCTIONS} of 1 or 2, got {strides!r}.")
    multiplier = VARIANTS[architecture]
    rates = iter(rising(drop_path, sum(blocks for _, _, blocks, _ in _STAGES)))
    images = tf.keras.Input(input_shape)
    reductions = iter(strides)
    x = conv(images, _width(32 * multiplier), 3, "features.0.0", strides=next(reductions))
    x = _activated(x, "features.0.1")
    number = 1
    for expansion, channels, blocks, stride in _STAGES:
        stride = next(reductions) if stride > 1 else 1
        for index in range(blocks):
            x = _block(
                x,
                expansion,
                _width(channels * multiplier),
                stride if index == 0 else 1,
                f"features.{number}",
                next(rates),
            )
            number += 1
    x = conv(x, 1280, 1, "features.18.0")
    x = _activated(x, "features.18.1")
    return tf.keras.Model(images, x, name=architecture)


def _block(x, expansion, filters, strides, name, drop_path):
    """Expand (but for expansion 1), filter each channel, project without an activation."""
    branch, part = x, 0
    if expansion > 1:
        branch = conv(branch, x.shape[-1] * expansion, 1, f"{name}.conv.0.0")
        branch = _activated(branch, f"{name}.conv.0.1")
        part = 1
    branch = depthwise_conv(branch, 3, f"{name}.conv.{part}.0", strides)
    branch = _activated(branch, f"{name}.conv.{part}.1")
    branch = conv(branch, filters, 1, f"{name}.conv.{part + 1}")
    branch = batch_norm(branch, f"{name}.conv.{part + 2}")
    if strides > 1 or x.shape[-1] != filters:
        return branch
    return residual(x, branch, f"{name}.add", drop_path)


def _activated(x, name):
    return layers.ReLU(6.0, name=f"{name}.relu6")(batch_norm(x, name))


def _width(channels):
    """The nearest multiple of 8 that is at least 8 and 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
