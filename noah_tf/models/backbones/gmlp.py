"""gMLP (arXiv 2105.08050): MLPs with a gate that mixes the tokens."""

from typing import Any

import tensorflow as tf

from noah_tf.models.backbones.layers import (
    ChannelSplit,
    check_input_shape,
    layer_norm,
    maybe_dropout,
    mlp_linear,
    normal,
    residual,
)
from noah_tf.models.backbones.mixer import PATCH, stem

layers = tf.keras.layers

# Architecture → width.
VARIANTS = {
    "gmlp_s16_224": 256,
    "gmlp_ti16_224": 128,
    "gmlp_ti16_075_224": 96,
    "gmlp_ti16_050_224": 64,
}
_NUM_BLOCKS = 30
_GATE_EPSILON = 1e-5


def build(
    architecture: str, input_shape: Any, drop_path: float = 0.0, mlp_dropout: float = 0.0
) -> tf.keras.Model:
    """Builds a gMLP up to its last tokens.

    Args:
        architecture: a key of `VARIANTS`.
        input_shape: (height, width, channels). Height and width are multiples of 16. The gates
            have weights for that number of patches.
        drop_path: drop rate of every block.
        mlp_dropout: dropout rate of the MLPs.

    Returns:
        A functional Keras model from images to (B, L, C).
    """
    check_input_shape(architecture, input_shape, PATCH)
    images = tf.keras.Input(input_shape)
    x = stem(images, VARIANTS[architecture])
    for index in range(_NUM_BLOCKS):
        name = f"blocks.{index}"
        branch = layer_norm(x, f"{name}.norm")
        branch = _gated_mlp(branch, f"{name}.mlp_channels", mlp_dropout)
        x = residual(x, branch, f"{name}.add", drop_path)
    return tf.keras.Model(images, layer_norm(x, "norm"), name=architecture)


def _gated_mlp(x: Any, name: str, dropout: float) -> Any:
    """Applies two linear layers. Between them, half of the channels gates the other half."""
    width = x.shape[-1]
    x = mlp_linear(x, 6 * width, f"{name}.fc1")
    x = layers.Activation("gelu", name=f"{name}.act")(x)
    x = maybe_dropout(x, dropout, f"{name}.drop1")
    x, gate = ChannelSplit((3 * width, 3 * width), name=f"{name}.split")(x)
    gate = layer_norm(gate, f"{name}.gate.norm", _GATE_EPSILON)
    gate = layers.Permute((2, 1), name=f"{name}.gate.to_tokens")(gate)
    gate = layers.Dense(
        gate.shape[-1],
        kernel_initializer=normal(1e-6),
        bias_initializer="ones",
        name=f"{name}.gate.proj",
    )(gate)
    gate = layers.Permute((2, 1), name=f"{name}.gate.to_channels")(gate)
    x = layers.Multiply(name=f"{name}.gate")([x, gate])
    return maybe_dropout(mlp_linear(x, width, f"{name}.fc2"), dropout, f"{name}.drop2")
