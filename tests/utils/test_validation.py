"""Tests of the argument checks."""

import math

import numpy as np
import pytest
import tensorflow as tf

from noah_tf.utils import validation

pytestmark = pytest.mark.one_stack


def test_python_and_numpy_integers_are_accepted():
    assert validation.check_positive_int("steps", np.int64(3)) == 3
    assert type(validation.check_positive_int("steps", np.int64(3))) is int
    assert validation.check_int("retries", 0, minimum=0) == 0


@pytest.mark.parametrize("value", [True, 0, -1, 1.0, "1", None, math.nan])
def test_other_values_are_not_positive_integers(value):
    with pytest.raises(ValueError, match="steps must be a positive integer, got ") as raised:
        validation.check_positive_int("steps", value)
    assert str(raised.value).endswith(f"got {value!r}.")


def test_the_minimum_of_an_integer_is_named():
    with pytest.raises(ValueError, match="retries must be an integer of at least 0, got -1."):
        validation.check_int("retries", -1, minimum=0)


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, True, "1"])
def test_other_values_are_not_positive_numbers(value):
    with pytest.raises(ValueError, match="timeout must be a positive number of seconds, got "):
        validation.check_positive_number("timeout", value, "seconds")


@pytest.mark.parametrize("value", [1, -0.1, math.nan, True, "0.1", None])
def test_other_values_are_not_rates(value):
    with pytest.raises(ValueError, match=r"dropout must be a number in \[0, 1\), got "):
        validation.check_rate("dropout", value)


def test_choices_are_named():
    assert validation.check_choice("color", "red", ("red", "blue")) == "red"
    with pytest.raises(ValueError, match="color must be one of red, blue, got 'green'."):
        validation.check_choice("color", "green", ("red", "blue"))


def test_class_indices_inside_a_function_are_not_checked():
    indices = tf.function(lambda classes: validation.class_indices(classes, 3))(tf.constant([7]))
    assert indices.numpy().tolist() == [7]
    with pytest.raises(ValueError, match=r"classes must lie in \[0, 3\), got \[7\]"):
        validation.class_indices([7], 3)


def test_error_messages_of_the_checks_that_raise():
    messages = validation.error_messages(
        lambda: validation.check_rate("dropout", 2), lambda: validation.check_key_ratio(0.5)
    )
    assert list(messages) == ["dropout must be a number in [0, 1), got 2"]
