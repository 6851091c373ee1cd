"""attach_noah(classifier, init="pooled"): the logits of a trained pooled classifier."""

import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from attach_helpers import images

from noah_tf import attach_noah, create_model

layers = tf.keras.layers
CHANNELS, CLASSES = 16, 5


def feature_map(size=8, channels=CHANNELS):
    image = tf.keras.Input((size, size, 3))
    x = layers.Conv2D(channels, 3, padding="same", name="stem")(image)
    return image, layers.ReLU(name="last_map")(x)


def classifier(*after):
    """Returns a model with random weights whose feature map the given layers follow."""
    image, x = feature_map()
    for layer in after:
        x = layer(x)
    return randomized(tf.keras.Model(image, x, name="classifier"))


def simple(units=CLASSES, **dense):
    return classifier(layers.GlobalAveragePooling2D(), layers.Dense(units, name="logits", **dense))


def randomized(model, seed=0):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape, scale=0.5) for w in model.get_weights()])
    return model


def randomized_dense(model, photos):
    """Gives the dense layer random weights with which the logits depend on the photos.

    In an untrained network the features can be as small as 1e-9.
    """
    *others, kernel, bias = model.get_weights()
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=kernel.shape)
    model.set_weights([*others, kernel, np.zeros_like(bias)])
    scale = np.std(model(photos, training=False))
    model.set_weights([*others, kernel / scale, rng.normal(size=bias.shape)])
    return model


