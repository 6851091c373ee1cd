"""Groups of weights: weight decay, the backbone, layer-wise learning rates."""

import numpy as np
import pytest
import tensorflow as tf

import noah_tf
from noah_tf.training import param_groups


def exempt_paths(model, exempt_1d=True, exempt=()):
    mask = param_groups.decay_mask(model.trainable_variables, exempt_1d, exempt)
    pairs = zip(model.trainable_variables, mask, strict=True)
    return {param_groups.weight_path(weight) for weight, is_decayed in pairs if not is_decayed}


def kinds(paths):
    return {path.split("/")[-1] for path in paths}


def all_paths(model):
    return {param_groups.weight_path(weight) for weight in model.trainable_variables}


def model_of(name, size=64):
    return noah_tf.create_model(name, num_classes=5, input_shape=(size, size, 3))


def test_mobilenetv3_exempts_normalization_and_biases():
    model = model_of("noah_mobilenetv3_small")
    exempted = exempt_paths(model)
    assert kinds(exempted) == {"gamma", "beta", "bias", "key_bias", "value_bias"}
    decayed = kinds(all_paths(model) - exempted)
    # Depthwise kernels have another name in Keras 2.
    assert decayed - {"depthwise_kernel"} == {"kernel", "key_kernel", "value_kernel"}


def test_resnet_and_mobilenetv2_exempt_nothing():
    assert not exempt_paths(model_of("noah_mobilenetv2_035"), exempt_1d=False)


def test_deit_exempts_positions_and_class_token():
    exempt = ("pos_embed/*", "cls_token/*")
    model = model_of("deit_tiny_050_patch16_224")
    exempted = exempt_paths(model, exempt=exempt)
    assert {"pos_embed/embedding", "cls_token/token"} <= exempted
    assert kinds(exempted) == {"gamma", "beta", "bias", "embedding", "token"}
    assert kinds(all_paths(model) - exempted) == {"kernel"}
    # The NOAH model has no class token, so its pattern matches no weight.
    noah = model_of("noah_deit_tiny_050_patch16_224")
    assert "pos_embed/embedding" in exempt_paths(noah, exempt=("pos_embed/*",))
    with pytest.raises(ValueError, match=r"'cls_token/\*' of optimizer.exempt matches no weight"):
        exempt_paths(noah, exempt=exempt)


def test_pvt_decays_positions_only_with_a_noah_head():
    noah = model_of("noah_pvt_tiny_050")
    tables = {f"pos_embed{stage}/embedding" for stage in range(1, 5)}
    assert tables <= all_paths(noah) - exempt_paths(noah)
    standard = model_of("pvt_tiny_050")
    exempted = exempt_paths(standard, exempt=("pos_embed*", "cls_token/*"))
    assert tables | {"cls_token/token"} <= exempted


def test_layer_with_bias_in_its_name_is_decayed():
    layer = tf.keras.layers.Dense(3, name="debias")
    layer.build((None, 4))
    assert [param_groups.is_decayed(weight) for weight in layer.weights] == [True, False]


def test_biases_of_any_rank_are_not_decayed():
    bias = tf.Variable(np.ones((4, 10), np.float32), name="value_bias")
    assert not param_groups.is_decayed(bias)
    assert param_groups.is_decayed(bias, exempt_1d=False)
    assert not param_groups.is_decayed(bias, exempt_1d=False, exempt=("value_*",))


def test_pattern_without_a_weight_names_the_nearest():
    layer = tf.keras.layers.Layer(name="layer")
    weights = [layer.add_weight(name="table", shape=(3, 2))]
    with pytest.raises(ValueError, match="'tabel' of optimizer.exempt.*'(layer/)?table'"):
        param_groups.decay_mask(weights, exempt=("tabel",))
    with pytest.raises(ValueError, match="exempt must be a tuple of patterns, got 'table'"):
        param_groups.decay_mask(weights, exempt="table")


