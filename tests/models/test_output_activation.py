"""Models without the activation that they end in."""

import numpy as np
import pytest
import tensorflow as tf

from noah_tf import attach_noah
from noah_tf.models.output_activation import final_activation, without_final_activation
from noah_tf.utils.keras_compat import IS_KERAS_3

layers = tf.keras.layers
IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)


def backbone():
    inputs = tf.keras.Input((8, 8, 3))
    return tf.keras.Model(inputs, layers.Conv2D(6, 3, strides=2, activation="relu")(inputs))


def noah(activation):
    return attach_noah(backbone(), 4, activation=activation)


def dense(activation):
    base = backbone()
    pooled = layers.GlobalAveragePooling2D()(base.outputs[0])
    return tf.keras.Model(base.inputs, layers.Dense(4, activation=activation)(pooled))


def separate(activation):
    base = dense(None)
    return tf.keras.Model(base.inputs, layers.Activation(activation)(base.outputs[0]))


def cast_at_the_end(activation):
    base = dense(activation)
    cast = layers.Activation("linear", dtype="float32")
    return tf.keras.Model(base.inputs, cast(base.outputs[0]))


def sequential(activation):
    return tf.keras.Sequential([dense(None), layers.Activation(activation)])


def nested(activation):
    inputs = tf.keras.Input((8, 8, 3))
    return tf.keras.Model(inputs, dense(activation)(layers.Rescaling(2.0)(inputs)))


def function(activation):
    if IS_KERAS_3:
        import keras

        apply = getattr(keras.ops, activation)
    else:
        apply = getattr(tf.nn, activation)
    base = dense(None)
    return tf.keras.Model(base.inputs, apply(base.outputs[0]))


BUILDERS = (noah, dense, separate, cast_at_the_end, sequential, nested, function)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_the_logits_are_those_before_the_activation(build, activation):
    model = build(activation)
    expected = model(IMAGES).numpy()
    assert final_activation(model) == activation
    logits_model = without_final_activation(model)
    assert final_activation(logits_model) is None
    logits = logits_model(IMAGES).numpy()
    assert not np.allclose(logits, expected, atol=1e-3)
    np.testing.assert_allclose(getattr(tf.nn, activation)(logits), expected, atol=1e-6)
    # The original is as it was.
    assert final_activation(model) == activation
    np.testing.assert_array_equal(model(IMAGES), expected)


def test_a_softmax_layer_is_removed():
    base = dense(None)
    model = tf.keras.Model(base.inputs, layers.Softmax()(base.outputs[0]))
    assert final_activation(model) == "softmax"
    np.testing.assert_array_equal(without_final_activation(model)(IMAGES), base(IMAGES))


def test_a_model_that_returns_logits_is_returned_itself():
    for model in (noah(None), dense("linear")):
        assert final_activation(model) is None
        assert without_final_activation(model) is model


def test_what_attach_noah_noted_is_kept():
    model = noah("softmax")
    assert without_final_activation(model).noah_feature_layer == model.noah_feature_layer


class Scores(layers.Layer):
    """A layer whose activation is not in its config."""

    activation = staticmethod(tf.keras.activations.softmax)

    def call(self, inputs):
        return self.activation(inputs)


def test_a_layer_without_the_activation_in_its_config_raises():
    base = dense(None)
    model = tf.keras.Model(base.inputs, Scores(name="scores")(base.outputs[0]))
    with pytest.raises(ValueError, match="The last layer, 'scores' .Scores., cannot be copied"):
        without_final_activation(model)
