"""Writes the variants of an export, and compares every file with the float32 model."""

import itertools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from noah_tf.export import variants
from noah_tf.images import Preprocessing
from noah_tf.models import in_precision

VARIANTS = ("tflite_dynamic", "tflite_int8", "onnx")
_BATCH_SIZE = 16


def write_variants(
    path: pathlib.Path,
    model: tf.keras.Model,
    preprocessing: Preprocessing,
    names: Sequence[str],
    photos: Sequence[bytes],
) -> dict[str, variants.Agreement]:
    """Writes variants into the folder of a SavedModel and compares all with the float32 model.

    Args:
        path: the folder of the SavedModel.
        model: the Keras model.
        preprocessing: the model's `Preprocessing`.
        names: the variants to write, a subset of VARIANTS.
        photos: encoded photos, on which the logits are compared.

    Returns:
        A dict of file name to `variants.Agreement`. The SavedModel comes first.
    """
    float32_model = in_precision(model, "float32")

    def expected_logits(crops: np.ndarray) -> np.ndarray:
        return _in_batches(
            lambda batch: float32_model(preprocessing.normalize(batch), training=False), crops
        )

    crops = np.stack(
        [preprocessing.center_crop(preprocessing.decode(photo)).numpy() for photo in photos]
    )
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    logits = _in_batches(lambda batch: serve(image_bytes=tf.constant(batch))["logits"], photos)
    agreements = {"saved_model.pb": variants.agreement(expected_logits(crops), logits)}
    if not names:
        return agreements
    pixels = np.rint(crops).astype(np.uint8)  # The other files take whole numbers.
    expected = expected_logits(pixels)
    for name in names:
        if name == "onnx":
            file = path / "model.onnx"
            variants.write_onnx(float32_model, preprocessing, file)
            logits = variants.predict_onnx(file, pixels)
        else:
            quantization = name.removeprefix("tflite_")
            file = path / f"model_{quantization}.tflite"
            images = pixels if quantization == "int8" else None
            variants.write_tflite(float32_model, preprocessing, file, quantization, images)
            logits = variants.predict_tflite(file, pixels)
        agreements[file.name] = variants.agreement(expected, logits)
    return agreements


def relative_cpu_time(
    function: Callable[[tf.Tensor], Any],
    baseline: Callable[[tf.Tensor], Any],
    photos: Sequence[bytes],
) -> float:
    """Returns the CPU time of a signature relative to another one.

    Args:
        function: the signature to measure, such as the tolerant `serving_default`.
        baseline: the signature to compare with, such as the strict `serving_default`.
        photos: encoded photos. They are repeated to fill a request of 16.

    Returns:
        The ratio of the median CPU times of one request, over all threads of this process.
    """
    batch = tf.constant(list(itertools.islice(itertools.cycle(photos), _BATCH_SIZE)))
    times: list[tuple[float, float]] = []
    for _ in range(6):
        times.append((_cpu_time(function, batch), _cpu_time(baseline, batch)))
    # The first pair contains the time of tracing.
    medians = np.median(times[1:], axis=0)
    return round(float(medians[0] / medians[1]), 3)


def _cpu_time(function: Callable[[tf.Tensor], Any], batch: tf.Tensor) -> float:
    start = time.process_time()
    function(batch)
    return time.process_time() - start


def _in_batches(function: Callable[[Any], tf.Tensor], inputs: Any) -> np.ndarray:
    starts = range(0, len(inputs), _BATCH_SIZE)
    return np.concatenate([function(inputs[start : start + _BATCH_SIZE]) for start in starts])
