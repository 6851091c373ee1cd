"""NOAH, the non-global attentive head (arXiv 2402.02377), for TensorFlow and Keras."""

import os
import sys

if "noah_tf.serving" in sys.orig_argv:
    # `python -m noah_tf.serving`, where what TensorFlow logs would stand before every answer.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# isort: off
# This import comes first: it refuses a Keras that the package cannot use.
import noah_tf.utils.keras_compat  # noqa: F401

# isort: on
from noah_tf.export.savedmodel import export_savedmodel
from noah_tf.head.layer import NOAHHead
from noah_tf.models.attach import attach_noah
from noah_tf.models.inference import for_inference
from noah_tf.models.official import load_official_weights, save_official_weights
from noah_tf.models.zoo import create_model, list_models
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
