"""Tests of loading and saving the reference's checkpoints without PyTorch."""

import json
import pathlib
import random
import re
import struct
import sys

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from architectures import by_architecture
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_data import shared_folder
from stacks import slow_on_one_stack

from benchmarks import head_parity
from noah_tf import NOAHHead, attach_noah, create_model
from noah_tf.models import official, tensor_files
from noah_tf.models.backbones.layers import ClassToken, PositionEmbedding
from noah_tf.models.interpolation import interpolate
from noah_tf.models.official import load_official_weights, save_official_weights, state_dict
from noah_tf.models.reference_tensors import reference_tensors

layers = tf.keras.layers
GOLDENS = shared_folder() / "goldens"
# The smallest model of every family, with both heads if their backbones differ.
LIGHT = (
    "resnet18",
    "noah_resnet18",
    "mobilenetv2_035",
    "mobilenetv3_small",
    "noah_mobilenetv3_small",
    "shufflenetv2_100",
    "deit_tiny_050_patch16_224",
    "noah_deit_tiny_050_patch16_224__noprelogits",
    "pvt_tiny_050",
    "noah_pvt_tiny_050",
    "mixer_s16_050_224",
    "noah_gmlp_ti16_050_224",
)


def tiny_cnn(num_classes=3, head="noah", **kwargs):
    """A model of two convolutions whose layers are named as a ResNet's."""
    images = tf.keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, use_bias=False, name="conv1")(images)
    x = layers.BatchNormalization(name="bn1")(x)
    x = layers.DepthwiseConv2D(3, use_bias=False, name="layer1.0.conv1")(x)
    kwargs = {"name": "noah_resnet18" if head == "noah" else "resnet18", **kwargs}
    return randomized(
        attach_noah(tf.keras.Model(images, x), num_classes, 2, 0.5, 0, **kwargs, head=head)
    )


def tiny_deit(grid=(2, 2), pre_logits=False, class_token=True, name="deit_tiny_patch16_224"):
    images = tf.keras.Input((grid[0] * 4, grid[1] * 4, 3))
    x = layers.Conv2D(6, 4, 4, name="patch_embed.proj")(images)
    x = layers.Reshape((grid[0] * grid[1], 6))(x)
    x = ClassToken(name="cls_token")(x) if class_token else x
    x = PositionEmbedding(grid, int(class_token), name="pos_embed")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Dense(5, name="pre_logits.fc")(x) if pre_logits else x
    x = layers.Dense(3, name="head")(layers.GlobalAveragePooling1D()(x))
    return randomized(tf.keras.Model(images, x, name=name))


def tiny_mlp(tokens, name, layer):
    """A model with one layer that mixes tokens."""
    images = tf.keras.Input((tokens, 6))
    x = layers.Dense(tokens, name=layer)(layers.Permute((2, 1))(images))
    x = layers.GlobalAveragePooling1D()(layers.Permute((2, 1))(x))
    return randomized(tf.keras.Model(images, layers.Dense(3, name="head")(x), name=name))


def randomized(model, seed=0):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def built_head(num_classes=3, seed=0):
    head = NOAHHead(num_classes, 2, name="noah_head")
    head.build((None, 4, 4, 8))
    return randomized(head, seed)


def assert_same(got, want):
    assert list(got) == list(want)
    for name, array in want.items():
        assert got[name].dtype == array.dtype, name
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def weights_of(model):
    return [np.array(weight) for weight in model.get_weights()]


def assert_raises(model, source, message, error=ValueError, **kwargs):
    """Checks that loading raises an error with the given texts and changes no weight."""
    before = weights_of(model)
    with pytest.raises(error) as caught:
        load_official_weights(model, source, **kwargs)
    for part in [message] if isinstance(message, str) else message:
        assert part in str(caught.value)
    for old, new in zip(before, weights_of(model), strict=True):
        np.testing.assert_array_equal(old, new)
    return str(caught.value)


# Names, order and layouts


def manifest():
    paths = sorted(GOLDENS.glob("models*/manifest.json"))
    return [entry for path in paths for entry in json.loads(path.read_text())]


def model_of(name):
    """Creates the model of a manifest's entry."""
    architecture, _, variant = name.partition("__")
    return create_model(architecture, pre_logits=False if variant == "noprelogits" else None)


