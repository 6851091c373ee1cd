"""attach_noah: the feature map it finds, the model it returns, and its errors."""

import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from attach_helpers import CLASSES, images

from benchmarks.backbone_cases import all_cases
from noah_tf.head.layer import NOAHHead
from noah_tf.models.attach import attach_noah, feature_layer_name

layers = tf.keras.layers


@pytest.fixture(autouse=True)
def fresh_session():
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(0)


def conv_map(size=8, channels=8, name="last_map"):
    """Returns an image input and a feature map computed from it."""
    image = tf.keras.Input((size, size, 3))
    x = layers.Conv2D(channels, 3, padding="same", name="stem")(image)
    return image, layers.ReLU(name=name)(x)


def keras_cv_resnet18():
    return next(case for case in all_cases() if case.name == "ResNet18Backbone").build()


def token_map(tokens, width=8):
    image = tf.keras.Input((tokens, 3))
    return image, layers.Dense(width, name="tokens")(image)


SLOW = pytest.mark.slow


# ---- feature layer, N and r ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer", "discarded", "groups", "ratio"),
    [
        pytest.param("ResNet50", "conv5_block3_out", ("predictions",), 8, 1 / 32, marks=SLOW),
        pytest.param("ResNet50V2", "post_relu", ("predictions",), 8, 1 / 32, marks=SLOW),
        ("MobileNetV2", "out_relu", ("predictions",), 8, 1 / 32),
        ("MobileNet", "conv_pw_13_relu", ("conv_preds",), 8, 1 / 16),
        ("VGG16", "block5_pool", ("fc1", "fc2", "predictions"), 8, 1 / 8),
        pytest.param("DenseNet121", "relu", ("predictions",), 8, 1 / 16, marks=SLOW),
        pytest.param("EfficientNetB0", "top_activation", ("predictions",), 8, 1 / 32, marks=SLOW),
    ],
)
def test_known_classifiers(name, layer, discarded, groups, ratio):
    function = getattr(tf.keras.applications, name)
    model = attach_noah(function(weights=None, input_shape=(64, 64, 3), classes=3), CLASSES)
    assert model.noah_feature_layer == layer
    assert model.noah_discarded_layers == discarded
    head = model.get_layer("noah_head")
    assert (head.num_groups, head.key_ratio) == (groups, ratio)


def test_mobilenet_v3_feature_map_is_before_the_pool_and_its_convolutions():
    backbone = tf.keras.applications.MobileNetV3Small(weights=None, input_shape=(64, 64, 3))
    model = attach_noah(backbone, CLASSES)
    # Hard-swish ends in an Activation on Keras 3 and in a Multiply on Keras 2.
    assert model.noah_feature_layer.startswith(("activation", "multiply"))
    assert model.get_layer("noah_head").input.shape[1:] == (2, 2, 576)
    assert [name.lower() for name in model.noah_discarded_layers] == ["conv_2", "logits"]
    assert model.get_layer("noah_head").num_groups == 6  # 36 key channels


@pytest.mark.parametrize(
    ("classes", "groups", "ratio"), [(CLASSES, 8, 1 / 8), (999, 8, 1 / 8), (1000, 4, 1 / 2)]
)
def test_resnet_18_has_the_papers_groups_and_ratio_for_many_classes(classes, groups, ratio):
    head = attach_noah(keras_cv_resnet18(), classes).get_layer("noah_head")
    assert (head.num_groups, head.key_ratio) == (groups, ratio)


