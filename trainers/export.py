"""Exports a model as a SavedModel for TF Serving, and more on request.

Of a training run:

    python trainers/export.py --workdir runs/noah --name digits

Of a .keras file, with the preprocessing it was trained with:

    python trainers/export.py --keras_file flowers.keras --name flowers --class_names names.txt \\
        --preprocessing '{"image_size": [224, 224], "resize_size": 256}'

Of a model of the paper with a checkpoint of its authors:

    python trainers/export.py --model noah_resnet18 --checkpoint noah_resnet18.pth.tar

Beside the SavedModel, with photos on which they are compared with it:

    python trainers/export.py --workdir runs/noah --variants tflite_int8,onnx --photos DIR
"""

import json
import pathlib
import re
import signal

import command_line
import tensorflow as tf
from absl import flags

from noah_tf.datasets.folders import IMAGE_SUFFIXES
from noah_tf.export import model_card, savedmodel
from noah_tf.export.signatures import MAX_PIXELS
from noah_tf.export.variants import Agreement
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.models import zoo
from noah_tf.runs.checkpoint import WEIGHTS
from noah_tf.utils.keras_compat import KERAS_NAME

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the training run to export.")
_WEIGHTS = flags.DEFINE_enum("weights", "last", WEIGHTS, "Which weights of the run.")
_KERAS_FILE = flags.DEFINE_string("keras_file", None, "The .keras file to export.")
_MODEL = flags.DEFINE_string("model", None, "The model of the paper to export, noah_resnet18, say.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Its .pth, .tar, .safetensors or .h5 file.")
_EMA = flags.DEFINE_bool("ema", False, "Take the averaged weights of the checkpoint.")
_NUM_CLASSES = flags.DEFINE_integer("num_classes", 1000, "Classes of the checkpoint.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Side of the model's images, in pixels.")
_CLASS_NAMES = flags.DEFINE_string("class_names", None, "File with the name of a class a line.")
_PREPROCESSING = flags.DEFINE_string(
    "preprocessing",
    None,
    "JSON of the .keras file's preprocessing, as in noah_tf.images.preprocessing.",
)
_MULTI_LABEL = flags.DEFINE_bool(
    "multi_label", False, "The .keras file has several labels a photo."
)

_NAME = flags.DEFINE_string("name", None, "Name of the served model; by default the source's.")
_MODEL_BASE = flags.DEFINE_string("model_base", "saved_models", "Folder of all served models.")
_VERSION = flags.DEFINE_integer("version", None, "Version; by default the next one.", lower_bound=1)
_TOP_K = flags.DEFINE_integer("top_k", None, "How many classes to answer; by default 5.")
_THRESHOLD = flags.DEFINE_float(
    "threshold", None, "Multi-label models: the lowest probability to return; by default 0.5."
)
_TOLERANT = flags.DEFINE_bool(
    "tolerant", False, "Give a bad photo a status instead of failing its request."
)
_MAX_PIXELS = flags.DEFINE_integer("max_pixels", MAX_PIXELS, "Larger photos are refused.")
_WARMUP = flags.DEFINE_list("warmup_batch_sizes", "1,8,32", "The server's allowed batch sizes.")
_PRECISION = flags.DEFINE_enum(
    "precision", "float32", savedmodel.PRECISIONS, "What it computes in."
)
_VARIANTS = flags.DEFINE_list(
    "variants", [], f"What else to write: {', '.join(savedmodel.VARIANTS)}."
)
_PHOTOS = flags.DEFINE_string("photos", None, "Folder of photos to compare on; else the run's own.")
_COUNT = flags.DEFINE_integer("count", 100, "How many of them at most.", lower_bound=0)

# The flags of each source; those of another one would do nothing.
_OF_SOURCE = {
    "workdir": ("weights",),
    "keras_file": ("class_names", "preprocessing", "multi_label"),
    "model": ("checkpoint", "ema", "num_classes", "image_size", "class_names"),
}


