"""MLP-Mixer (arXiv 2105.01601): MLPs over the tokens alternate with MLPs over the channels."""

from typing import Any

import tensorflow as tf

from noah_tf.models.backbones.layers import (
    check_input_shape,
    layer_norm,
    lecun_normal,
    mlp,
    mlp_linear,
    patches,
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
PATCH, IMAGE_SIZE = 16, 224


def build(
    architecture: str, input_shape: Any, drop_path: float = 0.0, mlp_dropout: float = 0.0
) -> tf.keras.Model:
    """Builds an MLP-Mixer up to its last tokens.

    Args:
        architecture: a key of `VARIANTS`.
        input_shape: (224, 224, channels). Another size would need weights of other shapes.
        drop_path: drop rate of every block.
        mlp_dropout: dropout rate of the MLPs.

    Returns:
        A functional Keras model from images to (B, 196, C).
    """
    check_fixed_size(architecture, input_shape)
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
    """Returns the patches of the images as tokens (B, 196, width)."""
    return patches(
        images,
        PATCH,
        width,
        "stem.proj",
        kernel_initializer=lecun_normal(),
        bias_initializer="zeros",
    )


def check_fixed_size(architecture: str, input_shape: Any) -> None:
    """Raises ValueError if the images are not 224x224 pixels."""
    check_input_shape(architecture, input_shape)
    if tuple(input_shape[:2]) != (IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(
            f"{architecture} takes images of {IMAGE_SIZE}x{IMAGE_SIZE} only, because its weights "
            f"are for {(IMAGE_SIZE // PATCH) ** 2} tokens, got input_shape={tuple(input_shape)}: "
            "resize the images, or choose a DeiT, a PVT or a convolutional network."
        )
