"""DeiT (arXiv 2012.12877): a vision transformer on patches of 16 pixels."""

from typing import Any

import tensorflow as tf

from noah_tf.models.backbones.layers import (
    ChannelSplit,
    ClassToken,
    DotProductAttention,
    PositionEmbedding,
    check_input_shape,
    drop_path_rates,
    layer_norm,
    linear,
    mlp,
    patches,
    residual,
)

layers = tf.keras.layers

# Architecture → width, attention heads.
VARIANTS = {
    "deit_base_patch16_224": (768, 12),
    "deit_small_patch16_224": (384, 6),
    "deit_tiny_patch16_224": (192, 3),
    "deit_tiny_075_patch16_224": (144, 3),
    "deit_tiny_050_patch16_224": (96, 3),
}
PATCH, _DEPTH, _MLP_RATIO = 16, 12, 4
_PRE_LOGITS_WIDTH = 192


def build(
    architecture: str,
    input_shape: Any,
    drop_path: float = 0.0,
    mlp_dropout: float = 0.0,
    pre_logits: bool | None = None,
    class_token: bool = False,
) -> tf.keras.Model:
    """Builds a DeiT up to its last tokens.

    Args:
        architecture: a key of `VARIANTS`.
        input_shape: (height, width, channels). Height and width are multiples of 16.
        drop_path: drop rate of the last block. It increases linearly from 0 in the first block.
        mlp_dropout: dropout rate of the blocks' MLPs.
        pre_logits: whether the model ends with a linear layer of 192 units and tanh. None adds
            this layer if the model has fewer than 192 channels, as the released code does. The
            paper's parameter counts do not include it.
        class_token: whether a class token precedes the patches, as in the standard model.

    Returns:
        A functional Keras model from images to (B, L, C).
    """
    check_input_shape(architecture, input_shape, PATCH)
    width, heads = VARIANTS[architecture]
    images = tf.keras.Input(input_shape)
    x = encoder(images, width, heads, _DEPTH, PATCH, drop_path, mlp_dropout, class_token)
    if pre_logits or (pre_logits is None and width < _PRE_LOGITS_WIDTH):
        x = linear(x, _PRE_LOGITS_WIDTH, "pre_logits.fc")
        x = layers.Activation("tanh", name="pre_logits.act")(x)
    return tf.keras.Model(images, x, name=architecture)


def encoder(
    images: Any,
    width: int,
    heads: int,
    depth: int,
    patch_size: int,
    drop_path: float = 0.0,
    mlp_dropout: float = 0.0,
    class_token: bool = False,
) -> Any:
    """Computes tokens (B, L, width) from images (B, H, W, C).

    The encoder consists of patches, position embeddings, transformer blocks and a LayerNorm.

    Args:
        images: a Keras tensor whose height and width are multiples of the patch size.
        width: number of channels of a token.
        heads: number of attention heads of a block, a divisor of the width.
        depth: number of blocks.
        patch_size: side of a patch in pixels.
        drop_path: drop rate of the last block. It increases linearly from 0 in the first block.
        mlp_dropout: dropout rate of the blocks' MLPs.
        class_token: whether a class token precedes the patches.

    Returns:
        A Keras tensor.
    """
    x = patches(images, patch_size, width, "patch_embed.proj")
    if class_token:
        x = ClassToken(name="cls_token")(x)
    grid = (images.shape[1] // patch_size, images.shape[2] // patch_size)
    x = PositionEmbedding(grid, int(class_token), name="pos_embed")(x)
    for index, rate in enumerate(drop_path_rates(drop_path, depth)):
        x = block(x, heads, f"blocks.{index}", rate, mlp_dropout)
    return layer_norm(x, "norm")


def block(x: Any, heads: int, name: str, drop_path: float = 0.0, mlp_dropout: float = 0.0) -> Any:
    """Applies attention and an MLP to tokens (B, L, C), each with a residual connection."""
    width = x.shape[-1]
    branch = linear(layer_norm(x, f"{name}.norm1"), 3 * width, f"{name}.attn.qkv")
    branch = ChannelSplit((width, 2 * width), name=f"{name}.attn.split")(branch)
    branch = DotProductAttention(heads, name=f"{name}.attn")(branch)
    branch = linear(branch, width, f"{name}.attn.proj")
    x = residual(x, branch, f"{name}.add1", drop_path)
    branch = layer_norm(x, f"{name}.norm2")
    branch = mlp(branch, _MLP_RATIO * width, f"{name}.mlp", mlp_dropout)
    return residual(x, branch, f"{name}.add2", drop_path)
