"""Tests of ViT-Large, made as small as a DeiT."""

import numpy as np
import pytest
import tensorflow as tf

import noah_tf
from noah_tf.models.backbones import deit, vit
from noah_tf.models.interpolation import interpolate
from noah_tf.models.official import save_official_weights, state_dict
from noah_tf.models.zoo import model_info, preprocessing_for

NAME = "vit_large_patch16_224"


@pytest.fixture
def small(monkeypatch):
    """Gives ViT-Large the sizes of DeiT-Tiny x0.5."""
    monkeypatch.setitem(vit.VARIANTS, NAME, (96, 3, 12))


def images_of(size):
    return tf.random.stateless_normal((2, size, size, 3), seed=(1, 2))


def parameters(width, depth, patches, num_classes, is_noah):
    """Returns a ViT's parameter count by arXiv 2010.11929 (section 3.1) and arXiv 2402.02377."""
    block = 12 * width**2 + 13 * width  # qkv, projection, MLP of four times the width, two norms
    tokens = patches + (not is_noah)
    encoder = (3 * 16**2 + 1) * width + depth * block + 2 * width + tokens * width
    if is_noah:
        return encoder + (width + 2 * 4) * num_classes
    return encoder + width + (width + 1) * num_classes


@pytest.mark.parametrize("prefix", ["", "noah_"])
def test_the_paper_table_has_the_parameters_of_the_sizes(prefix):
    row, is_noah = model_info(prefix + NAME)
    assert vit.VARIANTS[NAME] == (1024, 16, 24)
    expected = row.noah_parameters if is_noah else row.parameters
    assert expected == parameters(1024, 24, 196, 1000, is_noah)
    deit_row = model_info("deit_base_patch16_224")[0]
    deit_parameters = deit_row.noah_parameters if is_noah else deit_row.parameters
    assert deit_parameters == parameters(768, 12, 196, 1000, is_noah)


def test_vit_equals_deit_of_the_same_sizes(small):
    ours = vit.build(NAME, (32, 32, 3), class_token=True)
    paper = deit.build("deit_tiny_050_patch16_224", (32, 32, 3), pre_logits=False, class_token=True)
    ours.set_weights(paper.get_weights())
    np.testing.assert_array_equal(ours(images_of(32)), paper(images_of(32)))


def test_a_noah_model_starts_from_a_standard_checkpoint_of_another_size(small, tmp_path):
    standard = noah_tf.create_model(NAME, 10, (48, 48, 3))
    path = save_official_weights(standard, tmp_path / "vit.safetensors")
    message = r"cls_token.*without 'noah_' before its name. head='skip' \(in create_model weights_h"
    with pytest.raises(ValueError, match=message):
        noah_tf.create_model(f"noah_{NAME}", 10, (48, 48, 3), weights=path)
    model = noah_tf.create_model(f"noah_{NAME}", 3, (64, 32, 3), weights=path, weights_head="skip")
    loaded, saved = state_dict(model), state_dict(standard)
    assert loaded["pos_embed"].shape == (1, 8, 96) and "cls_token" not in loaded
    table = saved["pos_embed"][0, 1:].reshape(3, 3, 96).astype(np.float64)
    expected = interpolate(table, (4, 2), "bicubic").reshape(1, 8, 96)
    np.testing.assert_array_equal(loaded["pos_embed"], expected.astype(np.float32))
    for name in set(loaded) - {"pos_embed"}:
        if not name.startswith("head."):
            np.testing.assert_array_equal(loaded[name], saved[name])


def test_preprocessing_of_vit():
    preprocessing = preprocessing_for(NAME)
    assert (preprocessing.mean, preprocessing.interpolation) == ((0.5,) * 3, "bicubic")
    assert preprocessing.resize_size == 256