def test_sorted_names_are_in_the_order_of_every_state_dict(shared):
    for entry in manifest():
        names = [name for name, *_ in entry["state_dict"]]
        shuffled = random.Random(0).sample(names, len(names))
        empty = tf.keras.Sequential([tf.keras.Input((1,))], name=entry["arch"])
        family, _ = reference_tensors(empty)
        assert sorted(shuffled, key=family.rank) == names, entry["name"]


def check_state_dict(name):
    model = model_of(name)
    (expected,) = (entry["state_dict"] for entry in manifest() if entry["name"] == name)
    tensors = state_dict(model)
    assert [[n, list(a.shape), str(a.dtype)] for n, a in tensors.items()] == expected
    rng = np.random.default_rng(0)
    for tensor in tensors.values():
        tensor[...] = rng.normal(size=tensor.shape)
    tensors = {n: 0 * a if n.endswith("num_batches_tracked") else a for n, a in tensors.items()}
    assert_same(state_dict(load_official_weights(model, tensors)), tensors)


@pytest.mark.parametrize("name", by_architecture(LIGHT, slow_on_one_stack))
def test_a_state_dict_equals_the_references_and_loads_exactly(shared, name):
    check_state_dict(name)


# One model per family is enough here: test_zoo_goldens.py loads the others too.
@pytest.mark.exhaustive
def test_the_state_dicts_of_all_other_models(shared):
    names = [entry["name"] for entry in manifest()]
    others = [name for name in names if name not in LIGHT and "epsprobe" not in name]
    assert len(others) > 30
    for name in others:
        check_state_dict(name)
        tf.keras.backend.clear_session()


size = st.integers(1, 4)


@settings(max_examples=20, deadline=None)
@given(size, size, size, size, size)
def test_layouts_of_convolutions_and_dense_layers(height, width, inputs, outputs, groups):
    images = tf.keras.Input((5, 5, inputs * groups))
    kernel_size = (height, width)
    x = layers.Conv2D(outputs * groups, kernel_size, groups=groups, padding="same", name="conv1")(
        images
    )
    x = layers.DepthwiseConv2D(kernel_size, depth_multiplier=2, padding="same", name="conv2")(x)
    x = layers.Dense(outputs, name="conv3")(x)
    model = randomized(tf.keras.Model(images, x, name="resnet18"))
    conv, conv_bias, depthwise, depthwise_bias, dense, dense_bias = weights_of(model)
    tensors = state_dict(model)
    np.testing.assert_array_equal(tensors["conv1.weight"], np.einsum("hwio->oihw", conv))
    # Output channels 2c and 2c + 1 depend on input channel c.
    for output in range(2 * outputs * groups):
        np.testing.assert_array_equal(
            tensors["conv2.weight"][output, 0], depthwise[:, :, output // 2, output % 2]
        )
    np.testing.assert_array_equal(tensors["conv3.weight"], dense.T)
    for name, bias in (("conv1", conv_bias), ("conv2", depthwise_bias), ("conv3", dense_bias)):
        np.testing.assert_array_equal(tensors[f"{name}.bias"], bias)
    randomized(model, seed=1)
    assert_same(state_dict(load_official_weights(model, tensors)), tensors)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), size, size, size, st.booleans())
def test_the_layout_of_a_head(groups, keys, values, classes, split):
    channels = groups * (keys + values)
    ratio = (groups * keys + 0.5) / channels
    head = NOAHHead(classes, groups, ratio, split_groups=split)
    head.build((None, None, channels))
    randomized(head)
    tensors = state_dict(head)
    assert list(tensors) == ["query.weight", "query.bias", "value.weight", "value.bias"]
    for name, kernel, bias in (
        ("query", head.key_kernel, head.key_bias),
        ("value", head.value_kernel, head.value_bias),
    ):
        kernel = np.asarray(kernel)
        for group in range(groups):
            for label in range(classes):
                output = group * classes + label
                expected = kernel[group, :, label] if split else kernel[0, :, output]
                actual = tensors[f"{name}.weight"][output, :, 0, 0]
                np.testing.assert_array_equal(actual, expected)
        np.testing.assert_array_equal(tensors[f"{name}.bias"], np.asarray(bias).reshape(-1))
    randomized(head, seed=1)
    assert_same(state_dict(load_official_weights(head, tensors)), tensors)


def test_a_state_dict_is_a_copy():
    model = tiny_cnn()
    tensors = state_dict(model)
    before = {name: array.copy() for name, array in tensors.items()}
    randomized(model, seed=1)
    assert_same(tensors, before)
    for array in tensors.values():
        array[...] = 7
    np.testing.assert_array_equal(model.get_layer("bn1").get_weights()[0] == 7, False)


