"""SavedModel exports for TF Serving: signatures, versions, warm-up, variants, the model card."""

from noah_tf.export.agreement import VARIANTS
from noah_tf.export.from_checkpoint import export_official, import_official
from noah_tf.export.from_keras_file import export_keras_file, parse_preprocessing
from noah_tf.export.from_run import export_run
from noah_tf.export.model_card import read_card, running_versions
from noah_tf.export.options import (
    MAX_PIXELS,
    PRECISIONS,
    check_model_fits,
    logits_model,
    serving_options,
)
from noah_tf.export.photos import photos_in_folder
from noah_tf.export.savedmodel import describe_version, export_savedmodel
from noah_tf.export.signatures import LABELS_FILE, OK
from noah_tf.export.versions import latest_version, model_folder

__all__ = [
    "LABELS_FILE",
    "MAX_PIXELS",
    "OK",
    "PRECISIONS",
    "VARIANTS",
    "check_model_fits",
    "describe_version",
    "export_keras_file",
    "export_official",
    "export_run",
    "export_savedmodel",
    "import_official",
    "latest_version",
    "logits_model",
    "model_folder",
    "parse_preprocessing",
    "photos_in_folder",
    "read_card",
    "running_versions",
    "serving_options",
]