@pytest.mark.parametrize(
    ("channels", "arguments", "groups", "ratio"),
    [
        (8, {}, 4, 0.5),
        (12, {}, 3, 0.5),  # 6 and 6
        (10, {}, 2, 0.25),  # 2 and 8, where 1/2 gives 5 and 5
        (64, {}, 4, 1 / 2),  # 8 groups would have 4 key channels each.
        (96, {}, 8, 1 / 2),
        (7, {}, 1, 0.5),  # 3 and 4
        (128, {}, 8, 1 / 2),
        (257, {}, 1, 1 / 8),  # 32 and 225
        (264, {}, 6, 1 / 4),  # 66 and 198
        (512, {}, 8, 1 / 8),
        (1024, {}, 8, 1 / 16),
        (1280, {}, 8, 1 / 32),
        (4032, {}, 7, 1 / 32),  # 126 and 3906
        (1624, {}, 7, 1 / 8),  # 203 and 1421, where 1/32 gives 50 and 1574
        (16, {"key_ratio": 0.25}, 4, 0.25),
        (16, {"key_ratio": 0.125}, 2, 0.125),
        (16, {"num_groups": 2}, 2, 0.5),
        (1280, {"num_groups": 2}, 2, 1 / 32),
        (16, {"num_groups": 8, "key_ratio": 0.5}, 8, 0.5),
    ],
)
def test_default_groups_are_the_largest_that_leave_enough_keys(channels, arguments, groups, ratio):
    model = attach_noah(tf.keras.Model(*conv_map(channels=channels)), CLASSES, **arguments)
    head = model.get_layer("noah_head")
    assert (head.num_groups, head.key_ratio) == (groups, ratio)


@pytest.mark.parametrize(
    ("name", "channels", "groups", "ratio"),
    [
        ("mobilenetv2_1.00_224", 64, 8, 0.25),
        ("mobilenetv2_0.35_224", 36, 4, 1 / 8),  # 8 does not divide 9 and 27.
        ("shufflenet_v2", 32, 8, 0.25),
        ("resnet50", 2048, 4, 0.125),
        ("resnet34", 512, 4, 0.5),
        ("resnetrs50", 2048, 8, 1 / 32),
        ("inception_resnet_v2", 2048, 8, 1 / 32),
        ("MobileNet", 1024, 8, 1 / 16),
    ],
)
def test_paper_families_are_recognized_by_name(name, channels, groups, ratio):
    model = attach_noah(tf.keras.Model(*conv_map(2, channels), name=name), 1000)
    head = model.get_layer("noah_head")
    assert (head.num_groups, head.key_ratio) == (groups, ratio)


def pooled_heads():
    """Returns ways to reduce a map to a vector, {name: function of the map}."""
    average = layers.GlobalAveragePooling2D
    return {
        "pool": lambda x: layers.Dense(3)(average()(x)),
        "max": lambda x: layers.Dense(3)(layers.GlobalMaxPooling2D()(x)),
        "flatten": lambda x: layers.Dense(3)(layers.Flatten()(x)),
        "reshape": lambda x: layers.Dense(3)(layers.Reshape((-1,))(x)),
        "lambda": lambda x: layers.Dense(3)(
            layers.Lambda(lambda t: tf.reduce_mean(t, (1, 2)), output_shape=(8,))(x)
        ),
        "window": lambda x: layers.Flatten()(layers.AveragePooling2D(8)(x)),
        "keepdims": lambda x: layers.Flatten()(
            layers.Conv2D(3, 1)(layers.Dropout(0.1)(average(keepdims=True)(x)))
        ),
        "pool, then 1x1 convolutions": lambda x: layers.Flatten()(
            layers.Conv2D(3, 1)(layers.Reshape((1, 1, 8))(average()(x)))
        ),
        "a gate after the pool": lambda x: layers.Multiply()(
            [average()(x), layers.Dense(8)(average()(x))]
        ),
        "average and maximum": lambda x: layers.Dense(3)(
            layers.Concatenate()([average()(x), layers.GlobalMaxPooling2D()(x)])
        ),
        "norm after the pool": lambda x: layers.Dense(3)(layers.LayerNormalization()(average()(x))),
        "tokens": lambda x: layers.Dense(3)(
            layers.GlobalAveragePooling1D()(layers.Reshape((64, 8), name="map_as_tokens")(x))
        ),
    }


@pytest.mark.parametrize("kind", pooled_heads())
def test_feature_map_is_found_before_each_kind_of_pooling(kind):
    image, x = conv_map()
    model = attach_noah(tf.keras.Model(image, pooled_heads()[kind](x)), CLASSES)
    assert model.noah_feature_layer == ("map_as_tokens" if kind == "tokens" else "last_map")


@pytest.mark.parametrize("size", [1, 8])
def test_squeeze_and_excitation_is_not_pooling(size):
    image, x = conv_map(size)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(8, 1, activation="sigmoid")(gate)
    x = layers.Multiply(name="excited")([x, gate])
    for pool in ([], [layers.GlobalAveragePooling2D(), layers.Dense(3)]):
        output = x
        for layer in pool:
            output = layer(output)
        assert attach_noah(tf.keras.Model(image, output), 2).noah_feature_layer == "excited"