# Heads alone


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, id=c["file"][:-4])
        for c in head_parity.read_manifest(GOLDENS / "heads")["cases"]
    ],
)
def test_golden_heads(case):
    with np.load(GOLDENS / "heads" / case["file"]) as file:
        golden = dict(file)
    features = np.moveaxis(golden["x"], 1, -1)
    head = head_parity.make_head(case)
    head.build(features.shape)
    tensors = {name: golden[name] for name in head_parity.WEIGHTS}
    assert load_official_weights(head, tensors) is head
    expected = golden["logits_eval"] if "logits_eval" in golden else golden["logits64"]
    error = np.abs(head(features) - expected).max()
    assert error <= 1e-5 * np.abs(expected).max()
    assert_same(state_dict(head), tensors)


@pytest.mark.parametrize("prefix", ["head.", "classifier.", "module.head."])
def test_a_head_loads_its_part_of_a_whole_checkpoint(prefix):
    tensors = state_dict(built_head())
    whole = {"features.0.weight": np.ones(3), "norm.bias": np.ones(2, np.int64)}
    whole.update({prefix + name: value for name, value in tensors.items()})
    head = load_official_weights(built_head(seed=1), {"state_dict": whole})
    assert_same(state_dict(head), tensors)


def test_tensors_that_do_not_fit_a_head():
    head, tensors = built_head(), state_dict(built_head())
    assert_raises(
        head,
        {"head.2.weight": np.ones((3, 8))},
        "needs the tensors of a NOAH head, got The mapping with a linear head",
    )
    assert_raises(head, {**tensors, "head.bias": np.ones(3)}, "unexpected: head.bias.")
    assert_raises(head, {"query.bias": tensors["query.bias"]}, "missing: query.weight, value.w")
    assert_raises(head, {**tensors, "x": np.ones(3)}, "does not fit noah_head: unexpected: x.")
    assert_raises(
        built_head(num_classes=4),
        tensors,
        "query.weight (6, 2, 1, 1), expected (8, 2, 1, 1), query.bias (6,), expected (8,)",
    )
    assert_raises(head, tensors, "head='skip' is for models, got a NOAHHead", head="skip")
    with pytest.raises(ValueError, match="without weights: call it on features first"):
        load_official_weights(NOAHHead(3), tensors)


# Containers


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "state_dict_ema", "model_ema"])
def test_containers_and_prefixes(key, prefix):
    tensors = state_dict(tiny_cnn())
    content = {prefix + name: value for name, value in tensors.items()}
    ema = "ema" in (key or "")
    if key:
        content = {"epoch": 3, "args": object(), "optimizer": {"lr": 0.1}, key: content}
        other = key.replace("_ema", "") if ema else f"{key}_ema"
        content[other] = {"conv1.weight": None}
    model = randomized(tiny_cnn(), seed=1)
    assert load_official_weights(model, content, ema=ema) is model
    assert_same(state_dict(model), tensors)


def test_batch_counters_are_ignored():
    tensors = state_dict(tiny_cnn())
    model = randomized(tiny_cnn(), seed=1)
    for counter in (None, np.int64(1000), np.float32(2)):
        content = {**tensors, "bn1.num_batches_tracked": counter}
        if counter is None:
            del content["bn1.num_batches_tracked"]
        load_official_weights(model, content)
        assert_same(state_dict(model), tensors)


def test_content_that_is_not_a_checkpoint():
    model, tensors = tiny_cnn(), state_dict(tiny_cnn())
    training = {"epoch": 1, "state_dict_ema": tensors}
    assert_raises(model, training, "holds averaged weights only: pass ema=True")
    assert_raises(
        model,
        {"epoch": 1, "state_dict": tensors},
        "averaged weights under state_dict_ema or model_ema, got the keys: epoch, state_dict.",
        ema=True,
    )
    assert_raises(model, {f"a{i}": i for i in range(12)}, "a9 and 2 more.", ema=True)
    assert_raises(model, tensors, "got a mapping of tensors.", ema=True)
    assert_raises(model, {"epoch": 1}, "'epoch', a int, and nothing under state_dict or model")
    assert_raises(model, {0: np.ones(3)}, "got 0, a ndarray")
    nested = {"state_dict": {"conv1.weight": [1.0]}}
    assert_raises(model, nested, "'conv1.weight', a list, under 'state_dict'")
    assert_raises(
        model,
        {**tensors, "module.bn1.bias": tensors["bn1.bias"]},
        "has 'bn1.bias' with and without 'module.'",
    )
    assert_raises(model, None, "must be a path or a mapping, got NoneType", error=TypeError)
    assert_raises(model, [tensors], "got list", error=TypeError)


