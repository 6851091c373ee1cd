"""MLP-Mixer (arXiv 2105.01601): MLPs over the tokens alternate with MLPs over the channels."""

from typing import Any

import tensorflow as tf

from noah_tf.models.backbones.layers import (
    check_input_shape,
    layer_norm,
    lecun_normal,
    mlp,
    mlp_linear,
    residual,
)

layers = tf.keras.layers

# Architecture → width, blocks.
VARIANTS = {
    "mixer_b16_224": (768, 12),
    "mixer_s16_224": (512, 8),
    "mixer_s16_075_224": (384, 8),
    "mixer_s16_050_224": (256, 8),
}
PATCH = 16


def build(
    architecture: str, input_shape: Any, drop_path: float = 0.0, mlp_dropout: float = 0.0
) -> tf.keras.Model:
    """Builds an MLP-Mixer up to its last tokens.

    Args:
        architecture: a key of `VARIANTS`.
        input_shape: (height, width, channels). Height and width are multiples of 16. The MLPs over
            the tokens have weights for that number of patches.
        drop_path: drop rate of every block.
        mlp_dropout: dropout rate of the MLPs.

    Returns:
        A functional Keras model from images to (B, L, C).
    """
    check_input_shape(architecture, input_shape, PATCH)
    width, blocks = VARIANTS[architecture]
    images = tf.keras.Input(input_shape)
    x = stem(images, width)
    for index in range(blocks):
        name = f"blocks.{index}"
        branch = layers.Permute((2, 1), name=f"{name}.to_tokens")(layer_norm(x, f"{name}.norm1"))
        branch = mlp(branch, width // 2, f"{name}.mlp_tokens", mlp_dropout, mlp_linear)
        branch = layers.Permute((2, 1), name=f"{name}.to_channels")(branch)
        x = residual(x, branch, f"{name}.add1", drop_path)
        branch = layer_norm(x, f"{name}.norm2")
        branch = mlp(branch, 4 * width, f"{name}.mlp_channels", mlp_dropout, mlp_linear)
        x = residual(x, branch, f"{name}.add2", drop_path)
    return tf.keras.Model(images, layer_norm(x, "norm"), name=architecture)


def stem(images: Any, width: int) -> Any:
    """Returns the patches of the images as tokens (B, L, width), row by row."""
    x = layers.Conv2D(width, PATCH, PATCH, kernel_initializer=lecun_normal(), name="stem.proj")(
        images
    )
    return PatchTokens((x.shape[1] * x.shape[2], width), name="stem.proj.tokens")(x)


@tf.keras.utils.register_keras_serializable("noah_tf")
class PatchTokens(tf.keras.layers.Reshape):
    """Reshapes a map (B, H, W, C) to tokens (B, H * W, C), all of which are patches."""

    # `attach_noah` reads it. It would take one of 10 tokens for a class token beside 3 x 3 patches.
    num_prefix_tokens = 0