def test_unknown_image_size():
    image = tf.keras.Input((None, None, 3))
    x = layers.Conv2D(8, 3, name="map")(image)
    x = layers.Dense(3)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    model = attach_noah(tf.keras.Model(image, layers.Flatten()(x)), CLASSES)
    assert model.noah_feature_layer == "map"
    assert model(np.zeros((1, 9, 7, 3), "float32")).shape == (1, CLASSES)


def test_second_input_with_metadata():
    image, x = conv_map()
    metadata = tf.keras.Input((3,))
    vector = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), metadata])
    model = attach_noah(tf.keras.Model([image, metadata], layers.Dense(3)(vector)), CLASSES)
    assert model.noah_feature_layer == "last_map"
    assert len(model.inputs) == 2


def test_a_second_head_replaces_the_first():
    first = attach_noah(tf.keras.Model(*conv_map()), 3)
    second = attach_noah(first, CLASSES, head="gap")
    assert second.noah_feature_layer == "last_map"
    assert second.noah_discarded_layers == ("noah_head",)


# ---- feature_layer= --------------------------------------------------------------------------


def test_feature_layer_overrides_the_search():
    model = attach_noah(tf.keras.Model(*conv_map()), CLASSES, feature_layer="stem")
    assert model.noah_feature_layer == "stem"
    assert "last_map" not in {layer.name for layer in model.layers}


def test_feature_layer_selects_one_of_several_outputs():
    image, x = conv_map()
    pyramid = tf.keras.Model(image, [x, layers.MaxPooling2D(name="half")(x)])
    assert attach_noah(pyramid, 2, feature_layer="half").get_layer("noah_head").input.shape[1] == 4


def test_unknown_feature_layer_raises_with_similar_names():
    with pytest.raises(ValueError, match="no layer 'last_mop'.*'last_map'"):
        attach_noah(tf.keras.Model(*conv_map()), CLASSES, feature_layer="last_mop")


def test_feature_layer_after_the_pool_raises():
    image, x = conv_map()
    model = tf.keras.Model(image, layers.GlobalAveragePooling2D(name="pool")(x))
    with pytest.raises(ValueError, match=r"'pool'.*\(None, 8\).*before the pooling"):
        attach_noah(model, CLASSES, feature_layer="pool")


# ---- nested models ---------------------------------------------------------------------------


def classifier(name="classifier"):
    image, x = conv_map()
    return tf.keras.Model(
        image, layers.Dense(3, name="scores")(layers.GlobalAveragePooling2D()(x)), name=name
    )


def test_nested_backbone_stays_one_layer():
    backbone = tf.keras.Model(*conv_map(), name="inner")
    sequential = tf.keras.Sequential(
        [tf.keras.Input((8, 8, 3)), backbone, layers.GlobalAveragePooling2D(), layers.Dense(3)]
    )
    model = attach_noah(sequential, CLASSES)
    assert model.noah_feature_layer == "inner/last_map"
    assert model.get_layer("inner") is backbone


def test_keras_cv_image_classifier():
    backbone = keras_cv_resnet18()
    model = attach_noah(keras_cv.models.ImageClassifier(backbone, num_classes=3), CLASSES)
    assert model.noah_feature_layer == backbone.name
    assert model.noah_discarded_layers == ("predictions",)
    assert model.get_layer("noah_head").num_groups == 8


@pytest.mark.parametrize("depth", [1, 2])
def test_feature_map_inside_a_nested_classifier(depth, tmp_path):
    inner = classifier()
    outer = inner
    for level in range(depth):
        image = tf.keras.Input((8, 8, 3))
        x = outer(layers.Rescaling(0.5)(image), training=False)
        outer = tf.keras.Model(image, layers.Dense(4, name="more")(x), name=f"outer{level}")
    model = attach_noah(outer, CLASSES)
    path = "outer0/classifier/last_map" if depth == 2 else "classifier/last_map"
    assert model.noah_feature_layer == path
    assert set(model.noah_discarded_layers) >= {"more", path.replace("last_map", "scores")}
    assert any(weight is inner.get_layer("stem").kernel for weight in model.weights)

    x = images(model)
    rescaled = x * 0.5**depth
    features = tf.keras.Model(inner.input, inner.get_layer("last_map").output)(rescaled)
    expected = model.get_layer("noah_head")(features)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)

    model.save(str(tmp_path / "model.keras"))
    loaded = tf.keras.models.load_model(str(tmp_path / "model.keras"), compile=False)
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5, atol=1e-6)


