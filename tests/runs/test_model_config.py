"""The model section of a recipe."""

import dataclasses

import pytest
from recipes import quickstart

from noah_tf import NOAHHead
from noah_tf.runs import library_backbones, model_config


def test_recipe_becomes_a_model_with_its_head():
    config = quickstart().model
    config.dropout = 0.25
    model = model_config.model_from_config(config, (64, 64, 3), num_classes=7)
    assert model.input_shape == (None, 64, 64, 3)
    assert model.output_shape == (None, 7)
    (head,) = [layer for layer in model.layers if isinstance(layer, NOAHHead)]
    assert head.dropout == 0.25


def test_both_heads_have_the_same_backbone():
    noah, gap = (
        model_config.model_from_config(quickstart(head).model, (64, 64, 3), 10)
        for head in ("noah", "gap")
    )
    assert noah.count_params() - gap.count_params() == (2 * 8 - 1) * 10


def test_keras_applications():
    model = library_backbones.library_backbone(
        "tf.keras.applications.MobileNetV2", weights=None, input_shape=(32, 32, 3), alpha=0.35
    )
    assert model.output_shape[-1] == 1000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm.models.resnet18", "must be of tf.keras.applications, keras_cv.models or noah_tf"),
        ("os.system", "must be of"),
        ("tf.keras.applications.ResNet5", "has no model 'ResNet5'"),
        ("keras_cv.models.NoSuchBackbone", "has no model 'NoSuchBackbone'"),
        ("tf.keras.applications.resnet", "has no model 'resnet'"),
        ("noah_tf.models.backbones.small.small_resnet50", "has no model 'small_resnet50'"),
    ],
)
def test_unknown_backbones_raise(name, message):
    with pytest.raises(ValueError, match=message):
        library_backbones.library_backbone(name)


def test_the_start_of_a_run_in_words():
    spec = model_config.ModelSpec(backbone="tf.keras.applications.MobileNetV2")
    assert spec.start == "the weights 'imagenet' of tf.keras.applications.MobileNetV2"
    assert dataclasses.replace(spec, backbone_args={"weights": None}).start == "random weights"
    assert dataclasses.replace(spec, architecture="resnet18").start == "random weights"
    assert dataclasses.replace(spec, backbone="mine.keras").start == "mine.keras"


def test_architecture_of_the_paper_with_either_head():
    config = quickstart().model
    config.architecture = "mobilenetv2_035"
    config.drop_path = 0.1
    model = model_config.model_from_config(config, (64, 64, 3), num_classes=7)
    assert model.name == "noah_mobilenetv2_035"
    assert model.output_shape == (None, 7)
    assert any(layer.name.endswith("drop_path") for layer in model.layers)
    config.head = "gap"
    assert model_config.model_from_config(config, (64, 64, 3), 7).name == "mobilenetv2_035"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "resnet20"}, "must be one of the paper's, such as 'resnet"),
        ({"architecture": "noah_resnet18"}, "model.head says whether it has a NOAH head"),
        ({"head": "linear"}, "model.head must be 'noah' or 'gap', got 'linear'"),
        ({"drop_path": 0.1}, "model.drop_path is for the paper's architectures"),
        ({"pre_logits": True}, "model.pre_logits is for the paper's architectures"),
        ({"split_groups": False, "head": "gap"}, "split_groups=False is for model.head='noah'"),
        ({"kernel_initializer": "glorot"}, "of Keras's initializers, .*got 'glorot' for 'noah'"),
        (
            {"kernel_initializer": "reference", "head": "gap"},
            "'reference' for model.head='noah', got 'reference' for 'gap'",
        ),
        (
            {"kernel_initializer": "zeros", "architecture": "resnet18", "head": "gap"},
            "kernel_initializer='zeros' is for a model.backbone, and resnet18 has",
        ),
        (
            {"split_groups": False, "architecture": "resnet18", "head": "gap"},
            "split_groups=False is for model.head='noah', got 'gap'",
        ),
        ({"weights_head": "skip"}, "model.weights_head='skip' .* need weights, got none"),
        ({"weights": "a.h5", "weights_head": "no"}, "model.weights_head must be 'load' or 'skip'"),
    ],
)
def test_invalid_model_section_raises(change, message):
    config = quickstart().model
    config.update(change)
    with pytest.raises(ValueError, match=message):
        model_config.model_from_config(config, (64, 64, 3), 7)


