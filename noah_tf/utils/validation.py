"""Checks of arguments that several public functions have."""

import numbers


def positive_int(name, value):
    """The argument `name` as an int, or a ValueError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")
    return int(value)


def checked_rate(name, value):
    """`value` as a float, if it is a rate of dropout."""
    if not is_number(value) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a number in [0, 1), got {value!r}.")
    return float(value)


def checked_key_ratio(value):
    """A key ratio as a float, or a ValueError."""
    if not is_number(value) or not 0 < value < 1:
        raise ValueError(
            f"key_ratio must be a number between 0 and 1 (both excluded), got {value!r}."
        )
    return float(value)


def positive_number(name, value, unit):
    """`value`, if it is a positive number."""
    if not is_number(value) or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a positive number of {unit}, got {value!r}.")
    return value


def class_indices(classes, num_classes):
    """A list of class indices as an integer tensor (K,).

    Raises:
        ValueError: it is no such list, or one of them is not below `num_classes`.
    """
    import tensorflow as tf  # here, as clients of a server need none of it

    indices = tf.convert_to_tensor(classes)
    if not indices.dtype.is_integer or indices.shape.rank != 1:
        raise ValueError(f"classes must be a list of class indices, got {classes!r}.")
    # None inside a tf.function to which the classes are an argument: tf.gather checks those.
    known = tf.get_static_value(indices)
    if known is not None and not all(0 <= index < num_classes for index in known):
        raise ValueError(f"classes must lie in [0, {num_classes}), got {known.tolist()}.")
    return indices


def messages_of(*checks):
    """Calls the functions; gives what those that raise ValueError say, without the full stop."""
    for check in checks:
        try:
            check()
        except ValueError as error:
            yield str(error).rstrip(".")


def is_number(value):
    """Whether a value is a real number, and no bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
