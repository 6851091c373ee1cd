"""Tests of loading files of timm, torchvision, and the official DeiT and PVT repositories."""

import functools
import json

import library_tensors
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from architectures import by_architecture
from library_tensors import random_tensors
from stacks import slow_on_one_stack

from noah_tf import attach_noah, create_model
from noah_tf.models import load_official_weights
from noah_tf.models.backbones.layers import ClassToken, PositionEmbedding
from noah_tf.models.official import state_dict
from noah_tf.models.other_libraries import with_reference_names
from noah_tf.models.reference_tensors import reference_tensors

layers = tf.keras.layers
CLASSES = 3
resnet18 = library_tensors.resnet18
timm_mobilenetv2 = library_tensors.timm_mobilenetv2
torchvision_mobilenetv2 = library_tensors.torchvision_mobilenetv2
torchvision_vit = library_tensors.torchvision_vit
old_torchvision_vit = functools.partial(
    torchvision_vit, first="mlp.linear_1", second="mlp.linear_2"
)
# Architecture → image size, the layouts of the libraries' files.
LAYOUTS = {
    "resnet18": (32, [resnet18]),
    "deit_tiny_patch16_224": (
        224,
        [library_tensors.deit_tiny, torchvision_vit, old_torchvision_vit],
    ),
    "mobilenetv2_035": (32, [timm_mobilenetv2, torchvision_mobilenetv2]),
    "shufflenetv2_100": (32, [library_tensors.shufflenetv2]),
    "pvt_tiny": (224, [library_tensors.pvt_tiny]),
    "mixer_s16_224": (224, [library_tensors.mixer_s16]),
    "gmlp_s16_224": (224, [library_tensors.gmlp_s16]),
}
MOBILENETV2_100 = [
    functools.partial(timm_mobilenetv2, 1.0),
    functools.partial(torchvision_mobilenetv2, 1.0),
]


def floats(tensors):
    """Returns the arrays without the counters of batches, which Keras does not have."""
    return [array for name, array in tensors.items() if "num_batches_tracked" not in name]


def assert_same(arrays, expected):
    for array, other in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(array, other)


def load_error(model, tensors, **kwargs):
    """Returns the message of the error that loading raises, and checks that no weight changed."""
    before = model.get_weights()
    with pytest.raises(ValueError) as caught:
        load_official_weights(model, tensors, **kwargs)
    assert_same(model.get_weights(), before)
    return str(caught.value)


def rename(architecture, tensors):
    empty = tf.keras.Sequential([tf.keras.Input((1,))], name=architecture)
    return with_reference_names(tensors, reference_tensors(empty)[0].libraries, "x.pth")


# Whole files


@pytest.mark.parametrize(
    ("architecture", "layout"),
    [(name, layout) for name, (_, layouts) in LAYOUTS.items() for layout in layouts]
    + [("mobilenetv2_100", layout) for layout in MOBILENETV2_100],
)
def test_every_name_becomes_the_references(shared, architecture, layout):
    manifest = json.loads((shared / "goldens" / "models" / "manifest.json").read_text())
    (entry,) = (entry for entry in manifest if entry["name"] == architecture)
    renamed, names = rename(architecture, layout())
    expected = [(name, tuple(shape)) for name, shape, _ in entry["state_dict"]]
    assert list(renamed.items()) == expected
    assert [names.of(name) for name in renamed] == list(layout())
    if layout is not old_torchvision_vit:  # A missing tensor is reported by today's name.
        assert [names.library.from_reference(name) for name in renamed] == list(layout())


@pytest.mark.parametrize("architecture", by_architecture(LAYOUTS, slow_on_one_stack))
def test_a_file_fills_a_standard_model(tmp_path, architecture):
    size, layouts = LAYOUTS[architecture]
    model = create_model(architecture, CLASSES, (size, size, 3))
    for seed, layout in enumerate(layouts):
        tensors = random_tensors(layout(classes=CLASSES), seed)
        path = tmp_path / "model.safetensors"
        safetensors.numpy.save_file(tensors, path)
        load_official_weights(model, path)
        assert_same(floats(state_dict(model)), floats(tensors))


@pytest.mark.parametrize(
    ("architecture", "layout"),
    [
        pytest.param("resnet18", resnet18, id="resnet18"),
        pytest.param(
            "mobilenetv2_035", timm_mobilenetv2, id="mobilenetv2", marks=slow_on_one_stack
        ),
    ],
)
def test_a_file_starts_a_noah_model(tmp_path, architecture, layout):
    tensors = random_tensors(layout())
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    model = create_model(
        f"noah_{architecture}",
        CLASSES,
        (32, 32, 3),
        weights=tmp_path / "model.safetensors",
        weights_head="skip",
    )
    backbone = {n: a for n, a in state_dict(model).items() if not n.startswith("head.")}
    assert_same(floats(backbone), floats(tensors)[:-2])
    np.testing.assert_array_equal(model.get_layer("noah_head").key_bias, 0)