def test_nested_sequential_head_is_discarded():
    image, x = conv_map()
    head = tf.keras.Sequential(
        [tf.keras.Input((8, 8, 8)), layers.GlobalAveragePooling2D(), layers.Dense(3)], name="top"
    )
    model = attach_noah(tf.keras.Model(image, head(x)), CLASSES)
    assert model.noah_feature_layer == "last_map"
    assert model.noah_discarded_layers == ("top/" + head.layers[-1].name,)


def test_feature_layer_in_a_nested_model():
    image = tf.keras.Input((8, 8, 3))
    outer = tf.keras.Model(image, classifier()(image))
    model = attach_noah(outer, CLASSES, feature_layer="classifier/stem")
    assert model.noah_feature_layer == "classifier/stem"
    with pytest.raises(ValueError, match="'classifier/stem'"):
        attach_noah(outer, CLASSES, feature_layer="stem")


class Subclassed(tf.keras.Model):
    def __init__(self):
        super().__init__()
        self.pool, self.dense = layers.GlobalAveragePooling2D(), layers.Dense(3)

    def call(self, inputs):
        return self.dense(self.pool(inputs))


def test_nested_subclassed_classifier_raises():
    image, x = conv_map()
    with pytest.raises(ValueError, match="is subclassed"):
        attach_noah(tf.keras.Model(image, Subclassed()(x)), CLASSES)


# ---- class token -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "option", "left"),
    [
        (17, "auto", 16),
        (16, "auto", 16),
        (2, "auto", 1),
        (1, "auto", 1),
        (18, "auto", 18),  # Two extra tokens are not recognized.
        (18, 2, 16),
        (17, False, 17),
        (16, True, 15),
        (None, "auto", None),
        (None, True, None),
    ],
)
def test_class_token(tokens, option, left):
    model = attach_noah(tf.keras.Model(*token_map(tokens)), CLASSES, drop_class_token=option)
    assert model.get_layer("noah_head").input.shape[1] == left
    assert model.noah_feature_layer == feature_layer_name(model) == "tokens"


def test_first_token_is_dropped():
    backbone = tf.keras.Model(*token_map(5))
    model = attach_noah(backbone, CLASSES)
    x = images(model)
    head = model.get_layer("noah_head")
    np.testing.assert_allclose(model(x), head(backbone(x)[:, 1:]), rtol=1e-5, atol=1e-6)


def test_class_token_selection_of_a_classifier():
    image, x = token_map(17)
    model = attach_noah(tf.keras.Model(image, layers.Dense(3)(x[:, 0])), CLASSES)
    assert model.noah_feature_layer == "tokens"
    assert model.get_layer("noah_head").input.shape[1] == 16


def test_dropping_all_tokens_raises():
    with pytest.raises(ValueError, match="leaves none of the 2 tokens"):
        attach_noah(tf.keras.Model(*token_map(2)), CLASSES, drop_class_token=3)


# ---- outputs and shared weights ---------------------------------------------------------------


@pytest.mark.parametrize("head", ["noah", "gap"])
def test_weights_are_shared_and_unchanged(head):
    backbone = tf.keras.applications.MobileNetV2(
        weights=None, alpha=0.35, input_shape=(64, 64, 3), classes=3
    )
    before = [variable.numpy() for variable in backbone.weights]
    model = attach_noah(backbone, CLASSES, head=head)
    shared = [layer for layer in backbone.layers if layer.name != "predictions"]
    assert all(model.get_layer(layer.name) is layer for layer in shared if layer.weights)
    for variable, old in zip(backbone.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)
    assert backbone.output_shape == (None, 3)


