"""ViT (arXiv 2010.11929), which has the encoder of DeiT in other sizes."""

from typing import Any

import tensorflow as tf

from noah_tf.models.backbones.deit import PATCH, encoder
from noah_tf.models.backbones.layers import check_input_shape

# Architecture → width, attention heads, blocks.
VARIANTS = {"vit_large_patch16_224": (1024, 16, 24)}


def build(
    architecture: str,
    input_shape: Any,
    drop_path: float = 0.0,
    mlp_dropout: float = 0.0,
    class_token: bool = False,
) -> tf.keras.Model:
    """Builds a ViT up to its last tokens.

    Args:
        architecture: a key of `VARIANTS`.
        input_shape: (height, width, channels). Height and width are multiples of 16.
        drop_path: drop rate of the last block. It increases linearly from 0 in the first block.
        mlp_dropout: dropout rate of the blocks' MLPs.
        class_token: whether a class token precedes the patches, as in the standard model.

    Returns:
        A functional Keras model from images to (B, L, C).
    """
    check_input_shape(architecture, input_shape, PATCH)
    width, heads, depth = VARIANTS[architecture]
    images = tf.keras.Input(input_shape)
    x = encoder(images, width, heads, depth, PATCH, drop_path, mlp_dropout, class_token)
    return tf.keras.Model(images, x, name=architecture)
