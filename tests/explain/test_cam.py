"""Class activation maps, and the models for which they are defined."""

import numpy as np
import pytest
import tensorflow as tf

import noah_tf
from noah_tf.explain.cam import PooledHead

layers = tf.keras.layers


def build_model(*head_layers, tokens=False, shape=(8, 8, 3)):
    """Returns a model of a convolution followed by the given layers."""
    x = inputs = tf.keras.Input(shape)
    x = layers.Conv2D(6, 3, padding="same")(x)
    if tokens:
        x = layers.Reshape((-1, 6))(x)
    for layer in head_layers:
        x = layer(x)
    return tf.keras.Model(inputs, x, name="small")


@pytest.mark.parametrize(
    ("head_layers", "tokens"),
    [
        ([layers.GlobalAveragePooling2D(), layers.Dense(4)], False),
        ([layers.GlobalAveragePooling1D(), layers.Dropout(0.5), layers.Dense(4)], True),
        (
            [
                layers.GlobalAveragePooling2D(keepdims=True),
                layers.Flatten(),
                layers.Dense(4),
                layers.Activation("linear"),
            ],
            False,
        ),
        ([layers.GlobalAveragePooling2D(), layers.Dense(4, use_bias=False)], False),
    ],
)
def test_maps_sum_to_the_logits_without_the_bias(head_layers, tokens):
    model = build_model(*head_layers, tokens=tokens)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    head = PooledHead(model)
    assert head.num_classes == 4
    images = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    features = tf.keras.Model(model.input, head.input)(images)
    maps = head.class_activation(features).numpy()
    (dense,) = [layer for layer in model.layers if isinstance(layer, layers.Dense)]
    bias = dense.bias.numpy() if dense.use_bias else 0
    positions = tuple(range(1, maps.ndim - 1))
    np.testing.assert_allclose(maps.sum(axis=positions), model(images) - bias, atol=1e-5)
    selected = head.class_activation(features, [3, 0, 3])
    np.testing.assert_allclose(selected, maps[..., [3, 0, 3]], atol=1e-6)
    with pytest.raises(ValueError, match=r"classes must lie in \[0, 4\), got \[4\]"):
        head.class_activation(features, [4])


def test_map_is_that_of_the_paper_divided_by_the_number_of_positions():
    model = build_model(layers.GlobalAveragePooling2D(), layers.Dense(4))
    features = np.random.default_rng(0).normal(size=(1, 2, 3, 6)).astype(np.float32)
    kernel = model.layers[-1].get_weights()[0]
    expected = np.einsum("bhwc,cm->bhwm", features, kernel) / 6
    np.testing.assert_allclose(PooledHead(model).class_activation(features), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("mobilenetv3_small", "features.14"), ("pvt_tiny_050", "class_token")],
)
def test_standard_models_with_another_head_raise(name, layer):
    model = noah_tf.create_model(name, 5, (64, 64, 3))
    with pytest.raises(ValueError, match=f"{name}' has the layer '{layer}.*between its feature"):
        PooledHead(model)


def test_standard_and_keras_models_with_a_pooled_head_have_maps():
    model = noah_tf.create_model("resnet18", 5, (64, 64, 3))
    assert PooledHead(model).input.shape[1:] == (2, 2, 512)
    model = tf.keras.applications.MobileNetV2(weights=None, input_shape=(64, 64, 3), alpha=0.35)
    assert PooledHead(model).input.shape[1:] == (2, 2, 1280)


@pytest.mark.parametrize(
    ("head_layers", "layer"),
    [
        ([layers.GlobalMaxPooling2D(), layers.Dense(4)], "GlobalMaxPooling2D"),
        ([layers.Flatten(), layers.Dense(4)], "Flatten"),
        ([layers.GlobalAveragePooling2D(), layers.Dense(8), layers.Dense(4)], "Dense"),
        ([layers.GlobalAveragePooling2D()], "GlobalAveragePooling2D"),
    ],
)
def test_other_heads_raise_with_the_name_of_the_layer(head_layers, layer):
    with pytest.raises(ValueError, match=rf"'small' has the layer '\w+' \({layer}\) between"):
        PooledHead(build_model(*head_layers))


def test_model_without_a_graph_raises():
    class Subclassed(tf.keras.Model):
        def call(self, images):
            return images

    with pytest.raises(ValueError, match="has no graph of layers"):
        PooledHead(Subclassed())
