"""TF Serving's gRPC interface."""

import json
import time

import numpy as np

from noah_tf.serving.errors import ServingError, model_of, readiness, server_message

_MOST_RETRIES = 4  # gRPC makes at most five attempts, whatever its configuration says

try:
    import grpc
    from google.protobuf import json_format
    from tensorflow import make_ndarray
    from tensorflow.core.framework import tensor_pb2, types_pb2
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )
except ImportError as error:
    raise ImportError(
        f"A grpc:// url needs tensorflow-serving-api ({error}): pip install 'noah-tf[serving]', "
        "or give the server's REST port, http://HOST:8501."
    ) from error


class RpcTransport:
    """What `client.Client` says, in TF Serving's messages; the arguments are its own."""

    def __init__(self, address, model, version, label, timeout, retries):
        if retries > _MOST_RETRIES:
            raise ValueError(
                f"retries is {retries}, and gRPC tries again at most {_MOST_RETRIES} times: give "
                f"0 to {_MOST_RETRIES}, or wait for readiness longer."
            )
        self._url, self._timeout, self._retries = f"grpc://{address}", timeout, retries
        self._words = model_of(model, version, label)
        self._spec = model_pb2.ModelSpec(name=model)
        if version is not None:
            self._spec.version.value = version
        if label is not None:
            self._spec.version_label = label
        self._channel = grpc.insecure_channel(address, options=_channel_options(retries))
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def readiness(self, timeout):
        """Whether the model can be asked, and what it is at; see `errors.readiness`."""
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec)
        try:
            answer = self._models.GetModelStatus(request, timeout=min(timeout, self._timeout))
        except grpc.RpcError as error:
            return False, f"{error.code().name}, {server_message(error.details())}"
        return readiness(
            [
                (status.version, status.State.Name(status.state), status.status.error_message)
                for status in answer.model_version_status
            ]
        )

    def metadata(self):
        """See `client.Client.metadata`."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec, metadata_field=["signature_def"]
        )
        answer = json.loads(
            json_format.MessageToJson(
                self._answer(self._predictions.GetModelMetadata, request),
                preserving_proto_field_name=True,
            )
        )
        answer["metadata"]["signature_def"].pop("@type", None)
        return answer

    def encode(self, images, signature):
        """A request with the photos in one tensor."""
        request = predict_pb2.PredictRequest(model_spec=self._spec)
        request.model_spec.signature_name = signature
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=images)
        tensor.tensor_shape.dim.add(size=len(images))
        request.inputs["image_bytes"].CopyFrom(tensor)
        return request

    def send(self, request):
        """Sends what `encode` gave; returns the answer's message."""
        return self._answer(self._predictions.Predict, request)

    def parse(self, response, count):
        """The outputs of `count` photos, one dict each."""
        outputs = {name: _plain(make_ndarray(t)) for name, t in response.outputs.items()}
        sizes = {name: len(rows) if isinstance(rows, list) else 1 for name, rows in outputs.items()}
        if set(sizes.values()) != {count}:
            raise ServingError(
                f"{self._words} at {self._url} did not answer with {count} predictions, but with "
                f"{sizes or 'none'}.",
                "no predictions",
            )
        return [{name: rows[i] for name, rows in outputs.items()} for i in range(count)]

    def close(self):
        """Closes the connection."""
        self._channel.close()

    def _answer(self, method, request):
        begin = time.monotonic()
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            code, what = error.code().name, server_message(error.details())
            seconds = time.monotonic() - begin
            if code == "UNAVAILABLE":
                tries = f" and {self._retries + 1} tries" if self._retries else ""
                raise ServingError(
                    f"{self._url} was not available for {seconds:.1f} s{tries}: {what} ({code}).",
                    code,
                ) from error
            if code == "DEADLINE_EXCEEDED":
                raise ServingError(
                    f"No answer from {self._url} in {seconds:.1f} s (timeout {self._timeout:g} s): "
                    f"{what} ({code}).",
                    "timeout",
                ) from error
            refused = code in ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION")
            raise ServingError(f"{what} ({code}).", code, refused) from error


def _channel_options(retries):
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # Else clients of one process share a connection, and a load test has only one.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", int(retries > 0)),
    ]
    if retries:
        policy = {
            "maxAttempts": retries + 1,
            "initialBackoff": "0.4s",
            "maxBackoff": "10s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        names = [
            {"service": "tensorflow.serving.PredictionService", "method": method}
            for method in ("Predict", "GetModelMetadata")
        ]
        config = {"methodConfig": [{"name": names, "retryPolicy": policy}]}
        options.append(("grpc.service_config", json.dumps(config)))
    return options


def _plain(array):
    """An array as nested lists of numbers and strings."""
    if array.dtype == object:
        decode = np.vectorize(lambda value: value.decode("utf-8", "replace"), otypes=[object])
        array = decode(array)
    return array.tolist()
