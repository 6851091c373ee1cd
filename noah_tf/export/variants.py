"""Other forms of a trained model: bfloat16, TFLite, ONNX; and how well they agree with it.

The files take `images`, uint8 pixels of the preprocessing's centre crop, as a camera or an image
library gives them, normalise inside, and return `logits`, float32. TFLite takes one image at a
time, with every shape fixed, as phones want it; ONNX takes (batch, height, width, 3).
"""

import contextlib
import dataclasses
import importlib
import io
import os
import pathlib
import re
import sys
import tempfile
import warnings

import numpy as np
import tensorflow as tf

from noah_tf.export.onnx_model import onnx_model
from noah_tf.models.inference import for_inference
from noah_tf.models.precision import in_precision

QUANTIZATIONS = ("dynamic", "int8")
# What stays in float beside int8: the head's division, whose int8 kernel in TensorFlow 2.21 takes
# the value 0 for a zero divisor whatever it stands for, and the statistics of layer norm, which
# cost most of an MLP-Mixer's accuracy and no time.
_FLOAT_OPS = ["DIV", "MEAN", "SQUARED_DIFFERENCE", "RSQRT"]
_NO_OP = re.compile(r"'tf\.(\w+)' op is neither a custom op nor a flex op")


def write_tflite(model, preprocessing, path, quantization, images=None):
    """Writes a model for phones, of TFLite's built-in ops alone.

    Args:
        model: Keras model, images to logits; one of a mixed policy is converted in float32.
        preprocessing: the model's `preprocess.Preprocessing`, whose normalisation goes inside.
        path: the file to write.
        quantization: "dynamic" has weights in int8 and computes in float where it must; "int8"
            computes in int8 but for what it would spoil: divisions, means and what follows them in
            a layer norm.
        images: for "int8", a hundred or more representative photos, uint8 (N, height, width, 3),
            whose ranges of values it takes.

    Returns:
        Dict of the number of tensors of each dtype, such as {"int8": 227, "float32": 30}.

    Raises:
        ValueError: the quantization or the images do not fit, or TFLite lacks an op of the model.

    Example:

    >>> write_tflite(model, preprocessing, "model_int8.tflite", "int8", images)
    """
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"quantization must be {' or '.join(map(repr, QUANTIZATIONS))}, got {quantization!r}."
        )
    if quantization == "int8":
        if images is None:
            raise ValueError(
                "quantization='int8' needs representative images=, a hundred or more photos as "
                "uint8 (N, height, width, 3); got none."
            )
        images = _pixels(images, preprocessing.image_size)
    elif images is not None:
        raise ValueError("images are for quantization='int8', got quantization='dynamic'.")
    shape = (1, *preprocessing.image_size, 3)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        _write_savedmodel(in_precision(model, "float32"), preprocessing, shape, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        try:
            content = _int8(converter, images) if quantization == "int8" else converter.convert()
        except Exception as error:  # the converter's own kind of error has no public name
            missing = sorted(set(_NO_OP.findall(str(error))))
            if not missing:
                raise
            raise _unsupported(model, "TFLite has no built-in", missing) from None
    pathlib.Path(path).write_bytes(content)
    dtypes = [np.dtype(t["dtype"]).name for t in _interpreter(path).get_tensor_details()]
    return {dtype: dtypes.count(dtype) for dtype in sorted(set(dtypes))}


def predict_tflite(path, images):
    """Logits by a file of `write_tflite`.

    Args:
        path: the file.
        images: pixels of the centre crop, uint8 or whole numbers (B, height, width, 3).

    Returns:
        float32 (B, M), a NumPy array.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the images do not fit the file.
    """
    run = _interpreter(_existing(path)).get_signature_runner()
    images = _pixels(images, tuple(run.get_input_details()["images"]["shape"][1:3]))
    return np.concatenate([run(images=image[None])["logits"] for image in images])


def write_onnx(model, preprocessing, path):
    """Writes a model for ONNX runtimes, checked by ONNX's own checker. Needs the extra `onnx`.

    Args:
        model: Keras model, images to logits; one of a mixed policy is converted in float32.
        preprocessing: the model's `preprocess.Preprocessing`, whose normalisation goes inside.
        path: the file to write; its batch size is free.

    Raises:
        ImportError: tf2onnx or onnx is missing.
        ValueError: ONNX lacks an op of the model.
    """
    require_onnx()
    images = tf.TensorSpec((None, *preprocessing.image_size, 3), tf.uint8, name="images")
    model = for_inference(in_precision(model, "float32"), branches=False)
    answer = tf.function(_answer(model, preprocessing), input_signature=[images])
    with _quiet():
        graph, missing = onnx_model(answer, model)
    if missing:
        raise _unsupported(model, "ONNX has no", missing)
    pathlib.Path(path).write_bytes(graph.SerializeToString())


def require_onnx():
    """Raises ImportError where the extra `onnx` is missing, before anything is computed."""
    for package in ("onnx", "tf2onnx", "onnxruntime"):
        _extra(package)


def predict_onnx(path, images):
    """Logits by a file of `write_onnx`. Needs the extra `onnx`.

    Args:
        path: the file.
        images: pixels of the centre crop, uint8 or whole numbers (B, height, width, 3).

    Returns:
        float32 (B, M), a NumPy array.

    Raises:
        ImportError: onnxruntime is missing.
        FileNotFoundError: there is no such file.
        ValueError: the images do not fit the file.
    """
    session = _extra("onnxruntime").InferenceSession(
        str(_existing(path)), providers=["CPUExecutionProvider"]
    )
    images = _pixels(images, tuple(session.get_inputs()[0].shape[1:3]))
    return session.run(["logits"], {"images": images})[0]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well the logits of a variant agree with the model's.

    Attributes:
        images: number of images they were compared on.
        top1: share of these whose best class is the same.
        largest_difference: largest absolute difference of a logit.
    """

    images: int
    top1: float
    largest_difference: float

    def __str__(self):
        photos = "photo" if self.images == 1 else "photos"
        digits = ".2g" if self.largest_difference < 99.5 else ".0f"
        return (
            f"top-1 agrees on {self.top1:.1%} of {self.images} {photos}, largest logit difference "
            f"{self.largest_difference:{digits}}"
        ).replace("%", " %")


def agreement(expected, logits):
    """Compares the logits of a variant with the model's, on the same images.

    Args:
        expected: the model's, (B, M).
        logits: the variant's, (B, M).

    Returns:
        An `Agreement`.

    Raises:
        ValueError: the shapes differ or are no (B, M).
        FloatingPointError: the variant's logits are not finite.
    """
    expected, logits = np.asarray(expected, np.float64), np.asarray(logits, np.float64)
    if expected.shape != logits.shape or expected.ndim != 2 or not expected.size:
        raise ValueError(
            f"Logits of the same images must have one shape (B, M), got {expected.shape} and "
            f"{logits.shape}."
        )
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise FloatingPointError(
            f"The variant's logits of {bad} of {len(logits)} images are not finite."
        )
    return Agreement(
        images=len(logits),
        top1=float(np.mean(expected.argmax(axis=1) == logits.argmax(axis=1))),
        largest_difference=float(np.abs(expected - logits).max()),
    )


def _answer(model, preprocessing):
    def answer(images):
        logits = model(preprocessing.normalize(images), training=False)
        return {"logits": tf.cast(logits, tf.float32)}

    return answer


def _write_savedmodel(model, preprocessing, shape, folder):
    # TensorFlow's own ways from a Keras 3 model to TFLite lose its variables.
    model = for_inference(model, branches=False)
    archive = tf.keras.export.ExportArchive()
    archive.track(model)
    images = tf.TensorSpec(shape, tf.uint8, name="images")
    archive.add_endpoint("serving_default", _answer(model, preprocessing), [images])
    archive.write_out(folder)


def _int8(converter, images):
    """The model with what int8 would spoil left in float."""
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
        tf.lite.OpsSet.TFLITE_BUILTINS,
    ]
    # The one public way to leave ops out; nothing is debugged.
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=converter.representative_dataset,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=_FLOAT_OPS),
    )
    return debugger.get_nondebug_quantized_model()


def _interpreter(path):
    # TensorFlow 2.21 warns that it moves to another package, and the delegate says hello.
    with _quiet():
        interpreter = tf.lite.Interpreter(str(path))
        interpreter.allocate_tensors()
    return interpreter


def _extra(module):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"ONNX needs the package {module} ({error}): pip install 'noah-tf[onnx]', beside "
            "TensorFlow 2.15 'noah-tf[addons,onnx]'."
        ) from error


def _pixels(images, image_size):
    """Images as uint8 (N, height, width, 3) of the size; nothing is rounded."""
    images = np.asarray(images)
    size = f"(N, {image_size[0]}, {image_size[1]}, 3)"
    if images.ndim != 4 or images.shape[1:] != (*image_size, 3) or not len(images):
        raise ValueError(f"images must be {size}, got the shape {images.shape}.")
    with np.errstate(invalid="ignore"):
        pixels = images.astype(np.uint8)
    if images.dtype != np.uint8 and not (pixels == images).all():
        raise ValueError(
            f"images must be whole numbers from 0 to 255, got {images.dtype} from "
            f"{images.min():g} to {images.max():g}: round pixels with "
            "np.rint(images).astype('uint8'), and do not normalise them."
        )
    return pixels


def _existing(path):
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"There is no model at {path}.")
    return path


def _unsupported(model, lacks, ops):
    return ValueError(
        f"{model.name} cannot be converted: {lacks} {', '.join(ops)}. Replace the layers that use "
        f"{'it' if len(ops) == 1 else 'them'}, or leave this variant out."
    )


@contextlib.contextmanager
def _quiet():
    """Drops what converters print, in C++ too, where no log level reaches."""
    streams = (sys.stdout, sys.stderr)
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        for stream in streams:
            stream.flush()
        kept = [(number, os.dup(number)) for number in (1, 2)]
        for number, _ in kept:
            os.dup2(nowhere.fileno(), number)
        try:
            yield
        finally:
            for stream in streams:
                stream.flush()
            for number, copy in kept:
                os.dup2(copy, number)
                os.close(copy)
