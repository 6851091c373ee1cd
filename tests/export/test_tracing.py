"""The switch that keeps grouped convolutions out of functions of their own."""

import pytest
import tensorflow as tf

from noah_tf.export.tracing import inlined_grouped_convolutions

layers = tf.keras.layers


def convolutional_model(groups):
    inputs = tf.keras.Input((4, 4, 8))
    return tf.keras.Model(inputs, layers.Conv2D(8, 3, groups=groups)(inputs))


def nested_model(groups):
    inputs = tf.keras.Input((4, 4, 8))
    return tf.keras.Model(inputs, convolutional_model(groups)(inputs))


@pytest.mark.parametrize("make", [convolutional_model, nested_model])
@pytest.mark.parametrize(("groups", "switched"), [(1, False), (2, True)])
def test_only_models_with_grouped_convolutions_need_the_switch(make, groups, switched):
    with inlined_grouped_convolutions(make(groups)):
        assert tf.config.functions_run_eagerly() == switched
    assert not tf.config.functions_run_eagerly()


def test_an_error_resets_the_switch():
    with pytest.raises(RuntimeError), inlined_grouped_convolutions(convolutional_model(2)):
        raise RuntimeError
    assert not tf.config.functions_run_eagerly()


def test_group_normalization_needs_no_switch():
    inputs = tf.keras.Input((4, 4, 8))
    model = tf.keras.Model(inputs, layers.GroupNormalization(groups=4)(inputs))
    with inlined_grouped_convolutions(model):
        assert not tf.config.functions_run_eagerly()
