"""Tests of `create_model`, its options and its errors."""

import numpy as np
import pytest
import tensorflow as tf
from architectures import by_architecture, is_quick
from stacks import slow_on_one_stack

import noah_tf
from noah_tf import NOAHHead
from noah_tf.models import zoo

# The smallest model of each family, and a small image size.
SMALL = {
    "resnet18": 64,
    "mobilenetv2_035": 64,
    "mobilenetv3_small": 64,
    "shufflenetv2_100": 64,
    "deit_tiny_050_patch16_224": 48,
    "pvt_tiny_050": 64,
    "mixer_s16_050_224": 48,
    "gmlp_ti16_050_224": 48,
}
BOTH = [prefix + name for name in SMALL for prefix in ("", "noah_")]


def small(name, **arguments):
    size = SMALL[name.removeprefix("noah_")]
    return noah_tf.create_model(name, input_shape=(size, size, 3), **arguments)


def images_for(model, count=2):
    return np.random.default_rng(0).normal(size=(count, *model.input_shape[1:])).astype("float32")


def test_list_models_has_52_of_the_paper_two_for_coco_and_16_others():
    names = noah_tf.list_models()
    assert len(names) == len(set(names)) == 70
    assert sum(name.startswith("noah_") for name in names) == 35
    assert sum(zoo.model_info(name)[0].top1 is not None for name in names) == 52


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*resnet18", ["resnet18", "noah_resnet18"]),
        ("noah_mobilenetv2_0[35]*", ["noah_mobilenetv2_050", "noah_mobilenetv2_035"]),
        ("nothing*", []),
    ],
)
def test_list_models_takes_wildcards(pattern, names):
    assert noah_tf.list_models(pattern) == names


def parameters_mark(name):
    """Returns the mark of a model. test_zoo_goldens.py also counts those of the reference."""
    is_reference = "vit_large" not in name
    is_small = name.removeprefix("noah_") in SMALL
    return pytest.mark.exhaustive if is_reference and not is_small else slow_on_one_stack


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if is_quick(name) else [parameters_mark(name)])
        for name in noah_tf.list_models()
    ],
)
def test_parameters_equal_those_of_the_paper_table(name):
    row, is_noah = zoo.model_info(name)
    model = noah_tf.create_model(name)
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert parameters == (row.noah_parameters if is_noah else row.parameters)
    assert model.name == name
    assert model.output_shape == (None, 1000)
    assert model.output.dtype == "float32"
    if is_noah:
        head = model.get_layer("noah_head")
        assert (head.num_groups, head.key_ratio) == (row.num_groups, row.key_ratio)
        assert head.dropout == row.dropout


def test_parameters_without_pre_logits_equal_the_printed_ones():
    for name in ("deit_tiny_075_patch16_224", "deit_tiny_050_patch16_224"):
        row, _ = zoo.model_info(name)
        for model_name, printed in (
            (name, row.printed_millions),
            (f"noah_{name}", row.noah_printed_millions),
        ):
            model = noah_tf.create_model(model_name, pre_logits=False)
            assert f"{model.count_params() / 1e6:.2f}" == f"{printed:.2f}"


@pytest.mark.parametrize("name", by_architecture(BOTH, slow_on_one_stack))
def test_other_options_of_the_head(name):
    noah_options = {"num_groups": 2, "key_ratio": 0.75} if name.startswith("noah_") else {}
    model = small(name, num_classes=7, dropout=0.5, **noah_options)
    for option, value in noah_options.items():
        assert getattr(model.get_layer("noah_head"), option) == value
    images = images_for(model)
    logits = model(images, training=False).numpy()
    assert logits.shape == (2, 7)
    assert np.isfinite(logits).all()
    # The standard head of Mixer and gMLP starts at zero, as the reference's does.
    starts_at_zero = name in ("mixer_s16_050_224", "gmlp_ti16_050_224")
    assert (np.ptp(logits) == 0) == starts_at_zero
    if not starts_at_zero:
        first, second = (model(images, training=True).numpy() for _ in range(2))
        assert not np.array_equal(first, second)  # Dropout is active.


@slow_on_one_stack
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("noah_resnet18", (40, 72)),
        ("mobilenetv3_small", (96, 33)),
        ("noah_shufflenetv2_100", (64, 96)),
        ("deit_tiny_patch16_224", (48, 80)),
        ("noah_deit_tiny_patch16_224", (16, 32)),
        ("noah_deit_tiny_patch16_224", (32, 80)),  # 2 x 5 patches: one more than a square
        ("pvt_tiny_050", (64, 96)),
        ("noah_pvt_tiny_050", (96, 32)),
        ("mixer_s16_050_224", (48, 80)),
        ("noah_gmlp_ti16_050_224", (48, 32)),
    ],
)
def test_other_image_sizes(name, size):
    model = noah_tf.create_model(name, num_classes=3, input_shape=(*size, 3))
    assert model(images_for(model), training=False).shape == (2, 3)
    tokens = [layer for layer in model.layers if hasattr(layer, "grid")]
    for layer in tokens:
        rows, columns = layer.grid
        assert layer.embedding.shape[1] == rows * columns + layer.num_prefix_tokens