def test_default_dropout_is_the_papers():
    config = quickstart().model
    plain = model_config.model_from_config(config, (64, 64, 3), 7)
    assert plain.get_layer("noah_head").dropout == 0
    config.architecture = "resnet18"
    paper = model_config.model_from_config(config, (64, 64, 3), 7)
    assert paper.get_layer("noah_head").dropout == 0.1


def test_options_reach_deit():
    config = quickstart().model
    config.architecture, config.mlp_dropout = "deit_tiny_050_patch16_224", 0.25
    names = [layer.name for layer in model_config.model_from_config(config, (32, 32, 3), 7).layers]
    assert "blocks.0.mlp.drop1" in names and "pre_logits.fc" in names
    config.pre_logits = False
    names = [layer.name for layer in model_config.model_from_config(config, (32, 32, 3), 7).layers]
    assert "pre_logits.fc" not in names


@pytest.mark.parametrize("architecture", [None, "resnet18"])
def test_options_for_ablations_reach_the_head(architecture):
    config = quickstart().model
    config.architecture = architecture
    config.split_groups, config.uniform_attention = False, True
    head = model_config.model_from_config(config, (64, 64, 3), 7).get_layer("noah_head")
    assert not head.split_groups and head.uniform_attention and head.split_key_value


@pytest.mark.parametrize(("head", "layer"), [("noah", "noah_head"), ("gap", "gap_logits")])
def test_kernel_initializer_reaches_the_head(head, layer):
    config = quickstart().model
    config.head, config.kernel_initializer = head, "ones"
    weights = model_config.model_from_config(config, (64, 64, 3), 7).get_layer(layer).weights
    kernels = [weight.numpy() for weight in weights if "kernel" in weight.name]
    assert kernels and all((kernel == 1).all() for kernel in kernels)


def test_the_references_initial_kernels_are_an_option():
    config = quickstart().model
    config.kernel_initializer = "reference"
    for architecture in (None, "resnet18"):
        config.architecture = architecture
        model = model_config.model_from_config(config, (64, 64, 3), 7)
        assert model.get_layer("noah_head").kernel_initializer.get_config()["scale"] == 2


def test_a_run_records_the_groups_and_the_key_ratio_of_its_head():
    config = quickstart()
    model = model_config.model_from_config(config.model, (64, 64, 3), 7)
    recorded = model_config.with_head(config, model)
    head = model.get_layer("noah_head")
    assert config.model.num_groups is config.model.key_ratio is None
    assert recorded.model.num_groups == head.num_groups == 8
    assert recorded.model.key_ratio == head.key_ratio == 1 / 2
    recorded.model.num_groups = recorded.model.key_ratio = None
    assert recorded == config
    config.model.head = "gap"
    model = model_config.model_from_config(config.model, (64, 64, 3), 7)
    assert model_config.with_head(config, model) == config


def test_run_from_before_these_options_loads():
    config = quickstart().model
    for name in ("kernel_initializer", "split_groups", "split_key_value", "uniform_attention"):
        del config[name]
    head = model_config.model_from_config(config, (64, 64, 3), 7).get_layer("noah_head")
    assert head.split_groups and head.split_key_value and not head.uniform_attention


def test_init_pooled_is_for_a_backbone_and_the_noah_head():
    config = quickstart().model
    config.init = "zeros"
    with pytest.raises(ValueError, match="model.init must be None or 'pooled', got 'zeros'"):
        model_config.ModelSpec.from_config(config)
    config.init, config.split_groups = "pooled", False
    with pytest.raises(ValueError, match="leave out split_groups"):
        model_config.ModelSpec.from_config(config)
    config.split_groups, config.head = None, "gap"
    with pytest.raises(ValueError, match="for head='noah', got head='gap'"):
        model_config.ModelSpec.from_config(config)
    config.head, config.architecture, config.backbone = "noah", "resnet18", None
    with pytest.raises(ValueError, match="of a model.backbone, got model.architecture='resnet18'"):
        model_config.ModelSpec.from_config(config)
