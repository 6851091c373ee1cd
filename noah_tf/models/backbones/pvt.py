"""PVT (arXiv 2102.12122): a transformer of four stages with ever fewer and wider tokens."""

from typing import Any

import tensorflow as tf

from noah_tf.models.backbones.layers import (
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

_WIDTHS = (64, 128, 320, 512)
# Architecture → widths of the stages, number of blocks in each.
VARIANTS = {
    "pvt_tiny": (_WIDTHS, (2, 2, 2, 2)),
    "pvt_tiny_075": ((48, 96, 240, 384), (2, 2, 2, 2)),
    "pvt_tiny_050": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "pvt_small": (_WIDTHS, (3, 4, 6, 3)),
    "pvt_medium": (_WIDTHS, (3, 4, 18, 3)),
    "pvt_large": (_WIDTHS, (3, 8, 27, 3)),
}
# Patch size, attention heads, MLP ratio and spatial reduction of each stage.
_STAGES = ((4, 1, 8, 8), (2, 2, 8, 4), (2, 5, 4, 2), (2, 8, 4, 1))
# The norms of patch embedding and reduction use PyTorch's default epsilon, the others 1e-6.
_EMBEDDING_EPSILON = 1e-5


def build(
    architecture: str,
    input_shape: Any,
    drop_path: float = 0.0,
    mlp_dropout: float = 0.0,
    class_token: bool = False,
) -> tf.keras.Model:
    """Builds a PVT up to its last tokens, whose grid is 1/32 of the image's size.

    Args:
        architecture: a key of `VARIANTS`.
        input_shape: (height, width, channels). Height and width are multiples of 32.
        drop_path: drop rate of the last block. It increases linearly from 0 in the first block.
        mlp_dropout: dropout rate of the blocks' MLPs.
        class_token: whether a class token precedes the patches of the last stage, as in the
            standard model.

    Returns:
        A functional Keras model from images to (B, L, C).
    """
    check_input_shape(architecture, input_shape, 32)
    widths, depths = VARIANTS[architecture]
    rates = iter(drop_path_rates(drop_path, sum(depths)))
    x = images = tf.keras.Input(input_shape)
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        patch, heads, mlp_ratio, reduction = _STAGES[stage - 1]
        grid = (x.shape[1] // patch, x.shape[2] // patch)
        x = patches(x, patch, width, f"patch_embed{stage}.proj")
        x = layer_norm(x, f"patch_embed{stage}.norm", _EMBEDDING_EPSILON)
        is_last = stage == len(widths)
        with_token = class_token and is_last
        if with_token:
            x = ClassToken(name="cls_token")(x)
        x = PositionEmbedding(grid, int(with_token), name=f"pos_embed{stage}")(x)
        for index in range(depth):
            name, rate = f"block{stage}.{index}", next(rates)
            branch = layer_norm(x, f"{name}.norm1")
            branch = _attention(branch, grid, heads, reduction, f"{name}.attn")
            x = residual(x, branch, f"{name}.add1", rate)
            branch = layer_norm(x, f"{name}.norm2")
            branch = mlp(branch, mlp_ratio * width, f"{name}.mlp", mlp_dropout)
            x = residual(x, branch, f"{name}.add2", rate)
        if not is_last:
            x = layers.Reshape((*grid, width), name=f"map{stage}")(x)
    x = layer_norm(x, "norm")
    return tf.keras.Model(images, x, name=architecture)


def _attention(x: Any, grid: tuple[int, int], heads: int, reduction: int, name: str) -> Any:
    """Applies attention whose keys and values are `reduction` x `reduction` patches of tokens."""
    width = x.shape[-1]
    queries = linear(x, width, f"{name}.q")
    if reduction > 1:
        x = layers.Reshape((*grid, width), name=f"{name}.map")(x)
        x = patches(x, reduction, width, f"{name}.sr")
        x = layer_norm(x, f"{name}.norm", _EMBEDDING_EPSILON)
    keys_and_values = linear(x, 2 * width, f"{name}.kv")
    x = DotProductAttention(heads, name=name)([queries, keys_and_values])
    return linear(x, width, f"{name}.proj")
