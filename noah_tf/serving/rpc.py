"""TF Serving's gRPC interface."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from noah_tf.serving.clock import Clock
from noah_tf.serving.endpoint import Endpoint
from noah_tf.serving.errors import ServingError, readable_message, readiness_of

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

_INITIAL_BACKOFF = 0.4  # seconds before the first retry


class RpcTransport:
    """Sends the requests of a `client.Client` as TF Serving's protocol buffers.

    Args:
        endpoint: the model to ask.
        clock: the time to measure by. gRPC itself waits between the attempts.
    """

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        self._endpoint, self._clock = endpoint, clock
        self._spec = model_pb2.ModelSpec(name=endpoint.model)
        if endpoint.version is not None:
            self._spec.version.value = endpoint.version
        if endpoint.label is not None:
            self._spec.version_label = endpoint.label
        self._channel = grpc.insecure_channel(
            endpoint.url.removeprefix("grpc://"), options=_channel_options(endpoint.retries)
        )
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def readiness(self, timeout: float) -> tuple[bool, str]:
        """Returns whether the model can be asked, and its state in words."""
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec)
        try:
            response = self._models.GetModelStatus(
                request, timeout=min(timeout, self._endpoint.timeout)
            )
        except grpc.RpcError as error:
            return False, f"{error.code().name}, {readable_message(error.details())}"
        return readiness_of(
            (status.version, status.State.Name(status.state), status.status.error_message)
            for status in response.model_version_status
        )

    def metadata(self) -> dict[str, Any]:
        """Returns what `client.Client.metadata` does."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec, metadata_field=["signature_def"]
        )
        response = self._request(self._predictions.GetModelMetadata, request)
        document = json.loads(json_format.MessageToJson(response, preserving_proto_field_name=True))
        document["metadata"]["signature_def"].pop("@type", None)
        return document

    def encode(self, images: Sequence[bytes], signature: str) -> Any:
        """Returns a request with the photos in one tensor."""
        request = predict_pb2.PredictRequest(model_spec=self._spec)
        request.model_spec.signature_name = signature
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=images)
        tensor.tensor_shape.dim.add(size=len(images))
        request.inputs["image_bytes"].CopyFrom(tensor)
        return request

    def send(self, request: Any) -> Any:
        """Sends the request that `encode` returned, and returns the response."""
        return self._request(self._predictions.Predict, request)

    def parse(self, response: Any, count: int) -> list[dict[str, Any]]:
        """Returns the outputs of `count` photos, one dict each."""
        outputs = {name: _to_lists(make_ndarray(t)) for name, t in response.outputs.items()}
        counts = {
            name: len(rows) if isinstance(rows, list) else 1 for name, rows in outputs.items()
        }
        if set(counts.values()) != {count}:
            raise ServingError(
                f"{self._endpoint.description} at {self._endpoint.url} did not answer with {count} "
                f"predictions, but with {counts or 'none'}.",
                "no predictions",
            )
        return [{name: rows[i] for name, rows in outputs.items()} for i in range(count)]

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _request(self, method: Callable[..., Any], request: Any) -> Any:
        """Returns the response to a request, or raises `ServingError`."""
        url, timeout, retries = self._endpoint.url, self._endpoint.timeout, self._endpoint.retries
        begin = self._clock.now()
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            code, message = error.code().name, readable_message(error.details())
            seconds = self._clock.now() - begin
            if code == "UNAVAILABLE":
                tries = f" and {retries + 1} tries" if retries else ""
                raise ServingError(
                    f"{url} was not available for {seconds:.1f} s{tries}: {message} ({code}).", code
                ) from error
            if code == "DEADLINE_EXCEEDED":
                raise ServingError(
                    f"No answer from {url} in {seconds:.1f} s (timeout {timeout:g} s): {message} "
                    f"({code}).",
                    "timeout",
                ) from error
            refused = code in ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION")
            raise ServingError(f"{message} ({code}).", code, refused) from error


def _channel_options(retries: int) -> list[tuple[str, Any]]:
    """Returns gRPC's options for a connection that repeats a request `retries` times."""
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # By default all clients of a process share one connection. A load test needs many.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", int(retries > 0)),
    ]
    if retries:
        policy = {
            "maxAttempts": retries + 1,
            "initialBackoff": f"{_INITIAL_BACKOFF}s",
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


def _to_lists(array: np.ndarray) -> Any:
    """Returns an array as nested lists of numbers and strings."""
    if array.dtype == object:
        decode = np.vectorize(lambda value: value.decode("utf-8", "replace"), otypes=[object])
        array = decode(array)
    return array.tolist()
