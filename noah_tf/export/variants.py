"""Exports in other formats, TFLite and ONNX, and how well their logits agree with the model's.

The files take `images`, uint8 pixels of the preprocessing's center crop, as cameras and image
libraries return them. They normalize the pixels, and return float32 `logits`. A TFLite file takes
one image at a time, because phones run fixed shapes best. An ONNX file takes (batch, height, width,
3).
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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from noah_tf.export.onnx_model import onnx_model
from noah_tf.images import Preprocessing
from noah_tf.models import for_inference, in_precision
from noah_tf.utils.validation import check_choice

QUANTIZATIONS = ("dynamic", "int8")
# Ops that stay in float32 in an int8 model. DIV: the int8 kernel of TensorFlow 2.21 treats every
# divisor that is stored as 0 as a division by zero, whatever number it stands for, which breaks the
# head's division. The other ops compute the statistics of layer norm. In int8 they would cost most
# of an MLP-Mixer's accuracy, and they take little time.
_FLOAT_OPS = ["DIV", "MEAN", "SQUARED_DIFFERENCE", "RSQRT"]
_UNSUPPORTED_OP = re.compile(r"'tf\.(\w+)' op is neither a custom op nor a flex op")


def write_tflite(
    model: tf.keras.Model,
    preprocessing: Preprocessing,
    path: str | pathlib.PurePath,
    quantization: str,
    images: np.ndarray | None = None,
) -> dict[str, int]:
    """Writes a model for phones, built from TFLite's built-in ops only.

    Args:
        model: a Keras model, images to logits. A model with a mixed precision policy is converted
            in float32.
        preprocessing: the model's `Preprocessing`. The file contains its normalization.
        path: the file to write.
        quantization: "dynamic" stores the weights in int8 and computes in float32 where int8 is
            impossible. "int8" computes in int8, except for divisions and the statistics of layer
            norms, which would lose too much accuracy.
        images: only for "int8": representative photos, preferably a hundred or more, uint8
            (N, height, width, 3). Their values determine the ranges of the quantization.

    Returns:
        A dict with the number of tensors per dtype, such as {"int8": 227, "float32": 30}.

    Raises:
        ValueError: the quantization is unknown, the images are missing or do not fit, or TFLite
            lacks an op of the model.

    Example:

    >>> write_tflite(model, preprocessing, "model_int8.tflite", "int8", images)
    """
    check_choice("quantization", quantization, QUANTIZATIONS)
    if quantization == "int8":
        if images is None:
            raise ValueError(
                "quantization='int8' needs representative photos, images= as uint8 "
                "(N, height, width, 3), preferably a hundred or more; got none."
            )
        images = _pixels(images, preprocessing.crop_shape)
    elif images is not None:
        raise ValueError(
            f"images are an option of quantization='int8' only, got quantization={quantization!r}."
        )
    shape = (1, *preprocessing.crop_shape)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        _write_savedmodel(in_precision(model, "float32"), preprocessing, shape, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        try:
            content = converter.convert() if images is None else _int8(converter, images)
        except Exception as error:  # The converter's error class is not public.
            unsupported_ops = sorted(set(_UNSUPPORTED_OP.findall(str(error))))
            if not unsupported_ops:
                raise
            raise _unsupported(model, "TFLite has no built-in", unsupported_ops) from None
    pathlib.Path(path).write_bytes(content)
    dtypes = [np.dtype(t["dtype"]).name for t in _interpreter(path).get_tensor_details()]
    return {dtype: dtypes.count(dtype) for dtype in sorted(set(dtypes))}


def predict_tflite(path: str | pathlib.PurePath, images: np.ndarray) -> np.ndarray:
    """Returns the logits that a file of `write_tflite` computes, float32 (B, M).

    Args:
        path: the file.
        images: pixels of the center crop, uint8 or other whole numbers (B, height, width, 3).

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the images do not have the shape or the values that the file takes.
    """
    run = _interpreter(_existing(path)).get_signature_runner()
    images = _pixels(images, tuple(run.get_input_details()["images"]["shape"][1:]))
    return np.concatenate([run(images=image[None])["logits"] for image in images])


def write_onnx(
    model: tf.keras.Model, preprocessing: Preprocessing, path: str | pathlib.PurePath
) -> None:
    """Writes a model for ONNX runtimes and runs ONNX's own checker. Needs the extra `onnx`.

    Args:
        model: a Keras model, images to logits. A model with a mixed precision policy is converted
            in float32.
        preprocessing: the model's `Preprocessing`. The file contains its normalization.
        path: the file to write. It takes any batch size.

    Raises:
        ImportError: tf2onnx, onnx or onnxruntime is not installed.
        ValueError: ONNX lacks an op of the model.
    """
    require_onnx()
    images = tf.TensorSpec((None, *preprocessing.crop_shape), tf.uint8, name="images")
    model = for_inference(in_precision(model, "float32"), branches=False)
    function = tf.function(_signature(model, preprocessing), input_signature=[images])
    with _quiet():
        graph, unsupported_ops = onnx_model(function, model)
    if unsupported_ops:
        raise _unsupported(model, "ONNX has no", unsupported_ops)
    pathlib.Path(path).write_bytes(graph.SerializeToString())


def require_onnx() -> None:
    """Checks that the extra `onnx` is installed.

    Raises:
        ImportError: a package of the extra is not installed.
    """
    for package in ("onnx", "tf2onnx", "onnxruntime"):
        _import_extra(package)


def predict_onnx(path: str | pathlib.PurePath, images: np.ndarray) -> np.ndarray:
    """Returns the logits that a file of `write_onnx` computes, float32 (B, M).

    Args:
        path: the file.
        images: pixels of the center crop, uint8 or other whole numbers (B, height, width, 3).

    Raises:
        ImportError: onnxruntime is not installed.
        FileNotFoundError: the file does not exist.
        ValueError: the images do not have the shape or the values that the file takes.
    """
    session = _import_extra("onnxruntime").InferenceSession(
        str(_existing(path)), providers=["CPUExecutionProvider"]
    )
    images = _pixels(images, tuple(session.get_inputs()[0].shape[1:]))
    return session.run(["logits"], {"images": images})[0]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well the logits of a variant agree with the model's.

    Attributes:
        images: the number of images that were compared.
        top1: the fraction of the images with the same top-1 class.
        largest_difference: the largest absolute difference of a logit.
    """

    images: int
    top1: float
    largest_difference: float

    def __str__(self) -> str:
        photos = "photo" if self.images == 1 else "photos"
        digits = ".2g" if self.largest_difference < 99.5 else ".0f"
        return (
            f"top-1 agrees on {self.top1:.1%} of {self.images} {photos}, largest logit difference "
            f"{self.largest_difference:{digits}}"
        ).replace("%", " %")


