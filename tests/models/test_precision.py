"""Copies of models in another precision: their weights, and the layers that stay in float32."""

import re

import keras_cv
import numpy as np
import pytest
import tensorflow as tf

import noah_tf
from noah_tf import attach_noah
from noah_tf.models.precision import with_precision
from noah_tf.utils.distribute import dtype_policy

layers = tf.keras.layers


def pixels(size, count=4, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, size, size, 3)).astype(np.float32)


def disturbed(model, seed=0):
    """Changes the model's weights by random factors."""
    generator = np.random.default_rng(seed)
    model.set_weights(
        [(w * generator.uniform(0.9, 1.1, w.shape)).astype(w.dtype) for w in model.get_weights()]
    )
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return model


def flat_layers(model):
    for layer in model.layers:
        if isinstance(layer, tf.keras.Model):
            yield from flat_layers(layer)
        elif not isinstance(layer, layers.InputLayer):
            yield layer


def float32_layers(model):
    """Returns the names of the float32 layers, without the numbers that Keras appends."""
    names = [layer.name for layer in flat_layers(model) if layer.compute_dtype == "float32"]
    return {re.sub(r"_\d+$", "", name.lower()) for name in names}


def small_backbone():
    return keras_cv.models.ResNetBackbone(
        stackwise_filters=[64, 128],
        stackwise_blocks=[1, 1],
        stackwise_strides=[1, 2],
        include_rescaling=True,
        input_shape=(32, 32, 3),
        block_type="basic_block",
    )


def nested():
    inner = tf.keras.Sequential(
        [tf.keras.Input((32, 32, 3)), layers.Conv2D(16, 3, 2), layers.BatchNormalization()],
        name="inner",
    )
    inputs = tf.keras.Input((32, 32, 3))
    outer = tf.keras.Model(inputs, layers.ReLU(name="relu")(inner(inputs)))
    return attach_noah(outer, 10)


def squeeze_and_excite():
    # The GlobalAveragePooling2D of the gate is not part of the head.
    inputs = tf.keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(inputs)
    scale = layers.Dense(16, activation="sigmoid")(layers.GlobalAveragePooling2D(name="se")(x))
    x = layers.Multiply()([x, layers.Reshape((1, 1, 16))(scale)])
    return attach_noah(tf.keras.Model(inputs, x), 10, head="gap")


def wrapped():
    inputs = tf.keras.Input((32, 32, 3))
    rows = layers.Conv2D(16, 4, 4)(inputs)
    rows = layers.TimeDistributed(layers.Dense(16, name="wrapped_dense"), name="wrapper")(rows)
    return attach_noah(tf.keras.Model(inputs, rows), 10)


MODELS = {
    "mobilenet_v3": (
        lambda: noah_tf.create_model("noah_mobilenetv3_small", 10, (48, 48, 3)),
        set(),
    ),
    "deit": (
        lambda: noah_tf.create_model("noah_deit_tiny_050_patch16_224", 10, (32, 32, 3)),
        set(),
    ),
    "standard_deit": (
        lambda: noah_tf.create_model("deit_tiny_050_patch16_224", 10, (32, 32, 3)),
        {"class_token", "class_token.flat", "head.dropout", "head"},
    ),
    "keras_cv": (lambda: attach_noah(small_backbone(), 10), {"rescaling"}),
    "keras_cv_gap": (
        lambda: attach_noah(small_backbone(), 10, head="gap"),
        {"rescaling", "gap_pool", "gap_dropout", "gap_logits"},
    ),
    "nested": (nested, set()),
    "squeeze_and_excite": (squeeze_and_excite, {"gap_pool", "gap_dropout", "gap_logits"}),
    "wrapped": (wrapped, set()),
    "classifier": (
        lambda: tf.keras.applications.MobileNetV3Small(
            weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None
        ),
        None,
    ),
}


