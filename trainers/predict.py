"""Predicts the classes of photos, with a training run, an export or a .keras file.

    python trainers/predict.py --workdir runs/photos holiday/ garden.jpg --output answers.csv
    python trainers/predict.py --model_dir saved_models/photos holiday/ --output answers.jsonl
    python trainers/predict.py --keras_file flowers.keras --class_names names.txt \\
        --preprocessing '{"image_size": [224, 224]}' photos/

Folders are searched for photos at any depth. A photo that cannot be read becomes a row with its
reason, or an error with --strict. Without --output the CSV is printed. --logits and --embeddings
also write arrays to NPZ files.
"""

import io
import sys
from collections.abc import Iterable
from typing import Any, TextIO

import command_line
import numpy as np
import tqdm
from absl import flags

from noah_tf.datasets import find_files
from noah_tf.evaluation import (
    AnswerOptions,
    ExportPredictor,
    KerasPredictor,
    answer_rows,
    write_answers,
)
from noah_tf.export import logits_model, parse_preprocessing, serving_options
from noah_tf.models import load_keras_file
from noah_tf.runs import WEIGHTS, load_run
from noah_tf.utils.files import save_atomically
from noah_tf.utils.paths import as_path

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the training run.")
_WEIGHTS = flags.DEFINE_enum("weights", "last", WEIGHTS, "Which weights of the run to use.")
_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of the versions of an exported model.")
_KERAS_FILE = flags.DEFINE_string("keras_file", None, "A .keras file.")
_CLASS_NAMES = flags.DEFINE_string(
    "class_names", None, "Names of the .keras file's classes: a text file with one name per line."
)
_PREPROCESSING = flags.DEFINE_string(
    "preprocessing", None, "Preprocessing of the .keras file, as for trainers/export.py."
)
_MULTI_LABEL = flags.DEFINE_bool(
    "multi_label", False, "A photo can have several classes of the .keras file."
)
_OUTPUT = flags.DEFINE_string("output", None, "CSV file, or JSON lines if it ends in .jsonl.")
_LOGITS = flags.DEFINE_string("logits", None, "NPZ file to write with `files` and `logits`.")
_EMBEDDINGS = flags.DEFINE_string(
    "embeddings", None, "NPZ file to write with `files`, `pooled` and, for NOAH, `attended`."
)
_TOP_K = flags.DEFINE_integer("top_k", 5, "Classes per photo of a single-label model.")
_THRESHOLD = flags.DEFINE_float(
    "threshold", 0.5, "Lowest probability of a class of a multi-label model."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Photos per batch.", lower_bound=1)
_STRICT = flags.DEFINE_bool("strict", False, "Stop at a photo that cannot be read.")

# The flags that name the model, and the flags that work only with that one.
_FLAGS_OF_SOURCE = {
    "workdir": ("weights",),
    "model_dir": (),
    "keras_file": ("class_names", "preprocessing", "multi_label"),
}


def main(arguments: list[str]) -> None:
    command_line.check_flags_of_source(_FLAGS_OF_SOURCE)
    if len(arguments) < 2:
        raise ValueError("Photos are missing: name files or folders after the flags.")
    for name in ("logits", "embeddings"):
        path = flags.FLAGS[name].value
        if path and not path.endswith(".npz"):
            raise ValueError(f"--{name} must end in .npz, got {path}.")
    options = AnswerOptions(_TOP_K.value, _THRESHOLD.value)
    files = find_files(arguments[1:])
    predictor = _predictor()
    names = ("logits",) * bool(_LOGITS.value) + ("pooled", "attended") * bool(_EMBEDDINGS.value)
    arrays: dict[str, list[Any]] = {name: [] for name in ("files", *names)}
    num_failed = 0

    def progress():
        nonlocal num_failed
        predictions = predictor(files, _BATCH_SIZE.value)
        for prediction in tqdm.tqdm(predictions, total=len(files), unit="photo"):
            if prediction.error and _STRICT.value:
                raise ValueError(f"{prediction.file}: {prediction.error}.")
            yield prediction
            num_failed += bool(prediction.error)
            if names and not prediction.error:
                arrays["files"].append(prediction.file)
                for name in names:
                    arrays[name].append(getattr(prediction, name))

    rows = answer_rows(progress(), predictor.class_names, predictor.multi_label, options)
    _write_rows(rows)
    if _LOGITS.value:
        _write_arrays(_LOGITS.value, arrays, ("files", "logits"))
    if _EMBEDDINGS.value:
        _write_arrays(_EMBEDDINGS.value, arrays, ("files", "pooled", "attended"))
    failed = f", {num_failed} of them cannot be read" if num_failed else ""
    print(f"Predicted {len(files)} photos{failed}.", file=sys.stderr)


def _predictor() -> KerasPredictor | ExportPredictor:
    if _MODEL_DIR.value:
        return ExportPredictor(_MODEL_DIR.value, bool(_EMBEDDINGS.value))
    if _WORKDIR.value:
        return KerasPredictor.from_run(
            load_run(_WORKDIR.value, _WEIGHTS.value), bool(_EMBEDDINGS.value)
        )
    model = logits_model(load_keras_file(_KERAS_FILE.value), _MULTI_LABEL.value)
    given = parse_preprocessing(_PREPROCESSING.value) if _PREPROCESSING.value else None
    # The defaults are those of an export.
    serving = serving_options(model, given, command_line.class_names(_CLASS_NAMES.value))
    return KerasPredictor(
        model,
        serving.preprocessing,
        serving.class_names,
        _MULTI_LABEL.value,
        bool(_EMBEDDINGS.value),
    )


def _write_rows(rows: Iterable[dict[str, Any]]) -> None:
    """Writes the rows to --output, which appears once it is complete, or prints them."""

    def write(file: TextIO) -> None:
        write_answers(rows, file, as_json=(_OUTPUT.value or "").endswith(".jsonl"))

    def save(path: str) -> None:
        with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            write(file)

    if _OUTPUT.value:
        path = as_path(_OUTPUT.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_atomically(save, path)
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file name may not be UTF-8
    write(sys.stdout)


def _write_arrays(path: str, arrays: dict[str, list[Any]], names: tuple[str, ...]) -> None:
    """Writes values of the photos that could be read. A pooled head has no `attended`."""
    stacked = {
        name: np.array(arrays[name])
        for name in names
        if not arrays[name] or arrays[name][0] is not None
    }
    save_atomically(lambda file: np.savez(file, **stacked), as_path(path))


if __name__ == "__main__":
    flags.mark_flags_as_mutual_exclusive(list(_FLAGS_OF_SOURCE), required=True)
    command_line.run(main, positional=True)