def test_only_one_leading_module_is_stripped():
    tensors = state_dict(tiny_cnn())
    tensors["module.module.bn1.bias"] = tensors.pop("bn1.bias")
    tensors["conv1.module.weight"] = tensors.pop("conv1.weight")
    message = assert_raises(tiny_cnn(), tensors, "missing: conv1.weight, bn1.bias; unexpected: ")
    assert "unexpected: module.bn1.bias, conv1.module.weight." in message


# Values


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64])
@pytest.mark.parametrize("make", [tf.constant, tf.Variable, lambda value: value.numpy()])
def test_floating_point_tensors_are_cast(dtype, make):
    tensors = {name: tf.cast(a, dtype) for name, a in state_dict(tiny_cnn()).items()}
    model = load_official_weights(tiny_cnn(), {n: make(t) for n, t in tensors.items()})
    expected = {name: tf.cast(tensor, tf.float32).numpy() for name, tensor in tensors.items()}
    for name, array in state_dict(model).items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.complex64, object])
def test_other_dtypes_raise(dtype):
    tensors = state_dict(tiny_cnn())
    tensors["bn1.bias"] = tensors["bn1.bias"].astype(dtype)
    assert_raises(tiny_cnn(), tensors, f"not a floating-point array: bn1.bias ({np.dtype(dtype)}).")


def test_non_finite_values_are_loaded():
    tensors = state_dict(tiny_cnn())
    tensors["bn1.bias"][:3] = np.nan, np.inf, -np.inf
    assert_same(state_dict(load_official_weights(tiny_cnn(), tensors)), tensors)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_dtype_policies(policy):
    tensors = state_dict(tiny_cnn())
    tf.keras.mixed_precision.set_global_policy(policy)
    model = load_official_weights(tiny_cnn(), tensors)
    if policy == "float64":
        with pytest.raises(ValueError, match="holds float32 weights, got float64 in noah_resnet18"):
            state_dict(model)
        loaded = model.get_layer("bn1").get_weights()[0]
        np.testing.assert_array_equal(loaded, tensors["bn1.weight"])
    else:
        assert_same(state_dict(model), tensors)


# Checkpoints that do not fit


def test_one_error_lists_all_problems():
    tensors = state_dict(tiny_cnn())
    del tensors["bn1.weight"], tensors["head.value.bias"]
    tensors["conv1.weight"] = tensors["conv1.weight"][:, :, :2]
    tensors["bn1.running_mean"] = np.ones(8, np.int32)
    tensors |= {f"fc.{index}.weight": np.ones(1) for index in range(13)}
    message = assert_raises(
        tiny_cnn(), {"model": tensors}, "The mapping does not fit noah_resnet18"
    )
    assert "missing: bn1.weight, head.value.bias; unexpected: fc.0.weight, " in message
    assert "; wrong shape: conv1.weight (8, 3, 2, 3), expected (8, 3, 3, 3); not " in message
    assert "fc.9.weight and 3 more;" in message
    assert message.endswith("not a floating-point array: bn1.running_mean (int32).")


@pytest.mark.parametrize("head", ["noah", "gap"])
def test_another_number_of_classes(head):
    tensors = state_dict(tiny_cnn(3, head))
    model = randomized(tiny_cnn(5, head), seed=1)
    before = state_dict(model)
    assert_raises(model, tensors, "head='skip' (in create_model weights_head) loads all but the")
    load_official_weights(model, tensors, head="skip")
    is_head = re.compile("head")
    expected = {n: before[n] if is_head.match(n) else tensors[n] for n in before}
    assert_same(state_dict(model), expected)
    assert_same(state_dict(model, architecture="resnet18"), expected)


def test_skipping_the_head_is_strict_about_the_backbone():
    tensors = state_dict(tiny_cnn())
    tensors["conv1.bias"] = np.ones(8)
    message = assert_raises(tiny_cnn(5), tensors, "unexpected: conv1.bias.", head="skip")
    assert "head" not in message
    with pytest.raises(ValueError, match="head must be 'load' or 'skip', got 'fresh'"):
        load_official_weights(tiny_cnn(), tensors, head="fresh")