@pytest.mark.parametrize(
    "name",
    by_architecture(
        ["noah_resnet18", "mobilenetv2_035", "noah_mobilenetv3_small", "shufflenetv2_100"],
        slow_on_one_stack,
    ),
)
def test_convolutional_models_take_any_image_size(name):
    model = noah_tf.create_model(name, num_classes=3, input_shape=(None, None, 3))
    fixed = noah_tf.create_model(name, num_classes=3, input_shape=(64, 96, 3))
    fixed.set_weights(model.get_weights())
    images = images_for(fixed)
    np.testing.assert_allclose(
        model(images, training=False), fixed(images, training=False), rtol=1e-4, atol=1e-5
    )
    assert model(images[:, :48, :80], training=False).shape == (2, 3)


@pytest.mark.parametrize("name", by_architecture(SMALL, slow_on_one_stack))
def test_attach_noah_on_a_backbone_and_on_a_standard_model(name):
    """`attach_noah` finds the same feature map in both, without the class token."""
    backbone = small(f"noah_{name}", include_top=False)
    assert len(backbone.output_shape) in (3, 4)
    model = noah_tf.attach_noah(backbone, num_classes=1000)
    head = model.get_layer("noah_head")
    row, _ = zoo.model_info(name)
    assert (head.num_groups, head.key_ratio) == (row.num_groups, row.key_ratio)
    assert model(images_for(model), training=False).shape == (2, 1000)
    noah_model = small(f"noah_{name}", num_classes=1000)
    assert [w.shape for w in model.weights] == [w.shape for w in noah_model.weights]

    standard = small(name, num_classes=9)
    replaced = noah_tf.attach_noah(standard, num_classes=1000)
    assert replaced(images_for(replaced), training=False).shape == (2, 1000)
    shape = replaced.get_layer("noah_head").input.shape[1:]
    if name == "mobilenetv3_small":
        # The standard model expands the 576 channels to 1280 after pooling.
        assert shape == (*head.input.shape[1:-1], 576)
    else:
        assert shape == head.input.shape[1:]
        # The class token and its position embedding stay in the backbone.
        class_token = {"deit_tiny_050_patch16_224": 2 * 96, "pvt_tiny_050": 2 * 256}.get(name, 0)
        assert replaced.count_params() == model.count_params() + class_token
    for layer in standard.layers:
        if getattr(layer, "num_prefix_tokens", 0):
            assert head.input.shape[1] == layer.grid[0] * layer.grid[1]


@pytest.mark.parametrize(
    ("name", "size", "patches"),
    [
        ("pvt_tiny_050", (64, 96), 6),
        ("deit_tiny_050_patch16_224", (32, 48), 6),
        ("deit_tiny_050_patch16_224", (48, 48), 9),
        ("noah_deit_tiny_050_patch16_224", (80, 160), 50),  # one more than 7 x 7
        ("noah_pvt_tiny_050", (64, 160), 10),  # one more than 3 x 3
        pytest.param("mixer_s16_050_224", (32, 80), 10, marks=slow_on_one_stack),
    ],
)
@pytest.mark.parametrize("include_top", [True, False])
def test_the_head_gets_all_patches_and_no_class_token(name, size, patches, include_top):
    model = noah_tf.create_model(name, input_shape=(*size, 3), include_top=include_top)
    model = noah_tf.attach_noah(model, num_classes=4)
    assert model.get_layer("noah_head").input.shape[1] == patches


def test_ablations_of_the_head():
    options = {"split_groups": False, "split_key_value": False, "uniform_attention": True}
    head = small("noah_resnet18", num_classes=10, **options).get_layer("noah_head")
    assert head.key_kernel.shape == head.value_kernel.shape == (1, 512, 40)
    assert all(getattr(head, name) == value for name, value in options.items())
    assert not head.key_kernel.numpy().any()


@pytest.mark.parametrize("name", ["noah_resnet18", "deit_tiny_050_patch16_224", "pvt_tiny_050"])
def test_drop_path_drops_whole_examples(name):
    model = small(name, num_classes=3, drop_path=0.4, dropout=0.0)
    drops = [layer for layer in model.layers if layer.name.endswith("drop_path")]
    rates = [layer.rate for layer in drops]
    assert max(rates) == pytest.approx(0.4)
    assert rates == sorted(rates)
    drop = drops[-1]
    x = np.ones((64, *drop.input.shape[1:]), "float32")
    outputs = drop(x, training=True).numpy().reshape(64, -1)
    assert (np.ptp(outputs, axis=1) == 0).all()
    # The outputs of the other examples are scaled, so that the mean stays the same.
    for value in np.unique(outputs):
        assert value == 0 or value == pytest.approx(1 / 0.6)
    assert 0.1 < (outputs[:, 0] == 0).mean() < 0.7
    assert (drop(x, training=False).numpy() == 1).all()


