"""Warm-up requests, which TF Serving replays before it makes a version available."""

import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow.core.framework import tensor_pb2

from noah_tf.images import Preprocessing
from noah_tf.utils.paths import Path, PathLike, as_path

# The file in a version's folder that TF Serving reads, and the most records that it accepts.
WARMUP_FILE = pathlib.Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000

# The name of a signature, and its inputs by name.
Request = tuple[str, dict[str, np.ndarray]]

# The part of TF Serving's prediction_log.proto, predict.proto and model.proto that a request needs,
# as message -> field -> (number, type). The package tensorflow-serving-api contains all of it but
# pins TensorFlow, so that an export does not depend on that package.
_STRING = "string"
_MESSAGES = {
    "ModelSpec": {"name": (1, _STRING), "signature_name": (3, _STRING)},
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "map")},
    "PredictLog": {"request": (1, "PredictRequest")},
    "PredictionLog": {"predict_log": (6, "PredictLog")},
}


def sample_requests(
    signatures: Iterable[str], batch_sizes: Iterable[int], preprocessing: Preprocessing
) -> Iterator[Request]:
    """Generates one request for each signature and batch size.

    Args:
        signatures: names of signatures, such as the keys of `ServedModel.functions`.
        batch_sizes: the numbers of images per request.
        preprocessing: the export's `Preprocessing`.

    Yields:
        Pairs of a signature's name and its inputs, for `write_requests`.
    """
    signatures = list(signatures)
    file, pixels = sample_photo(preprocessing), _sample_pixels(preprocessing)
    for batch_size in batch_sizes:
        for name in signatures:
            if name == "serve_tensor":
                yield name, {"images": np.repeat(pixels[None], batch_size, axis=0)}
            else:
                yield name, {"image_bytes": np.array([file] * batch_size, object)}


def sample_photo(preprocessing: Preprocessing) -> bytes:
    """Returns a photo that, like most, has to be resized and cropped: a JPEG, or a PNG with alpha.

    Args:
        preprocessing: the model's `Preprocessing`.
    """
    pixels = _sample_pixels(preprocessing)
    encode = tf.io.encode_png if pixels.shape[-1] == 4 else tf.io.encode_jpeg
    return encode(pixels).numpy()


def _sample_pixels(preprocessing: Preprocessing) -> np.ndarray:
    height, width = (side + 32 for side in preprocessing.image_size)
    shape = height, width, preprocessing.crop_shape[-1]
    return np.linspace(0, 255, np.prod(shape)).astype(np.uint8).reshape(shape)


def write_requests(
    folder: PathLike,
    name: str,
    requests: Iterable[tuple[str, Mapping[str, np.ndarray]]],
) -> Path:
    """Writes the warm-up requests of a version.

    Args:
        folder: the version's folder.
        name: the name that TF Serving serves the model under.
        requests: pairs of a signature's name and its inputs, a dict of arrays by name.

    Returns:
        The path of the file.

    Raises:
        ValueError: there are more requests than TF Serving accepts.
    """
    requests = list(requests)
    if len(requests) > MAX_RECORDS:
        raise ValueError(
            f"TF Serving accepts at most {MAX_RECORDS} warm-up requests, got {len(requests)}: give "
            "fewer batch sizes."
        )
    path = as_path(folder) / WARMUP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            log = _message_class("PredictionLog")()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = name, signature
            for key, value in inputs.items():
                tensor = tf.make_tensor_proto(value)
                request.inputs[key].ParseFromString(tensor.SerializeToString())
            writer.write(log.SerializeToString())
    return path


def read_requests(folder: PathLike) -> Iterator[Request]:
    """Reads what `write_requests` has written.

    Args:
        folder: the version's folder.

    Yields:
        Pairs of a signature's name and its inputs, a dict of arrays by name.
    """
    path = as_path(folder) / WARMUP_FILE
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = _message_class("PredictionLog").FromString(record).predict_log.request
        inputs = {}
        for key, value in request.inputs.items():
            tensor = tensor_pb2.TensorProto.FromString(value.SerializeToString())
            inputs[key] = tf.make_ndarray(tensor)
        yield request.model_spec.signature_name, inputs


def _message_class(name: str) -> Any:
    descriptor = _descriptor_pool().FindMessageTypeByName(f"tensorflow.serving.{name}")
    return message_factory.GetMessageClass(descriptor)


@functools.cache
def _descriptor_pool() -> descriptor_pool.DescriptorPool:
    # The default pool contains the same names if tensorflow-serving-api is imported as well.
    pool = descriptor_pool.DescriptorPool()
    _add_with_dependencies(pool, tensor_pb2.DESCRIPTOR, set())
    file = descriptor_pb2.FileDescriptorProto(
        name="warmup.proto", package="tensorflow.serving", syntax="proto3"
    )
    file.dependency.append(tensor_pb2.DESCRIPTOR.name)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            _add_field(message, field_name, number, kind)
    pool.Add(file)
    return pool


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str) -> None:
    types = descriptor_pb2.FieldDescriptorProto
    field = message.field.add(name=name, number=number, label=types.LABEL_OPTIONAL)
    if kind == _STRING:
        field.type = types.TYPE_STRING
        return
    field.type = types.TYPE_MESSAGE
    field.type_name = f".tensorflow.serving.{kind}"
    if kind == "map":
        # Protobuf represents map<string, TensorProto> as repeated messages of a key and a value.
        field.label = types.LABEL_REPEATED
        field.type_name = f".tensorflow.serving.{message.name}.InputsEntry"
        entry = message.nested_type.add(name="InputsEntry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=types.TYPE_STRING, label=types.LABEL_OPTIONAL)
        entry.field.add(
            name="value",
            number=2,
            type=types.TYPE_MESSAGE,
            type_name=".tensorflow.TensorProto",
            label=types.LABEL_OPTIONAL,
        )


def _add_with_dependencies(
    pool: descriptor_pool.DescriptorPool, file: Any, added: set[str]
) -> None:
    """Adds the descriptor of a .proto file, and first those of the files that it imports."""
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add_with_dependencies(pool, dependency, added)
    copy = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(copy)
    pool.Add(copy)