def main(_):
    # SIGTERM as Ctrl+C: what is half written is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    (source,) = (name for name in _OF_SOURCE if flags.FLAGS[name].value)
    for flag in set().union(*_OF_SOURCE.values()).difference(_OF_SOURCE[source]):
        if flags.FLAGS[flag].present:
            raise ValueError(f"--{flag} is not for an export with --{source}: leave it out.")
    try:
        batch_sizes = tuple(int(size) for size in _WARMUP.value)
    except ValueError:
        raise ValueError(
            f"--warmup_batch_sizes must be numbers with commas, got {','.join(_WARMUP.value)}."
        ) from None
    options = {
        "version": _VERSION.value,
        "top_k": _TOP_K.value,
        "threshold": _THRESHOLD.value,
        "tolerant": _TOLERANT.value,
        "max_pixels": _MAX_PIXELS.value,
        "warmup_batch_sizes": batch_sizes,
        "precision": _PRECISION.value,
        "variants": tuple(_VARIANTS.value),
        "photos": _photos(),
    }
    name = _default_name(source) if _NAME.value is None else _NAME.value
    if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name, re.ASCII):
        raise ValueError(
            f"A served model's name has letters, digits, '_', '-' and '.', got {name!r}: give "
            "another --name."
        )
    model_dir = pathlib.Path(_MODEL_BASE.value) / name
    path = _EXPORTS[source](model_dir, options)
    card = model_card.read_card(path)
    print(f"Wrote {path}: signatures {', '.join(card['signatures'])}.")
    for file, figures in card.get("variants", {}).items():
        print(f"{file}: {Agreement(**figures)}.")
    if "tolerant_cost" in card["limits"]:
        cost = card["limits"]["tolerant_cost"]
        print(f"16 photos take {cost:.2f} times the processors' time of a strict export.")


def _run(model_dir, options):
    if not _PHOTOS.value:
        options["photos"] = _COUNT.value
    return savedmodel.export_run(_WORKDIR.value, model_dir, weights=_WEIGHTS.value, **options)


def _keras_file(model_dir, options):
    file = pathlib.Path(_KERAS_FILE.value)
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}.")
    try:
        model = tf.keras.models.load_model(str(file), compile=False)
    except (TypeError, ValueError, OSError) as error:
        raise ValueError(
            f"{file} cannot be read by {KERAS_NAME}: it must be a .keras file, and "
            "the Keras that wrote it, 2 or 3, reads it."
        ) from error
    return savedmodel.export_savedmodel(
        model,
        model_dir,
        _preprocessing(),
        class_names=command_line.class_names(_CLASS_NAMES.value),
        multi_label=_MULTI_LABEL.value,
        **options,
    )


def _official(model_dir, options):
    if not _CHECKPOINT.value:
        raise ValueError(f"--model={_MODEL.value} needs the --checkpoint to take weights from.")
    side = _IMAGE_SIZE.value
    model = zoo.create_model(
        _MODEL.value,
        _NUM_CLASSES.value,
        input_shape=(side, side, 3),
        weights=_CHECKPOINT.value,
        weights_ema=_EMA.value,
    )
    return savedmodel.export_savedmodel(
        model,
        model_dir,
        zoo.preprocessing_for(_MODEL.value, side),
        class_names=command_line.class_names(_CLASS_NAMES.value),
        card={"architecture": _MODEL.value, "weights": pathlib.Path(_CHECKPOINT.value).name},
        **options,
    )


def _default_name(source):
    value = flags.FLAGS[source].value
    path = pathlib.Path(value).resolve()
    return {"workdir": path.name, "keras_file": path.stem, "model": value}[source]


def _preprocessing():
    given = _PREPROCESSING.value
    if given is None:
        return None
    try:
        values = json.loads(given)
    except ValueError as error:
        values = error
    if not isinstance(values, dict):
        raise ValueError(
            '--preprocessing must be a JSON object such as {"image_size": [224, 224]}, got '
            f"{given}."
        )
    return Preprocessing.from_dict(values)


def _photos():
    """Photos of the folder, spread over it, for it may have a folder a class; or None."""
    if not _PHOTOS.value:
        return None
    folder = pathlib.Path(_PHOTOS.value)
    if not folder.is_dir():
        raise FileNotFoundError(f"--photos={folder} is no folder.")
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
    files = [file for file in files if file.is_file()]
    if not files:
        raise FileNotFoundError(f"--photos={folder} has no photos in it.")
    count = min(_COUNT.value, len(files))
    return [files[index * len(files) // count] for index in range(count)]


_EXPORTS = {"workdir": _run, "keras_file": _keras_file, "model": _official}


if __name__ == "__main__":
    flags.mark_flags_as_mutual_exclusive(list(_OF_SOURCE), required=True)
    command_line.run(main)