# Models whose graphs take seconds to build twice.
LARGE = ("mobilenet_v3", "standard_deit", "keras_cv", "keras_cv_gap", "classifier")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in MODELS],
)
def test_copy_has_the_same_weights_and_computes_in_bfloat16(name):
    make, expected_float32 = MODELS[name]
    tf.keras.utils.set_random_seed(0)
    model = disturbed(make())
    images = pixels(model.input_shape[1]) / 64 - 2
    before = model(images, training=False).numpy()

    copy = with_precision(model, "mixed_bfloat16")

    assert copy.name == model.name
    for old, new in zip(model.get_weights(), copy.get_weights(), strict=True):
        assert old.dtype == new.dtype
        np.testing.assert_array_equal(old, new)
    logits = copy(images, training=False)
    assert logits.dtype == tf.float32
    # bfloat16 has eight bits of precision, over up to 50 layers. No error would mean no bfloat16.
    error = np.abs(logits - before).max() / before.std()
    assert 1e-5 < error < 0.3
    if expected_float32 is not None:
        assert float32_layers(copy) == expected_float32
    else:  # The layers for x * hard_sigmoid(x) after the pool have other names in each Keras.
        assert float32_layers(copy) > {"rescaling", "dropout", "logits"}
        assert not any("expand" in layer or "conv" in layer for layer in float32_layers(copy))

    # The original is unchanged, and the copy can be copied back to float32.
    np.testing.assert_array_equal(model(images, training=False), before)
    assert not any(layer.compute_dtype == "bfloat16" for layer in flat_layers(model))
    back = with_precision(copy, "float32")(images, training=False)
    np.testing.assert_allclose(back, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


def test_copy_equals_a_model_built_under_the_policy():
    tf.keras.utils.set_random_seed(0)
    for head in ("noah", "gap"):
        model = disturbed(attach_noah(small_backbone(), 10, head=head))
        with dtype_policy("mixed_bfloat16"):
            built = attach_noah(small_backbone(), 10, head=head)
        built.set_weights(model.get_weights())
        images = pixels(32)
        copy = with_precision(model, "mixed_bfloat16")
        expected, logits = (m(images, training=False).numpy() for m in (built, copy))
        # Only the copy rescales pixels in float32.
        assert np.abs(logits - expected).max() < 0.02 * expected.std()
        assert float32_layers(built) == {n for n in float32_layers(copy) if "rescaling" not in n}


def test_an_adapted_normalization_is_copied():
    normalization = layers.Normalization()
    normalization.adapt(pixels(8, 32))
    inputs = tf.keras.Input((8, 8, 3))
    model = attach_noah(tf.keras.Model(inputs, layers.Conv2D(8, 3)(normalization(inputs))), 5)
    images = pixels(8, seed=1)
    copy = with_precision(model, "mixed_bfloat16")
    assert float32_layers(copy) == {"normalization"}
    expected = model(images, training=False).numpy()
    error = np.abs(copy(images, training=False) - expected).max()
    assert error < 0.05 * expected.std()


def test_copy_keeps_the_attributes_of_attach_noah():
    model = attach_noah(small_backbone(), 10, dropout=0.5)
    copy = with_precision(model, "mixed_bfloat16")
    assert copy.noah_feature_layer == model.noah_feature_layer
    assert copy.noah_discarded_layers == model.noah_discarded_layers
    frozen = attach_noah(small_backbone(), 10)
    frozen.get_layer(index=1).trainable = False
    copy = with_precision(frozen, "mixed_bfloat16")
    assert len(copy.get_layer("noah_head").trainable_weights) == 4
    for old, new in zip(frozen.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_uncopyable_models_raise():
    class Subclassed(tf.keras.Model):
        def call(self, images):
            return images

    model = Subclassed(name="odd")
    with pytest.raises(ValueError, match=r"odd \(Subclassed\) cannot be copied: it has no graph"):
        with_precision(model, "mixed_bfloat16")

    class Unconfigured(layers.Layer):
        def __init__(self, factor):
            super().__init__(name="factor")
            self.factor = factor

        def call(self, x):
            return x * self.factor

        def get_config(self):
            return {"name": self.name}

    inputs = tf.keras.Input((8, 8, 3))
    features = Unconfigured(2.0)(layers.Conv2D(8, 3)(inputs))
    model = attach_noah(tf.keras.Model(inputs, features, name="plain"), 3)
    with pytest.raises(ValueError, match=r"plain.* its layer 'factor' \(Unconfigured\)"):
        with_precision(model, "mixed_bfloat16")
    with pytest.raises(ValueError, match="precision must be one of .*, got 'bfloat16'"):
        with_precision(model, "bfloat16")