def agreement(expected: Any, logits: Any) -> Agreement:
    """Compares the logits of a variant with the model's, on the same images.

    Args:
        expected: the model's logits, (B, M).
        logits: the variant's logits, (B, M).

    Raises:
        ValueError: the shapes differ or are not (B, M).
        FloatingPointError: the variant's logits are not finite.
    """
    expected, logits = np.asarray(expected, np.float64), np.asarray(logits, np.float64)
    if expected.shape != logits.shape or expected.ndim != 2 or not expected.size:
        raise ValueError(
            f"Logits of the same images must have one shape (B, M), got {expected.shape} and "
            f"{logits.shape}."
        )
    if not np.isfinite(logits).all():
        num_bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise FloatingPointError(
            f"The variant's logits of {num_bad} of {len(logits)} images are not finite."
        )
    return Agreement(
        images=len(logits),
        top1=float(np.mean(expected.argmax(axis=1) == logits.argmax(axis=1))),
        largest_difference=float(np.abs(expected - logits).max()),
    )


def _signature(
    model: tf.keras.Model, preprocessing: Preprocessing
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    def signature(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = model(preprocessing.normalize(images), training=False)
        return {"logits": tf.cast(logits, tf.float32)}

    return signature


def _write_savedmodel(
    model: tf.keras.Model, preprocessing: Preprocessing, shape: tuple[int, ...], folder: str
) -> None:
    # TensorFlow's converters from a Keras 3 model to TFLite lose its variables.
    model = for_inference(model, branches=False)
    archive = tf.keras.export.ExportArchive()
    archive.track(model)
    images = tf.TensorSpec(shape, tf.uint8, name="images")
    archive.add_endpoint("serving_default", _signature(model, preprocessing), [images])
    archive.write_out(folder)


def _int8(converter: Any, images: np.ndarray) -> bytes:
    """Returns the int8 model, with _FLOAT_OPS in float32."""
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
        tf.lite.OpsSet.TFLITE_BUILTINS,
    ]
    # The debugger is the only public way to exclude ops from quantization.
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=converter.representative_dataset,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=_FLOAT_OPS),
    )
    return debugger.get_nondebug_quantized_model()


def _interpreter(path: str | pathlib.PurePath) -> Any:
    # TensorFlow 2.21 prints that the interpreter moves to another package.
    with _quiet():
        interpreter = tf.lite.Interpreter(str(path))
        interpreter.allocate_tensors()
    return interpreter


def _import_extra(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"ONNX needs the package {package} ({error}): run pip install 'noah-tf[onnx]', or with "
            "TensorFlow 2.15 pip install 'noah-tf[addons,onnx]'."
        ) from error


def _pixels(images: np.ndarray, crop_shape: tuple[int, int, int]) -> np.ndarray:
    """Returns images as uint8 (N, *crop_shape) after checking them; nothing is rounded."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1:] != tuple(crop_shape) or not len(images):
        expected = ", ".join(map(str, crop_shape))
        raise ValueError(f"images must have the shape (N, {expected}), got {images.shape}.")
    with np.errstate(invalid="ignore"):
        pixels = images.astype(np.uint8)
    if images.dtype != np.uint8 and not (pixels == images).all():
        raise ValueError(
            f"images must be whole numbers from 0 to 255, got {images.dtype} from "
            f"{images.min():g} to {images.max():g}: round pixels with "
            "np.rint(images).astype('uint8'), and do not normalize them."
        )
    return pixels


def _existing(path: str | pathlib.PurePath) -> str | pathlib.PurePath:
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"There is no model at {path}.")
    return path


def _unsupported(model: tf.keras.Model, problem: str, ops: Sequence[str]) -> ValueError:
    return ValueError(
        f"{model.name} cannot be converted: {problem} {', '.join(ops)}. Replace the layers that "
        f"use {'it' if len(ops) == 1 else 'them'}, or leave this variant out."
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discards everything that the process prints.

    The converters print from C++ and have no log level, so that only redirecting the process's
    standard output and error discards it. Other threads' output is lost meanwhile.
    """
    streams = (sys.stdout, sys.stderr)
    with (
        open(os.devnull, "w") as null,
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        for stream in streams:
            stream.flush()
        copies = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
        for descriptor, _ in copies:
            os.dup2(null.fileno(), descriptor)
        try:
            yield
        finally:
            for stream in streams:
                stream.flush()
            for descriptor, copy in copies:
                os.dup2(copy, descriptor)
                os.close(copy)
