"""Maps of models with a NOAH head and with a pooled head."""

import numpy as np
import pytest
import tensorflow as tf

from noah_tf import NOAHHead, attach_noah
from noah_tf.explain.explainer import Explainer

IMAGES = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)


def small_model(head="noah", tokens=False):
    inputs = tf.keras.Input((32, 32, 3))
    features = tf.keras.layers.Conv2D(16, 5, strides=4, activation="relu")(inputs)
    if tokens:
        features = tf.keras.layers.Reshape((49, 16))(features)
    return attach_noah(tf.keras.Model(inputs, features), num_classes=6, head=head)


def test_maps_are_the_attention_of_the_classes_of_each_image():
    model = small_model()
    classes = [[0, 5], [5, 5], [2, 1]]
    logits, maps = Explainer(model)(IMAGES, classes)
    np.testing.assert_allclose(logits, model(IMAGES), atol=1e-6)
    (head,) = [layer for layer in model.layers if isinstance(layer, NOAHHead)]
    features = tf.keras.Model(model.input, head.input)(IMAGES)
    all_maps = head.attention(features).numpy()
    for image, pair in enumerate(classes):
        np.testing.assert_allclose(maps[image], all_maps[image][..., pair], atol=1e-6)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, atol=1e-5)


def test_default_class_is_the_predicted_one():
    explainer = Explainer(small_model())
    logits, maps = explainer(IMAGES)
    _, expected = explainer(IMAGES, logits.argmax(axis=1)[:, None])
    assert maps.shape == (3, 7, 7, 1)
    np.testing.assert_array_equal(maps, expected)


def test_tokens_become_a_square_grid():
    inputs = tf.keras.Input((32, 32, 3))
    patches = tf.keras.layers.Conv2D(16, 8, strides=8)(inputs)
    tokens = tf.keras.layers.Reshape((16, 16))(patches)
    model = attach_noah(tf.keras.Model(inputs, tokens), num_classes=4)
    _, maps = Explainer(model)(IMAGES)
    assert maps.shape == (3, 4, 4, 1)


def test_tokens_of_a_wide_image_become_a_wide_grid():
    inputs = tf.keras.Input((16, 64, 3))
    patches = tf.keras.layers.Conv2D(16, 8, strides=8)(inputs)
    tokens = tf.keras.layers.Reshape((16, 16))(patches)
    model = attach_noah(tf.keras.Model(inputs, tokens), num_classes=4, drop_class_token=False)
    assert Explainer(model)(np.zeros((1, 16, 64, 3), np.float32))[1].shape == (1, 2, 8, 1)
    model = attach_noah(tf.keras.Model(inputs, tokens), num_classes=4, drop_class_token=2)
    with pytest.raises(ValueError, match="14 tokens do not tile an image of 16x64"):
        Explainer(model)(np.zeros((1, 16, 64, 3), np.float32))
    # On TensorFlow 2.15, an error inside of map_fn would make every later scope fail.
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        tf.Variable(0.0)


@pytest.mark.parametrize("tokens", [False, True])
def test_contributions_and_class_activations_sum_to_the_logit(tokens):
    model = small_model(tokens=tokens)
    logits, maps = Explainer(model)(IMAGES, [[0, 5]] * 3, "contribution")
    assert maps.shape == (3, 7, 7, 2)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), logits[:, [0, 5]], atol=1e-5)
    _, groups = Explainer(model)(IMAGES, [[0, 5]] * 3, "contribution", per_group=True)
    assert groups.shape == (3, 7, 7, 4, 2)
    np.testing.assert_allclose(groups.sum(axis=3), maps, atol=1e-5)

    model = small_model("gap", tokens=tokens)
    model.get_layer("gap_logits").bias.assign(np.arange(6.0))
    logits, maps = Explainer(model)(IMAGES, [[0, 5]] * 3)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), logits[:, [0, 5]] - [0, 5], atol=1e-5)


def test_each_head_has_its_methods():
    noah, gap = Explainer(small_model()), Explainer(small_model("gap"))
    assert noah.methods == ("attention", "contribution") and gap.methods == ("cam",)
    with pytest.raises(ValueError, match="NOAH head, whose maps are attention and contribution"):
        noah(IMAGES, method="cam")
    with pytest.raises(ValueError, match="pooled head, whose maps are cam, got method='attention'"):
        gap(IMAGES, method="attention")
    with pytest.raises(ValueError, match="pooled head without groups: leave per_group out"):
        gap(IMAGES, per_group=True)


@pytest.mark.parametrize("head", ["noah", "gap"])
def test_classes_out_of_range_raise(head):
    with pytest.raises(ValueError, match=r"classes must lie in \[0, 6\), got \[0, 6, 2\]"):
        Explainer(small_model(head))(IMAGES, [[0], [6], [2]])
