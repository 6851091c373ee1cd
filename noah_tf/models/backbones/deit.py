"""DeiT (arXiv 2012.12877): a vision transformer on patches of 16 pixels."""

import tensorflow as tf

from noah_tf.models.backbones.layers import (
    ChannelSplit,
    ClassToken,
    DotProductAttention,
    PositionEmbedding,
    check_input_shape,
    layer_norm,
    linear,
    mlp,
    patches,
    residual,
    rising,
)

layers = tf.keras.layers

# Architecture: width, heads.
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
    architecture,
    input_shape,
    drop_path=0.0,
    mlp_dropout=0.0,
    pre_logits=None,
    class_token=False,
):
    """A DeiT up to its last tokens.

    Args:
        architecture: a key of `VARIANTS`.
        input_shape: (height, width, channels), multiples of 16.
        drop_path: drop rate of the last block; the others rise to it linearly from 0.
        mlp_dropout: dropout rate in the blocks' MLPs.
        pre_logits: whether a linear layer to 192 channels and a tanh end the model. None: as in
            the released code, where the model is narrower than that. The sizes that the paper
            prints are those without.
        class_token: whether a class token stands in front of the patches, as in the standard
            model.

    Returns:
        A functional Keras model, images to (B, L, C).
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
    images, width, heads, depth, patch_size, drop_path=0.0, mlp_dropout=0.0, class_token=False
):
    """Images (B, H, W, C) to tokens (B, L, width): patches, positions, blocks, a LayerNorm.

    Args:
        images: a Keras tensor whose height and width are multiples of the patch size.
        width: channels of a token.
        heads: attention heads of a block; divides the width.
        depth: blocks.
        patch_size: side of a patch, in pixels.
        drop_path: drop rate of the last block; the others rise to it linearly from 0.
        mlp_dropout: dropout rate in the blocks' MLPs.
        class_token: whether a class token stands in front of the patches.

    Returns:
        A Keras tensor.
    """
    x = patches(images, patch_size, width, "patch_embed.proj")
    if class_token:
        x = ClassToken(name="cls_token")(x)
    grid = (images.shape[1] // patch_size, images.shape[2] // patch_size)
    x = PositionEmbedding(grid, int(class_token), name="pos_embed")(x)
    for index, rate in enumerate(rising(drop_path, depth)):
        x = block(x, heads, f"blocks.{index}", rate, mlp_dropout)
    return layer_norm(x, "norm")


def block(x, heads, name, drop_path=0.0, mlp_dropout=0.0):
    """A transformer block on tokens (B, L, C): attention, then an MLP, each added."""
    width = x.shape[-1]
    branch = linear(layer_norm(x, f"{name}.norm1"), 3 * width, f"{name}.attn.qkv")
    branch = ChannelSplit((width, 2 * width), name=f"{name}.attn.split")(branch)
    branch = DotProductAttention(heads, name=f"{name}.attn")(branch)
    branch = linear(branch, width, f"{name}.attn.proj")
    x = residual(x, branch, f"{name}.add1", drop_path)
    branch = layer_norm(x, f"{name}.norm2")
    branch = mlp(branch, _MLP_RATIO * width, f"{name}.mlp", mlp_dropout)
    return residual(x, branch, f"{name}.add2", drop_path)
