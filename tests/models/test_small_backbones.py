"""Tests of the backbones for small images."""

import numpy as np
import pytest
import tensorflow as tf
from recipes import recipe

import noah_tf
from noah_tf.models.backbones import deit, mobilenet_v2, small
from noah_tf.runs.model_config import model_from_config


@pytest.mark.parametrize(
    ("backbone", "options", "shape"),
    [
        ("small_resnet", {}, (8, 8, 64)),
        ("small_resnet", {"filters": (8, 16), "blocks": (2, 1)}, (16, 16, 16)),
        ("small_mobilenet_v2", {}, (4, 4, 1280)),
        ("small_mobilenet_v2", {"strides": (1, 1, 2, 2, 2)}, (4, 4, 1280)),
        ("small_vit", {}, (64, 96)),
        ("small_vit", {"patch_size": 8, "width": 8, "depth": 1, "num_heads": 2}, (16, 8)),
    ],
)
def test_the_feature_map_of_32_pixels(backbone, options, shape):
    assert getattr(small, backbone)((32, 32, 3), **options).output_shape == (None, *shape)


@pytest.mark.parametrize("argument", ["resnet", "mobilenet_v2,gap", "vit", "noah,vit", "gap"])
def test_the_cifar_recipe_has_at_least_16_positions(argument):
    config = recipe("cifar", argument)
    model = model_from_config(config.model, (32, 32, 3), 10)
    name = "gap_pool" if "gap" in argument else "noah_head"
    assert config.model.head == ("gap" if "gap" in argument else "noah")
    positions = np.prod(model.get_layer(name).input.shape[1:-1])
    assert positions == (16 if "mobilenet" in argument else 64)


@pytest.mark.parametrize("argument", ["", "vgg", "noah,gap", "resnet,vit", "noah,"])
def test_other_arguments_of_the_cifar_recipe_raise(argument):
    with pytest.raises(ValueError, match="takes noah or gap and one of resnet, mobilenet_v2, vit"):
        recipe("cifar", argument)


@pytest.mark.slow
def test_small_mobilenet_v2_differs_from_the_papers_only_in_strides():
    paper = mobilenet_v2.build("mobilenetv2_035", (32, 32, 3))
    ours = small.small_mobilenet_v2((32, 32, 3), strides=(2, 2, 2, 2, 2))
    ours.set_weights(paper.get_weights())
    images = tf.random.stateless_normal((2, 32, 32, 3), seed=(1, 2))
    np.testing.assert_array_equal(ours(images, training=False), paper(images, training=False))
    default_strides = small.small_mobilenet_v2((32, 32, 3))
    assert [w.shape for w in default_strides.weights] == [w.shape for w in paper.weights]


def test_small_vit_in_deits_sizes_equals_deit_without_a_class_token():
    paper = deit.build("deit_tiny_patch16_224", (32, 32, 3))
    ours = small.small_vit((32, 32, 3), patch_size=16, width=192, depth=12, num_heads=3)
    ours.set_weights(paper.get_weights())
    images = tf.random.stateless_normal((2, 32, 32, 3), seed=(1, 2))
    np.testing.assert_array_equal(ours(images, training=False), paper(images, training=False))


@pytest.mark.parametrize(
    ("backbone", "groups", "ratio"),
    [("small_resnet", 4, 1 / 2), ("small_mobilenet_v2", 8, 1 / 4), ("small_vit", 4, 1 / 2)],
)
def test_attach_noah_uses_the_papers_groups_and_key_ratio(backbone, groups, ratio):
    head = noah_tf.attach_noah(getattr(small, backbone)((32, 32, 3))).get_layer("noah_head")
    assert (head.num_groups, head.key_ratio) == (groups, ratio)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: small.small_resnet((32, 32, 3), (16, 32), (1,)),
            "filters and blocks must have one value per stage",
        ),
        (
            lambda: small.small_resnet((32, 32, 3), (), ()),
            "filters and blocks must have one value per stage",
        ),
        (lambda: small.small_resnet((32, 32)), "input_shape must be"),
        (lambda: small.small_mobilenet_v2((32, 32, 3), "036"), "one of mobilenetv2_100.*_036"),
        (
            lambda: small.small_mobilenet_v2((32, 32, 3), strides=(2, 2)),
            "be 5 values of 1 or 2",
        ),
        (
            lambda: small.small_mobilenet_v2((32, 32, 3), strides=(4, 2, 2, 2, 2)),
            "5 values of 1 or 2",
        ),
        (lambda: small.small_vit((30, 32, 3)), "multiples of 4"),
        (lambda: small.small_vit((32, 32, 3), width=64), "num_heads must divide width=64, got 3"),
    ],
)
def test_invalid_sizes_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_gap_head_does_not_take_noah_options():
    backbone = small.small_vit((32, 32, 3), depth=1)
    model = noah_tf.attach_noah(backbone, 10, split_groups=False, memory_budget=8)
    head = model.get_layer("noah_head")
    assert not head.split_groups and head.memory_budget == 8
    with pytest.raises(ValueError, match="split_groups: only head='noah' takes these, got 'gap'"):
        noah_tf.attach_noah(backbone, 10, head="gap", split_groups=False)