def test_output_equals_the_head_on_the_features():
    backbone = tf.keras.applications.MobileNetV2(
        weights=None, alpha=0.35, input_shape=(64, 64, 3), classes=3
    )
    model = attach_noah(backbone, CLASSES)
    x = images(model)
    features = tf.keras.Model(backbone.input, backbone.get_layer("out_relu").output)(x)
    attached = model.get_layer("noah_head")
    head = NOAHHead(CLASSES, attached.num_groups, attached.key_ratio)
    head.build(features.shape)
    head.set_weights(attached.get_weights())
    np.testing.assert_allclose(model(x), head(features), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("features", ["map", "tokens"])
def test_gap_head_equals_mean_and_linear_layer(features):
    backbone = tf.keras.Model(*(conv_map() if features == "map" else token_map(17)))
    model = attach_noah(backbone, CLASSES, head="gap")
    x = images(model)
    values = backbone(x).numpy()
    mean = values.mean((1, 2)) if features == "map" else values[:, 1:].mean(1)
    kernel, bias = model.get_layer("gap_logits").get_weights()
    np.testing.assert_allclose(model(x), mean @ kernel + bias, rtol=1e-4, atol=1e-5)
    assert feature_layer_name(model) == model.noah_feature_layer


@pytest.mark.parametrize("head", ["noah", "gap"])
def test_initializers_reach_the_head(head):
    backbone = tf.keras.Model(*conv_map())
    arguments = {"kernel_initializer": tf.keras.initializers.Constant(3.0)}
    model = attach_noah(backbone, 3, head=head, bias_initializer="ones", **arguments)
    layer = model.get_layer("noah_head" if head == "noah" else "gap_logits")
    assert sorted({value for w in layer.get_weights() for value in np.unique(w)}) == [1, 3]
    plain = attach_noah(backbone, 3, head=head).layers[-1].get_weights()
    kernels = [w for w in plain if w.any()]
    assert len(kernels) == len(plain) / 2  # the biases start at 0
    assert all(len(np.unique(kernel)) > 3 for kernel in kernels)


@pytest.mark.parametrize("head", ["noah", "gap"])
def test_a_float64_policy_gives_float64_logits(head):
    tf.keras.mixed_precision.set_global_policy("float64")
    model = attach_noah(tf.keras.Model(*conv_map()), 3, head=head)
    assert model(np.zeros((1, *model.input_shape[1:]))).dtype == tf.float64


@pytest.mark.parametrize("head", ["noah", "gap"])
def test_arguments_reach_the_head(head):
    model = attach_noah(
        tf.keras.Model(*conv_map()), 3, dropout=0.3, activation="softmax", head=head, name="mine"
    )
    assert model.name == "mine"
    np.testing.assert_allclose(tf.reduce_sum(model(images(model)), -1), np.ones(2), rtol=1e-5)
    if head == "noah":
        assert model.get_layer("noah_head").dropout == 0.3
    else:
        assert model.get_layer("gap_dropout").rate == 0.3


def test_default_names():
    backbone = tf.keras.Model(*conv_map(), name="tiny")
    assert attach_noah(backbone, 2).name == "tiny_noah"
    assert attach_noah(backbone, 2, head="gap").name == "tiny_gap"


@pytest.fixture
def mixed_bfloat16():
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    yield
    tf.keras.mixed_precision.set_global_policy("float32")


@pytest.mark.usefixtures("mixed_bfloat16")
@pytest.mark.parametrize("head", ["noah", "gap"])
def test_logits_are_float32_under_mixed_precision(head):
    backbone = tf.keras.Model(*conv_map())
    assert tf.as_dtype(backbone.outputs[0].dtype) == tf.bfloat16
    model = attach_noah(backbone, CLASSES, head=head)
    assert model(images(model)).dtype == tf.float32


def test_saved_model_export(tmp_path):
    model = attach_noah(tf.keras.Model(*token_map(17)), CLASSES)
    x = images(model)
    model.export(str(tmp_path))
    exported = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(exported.serve(x), model(x), rtol=1e-5, atol=1e-6)


def test_feature_layer_name_of_another_model_raises():
    with pytest.raises(ValueError, match="attach_noah did not make it"):
        feature_layer_name(classifier())


# ---- errors ----------------------------------------------------------------------------------


def test_non_model_raises():
    with pytest.raises(TypeError, match="must be a tf.keras.Model, got str"):
        attach_noah("resnet50")


@pytest.mark.parametrize("make", [Subclassed, lambda: tf.keras.Sequential([layers.Dense(2)])])
def test_model_without_a_graph_raises(make):
    with pytest.raises(ValueError, match="no graph of layers"):
        attach_noah(make())


def test_model_without_a_feature_map_raises():
    vector = tf.keras.Input((8,))
    with pytest.raises(ValueError, match=r"ends in shape \(None, 3\) and has no feature map"):
        attach_noah(tf.keras.Model(vector, layers.Dense(3)(vector)))


def test_image_as_feature_map_raises():
    image = tf.keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match="its own input"):
        attach_noah(tf.keras.Model(image, layers.Dense(3)(layers.Flatten()(image))))