@pytest.mark.parametrize("layout", [library_tensors.deit_tiny, torchvision_vit])
def test_a_noah_deit_takes_all_but_the_class_token(layout):
    tensors = random_tensors(layout())
    model = create_model("noah_deit_tiny_patch16_224", CLASSES)
    load_official_weights(model, {"model": tensors}, head="skip")
    _, positions, *others = tensors.values()
    backbone = {n: a for n, a in state_dict(model).items() if not n.startswith("head.")}
    assert_same(backbone.values(), [positions[:, 1:], *others[:-2]])


def test_position_embeddings_of_torchvision_are_interpolated():
    tokens = tf.keras.Input((4 * 4, 6))
    x = PositionEmbedding((4, 4), 1, name="pos_embed")(ClassToken(name="cls_token")(tokens))
    model = tf.keras.Model(tokens, x, name="deit_tiny_patch16_224")
    tensors = {"class_token": np.ones((1, 1, 6)), "encoder.pos_embedding": np.ones((1, 10, 6))}
    load_official_weights(model, tensors)
    np.testing.assert_allclose(state_dict(model)["pos_embed"], np.ones((1, 17, 6)), rtol=1e-6)


# Files that do not fit


def small_mobilenet(head="gap"):
    """Returns the stem of a MobileNetV2, and its tensors with timm's names."""
    images = tf.keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, use_bias=False, name="features.0.0")(images)
    x = layers.BatchNormalization(name="features.0.1")(x)
    x = layers.DepthwiseConv2D(3, use_bias=False, name="features.1.conv.0.0")(x)
    name = "noah_mobilenetv2_035" if head == "noah" else "mobilenetv2_035"
    model = attach_noah(tf.keras.Model(images, x), CLASSES, 2, 0.5, head=head, name=name)
    layout = library_tensors.conv_norm("conv_stem", "bn1", 8, 3, 3)
    layout["blocks.0.0.conv_dw.weight"] = (8, 1, 3, 3)
    return model, random_tensors(layout | library_tensors.layer("classifier", CLASSES, 8))


def test_errors_name_the_tensors_as_in_the_file():
    model, tensors = small_mobilenet()
    load_official_weights(model, tensors)
    del tensors["bn1.weight"]
    tensors["blocks.0.0.conv_dw.weight"] = np.ones((8, 1, 5, 5), np.float32)
    tensors["bn1.bias"] = tensors["bn1.bias"].astype(np.int32)
    tensors["blocks.9.0.bn1.weight"] = tensors["features.9.weight"] = np.ones(8)
    assert load_error(model, tensors) == (
        "The mapping, with the names of timm, does not fit mobilenetv2_035: missing: bn1.weight; "
        "unexpected: blocks.9.0.bn1.weight, features.9.weight; wrong shape: "
        "blocks.0.0.conv_dw.weight (8, 1, 5, 5), expected (8, 1, 3, 3); not a floating-point "
        "array: bn1.bias (int32)."
    )


def test_advice_about_the_head():
    model, tensors = small_mobilenet()
    tensors["classifier.weight"], tensors["classifier.bias"] = np.ones((5, 8)), np.ones(5)
    message = load_error(model, tensors)
    assert "wrong shape: classifier.weight (5, 8), expected (3, 8), classifier.bias (5,)" in message
    assert message.endswith("head='skip' (in create_model weights_head) loads all but the head.")

    model, tensors = small_mobilenet("noah")
    message = load_error(model, tensors)
    assert "unexpected: classifier.weight, classifier.bias." in message
    assert "create the model without 'noah_' before its name. head='skip'" in message
    load_official_weights(model, tensors, head="skip")


def test_two_tensors_with_the_same_place_raise():
    model, tensors = small_mobilenet()
    tensors["features.0.0.weight"] = tensors["conv_stem.weight"]
    message = load_error(model, tensors)
    assert "must have one of 'conv_stem.weight' and 'features.0.0.weight', got both." in message


@pytest.mark.parametrize("head", ["load", "skip"])
@pytest.mark.parametrize(
    ("architecture", "name", "reason"),
    [
        ("mobilenetv3_small", "conv_stem.weight", "the MobileNetV3 of timm has squeeze"),
        ("mobilenetv3_small", "features.1.block.0.0.weight", "not even its features fit"),
        ("deit_tiny_patch16_224", "dist_token", "has a second class token and a second head"),
    ],
)
def test_architectures_that_differ_are_refused_with_the_reason(architecture, name, reason, head):
    images = tf.keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="features.0.0" if "v3" in architecture else "head")(images)
    model = tf.keras.Model(images, x, name=architecture)
    message = load_error(model, {name: np.ones(3)}, head=head)
    assert message.startswith("The mapping does not fit the model: ") and reason in message


def test_files_of_unknown_libraries_say_so():
    model, _ = small_mobilenet()
    tensors = {"mobilenet_v2.conv_stem.first_conv.convolution.weight": np.ones((8, 3, 3, 3))}
    message = load_error(model, tensors)
    assert "missing: features.0.0.weight, " in message
    assert "unexpected: mobilenet_v2.conv_stem.first_conv" in message
    assert message.endswith("or of another library than timm and torchvision.")
