"""Helpers for every other folder: validation, Keras compatibility, devices and files."""

# isort: off
# This import comes first: it raises ImportError for a Keras that the other modules cannot use.
from noah_tf.utils.keras_compat import (
    IS_KERAS_3,
    KERAS_NAME,
    NO_AUTOCAST,
    add_seed_stream,
    random_states,
    raw_variable,
    seed_layers,
    weight_path,
)

# isort: on
from noah_tf.utils.distribute import dtype_policy
from noah_tf.utils.files import save_atomically, write_text_atomically
from noah_tf.utils.seeds import derived_seed, fold_in, uniform
from noah_tf.utils.validation import (
    check_bounded,
    check_choice,
    check_int,
    check_key_ratio,
    check_positive_int,
    check_positive_number,
    check_range,
    check_rate,
    class_indices,
    error_messages,
    is_int,
    is_number,
)

__all__ = [
    "IS_KERAS_3",
    "KERAS_NAME",
    "NO_AUTOCAST",
    "add_seed_stream",
    "check_bounded",
    "check_choice",
    "check_int",
    "check_key_ratio",
    "check_positive_int",
    "check_positive_number",
    "check_range",
    "check_rate",
    "class_indices",
    "derived_seed",
    "dtype_policy",
    "error_messages",
    "fold_in",
    "is_int",
    "is_number",
    "random_states",
    "raw_variable",
    "save_atomically",
    "seed_layers",
    "uniform",
    "weight_path",
    "write_text_atomically",
]