def assert_equal_logits(model, expected, photos):
    logits = np.asarray(model(photos, training=False))
    expected = np.asarray(expected)
    assert np.isfinite(expected).all() and np.std(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(logits, expected, atol=1e-5 * max(1, expected.std()))


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_the_logits_are_those_of_the_classifier(groups):
    pooled = simple()
    model = attach_noah(pooled, num_groups=groups, init="pooled")
    head = model.get_layer("noah_head")
    assert (head.num_groups, head.num_classes, head.split_key_value) == (groups, CLASSES, False)
    assert not np.any(head.key_kernel)
    photos = images(model)
    assert_equal_logits(model, pooled(photos), photos)


def test_default_groups_and_name():
    model = attach_noah(simple(), init="pooled")
    assert model.name == "classifier_noah"
    assert model.get_layer("noah_head").num_groups == 4
    assert model.noah_discarded_layers == ("logits",)


@pytest.mark.parametrize(
    "after",
    [
        lambda: [layers.GlobalAveragePooling2D(keepdims=True), layers.Flatten(), dense()],
        lambda: [
            layers.GlobalAveragePooling2D(keepdims=True),
            layers.Dropout(0.5),
            layers.Conv2D(CLASSES, 1, padding="same"),
            layers.Reshape((CLASSES,)),
        ],
        lambda: [layers.GlobalAveragePooling2D(), dense(use_bias=False)],
        lambda: [layers.GlobalAveragePooling2D(), layers.Activation("linear"), dense()],
        lambda: [layers.Reshape((64, CHANNELS)), layers.GlobalAveragePooling1D(), dense()],
        # 65 tokens would be 64 and a class token.
        lambda: [
            layers.Reshape((64, CHANNELS)),
            layers.ZeroPadding1D((1, 0)),
            layers.GlobalAveragePooling1D(),
            dense(),
        ],
    ],
)
def test_forms_of_pooled_classifiers(after):
    pooled = classifier(*after())
    model = attach_noah(pooled, init="pooled")
    photos = images(model)
    assert_equal_logits(model, pooled(photos), photos)


def dense(**arguments):
    return layers.Dense(CLASSES, **arguments)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
@pytest.mark.parametrize("separate", [False, True])
def test_the_activation_of_the_output_is_an_argument(name, separate):
    last = [dense(), layers.Activation(name)] if separate else [dense(activation=name)]
    pooled = classifier(layers.GlobalAveragePooling2D(), *last)
    photos = images(pooled)
    model = attach_noah(pooled, init="pooled", activation=name)
    assert_equal_logits(model, pooled(photos), photos)
    logits = attach_noah(pooled, init="pooled")(photos)
    assert_equal_logits(model, getattr(tf.nn, name)(logits), photos)


def test_nested_models():
    image, x = feature_map()
    backbone = tf.keras.Model(image, x, name="backbone")
    top = tf.keras.Sequential([layers.GlobalAveragePooling2D(), dense()], name="top")
    photo = tf.keras.Input((8, 8, 3))
    inner = tf.keras.Model(photo, top(backbone(photo)), name="inner")
    outer_input = tf.keras.Input((8, 8, 3))
    x = inner(layers.Rescaling(0.5)(outer_input))
    outer = randomized(tf.keras.Model(outer_input, layers.Activation("softmax")(x)))
    model = attach_noah(outer, init="pooled", activation="softmax")
    photos = images(model)
    assert_equal_logits(model, outer(photos), photos)
    pooling = layers.GlobalAveragePooling2D()
    sequential = tf.keras.Sequential([tf.keras.Input((8, 8, 3)), backbone, pooling, dense()])
    randomized(sequential)
    model = attach_noah(sequential, init="pooled")
    assert_equal_logits(model, sequential(photos), photos)


def test_our_own_pooled_head():
    image, x = feature_map()
    pooled = randomized(attach_noah(tf.keras.Model(image, x), 7, head="gap", dropout=0.5))
    model = attach_noah(pooled, init="pooled", num_classes=7)
    photos = images(model)
    assert_equal_logits(model, pooled(photos), photos)


@pytest.mark.parametrize(
    "build",
    [
        lambda: tf.keras.applications.MobileNetV2(
            weights=None, alpha=0.35, input_shape=(64, 64, 3), classifier_activation=None
        ),
        pytest.param(
            lambda: tf.keras.applications.MobileNet(
                weights=None, alpha=0.25, input_shape=(64, 64, 3), classifier_activation=None
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: tf.keras.applications.EfficientNetB0(
                weights=None, input_shape=(64, 64, 3), classifier_activation=None
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: create_model("resnet18", input_shape=(64, 64, 3)), marks=pytest.mark.slow
        ),
        pytest.param(
            lambda: create_model("mobilenetv2_035", 10, (64, 64, 3)), marks=pytest.mark.slow
        ),
        pytest.param(lambda: create_model("gmlp_ti16_050_224"), marks=pytest.mark.slow),
    ],
)
def test_whole_classifiers(build):
    pooled = build()
    photos = images(pooled)
    logits = randomized_dense(pooled, photos)(photos, training=False)
    model = attach_noah(pooled, num_groups=8, init="pooled")
    assert_equal_logits(model, logits, photos)


@pytest.mark.slow
def test_kerascv():
    backbone = keras_cv.models.ResNetBackbone(
        stackwise_filters=[8, 16],
        stackwise_blocks=[1, 1],
        stackwise_strides=[1, 2],
        include_rescaling=True,
    )
    pooled = keras_cv.models.ImageClassifier(backbone, num_classes=3, activation=None)
    photos = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    logits = randomized_dense(pooled, photos)(photos, training=False)
    assert_equal_logits(attach_noah(pooled, init="pooled"), logits, photos)


@pytest.mark.parametrize("implementation", ["direct", "blocked"])
def test_training_goes_on(implementation):
    model = attach_noah(simple(), num_groups=4, init="pooled", implementation=implementation)
    photos = images(model, batch=8)
    labels = np.arange(8) % CLASSES
    head = model.get_layer("noah_head")
    optimizer = tf.keras.optimizers.SGD(0.1)
    losses = []
    for _ in range(3):
        with tf.GradientTape() as tape:
            logits = model(photos, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        losses.append(float(loss))
        weights = model.trainable_weights
        gradients = tape.gradient(loss, weights)
        key_gradient = next(
            gradient
            for gradient, weight in zip(gradients, weights, strict=True)
            if weight is head.key_kernel
        )
        # In every group the values of the positions differ, and so do the groups.
        norms = np.linalg.norm(np.reshape(key_gradient, (4, -1)), axis=1)
        assert np.all(norms > 1e-4) and len(set(norms.tolist())) == 4
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
    assert losses[0] > losses[1] > losses[2]
    assert np.any(head.key_kernel)


def test_a_saved_model(tmp_path):
    pooled = simple()
    attach_noah(pooled, init="pooled").save(tmp_path / "model.keras")
    photos = images(pooled)
    assert_equal_logits(
        tf.keras.models.load_model(tmp_path / "model.keras"), pooled(photos), photos
    )


def test_the_classifier_is_unchanged():
    pooled = simple()
    before = pooled.get_weights()
    model = attach_noah(pooled, init="pooled")
    head = model.get_layer("noah_head")
    head.value_kernel.assign(np.zeros(head.value_kernel.shape))
    for old, new in zip(before, pooled.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (list, "it has no classifier after its feature map"),
        (lambda: [layers.GlobalAveragePooling2D()], "it has no dense layer"),
        (lambda: [layers.GlobalMaxPooling2D(name="m"), dense()], "'m' .* not a global average"),
        (lambda: [layers.Flatten(name="f"), dense()], r"'f' \(Flatten\) is not a global average"),
        (
            lambda: [layers.GlobalAveragePooling2D(), layers.Dense(9, name="a"), dense(name="b")],
            "several dense layers, 'a' and 'b'",
        ),
        (
            lambda: [layers.GlobalAveragePooling2D(), dense(activation="relu", name="a")],
            "'a' .* has the activation 'relu'",
        ),
        (
            lambda: [layers.GlobalAveragePooling2D(), layers.Softmax(name="a"), dense()],
            "'a' .* has the activation 'softmax'",
        ),
        (
            lambda: [layers.GlobalAveragePooling2D(), layers.LayerNormalization(name="n"), dense()],
            r"'n' \(LayerNormalization\) is neither dropout nor a dense layer",
        ),
    ],
)
def test_other_classifiers_are_refused(after, message):
    with pytest.raises(ValueError, match=f"cannot convert classifier: .*{message}.*leave init out"):
        attach_noah(classifier(*after()), init="pooled")


def test_branches_are_refused():
    image, x = feature_map()
    pool = layers.GlobalAveragePooling2D()(x)
    pool = layers.Add(name="sum")([pool, layers.Dense(CHANNELS)(pool)])
    with pytest.raises(ValueError, match=r"'sum' \(Add\) does not have one input"):
        attach_noah(tf.keras.Model(image, dense()(pool)), init="pooled")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"init": "zeros"}, "init must be None or 'pooled', got 'zeros'"),
        ({"head": "gap"}, "init='pooled' is for head='noah', got head='gap'"),
        (
            {"num_classes": 7},
            "keeps the 5 classes of classifier, but the new model",
        ),
        ({"drop_class_token": 1}, "pools all tokens, got drop_class_token=1"),
        ({"kernel_initializer": "zeros"}, "leave out kernel_initializer and bias_initializer"),
        ({"bias_initializer": "ones"}, "leave out kernel_initializer and bias_initializer"),
        ({"split_groups": False}, "leave out split_groups"),
        ({"split_key_value": True}, "leave out split_key_value"),
        ({"num_groups": 3}, "num_groups=3 must divide"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        attach_noah(simple(), **{"init": "pooled", **arguments})


def test_without_init_the_number_of_classes_is_1000():
    assert attach_noah(simple()).output_shape == (None, 1000)
