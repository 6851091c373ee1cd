"""The standard deviations of the kernels of a new head."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import noah_tf
from noah_tf import NOAHHead
from noah_tf.head.initializers import default_initializer

GROUPS = 4


def built(num_classes, channels=512, **options):
    tf.keras.utils.set_random_seed(0)
    head = NOAHHead(num_classes, GROUPS, **options)
    head.build((None, 2, 2, channels))
    return head


def check_deviation(head, expected):
    for kernel in (head.key_kernel, head.value_kernel):
        values = np.asarray(kernel)
        # The standard error of the deviation is about expected / sqrt(2 * size).
        assert abs(values.std() - expected) < 5 * expected / np.sqrt(2 * values.size)
        assert abs(values.mean()) < 5 * expected / np.sqrt(values.size)
    assert not np.array_equal(head.key_kernel, head.value_kernel)


@pytest.mark.parametrize(
    ("num_classes", "channels", "factor"),
    [
        (3, 512, 24 / 512),
        (3, 64, 24 / 64),
        (3, 24, 1),
        (20, 512, 160 / 512),
        (999, 8192, 7992 / 8192),
        (1000, 512, 1),
        (21843, 64, 1),
    ],
)
def test_the_default_is_smaller_for_few_classes_and_many_channels(num_classes, channels, factor):
    check_deviation(built(num_classes, channels), factor * (2 / (GROUPS * num_classes)) ** 0.5)


@given(st.integers(1, 30_000), st.integers(1, 10_000))
def test_the_default_is_never_larger_than_the_references(num_classes, channels):
    scale = default_initializer(num_classes, channels).get_config()["scale"]
    assert 0 < scale <= 2
    if num_classes >= 1000:
        assert scale == 2
    else:
        assert scale <= default_initializer(num_classes + 1, channels).get_config()["scale"]


@pytest.mark.parametrize("num_classes", [3, 1000, 21843])
def test_reference_is_the_references_for_any_number_of_classes(num_classes):
    channels = 64 if num_classes > 1000 else 512
    head = built(num_classes, channels, kernel_initializer="reference")
    check_deviation(head, (2 / (GROUPS * num_classes)) ** 0.5)
    if num_classes >= 1000:
        default = built(num_classes, channels)
        np.testing.assert_array_equal(head.key_kernel, default.key_kernel)
        np.testing.assert_array_equal(head.value_kernel, default.value_kernel)


@pytest.mark.parametrize("initializer", [None, "reference", "he_normal"])
def test_a_copy_has_the_same_initializer(initializer):
    head = NOAHHead(7, kernel_initializer=initializer)
    copy = NOAHHead.from_config(head.get_config())
    assert copy.get_config() == head.get_config()


def test_other_names_are_those_of_keras():
    head = NOAHHead(3, kernel_initializer="glorot_uniform")
    assert type(head.kernel_initializer).__name__ == "GlorotUniform"
    with pytest.raises(ValueError, match="or one of Keras's initializers, .*got 'nonsense'"):
        NOAHHead(3, kernel_initializer="nonsense")


def test_few_classes_in_a_model_of_the_paper():
    model = noah_tf.create_model("noah_resnet18", num_classes=3, input_shape=(32, 32, 3))
    factor = 24 / 512
    check_deviation(model.get_layer("noah_head"), factor * (2 / (GROUPS * 3)) ** 0.5)
    model = noah_tf.create_model(
        "noah_resnet18", 3, input_shape=(32, 32, 3), kernel_initializer="reference"
    )
    check_deviation(model.get_layer("noah_head"), (2 / (GROUPS * 3)) ** 0.5)