def test_mixer_has_the_same_drop_rates_in_every_block():
    model = small("mixer_s16_050_224", drop_path=0.1, mlp_dropout=0.02)
    layers = [layer for layer in model.layers if hasattr(layer, "rate")]
    paths = [layer.rate for layer in layers if layer.name.endswith("drop_path")]
    mlps = [layer.rate for layer in layers if ".drop" in layer.name and layer.rate == 0.02]
    assert paths == [0.1] * 16
    assert len(mlps) == 4 * 8


@pytest.mark.parametrize(
    "name",
    by_architecture(
        [
            *(name for name in BOTH if name.startswith("noah_")),
            "deit_tiny_050_patch16_224",
            "mobilenetv3_small",
        ],
        pytest.mark.slow,
    ),
)
def test_keras_files_keep_the_logits(name, tmp_path):
    model = small(name, num_classes=5, drop_path=0.0 if "shuffle" in name else 0.1)
    rng = np.random.default_rng(3)
    model.set_weights([0.1 * rng.normal(size=w.shape) ** 2 for w in model.get_weights()])
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = tf.keras.models.load_model(path, compile=False)
    images = images_for(model)
    expected = model(images, training=False).numpy()
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(loaded(images, training=False), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize(
    "name", ["resnet18", pytest.param("noah_deit_tiny_050_patch16_224", marks=slow_on_one_stack)]
)
def test_mixed_precision_logits_are_close(name, policy):
    model = small(name, num_classes=5)
    images = images_for(model)
    expected = model(images, training=False).numpy()
    tf.keras.mixed_precision.set_global_policy(policy)
    mixed = small(name, num_classes=5)
    mixed.set_weights(model.get_weights())
    logits = mixed(images, training=False)
    assert logits.dtype == tf.float32
    np.testing.assert_allclose(logits, expected, atol=0.1 * np.abs(expected).max())


def test_the_same_seed_gives_the_same_weights():
    weights = []
    for seed in (1, 1, 2):
        tf.keras.utils.set_random_seed(seed)
        weights.append(small("deit_tiny_050_patch16_224").get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))


def test_layers_of_one_shape_start_differently():
    model = small("deit_tiny_050_patch16_224")
    kernels = [model.get_layer(f"blocks.{i}.mlp.fc1").kernel.numpy() for i in range(12)]
    assert len({kernel.tobytes() for kernel in kernels}) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "noah_resnet36"}, "such as noah_resnet"),
        ({"name": "resnet18", "num_classes": 0}, "num_classes"),
        ({"name": "deit_tiny_patch16_224", "num_classes": 2.5}, "num_classes"),
        ({"name": "resnet18", "num_groups": 4}, "resnet18 has no NOAH head, got num_groups=4"),
        ({"name": "resnet18", "key_ratio": 0.5}, "create 'noah_resnet18'"),
        ({"name": "noah_resnet18", "num_groups": 3}, "num_groups=3 must divide"),
        ({"name": "noah_resnet18", "dropout": 1.5}, "dropout must be"),
        ({"name": "resnet18", "mlp_dropout": 0.1}, "resnet18 has no option mlp_dropout"),
        ({"name": "resnet18", "pre_logits": True}, "resnet18 has no option pre_logits"),
        ({"name": "resnet18", "pre_logits": False}, "resnet18 has no option pre_logits"),
        (
            {"name": "shufflenetv2_100", "drop_path": 0.1},
            "has no option drop_path, got drop_path=0.1",
        ),
        ({"name": "resnet18", "drop_path": 1.0}, "drop_path must be a number in"),
        ({"name": "pvt_tiny", "mlp_dropout": -0.1}, "mlp_dropout must be a number in"),
        ({"name": "resnet18", "input_shape": (224, 224)}, "input_shape must be"),
        ({"name": "resnet18", "input_shape": (224, 224, None)}, "input_shape must be"),
        ({"name": "resnet18", "input_shape": 224}, "input_shape must be"),
        ({"name": "resnet18", "input_shape": (-224, 224, 3)}, "input_shape must be"),
        ({"name": "pvt_tiny", "input_shape": (224.0, 224, 3)}, "input_shape must be"),
        (
            {"name": "noah_deit_tiny_patch16_224", "input_shape": (224, 230, 3)},
            "multiples of 16, got input_shape=(224, 230, 3)",
        ),
        (
            {"name": "pvt_tiny", "input_shape": (None, None, 3)},
            "multiples of 32, got input_shape=(None, None, 3)",
        ),
        (
            {"name": "noah_mixer_s16_224", "input_shape": (256, 250, 3)},
            "multiples of 16, got input_shape=(256, 250, 3)",
        ),
        (
            {"name": "gmlp_ti16_224", "input_shape": (None, 224, 3)},
            "multiples of 16, got input_shape=(None, 224, 3)",
        ),
        (
            {"name": "resnet18", "split_groups": False},
            "resnet18 has no NOAH head, got split_groups=False",
        ),
        (
            {"name": "noah_resnet18", "split_key_value": "no"},
            "split_key_value must be None, True or False, got 'no'",
        ),
        ({"name": "resnet18", "input_shape": (64, 64, True)}, "input_shape must be"),
        ({"name": "resnet18", "input_shape": "224"}, "got '224'"),
        ({"name": "deit_tiny_patch16_224", "pre_logits": "no"}, "pre_logits must be None, True"),
        ({"name": "resnet18", "weights_head": "drop"}, "weights_head must be 'load' or 'skip'"),
        ({"name": "resnet18", "weights_head": "skip"}, "need weights, got none"),
        ({"name": "resnet18", "weights_ema": 3}, "weights_ema must be True or False, got 3"),
        ({"name": "resnet18", "weights": "imagenet"}, "weights must be 'official' or a path"),
    ],
)
def test_invalid_arguments_raise(arguments, message):
    with pytest.raises(ValueError) as error:
        noah_tf.create_model(**arguments)
    assert message in str(error.value)