@pytest.mark.parametrize(("head", "other"), [("noah", "gap"), ("gap", "noah")])
def test_a_checkpoint_with_the_other_head(head, other):
    model, tensors = tiny_cnn(3, head), state_dict(tiny_cnn(3, other))
    prefix = "with" if other == "noah" else "without"
    message = assert_raises(model, tensors, f"create the model {prefix} 'noah_' before its name.")
    kinds = {"noah": "a NOAH head", "gap": "the standard head"}
    assert f"The checkpoint has {kinds[other]} and the model {kinds[head]}" in message
    assert "head='skip'" in message
    load_official_weights(model, tensors, head="skip")


@slow_on_one_stack
def test_a_backbone_loads_all_but_the_head():
    backbone = create_model(
        "noah_deit_tiny_050_patch16_224", input_shape=(32, 32, 3), include_top=False
    )
    full = create_model("noah_deit_tiny_050_patch16_224", input_shape=(32, 32, 3), num_classes=2)
    assert_raises(backbone, state_dict(full), ["unexpected: head.query.weight", "head='skip'"])
    load_official_weights(backbone, state_dict(randomized(full)), head="skip")
    for name, tensor in state_dict(backbone).items():
        np.testing.assert_array_equal(tensor, state_dict(full)[name])


def test_pre_logits():
    with_layer, without = tiny_deit(pre_logits=True), tiny_deit()
    assert_raises(without, state_dict(with_layer), "Create the model with pre_logits=True.")
    assert_raises(with_layer, state_dict(without), "Create the model with pre_logits=False.")


# Models


def test_models_made_of_the_zoos_layers():
    backbone = create_model(
        "noah_deit_tiny_050_patch16_224", input_shape=(32, 32, 3), include_top=False
    )
    options = {"num_groups": 4, "key_ratio": 1 / 2}  # the paper's
    model = randomized(attach_noah(backbone, 4, drop_class_token=False, **options))
    assert model.name == "deit_tiny_050_patch16_224_noah"
    tensors = state_dict(model)
    named = create_model("noah_deit_tiny_050_patch16_224", 4, (32, 32, 3))
    assert_same(state_dict(load_official_weights(named, tensors)), tensors)

    images = tf.keras.Input((32, 32, 3))
    nested = tf.keras.Model(images, model(layers.Rescaling(2.0)(images)), name="my_model")
    with pytest.raises(
        ValueError, match="architecture of the reference, got 'my_model': give architecture="
    ):
        state_dict(nested)
    assert_same(state_dict(nested, architecture="noah_deit_tiny_050_patch16_224"), tensors)
    changed = {name: array + 1 for name, array in tensors.items()}
    load_official_weights(nested, changed, architecture="deit_tiny_050_patch16_224")
    assert_same(state_dict(model), changed)


def test_a_model_loaded_from_a_keras_file(tmp_path):
    model = randomized(create_model("deit_tiny_050_patch16_224", 4, (32, 32, 3)))
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert_same(state_dict(loaded), state_dict(model))
    assert loaded.name == "deit_tiny_050_patch16_224"


@pytest.mark.parametrize("architecture", ["resnet", "vgg16", "noah_", "tf_resnet18", ""])
def test_the_architecture_argument(architecture):
    model = tiny_cnn(name="mine")
    if architecture == "resnet":
        assert "bn1.weight" in state_dict(model, architecture)
    else:
        with pytest.raises(ValueError, match=f"of the reference, got '{architecture or 'mine'}'"):
            load_official_weights(model, {}, architecture=architecture)


