"""Models in .keras files, for other image sizes."""

import hashlib
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from noah_tf.models import load_keras_file, model_from_json, sha256_of, with_input_shape

layers = tf.keras.layers


def convolutional(channels=3):
    images = tf.keras.Input((32, 32, channels))
    x = layers.Conv2D(8, 3, strides=2, padding="same")(images)
    x = layers.BatchNormalization()(x)
    return tf.keras.Model(images, layers.ReLU()(x), name="small")


def test_another_size_has_the_same_layers_and_weights(tmp_path):
    model = convolutional()
    model.save(tmp_path / "model.keras")
    loaded = load_keras_file(tmp_path / "model.keras")
    assert with_input_shape(loaded, (32, 32, 3)) is loaded
    larger = with_input_shape(loaded, (48, 64, 3))
    assert larger.output_shape == (None, 24, 32, 8)
    assert [layer.name for layer in larger.layers[1:]] == [layer.name for layer in model.layers[1:]]
    for old, new in zip(model.get_weights(), larger.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    images = tf.random.stateless_normal((2, 32, 32, 3), (0, 1))
    np.testing.assert_array_equal(loaded(images), model(images))


def test_a_config_gives_the_same_layers(tmp_path):
    model = convolutional()
    again = model_from_json(model.to_json())
    again.set_weights(model.get_weights())
    images = tf.random.stateless_normal((2, 32, 32, 3), (0, 1))
    np.testing.assert_array_equal(again(images), model(images))
    with pytest.raises(ValueError, match="cannot read the saved config of the backbone"):
        model_from_json('{"class_name": "NoSuchModel", "config": {}}')


def test_models_that_take_no_other_size_raise():
    images = tf.keras.Input((8, 8, 3))
    flat = tf.keras.Model(images, layers.Dense(4)(layers.Flatten()(images)), name="flat")
    with pytest.raises(ValueError, match="flat cannot take images of 16x16 .* its own size, 8x8"):
        with_input_shape(flat, (16, 16, 3))
    with pytest.raises(ValueError, match="small takes images with 4 channels, got 3"):
        with_input_shape(convolutional(4), (32, 32, 3))
    other = tf.keras.Input((8, 8, 3))
    two = tf.keras.Model([images, other], layers.Add()([images, other]), name="two")
    with pytest.raises(ValueError, match="two must have one input of images .* 8, 8, 3., .None"):
        with_input_shape(two, (16, 16, 3))


def test_other_models_and_files_raise(tmp_path):
    class Subclassed(tf.keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="must be a functional model: it has no graph of layers"):
        with_input_shape(Subclassed(), (16, 16, 3))
    with zipfile.ZipFile(tmp_path / "zip.keras", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ValueError, match="cannot load .*zip.keras .*whole .keras file"):
        load_keras_file(tmp_path / "zip.keras")


def test_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * (3 << 20))
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"x" * (3 << 20)).hexdigest()
