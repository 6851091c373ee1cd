"""NOAH, the non-global attentive head (arXiv 2402.02377), for TensorFlow and Keras."""

import os
import sys

if "noah_tf.serving" in sys.orig_argv:
    # `python -m noah_tf.serving`, where what TensorFlow logs would stand before every answer.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# isort: off
# This import comes first: it raises ImportError for a Keras that the package cannot use.
import noah_tf.utils.keras_compat  # noqa: F401

# isort: on
from noah_tf.export import export_savedmodel
from noah_tf.head import NOAHHead
from noah_tf.models import (
    attach_noah,
    create_model,
    for_inference,
    list_models,
    load_official_weights,
    save_official_weights,
)
from noah_tf.version import __version__

__all__ = [
    "NOAHHead",
    "__version__",
    "attach_noah",
    "create_model",
    "export_savedmodel",
    "for_inference",
    "list_models",
    "load_official_weights",
    "save_official_weights",
]
