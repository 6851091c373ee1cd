"""Requests that TF Serving replays when it loads a model, so that no user waits for the first."""

import functools
import pathlib

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow.core.framework import tensor_pb2

# Where TF Serving looks for it in a version's folder, and how many records it takes.
WARMUP_FILE = pathlib.Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000

# The part of TF Serving's prediction_log.proto, predict.proto and model.proto that a request needs:
# message -> field -> (number, type). The package tensorflow-serving-api has all of them, and pins
# TensorFlow; an export should not need it.
_STRING = "string"
_MESSAGES = {
    "ModelSpec": {"name": (1, _STRING), "signature_name": (3, _STRING)},
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "map")},
    "PredictLog": {"request": (1, "PredictRequest")},
    "PredictionLog": {"predict_log": (6, "PredictLog")},
}


def requests(signatures, batch_sizes, preprocessing):
    """Requests for each signature of an export and each size of a batch.

    Args:
        signatures: names, as of `ServedModel.functions`.
        batch_sizes: how many images they have.
        preprocessing: the export's `Preprocessing`.

    Yields:
        Pairs for `write_requests`.
    """
    file, pixels = photo(preprocessing), _pixels(preprocessing)
    for size in batch_sizes:
        for name in signatures:
            if name == "serve_tensor":
                yield name, {"images": np.repeat(pixels[None], size, axis=0)}
            else:
                yield name, {"image_bytes": np.array([file] * size, object)}


def photo(preprocessing):
    """A JPEG of no particular content, which has to be scaled and cut as most photos have.

    Args:
        preprocessing: the model's `preprocess.Preprocessing`.

    Returns:
        Bytes of the file.
    """
    return tf.io.encode_jpeg(_pixels(preprocessing)).numpy()


def _pixels(preprocessing):
    height, width = (side + 32 for side in preprocessing.image_size)
    ramp = np.linspace(0, 255, height * width * 3).astype(np.uint8)
    return ramp.reshape(height, width, 3)


def write_requests(folder, name, requests):
    """Writes the warm-up requests of a version.

    Args:
        folder: the version's folder.
        name: the name that the model is served under.
        requests: pairs of a signature's name and its inputs, a dict of arrays by name.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: there are more than TF Serving takes.
    """
    requests = list(requests)
    if len(requests) > MAX_RECORDS:
        raise ValueError(
            f"TF Serving takes at most {MAX_RECORDS} warm-up requests, got {len(requests)}: warm "
            "up fewer batch sizes."
        )
    path = pathlib.Path(folder) / WARMUP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            log = _message("PredictionLog")()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = name, signature
            for key, value in inputs.items():
                tensor = tf.make_tensor_proto(value)
                request.inputs[key].ParseFromString(tensor.SerializeToString())
            writer.write(log.SerializeToString())
    return path


def read_requests(folder):
    """The inverse of `write_requests`, to replay them elsewhere.

    Args:
        folder: the version's folder.

    Yields:
        Pairs of a signature's name and its inputs, a dict of arrays by name.
    """
    path = pathlib.Path(folder) / WARMUP_FILE
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = _message("PredictionLog").FromString(record).predict_log.request
        inputs = {}
        for key, value in request.inputs.items():
            tensor = tensor_pb2.TensorProto.FromString(value.SerializeToString())
            inputs[key] = tf.make_ndarray(tensor)
        yield request.model_spec.signature_name, inputs


@functools.cache
def _pool():
    # Of its own: where tensorflow-serving-api is imported, too, the default pool has these names.
    pool = descriptor_pool.DescriptorPool()
    _add(pool, tensor_pb2.DESCRIPTOR, set())
    file = descriptor_pb2.FileDescriptorProto(
        name="warmup.proto", package="tensorflow.serving", syntax="proto3"
    )
    file.dependency.append(tensor_pb2.DESCRIPTOR.name)
    for message, fields in _MESSAGES.items():
        made = file.message_type.add(name=message)
        for field, (number, kind) in fields.items():
            _add_field(made, field, number, kind)
    pool.Add(file)
    return pool


def _add_field(message, name, number, kind):
    types = descriptor_pb2.FieldDescriptorProto
    field = message.field.add(name=name, number=number, label=types.LABEL_OPTIONAL)
    if kind == _STRING:
        field.type = types.TYPE_STRING
        return
    field.type = types.TYPE_MESSAGE
    field.type_name = f".tensorflow.serving.{kind}"
    if kind == "map":
        # How protobuf writes map<string, TensorProto>.
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


def _add(pool, file, done):
    """Adds a file of messages and those that it imports."""
    if file.name in done:
        return
    done.add(file.name)
    for dependency in file.dependencies:
        _add(pool, dependency, done)
    copy = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(copy)
    pool.Add(copy)


def _message(name):
    descriptor = _pool().FindMessageTypeByName(f"tensorflow.serving.{name}")
    return message_factory.GetMessageClass(descriptor)
