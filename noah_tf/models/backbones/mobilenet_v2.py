"""MobileNetV2 (arXiv 1801.04381)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from noah_tf.models.backbones.layers import (
    batch_norm,
    check_input_shape,
    conv,
    depthwise_conv,
    drop_path_rates,
    residual,
)

layers = tf.keras.layers

# Architecture → width multiplier.
VARIANTS = {
    "mobilenetv2_100": 1.0,
    "mobilenetv2_075": 0.75,
    "mobilenetv2_050": 0.5,
    "mobilenetv2_035": 0.35,
}
# Expansion, channels, blocks and strides of the first block, for each stage (table 2 of the paper).
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_NUM_STRIDES = 1 + sum(strides > 1 for _, _, _, strides in _STAGES)


def build(
    architecture: str,
    input_shape: Any,
    drop_path: float = 0.0,
    strides: Sequence[int] = (2, 2, 2, 2, 2),
) -> tf.keras.Model:
    """Builds a MobileNetV2 up to its last feature map.

    Args:
        architecture: a key of `VARIANTS`.
        input_shape: (height, width, channels). Height and width may be None.
        drop_path: drop rate of the last block. It increases linearly from 0 in the first block.
        strides: the strides, 1 or 2, of the stem and of the four stages that reduce the map in
            the paper. Use some strides of 1 for small images.

    Returns:
        A functional Keras model from images to (B, H, W, 1280).

    Raises:
        ValueError: the architecture is unknown, or `strides` are not five values of 1 or 2.
    """
    check_input_shape(architecture, input_shape)
    if architecture not in VARIANTS:
        raise ValueError(
            f"architecture must be one of {', '.join(VARIANTS)}, got {architecture!r}."
        )
    if len(strides) != _NUM_STRIDES or not all(stride in (1, 2) for stride in strides):
        raise ValueError(f"strides must be {_NUM_STRIDES} values of 1 or 2, got {strides!r}.")
    multiplier = VARIANTS[architecture]
    rates = iter(drop_path_rates(drop_path, sum(blocks for _, _, blocks, _ in _STAGES)))
    images = tf.keras.Input(input_shape)
    reduction_strides = iter(strides)
    x = conv(images, _width(32 * multiplier), 3, "features.0.0", strides=next(reduction_strides))
    x = _norm_and_relu6(x, "features.0.1")
    number = 1
    for expansion, channels, blocks, stride in _STAGES:
        stride = next(reduction_strides) if stride > 1 else 1
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
    x = _norm_and_relu6(x, "features.18.1")
    return tf.keras.Model(images, x, name=architecture)


def _block(x: Any, expansion: int, filters: int, strides: int, name: str, drop_path: float) -> Any:
    """Expands the channels (unless by 1), filters each one, and projects without activation."""
    branch, part = x, 0
    if expansion > 1:
        branch = conv(branch, x.shape[-1] * expansion, 1, f"{name}.conv.0.0")
        branch = _norm_and_relu6(branch, f"{name}.conv.0.1")
        part = 1
    branch = depthwise_conv(branch, 3, f"{name}.conv.{part}.0", strides)
    branch = _norm_and_relu6(branch, f"{name}.conv.{part}.1")
    branch = conv(branch, filters, 1, f"{name}.conv.{part + 1}")
    branch = batch_norm(branch, f"{name}.conv.{part + 2}")
    if strides > 1 or x.shape[-1] != filters:
        return branch
    return residual(x, branch, f"{name}.add", drop_path)


def _norm_and_relu6(x: Any, name: str) -> Any:
    return layers.ReLU(6.0, name=f"{name}.relu6")(batch_norm(x, name))


def _width(channels: float) -> int:
    """Returns the nearest multiple of 8 that is at least 8 and at least 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