def layers_of(model, selected):
    ids = {id(variable) for variable in selected}
    return [
        layer.name
        for layer in model.layers
        if any(id(variable) in ids for variable in layer.trainable_variables)
    ]


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("noah_deit_tiny_050_patch16_224", ["noah_head"]),
        ("deit_tiny_050_patch16_224", ["head"]),
        ("mobilenetv3_small", ["features.14", "classifier.1"]),
        ("mobilenetv2_035", ["gap_logits"]),
    ],
)
def test_layers_after_the_features_are_the_head(name, head):
    model = model_of(name)
    starts = param_groups.layer_starts(model, frozen_steps=3)
    assert {start.step for start in starts} == {3}
    ids = {id(weight) for layer, _ in starts for weight in layer.weights}
    behind = [variable for variable in model.trainable_variables if id(variable) not in ids]
    assert layers_of(model, behind) == head


def test_layers_far_from_the_head_learn_slower():
    model = model_of("noah_deit_tiny_050_patch16_224")
    factors = param_groups.layer_factors(model, 0.5, groups=10)
    paths = [param_groups.weight_path(variable) for variable in model.trainable_variables]
    layers = {}
    for path, factor in zip(paths, factors, strict=True):
        # All weights of a layer have one factor.
        assert layers.setdefault(path.split("/")[0], factor) == factor
    assert layers.pop("noah_head") == 1
    assert layers["patch_embed.proj"] == layers["pos_embed"] == 0.5**10
    assert layers["norm"] == layers["pre_logits.fc"] == 0.5
    # 12 blocks of 6 layers and 4 other layers make groups of 7 or 8.
    exponents = [
        round(-np.log2(layers[layer.name])) for layer in model.layers if layer.name in layers
    ]
    assert exponents == sorted(exponents, reverse=True)
    assert set(exponents) == set(range(1, 11))
    assert {exponents.count(number) for number in exponents} <= {7, 8}


def test_fewer_layers_than_groups_and_nested_models():
    inner_inputs = tf.keras.Input((8, 8, 3))
    x = tf.keras.layers.Conv2D(4, 1, name="first")(inner_inputs)
    inner = tf.keras.Model(inner_inputs, tf.keras.layers.Conv2D(8, 1, name="second")(x), name="in")
    inputs = tf.keras.Input((8, 8, 3))
    model = noah_tf.attach_noah(tf.keras.Model(inputs, inner(inputs)), num_classes=3)
    assert param_groups.layer_factors(model, 0.5, groups=12) == [0.25] * 2 + [0.5] * 2 + [1.0] * 4
    assert param_groups.layer_factors(model, 0.5, groups=1) == [0.5] * 4 + [1.0] * 4
    # Model files do not keep the attribute.
    del model.noah_feature_layer
    assert [layer.name for layer, _ in param_groups.layer_starts(model, 2)] == ["first", "second"]
    ((layer, _),) = param_groups.layer_starts(model, frozen_layers=("in/f*",))
    assert layer.name == "first"


def test_model_without_our_head_raises():
    model = tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="attach_noah did not make it"):
        param_groups.layer_factors(model, 0.5)


def test_patterns_of_frozen_layers_are_checked():
    inputs = tf.keras.Input((6, 6, 3))
    features = tf.keras.layers.Conv2D(8, 3, name="features")(inputs)
    model = noah_tf.attach_noah(tf.keras.Model(inputs, features), num_classes=3)
    with pytest.raises(ValueError, match="'blocks' of train.frozen_layers matches no layer; the n"):
        param_groups.layer_starts(model, frozen_layers=("features", "blocks"))
    with pytest.raises(ValueError, match=r"frozen_layers=\('\*',\) freezes all layers: leave some"):
        param_groups.layer_starts(model, frozen_layers=("*",))
    (start,) = param_groups.layer_starts(model, frozen_layers=("feat*",))
    assert start == (model.get_layer("features"), param_groups.NEVER)
