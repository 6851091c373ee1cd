"""Exports a model as a SavedModel for TF Serving, and on request in other formats.

A training run:

    python trainers/export.py --workdir runs/noah --name digits

A .keras file, with the preprocessing that it was trained with:

    python trainers/export.py --keras_file flowers.keras --name flowers --class_names names.txt \\
        --preprocessing '{"image_size": [224, 224], "resize_size": 256}'

A model of the paper, with the weights of a checkpoint of its authors:

    python trainers/export.py --model noah_resnet18 --checkpoint noah_resnet18.pth.tar

Other formats in addition to the SavedModel, each compared with the model on photos:

    python trainers/export.py --workdir runs/noah --variants tflite_int8,onnx --photos DIR
"""

import signal

import command_line
from absl import flags

from noah_tf.export import (
    MAX_PIXELS,
    PRECISIONS,
    VARIANTS,
    describe_version,
    export_keras_file,
    export_official,
    export_run,
    model_folder,
    photos_in_folder,
)
from noah_tf.runs import WEIGHTS
from noah_tf.utils.paths import Path, as_path

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the training run to export.")
_WEIGHTS = flags.DEFINE_enum("weights", "last", WEIGHTS, "Which weights of the run to export.")
_KERAS_FILE = flags.DEFINE_string("keras_file", None, "The .keras file to export.")
_MODEL = flags.DEFINE_string(
    "model", None, "The model of the paper to export, such as noah_resnet18."
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "Weights of --model: a .pth, .pt, .tar, .safetensors or .weights.h5 file, or 'official' to "
    "download the authors'.",
)
_EMA = flags.DEFINE_bool("ema", False, "Use the averaged weights of the checkpoint.")
_NUM_CLASSES = flags.DEFINE_integer("num_classes", 1000, "Number of classes of the checkpoint.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Side of the model's images, in pixels.")
_CLASS_NAMES = flags.DEFINE_string(
    "class_names", None, "File with one class name per line, in the order of the logits."
)
_PREPROCESSING = flags.DEFINE_string(
    "preprocessing",
    None,
    "Preprocessing of the .keras file: a JSON object with the arguments of "
    "noah_tf.images.preprocessing.Preprocessing.",
)
_MULTI_LABEL = flags.DEFINE_bool(
    "multi_label", False, "A photo can have several classes of the .keras file."
)

_NAME = flags.DEFINE_string(
    "name", None, "Name of the served model; by default that of the run, the file or the model."
)
_MODEL_BASE = flags.DEFINE_string("model_base", "saved_models", "Folder of all served models.")
_VERSION = flags.DEFINE_integer(
    "version", None, "Version to write; by default the next one.", lower_bound=1
)
_TOP_K = flags.DEFINE_integer(
    "top_k", None, "Single-label models: the number of classes to return; by default 5."
)
_THRESHOLD = flags.DEFINE_float(
    "threshold", None, "Multi-label models: lowest probability of a returned class; by default 0.5."
)
_TOLERANT = flags.DEFINE_bool(
    "tolerant", False, "Give an unreadable photo a status instead of failing its request."
)
_MAX_PIXELS = flags.DEFINE_integer("max_pixels", MAX_PIXELS, "Photos with more are rejected.")
_WARMUP = flags.DEFINE_list(
    "warmup_batch_sizes", "1,8,32", "Batch sizes of the server's batching configuration."
)
_PRECISION = flags.DEFINE_enum(
    "precision", "float32", PRECISIONS, "Policy that the served model computes in."
)
_VARIANTS = flags.DEFINE_list("variants", [], f"Other formats to write: {', '.join(VARIANTS)}.")
_PHOTOS = flags.DEFINE_string(
    "photos", None, "Folder of photos to compare on; by default the run's evaluation split."
)
_COUNT = flags.DEFINE_integer(
    "count", 100, "Largest number of photos to compare on.", lower_bound=0
)

# The flags that name the model to export, and the flags that work only with that one.
_FLAGS_OF_SOURCE = {
    "workdir": ("weights",),
    "keras_file": ("class_names", "preprocessing", "multi_label"),
    "model": ("checkpoint", "ema", "num_classes", "image_size", "class_names"),
}


def main(_: list[str]) -> None:
    # SIGTERM raises KeyboardInterrupt like Ctrl+C, so that the unfinished version is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command_line.check_flags_of_source(_FLAGS_OF_SOURCE)
    if _MODEL.value and not _CHECKPOINT.value:
        raise ValueError(f"--model={_MODEL.value} needs --checkpoint, the file of its weights.")
    name = _default_name() if _NAME.value is None else _NAME.value
    path = _export(model_folder(_MODEL_BASE.value, name))
    print(describe_version(path))


def _default_name() -> str:
    if _MODEL.value:
        return _MODEL.value
    path = as_path(_WORKDIR.value or _KERAS_FILE.value).resolve()
    return path.name if _WORKDIR.value else path.stem


def _export(model_dir: Path) -> Path:
    options = {
        "version": _VERSION.value,
        "top_k": _TOP_K.value,
        "threshold": _THRESHOLD.value,
        "tolerant": _TOLERANT.value,
        "max_pixels": _MAX_PIXELS.value,
        "warmup_batch_sizes": _batch_sizes(),
        "precision": _PRECISION.value,
        "variants": tuple(_VARIANTS.value),
        "photos": photos_in_folder(_PHOTOS.value, _COUNT.value) if _PHOTOS.value else None,
    }
    if _WORKDIR.value:
        if not _PHOTOS.value:
            options["photos"] = _COUNT.value
        return export_run(_WORKDIR.value, model_dir, weights=_WEIGHTS.value, **options)
    options["class_names"] = command_line.class_names(_CLASS_NAMES.value)
    if _KERAS_FILE.value:
        return export_keras_file(
            _KERAS_FILE.value,
            model_dir,
            _PREPROCESSING.value,
            multi_label=_MULTI_LABEL.value,
            **options,
        )
    return export_official(
        _MODEL.value,
        _CHECKPOINT.value,
        model_dir,
        ema=_EMA.value,
        num_classes=_NUM_CLASSES.value,
        image_size=_IMAGE_SIZE.value,
        **options,
    )


def _batch_sizes() -> tuple[int, ...]:
    try:
        return tuple(int(batch_size) for batch_size in _WARMUP.value)
    except ValueError:
        raise ValueError(
            "--warmup_batch_sizes must be numbers separated by commas, got "
            f"{','.join(_WARMUP.value)}."
        ) from None


if __name__ == "__main__":
    flags.mark_flags_as_mutual_exclusive(list(_FLAGS_OF_SOURCE), required=True)
    command_line.run(main)
