"""Attention of models, and its picture."""

import numpy as np
import pytest
import tensorflow as tf

from noah_tf import NOAHHead, attach_noah
from noah_tf.explain import Explainer, attention_grid, explain_run

IMAGES = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)


def small_model(head="noah"):
    inputs = tf.keras.Input((32, 32, 3))
    features = tf.keras.layers.Conv2D(16, 5, strides=4, activation="relu")(inputs)
    return attach_noah(tf.keras.Model(inputs, features), num_classes=6, head=head)


def test_maps_are_the_attention_of_each_images_own_classes():
    model = small_model()
    classes = [[0, 5], [5, 5], [2, 1]]
    logits, maps = Explainer(model)(IMAGES, classes)
    np.testing.assert_allclose(logits, model(IMAGES), atol=1e-6)
    (head,) = [layer for layer in model.layers if isinstance(layer, NOAHHead)]
    features = tf.keras.Model(model.inputs, head.input)(IMAGES)
    every = head.attention(features).numpy()
    for image, pair in enumerate(classes):
        np.testing.assert_allclose(maps[image], every[image][..., pair], atol=1e-6)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, atol=1e-5)


def test_the_predicted_class_is_explained_unless_told_otherwise():
    explainer = Explainer(small_model())
    logits, maps = explainer(IMAGES)
    _, named = explainer(IMAGES, logits.argmax(axis=1)[:, None])
    assert maps.shape == (3, 7, 7, 1)
    np.testing.assert_array_equal(maps, named)


def test_tokens_become_a_square():
    inputs = tf.keras.Input((32, 32, 3))
    patches = tf.keras.layers.Conv2D(16, 8, strides=8)(inputs)
    tokens = tf.keras.layers.Reshape((16, 16))(patches)
    model = attach_noah(tf.keras.Model(inputs, tokens), num_classes=4)
    _, maps = Explainer(model)(IMAGES)
    assert maps.shape == (3, 4, 4, 1)


def test_tokens_of_a_wide_image_become_its_grid():
    inputs = tf.keras.Input((16, 64, 3))
    patches = tf.keras.layers.Conv2D(16, 8, strides=8)(inputs)
    tokens = tf.keras.layers.Reshape((16, 16))(patches)
    model = attach_noah(tf.keras.Model(inputs, tokens), num_classes=4, drop_class_token=False)
    assert Explainer(model)(np.zeros((1, 16, 64, 3), np.float32))[1].shape == (1, 2, 8, 1)
    model = attach_noah(tf.keras.Model(inputs, tokens), num_classes=4, drop_class_token=2)
    with pytest.raises(ValueError, match="14 tokens do not tile an image of 16x64"):
        Explainer(model)(np.zeros((1, 16, 64, 3), np.float32))


def test_a_pooled_head_has_no_attention():
    with pytest.raises(ValueError, match="has no NOAHHead"):
        Explainer(small_model(head="gap"))


def test_the_picture_shows_photo_and_maps(tmp_path):
    photos = np.zeros((2, 20, 30, 3), np.uint8)
    maps = np.zeros((2, 4, 6, 1), np.float32)
    maps[:, 0, 5] = 1  # the top right corner
    titles = [("photo", "map")] * 2
    figure = attention_grid(photos, maps, titles, boxes=np.array([[0.5, 0, 1, 0.5]] * 2))
    figure.savefig(tmp_path / "grid.png", dpi=50)
    axes = np.array(figure.axes).reshape(2, 2)
    photo, heat = axes[0, 1].images
    assert tuple(photo.get_extent()) == tuple(heat.get_extent())
    (box,) = axes[0, 0].patches
    assert box.get_bbox().bounds == (0, 10, 15, 10)
    pixels = tf.io.decode_png((tmp_path / "grid.png").read_bytes()).numpy()
    assert pixels.std() > 10


def test_a_run_is_explained_from_its_folder(finished_run, tmp_path):
    path = explain_run(finished_run, tmp_path / "new" / "grid.png", count=2)
    other = explain_run(finished_run, tmp_path / "other.png", count=2, seed=1)
    assert path.read_bytes() != other.read_bytes()
    assert tf.io.decode_png(path.read_bytes()).shape[0] > 100