def test_several_feature_maps_raise():
    image, x = conv_map()
    half = layers.MaxPooling2D(name="half")(x)
    vector = layers.Concatenate()(
        [layers.GlobalAveragePooling2D()(x), layers.GlobalAveragePooling2D()(half)]
    )
    with pytest.raises(ValueError, match=r"pools 2 feature maps \(last_map, half\)"):
        attach_noah(tf.keras.Model(image, vector))


def test_several_outputs_raise():
    image, x = conv_map()
    with pytest.raises(ValueError, match="has 2 outputs"):
        attach_noah(tf.keras.Model(image, [x, layers.Dense(3)(x)]))


def test_video_model_raises():
    clip = tf.keras.Input((4, 8, 8, 3))
    x = layers.Conv3D(8, 3, name="clip_map")(clip)
    for output in (x, layers.GlobalAveragePooling3D()(x)):
        with pytest.raises(ValueError, match="a video's"):
            attach_noah(tf.keras.Model(clip, output))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be a positive integer, got 0"),
        ({"num_classes": 2.5}, "num_classes must be a positive integer, got 2.5"),
        ({"num_classes": True}, "num_classes must be a positive integer, got True"),
        ({"head": "mlp"}, "head must be 'noah' or 'gap', got 'mlp'"),
        (
            {"head": "gap", "kernel_initializer": "reference"},
            "kernel_initializer='reference' is for head='noah', got head='gap'",
        ),
        ({"kernel_initializer": "nonsense"}, "one of Keras's initializers, .* got 'nonsense'"),
        (
            {"head": "gap", "kernel_initializer": "nonsense"},
            "one of Keras's initializers, .* got 'nonsense'",
        ),
        ({"drop_class_token": "yes"}, "drop_class_token must be .* got 'yes'"),
        ({"drop_class_token": -1}, "drop_class_token must be .* got -1"),
        ({"num_groups": 3}, "num_groups=3 must divide"),
        ({"num_groups": 0}, "num_groups must be a positive integer, got 0"),
        ({"num_groups": "4"}, "num_groups must be a positive integer, got '4'"),
        ({"key_ratio": float("nan")}, "key_ratio must be a number between 0 and 1 .* got nan"),
        ({"key_ratio": "a"}, "key_ratio must be a number between 0 and 1 .* got 'a'"),
        ({"feature_layer": 3}, "feature_layer must be the name of a layer, got 3"),
        ({"key_ratio": 0.01}, "8 channels cannot be split .* key_ratio=0.01"),
    ],
)
def test_invalid_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        attach_noah(tf.keras.Model(*conv_map()), **arguments)


def test_one_channel_raises():
    with pytest.raises(ValueError, match="1 channels cannot be split"):
        attach_noah(tf.keras.Model(*conv_map(channels=1)), 2)


def test_one_position_warns():
    image = tf.keras.Input((1, 1, 3))
    backbone = tf.keras.Model(image, layers.Conv2D(8, 1)(image))
    with pytest.warns(UserWarning, match="NOAH is a linear layer"):
        model = attach_noah(backbone, CLASSES)
    assert model.output_shape == (None, CLASSES)


def test_settings_are_logged(caplog):
    with caplog.at_level("INFO", logger="absl"):
        attach_noah(classifier(), CLASSES)
    assert "'last_map' of classifier" in caplog.text
    assert "num_groups=4, key_ratio=0.5" in caplog.text
    assert "scores" in caplog.text