def test_a_keras_weights_file_is_loaded(tmp_path):
    path = str(tmp_path / "start.weights.h5")
    source = small("noah_mobilenetv2_035", num_classes=3)
    source.save_weights(path)
    model = small("noah_mobilenetv2_035", num_classes=3, weights=path)
    for ours, theirs in zip(model.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_backbone_loads_a_keras_weights_file(tmp_path):
    path = str(tmp_path / "backbone.weights.h5")
    source = small("mobilenetv2_035", include_top=False)
    source.save_weights(path)
    backbone = small("mobilenetv2_035", include_top=False, weights=path)
    for ours, theirs in zip(backbone.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@slow_on_one_stack
def test_weights_head_skip_leaves_the_head_as_initialized(tmp_path):
    path = tmp_path / "start.safetensors"
    source = small("noah_resnet18", num_classes=6)
    noah_tf.save_official_weights(source, path)
    model = small("noah_resnet18", num_classes=6, weights=path)
    for ours, theirs in zip(model.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    with pytest.raises(ValueError, match="skip"):
        small("noah_resnet18", num_classes=3, weights=path)
    other = small("noah_resnet18", num_classes=3, weights=path, weights_head="skip")
    first = source.get_layer("conv1").kernel
    np.testing.assert_array_equal(other.get_layer("conv1").kernel, first)
    backbone = small("resnet18", include_top=False, weights=path)
    np.testing.assert_array_equal(backbone.get_layer("conv1").kernel, first)


@pytest.mark.parametrize(
    ("file", "error", "message"),
    [
        ("none.weights.h5", FileNotFoundError, "no weights at"),
        ("none.safetensors", FileNotFoundError, "none.safetensors"),
        ("empty.weights.h5", ValueError, "empty.weights.h5 does not fit resnet18"),
        ("other.weights.h5", ValueError, "does not fit mobilenetv2_050: .*features.*8"),
        ("weights.zip", ValueError, "weights.zip"),
    ],
)
def test_other_weights_files_raise(file, error, message, tmp_path):
    (tmp_path / "empty.weights.h5").write_bytes(b"")
    (tmp_path / "weights.zip").write_bytes(b"")
    if "other" in file:
        small("mobilenetv2_035").save_weights(str(tmp_path / file))
    name = "mobilenetv2_050" if "other" in file else "resnet18"
    with pytest.raises(error, match=message):
        noah_tf.create_model(name, input_shape=(64, 64, 3), weights=tmp_path / file)


def test_preprocessing_of_the_families():
    assert zoo.preprocessing_for("noah_resnet50").to_dict() == {
        "image_size": [224, 224],
        "resize_size": 256,
        "interpolation": "bilinear",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "exif_rotation": False,
        "stretch": False,
    }
    deit = zoo.preprocessing_for("deit_tiny_patch16_224", (384, 384))
    assert (deit.resize_size, deit.interpolation) == (438, "bicubic")
    mixer = zoo.preprocessing_for("noah_mixer_b16_224")
    assert (mixer.resize_size, mixer.mean, mixer.std) == (248, (0.5,) * 3, (0.5,) * 3)


def test_every_layer_of_the_head_is_noahs():
    (head,) = [x for x in small("noah_pvt_tiny_050").layers if isinstance(x, NOAHHead)]
    assert head.name == "noah_head"