def test_models_with_other_layers_raise():
    images = tf.keras.Input((8, 8, 3))

    def assert_no_state_dict(x, message):
        with pytest.raises(ValueError, match=message):
            state_dict(tf.keras.Model(images, x, name="resnet18"))

    assert_no_state_dict(
        layers.Conv2D(2, 3, name="conv1_conv")(images), "layer 'conv1_conv' has no counterpart"
    )
    transposed = layers.Conv2DTranspose(2, 3, name="conv1")(images)
    assert_no_state_dict(
        transposed, r"weight 'kernel' of layer 'conv1' \(Conv2DTranspose\) has no counterpart"
    )
    inner = tf.keras.Model(images, layers.Conv2D(2, 3, name="conv1")(images), name="inner")
    twice = layers.Conv2D(2, 3, name="conv1")(inner(images))
    assert_no_state_dict(twice, "got two layers of resnet18 for 'conv1.weight'")

    class Owner(tf.keras.Model):
        def build(self, input_shape):
            self.own = self.add_weight(name="own", shape=(2,))

        def call(self, x):
            return x * self.own

    owner = Owner(name="resnet18")
    owner(tf.ones((1, 2)))
    with pytest.raises(ValueError, match="a weight of resnet18 outside of its layers has no count"):
        state_dict(owner)
    with pytest.raises(TypeError, match="must be a Keras model or a NOAHHead, got Conv2D"):
        load_official_weights(layers.Conv2D(2, 3), {})


# Position embeddings


def test_interpolation_of_equal_sizes_and_of_constants():
    table = np.random.default_rng(0).normal(size=(3, 5, 2))
    for method in ("bilinear", "bicubic"):
        np.testing.assert_allclose(interpolate(table, (3, 5), method), table, atol=1e-15)
        constant = interpolate(np.full((3, 5, 1), 2.5), (7, 2), method)
        np.testing.assert_allclose(constant, np.full((7, 2, 1), 2.5), atol=1e-15)


def test_bilinear_interpolation_by_hand():
    table = np.array([[0.0, 4.0], [8.0, 16.0]])[..., None]
    rows = [[0, 1, 3, 4], [2, 3.25, 5.75, 7], [6, 7.75, 11.25, 13], [8, 10, 14, 16]]
    np.testing.assert_allclose(interpolate(table, (4, 4), "bilinear")[..., 0], rows)
    np.testing.assert_allclose(interpolate(table, (1, 1), "bilinear"), [[[7]]])


def test_bicubic_interpolation_by_hand():
    # PyTorch's cubic kernel at distances of 1.75, 1.25, 0.75 and 0.25.
    kernel = [-0.03515625, -0.10546875, 0.26171875, 0.87890625]
    spike = np.eye(6)[2].reshape(1, 6, 1)
    wide = interpolate(spike, (1, 12), "bicubic")[0, :, 0]
    np.testing.assert_allclose(wide, [0, *kernel, *kernel[::-1], 0, 0, 0], atol=1e-15)
    # Taps to the left of the edge read the first value.
    first = interpolate(np.eye(6)[:1].T[None], (1, 12), "bicubic")[0, :2, 0]
    np.testing.assert_allclose(first, [kernel[0] + kernel[2] + kernel[3], kernel[1] + kernel[3]])


@pytest.mark.parametrize(
    ("name", "method", "table"),
    [("deit_tiny_patch16_224", "bicubic", "pos_embed"), ("pvt_tiny", "bilinear", "pos_embed4")],
)
def test_position_embeddings_of_another_image_size(monkeypatch, name, method, table):
    messages = []
    monkeypatch.setattr(official.logging, "info", lambda text, *args: messages.append(text % args))

    def model_of_grid(grid):
        tokens = tf.keras.Input((grid[0] * grid[1], 6))
        x = PositionEmbedding(grid, 1, name=table)(ClassToken(name="cls_token")(tokens))
        return randomized(tf.keras.Model(tokens, x, name=name))

    tensors = state_dict(model_of_grid((4, 4)))
    model = load_official_weights(model_of_grid((3, 5)), tensors)
    assert messages == [f"{table}: interpolated from 4x4 to 3x5."]
    got, given_table = state_dict(model)[table], tensors[table]
    assert got.shape == (1, 16, 6)
    np.testing.assert_array_equal(got[:, 0], given_table[:, 0])
    grid = given_table[0, 1:].reshape(4, 4, 6).astype(np.float64)
    expected = interpolate(grid, (3, 5), method).astype(np.float32)
    np.testing.assert_array_equal(got[0, 1:], expected.reshape(15, 6))

    messages.clear()
    same_count = load_official_weights(model_of_grid((2, 8)), tensors)
    assert_same(state_dict(same_count), tensors)
    assert not messages


@pytest.mark.parametrize(
    "shape", [(1, 7, 6), (1, 6, 6), (1, 1, 6), (1, 0, 6), (2, 10, 6), (1, 10, 5), (10, 6), ()]
)
def test_position_embeddings_without_a_square_grid(shape):
    model = tiny_deit()
    tensors = {**state_dict(model), "pos_embed": np.ones(shape, np.float32)}
    message = assert_raises(model, tensors, f"pos_embed {shape}, expected (1, 5, 6).")
    assert message.endswith("interpolated only from a square grid with as many channels.")


