"""What is written beside a SavedModel, and how well each agrees with the float32 model."""

import itertools
import time

import numpy as np
import tensorflow as tf

from noah_tf.export import variants
from noah_tf.models.precision import in_precision

VARIANTS = ("tflite_dynamic", "tflite_int8", "onnx")
_BATCH = 16


def write_variants(path, model, preprocessing, names, photos):
    """Writes variants into the folder of a SavedModel and compares all with the float32 model.

    Args:
        path: `pathlib.Path` of the SavedModel.
        model: the Keras model.
        preprocessing: its `Preprocessing`.
        names: those of VARIANTS to write.
        photos: encoded photos.

    Returns:
        Dict of file name to `variants.Agreement`, the SavedModel's first.
    """
    exact = in_precision(model, "float32")

    def expected(crops):
        return _in_batches(lambda x: exact(preprocessing.normalize(x), training=False), crops)

    crops = [preprocessing.center_crop(preprocessing.decode(photo)).numpy() for photo in photos]
    crops = np.stack(crops)
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    answers = _in_batches(lambda x: serve(image_bytes=tf.constant(x))["logits"], photos)
    found = {"saved_model.pb": variants.agreement(expected(crops), answers)}
    # The others take whole numbers.
    pixels = np.rint(crops).astype(np.uint8)
    for name in names:
        kind, _, quantization = name.partition("_")
        if kind == "onnx":
            file = path / "model.onnx"
            variants.write_onnx(exact, preprocessing, file)
            answers = variants.predict_onnx(file, pixels)
        else:
            file = path / f"model_{quantization}.tflite"
            images = pixels if quantization == "int8" else None
            variants.write_tflite(exact, preprocessing, file, quantization, images)
            answers = variants.predict_tflite(file, pixels)
        found[file.name] = variants.agreement(expected(pixels), answers)
    return found


def cost(tolerant, strict, photos):
    """The price of a tolerant export.

    Args:
        tolerant: a `ServedModel`.
        strict: the same, strict.
        photos: encoded photos, of which a request of 16 is made.

    Returns:
        How many times the processors' time of the strict request the tolerant one takes.
    """
    batch = tf.constant(list(itertools.islice(itertools.cycle(photos), _BATCH)))
    times = {tolerant: [], strict: []}
    for _ in range(6):
        for served, turn in times.items():
            before = time.process_time()
            served.functions["serving_default"](batch)
            turn.append(time.process_time() - before)
    # The first call traces.
    return round(float(np.median(times[tolerant][1:]) / np.median(times[strict][1:])), 3)


def _in_batches(function, inputs):
    starts = range(0, len(inputs), _BATCH)
    return np.concatenate([function(inputs[start : start + _BATCH]) for start in starts])
