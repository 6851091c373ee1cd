"""Checks of argument values that several modules share.

Every `check_*` function takes the argument's name and its value, raises ValueError if the value is
not allowed, and otherwise returns it.
"""

import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def is_int(value: Any) -> bool:
    """Returns True for an integer of Python or NumPy. A bool is not one."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Returns True for a real number of Python or NumPy. A bool is not one."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_int(name: str, value: Any, minimum: int) -> int:
    """Returns `value` as an int that is at least `minimum`.

    Args:
        name: the argument's name, for the error message.
        value: the argument's value.
        minimum: the smallest allowed value.

    Raises:
        ValueError: `value` is not an integer, or it is less than `minimum`.

    Example:

    >>> check_int("retries", 4, minimum=0)
    4
    """
    if not is_int(value) or value < minimum:
        allowed = "a positive integer" if minimum == 1 else f"an integer of at least {minimum}"
        raise ValueError(f"{name} must be {allowed}, got {value!r}.")
    return int(value)


def check_positive_int(name: str, value: Any) -> int:
    """Returns `value` as a positive int.

    Raises:
        ValueError: `value` is not a positive integer.
    """
    return check_int(name, value, minimum=1)


def check_positive_number(name: str, value: Any, unit: str) -> Any:
    """Returns `value`, which must be a positive, finite number.

    Args:
        name: the argument's name, for the error message.
        value: the argument's value.
        unit: the number's unit in the plural, for the error message.

    Raises:
        ValueError: `value` is not a positive, finite number.
    """
    if not is_number(value) or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a positive number of {unit}, got {value!r}.")
    return value


def check_bounded(name: str, value: Any, maximum: float = float("inf")) -> Any:
    """Returns `value`, which must be a finite number from 0 to `maximum`.

    Raises:
        ValueError: `value` is not a finite number, or it is out of this range.
    """
    if not is_number(value) or not 0 <= value <= maximum or value == float("inf"):
        allowed = "0 or more" if maximum == float("inf") else f"from 0 to {maximum}"
        raise ValueError(f"{name} must be a number, {allowed}, got {value!r}.")
    return value


def check_range(name: str, value: Any, maximum: float = float("inf")) -> Any:
    """Returns `value`, which must be a tuple or list (smallest, largest) of positive numbers.

    Args:
        name: the argument's name, for the error message.
        value: the argument's value.
        maximum: the largest allowed number.

    Raises:
        ValueError: `value` is not a pair, or 0 < smallest <= largest <= maximum does not hold.
    """
    if (
        not isinstance(value, (tuple, list))
        or len(value) != 2
        or not 0 < value[0] <= value[1] <= maximum
    ):
        rule = "0 < smallest <= largest" + (f" <= {maximum}" if maximum < float("inf") else "")
        raise ValueError(f"{name} must be two numbers, {rule}, got {value!r}.")
    return value


def check_rate(name: str, value: Any) -> float:
    """Returns a dropout rate as a float.

    Raises:
        ValueError: `value` is not a number in [0, 1).
    """
    if not is_number(value) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a number in [0, 1), got {value!r}.")
    return float(value)


def check_key_ratio(value: Any) -> float:
    """Returns a key ratio as a float.

    Raises:
        ValueError: `value` is not a number between 0 and 1.
    """
    if not is_number(value) or not 0 < value < 1:
        raise ValueError(
            f"key_ratio must be a number between 0 and 1 (both excluded), got {value!r}."
        )
    return float(value)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> Any:
    """Returns `value`, which must be one of `choices`.

    Raises:
        ValueError: `value` is not one of `choices`.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")
    return value


def class_indices(classes: Any, num_classes: int) -> Any:
    """Returns class indices as an integer tensor of shape (K,).

    Args:
        classes: a list, array or tensor of K class indices.
        num_classes: the number of classes M.

    Raises:
        ValueError: `classes` is not a list of integers, or an index is outside [0, M).
    """
    import tensorflow as tf  # The serving client uses this module without TensorFlow.

    indices = tf.convert_to_tensor(classes)
    if not indices.dtype.is_integer or indices.shape.rank != 1:
        raise ValueError(f"classes must be a list of class indices, got {classes!r}.")
    # Inside a tf.function the values can be unknown. tf.gather checks them then.
    values = tf.get_static_value(indices)
    if values is not None and not all(0 <= index < num_classes for index in values):
        raise ValueError(f"classes must lie in [0, {num_classes}), got {values.tolist()}.")
    return indices


def error_messages(*checks: Callable[[], Any]) -> Iterator[str]:
    """Calls each function and yields the message of each ValueError, without its full stop.

    Args:
        *checks: functions without arguments, each of which may raise ValueError.

    Example:

    >>> list(error_messages(lambda: check_rate("dropout", 2), lambda: check_key_ratio(0.5)))
    ['dropout must be a number in [0, 1), got 2']
    """
    for check in checks:
        try:
            check()
        except ValueError as error:
            yield str(error).rstrip(".")