def test_position_embeddings_with_one_token_more_or_less_do_not_fit():
    with_token, without = tiny_deit((3, 3)), tiny_deit((3, 3), class_token=False)
    assert_raises(
        without, state_dict(with_token), ["unexpected: cls_token", "pos_embed (1, 10, 6)"]
    )
    assert_raises(with_token, state_dict(without), ["missing: cls_token", "pos_embed (1, 9, 6)"])


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("mixer_s16_224", "blocks.0.mlp_tokens.fc1"),
        ("gmlp_ti16_224", "blocks.0.mlp_channels.gate.proj"),
    ],
)
def test_layers_that_mix_tokens_fit_one_image_size(name, layer):
    message = assert_raises(
        tiny_mlp(9, name, layer),
        state_dict(tiny_mlp(4, name, layer)),
        [f"{layer}.weight (4, 4), expected (9, 9)", f"{layer}.bias (4,), expected (9,)"],
    )
    assert message.endswith("create the model with the input_shape of the checkpoint.")


def test_skipping_the_head_skips_the_class_token():
    with_token, without = tiny_deit((3, 3)), tiny_deit((3, 3), class_token=False)
    tensors, before = state_dict(with_token), state_dict(without)
    load_official_weights(without, tensors, head="skip")
    expected = {**tensors, "pos_embed": tensors["pos_embed"][:, 1:]}
    heads = {name: before[name] for name in before if name.startswith("head.")}
    assert_same(state_dict(without), {n: {**expected, **heads}[n] for n in before})
    # Without a class token in the checkpoint, its longer position embeddings do not fit.
    longer = {n: tensor for n, tensor in tensors.items() if n != "cls_token"}
    assert_raises(without, longer, "pos_embed (1, 10, 6), expected (1, 9, 6)", head="skip")
    odd = {**tensors, "pos_embed": np.ones((1, 9, 6), np.float32)[:, :8]}
    assert_raises(without, odd, "pos_embed (1, 8, 6), expected (1, 9, 6)", head="skip")
    # A model with a class token needs the checkpoint's.
    assert_raises(with_token, before, "missing: cls_token", head="skip")


# Files


@pytest.mark.parametrize("make", [tiny_cnn, tiny_deit, built_head])
def test_safetensors_round_trip(tmp_path, make):
    path = tmp_path / "model.safetensors"
    assert save_official_weights(make(), str(path)) == path
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    stored = safetensors.numpy.load_file(path)
    assert_same({name: stored[name] for name in state_dict(make())}, state_dict(make()))
    for source in (path, str(path)):
        model = load_official_weights(randomized(make(), seed=1), source)
        assert_same(state_dict(model), state_dict(make()))


def write_safetensors(path, dtype, data, shape):
    header = {"query.bias": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}
    header = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def test_bfloat16_in_safetensors(tmp_path):
    values = tf.constant([1.5, -2.25, 1e-30, 3e38], tf.bfloat16).numpy()
    write_safetensors(tmp_path / "x.safetensors", "BF16", values.tobytes(), [2, 2])
    tensors = tensor_files.read_checkpoint(tmp_path / "x.safetensors")
    assert tensors["query.bias"].dtype == tf.bfloat16.as_numpy_dtype
    np.testing.assert_array_equal(tensors["query.bias"], values.reshape(2, 2))
    head = built_head()
    content = {
        **state_dict(head),
        "query.bias": tensors["query.bias"].reshape(-1)[[0, 1, 2, 3, 0, 1]],
    }
    load_official_weights(head, content)
    expected = values.astype(np.float32)[[0, 1, 2, 3, 0, 1]]
    np.testing.assert_array_equal(np.asarray(head.key_bias).reshape(-1), expected)


def test_unusual_dtypes_in_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, "F8_E4M3", bytes(4), [4])
    assert_raises(
        built_head(),
        path,
        "must hold query.bias in a dtype of NumPy, got F8_E4M3: save it as float32",
    )
    write_safetensors(path, "I64", bytes(48), [6])
    assert_raises(built_head(), path, "not a floating-point array: query.bias (int64)")


