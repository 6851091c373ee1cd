"""ViT (arXiv 2010.11929): DeiT's encoder in other sizes."""

import tensorflow as tf

from noah_tf.models.backbones.deit import PATCH, encoder
from noah_tf.models.backbones.layers import check_input_shape

# Architecture: width, heads, blocks.
VARIANTS = {"vit_large_patch16_224": (1024, 16, 24)}


def build(architecture, input_shape, drop_path=0.0, mlp_dropout=0.0, class_token=False):
    """A ViT up to its last tokens.

    Args:
        architecture: a key of `VARIANTS`.
        input_shape: (height, width, channels), multiples of 16.
        drop_path: drop rate of the last block; the others rise to it linearly from 0.
        mlp_dropout: dropout rate in the blocks' MLPs.
        class_token: whether a class token stands in front of the patches, as in the standard
            model.

    Returns:
        A functional Keras model, images to (B, L, C).
    """
    check_input_shape(architecture, input_shape, PATCH)
    width, heads, depth = VARIANTS[architecture]
    images = tf.keras.Input(input_shape)
    x = encoder(images, width, heads, depth, PATCH, drop_path, mlp_dropout, class_token)
    return tf.keras.Model(images, x, name=architecture)