def test_damaged_safetensors(tmp_path):
    path = save_official_weights(tiny_cnn(), tmp_path / "model.safetensors")
    data = path.read_bytes()
    for damaged in (b"", data[:20], data[:-4], data + b"0"):
        path.write_bytes(damaged)
        assert_raises(tiny_cnn(), path, f"{path} is damaged or not a safetensors file: ")


def test_missing_files_and_folders(tmp_path):
    for name in ("model.pth", "model.safetensors"):
        path = tmp_path / name
        assert_raises(tiny_cnn(), path, f"There is no checkpoint file {path}.", FileNotFoundError)
    (tmp_path / "folder.pth").mkdir()
    assert_raises(tiny_cnn(), tmp_path / "folder.pth", "no checkpoint file", FileNotFoundError)
    with pytest.raises(
        FileNotFoundError, match=f"no folder {tmp_path}/no to write x.safetensors to"
    ):
        save_official_weights(tiny_cnn(), tmp_path / "no" / "x.safetensors")


@pytest.mark.parametrize("name", ["model.h5", "model", "model.pkl"])
def test_other_suffixes(tmp_path, name):
    message = "The path must end in .pth, .pt, .tar or .safetensors, got "
    (tmp_path / name).write_text("")
    assert_raises(tiny_cnn(), tmp_path / name, message)
    with pytest.raises(ValueError, match=message):
        save_official_weights(tiny_cnn(), tmp_path / name)


def test_suffixes_in_upper_case_and_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_official_weights(tiny_cnn(), "~/MODEL.SafeTensors")
    assert (tmp_path / "MODEL.SafeTensors").is_file()
    model = load_official_weights(randomized(tiny_cnn(), seed=1), "~/MODEL.SafeTensors")
    assert_same(state_dict(model), state_dict(tiny_cnn()))


@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.pth.tar"])
def test_pytorch_files_without_pytorch(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / name
    with pytest.raises(ImportError, match=r"pip install 'torch>=2.6' \(a .safetensors file"):
        save_official_weights(tiny_cnn(), path)
    assert not list(tmp_path.iterdir())
    path.write_bytes(b"1")
    assert_raises(tiny_cnn(), path, f"{name} is a PyTorch file, and PyTorch is not", ImportError)


def test_a_failed_save_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = save_official_weights(tiny_cnn(), tmp_path / "model.safetensors")
    before = path.read_bytes()

    def full_disk(path, content):
        open(path, "w").close()
        raise OSError("no space left")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_official_weights(tiny_deit(), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_link_stays_a_link(tmp_path):
    model = tiny_cnn()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "file.safetensors")
    save_official_weights(model, tmp_path / "link.safetensors")
    assert (tmp_path / "link.safetensors").is_symlink()
    assert (tmp_path / "file.safetensors").is_file()
    (tmp_path / "plain").touch()
    modes = {(tmp_path / name).stat().st_mode for name in ("file.safetensors", "plain")}
    assert len(modes) == 1  # The file has the permissions of any new file.
    with pytest.raises(IsADirectoryError, match="must be a file, got the folder"):
        (tmp_path / "folder.safetensors").mkdir()
        save_official_weights(model, tmp_path / "folder.safetensors")


class FakeArray(dict):
    """An object as a pickle can create it, whose attributes are those of an array."""


def test_an_object_with_the_attributes_of_an_array_raises():
    memory = np.full(8, 7.0, np.float32)
    fake = FakeArray()
    fake.dtype, fake.shape = memory.dtype, memory.shape
    fake.__array_interface__ = memory.__array_interface__
    # NumPy reads the memory that the attributes name.
    assert_same({"memory": np.asarray(fake)}, {"memory": memory})
    model = tiny_cnn()
    tensors = {**state_dict(model), "bn1.bias": fake}
    assert_raises(model, tensors, "got 'bn1.bias', a FakeArray")


def test_files_that_the_training_scripts_do_not_read(tmp_path):
    with pytest.raises(ValueError, match="scripts read .pth files, got .*script=True"):
        save_official_weights(tiny_cnn(), tmp_path / "x.safetensors", script=True)
    with pytest.raises(ValueError, match="needs a whole model, got a NOAHHead"):
        save_official_weights(built_head(), tmp_path / "x.pth", script=True)
    with pytest.raises(ValueError, match="cannot nest tensors under a key, got 'model'"):
        tensor_files.write_checkpoint(tmp_path / "x.safetensors", {}, "model")
    assert not list(tmp_path.iterdir())
