"""TF Serving's gRPC interface."""

import json
import random
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from noah_tf.serving.clock import Clock
from noah_tf.serving.endpoint import Endpoint
from noah_tf.serving.errors import (
    THREADS_EXHAUSTED,
    TOO_LARGE,
    TOO_MANY_REQUESTS,
    ServingError,
    readable_message,
)
from noah_tf.serving.status import ModelStatus, status_of, status_without_versions

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

_MIN_BACKOFF, _MAX_BACKOFF = 0.1, 5.0  # bounds of the pause between two attempts, in seconds
_REFUSED = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION")
_BUSY = (THREADS_EXHAUSTED, TOO_MANY_REQUESTS)


class RpcTransport:
    """Sends the requests of a `client.Client` as TF Serving's protocol buffers.

    Args:
        endpoint: the model to ask.
        clock: the time to measure and wait by.
    """

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        self._endpoint, self._clock = endpoint, clock
        self._spec = model_pb2.ModelSpec(name=endpoint.model)
        if endpoint.version is not None:
            self._spec.version.value = endpoint.version
        if endpoint.label is not None:
            self._spec.version_label = endpoint.label
        self._channel = _channel(endpoint)
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def status(self, timeout: float) -> ModelStatus:
        """Returns the state of the model, or of the endpoint's version."""
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec)
        try:
            response = self._models.GetModelStatus(
                request, timeout=min(timeout, self._endpoint.timeout)
            )
        except grpc.RpcError as error:
            code, message = error.code().name, readable_message(error.details())
            return status_without_versions(f"{code}, {message}", message, code == "NOT_FOUND")
        return status_of(
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
        """Returns the response to a request, or raises `ServingError`.

        A server that is unavailable is asked again as often as the endpoint says. A server that is
        busy is asked again until the timeout, since it will have time when other calls end.
        """
        begin, retries = self._clock.now(), self._endpoint.retries
        attempts = 0
        while True:
            remaining = self._endpoint.timeout - (self._clock.now() - begin)
            try:
                return method(request, timeout=remaining)
            except grpc.RpcError as rpc_error:
                attempts += 1
                kind = _kind(rpc_error)
                # The random factor keeps clients from coming back all at the same time.
                backoff = min(_MIN_BACKOFF * 2**attempts, _MAX_BACKOFF) * random.uniform(0.5, 1)
                if kind in _BUSY:
                    is_repeated = retries > 0
                else:
                    is_repeated = kind == "UNAVAILABLE" and attempts <= retries
                seconds = self._clock.now() - begin
                if not is_repeated or seconds + backoff >= self._endpoint.timeout:
                    raise self._error(rpc_error, kind, seconds, attempts) from rpc_error
            self._clock.sleep(backoff)

    def _error(self, error: Any, kind: str, seconds: float, attempts: int) -> ServingError:
        """Returns the error that describes a failed call, after all its attempts."""
        url, timeout = self._endpoint.url, self._endpoint.timeout
        code = error.code().name
        message = f"{readable_message(error.details())} ({code})."
        duration = f"{seconds:.1f} s" + (f" and {attempts} tries" if attempts > 1 else "")
        if kind == "UNAVAILABLE":
            return ServingError(f"{url} was not available for {duration}: {message}", kind)
        if kind in _BUSY:
            return ServingError(f"{url} was busy for {duration}: {message}", kind)
        if kind == "timeout":
            return ServingError(
                f"No answer from {url} in {seconds:.1f} s (timeout {timeout:g} s): {message}", kind
            )
        return ServingError(message, kind, refused=code in _REFUSED or kind == TOO_LARGE)


def _channel(endpoint: Endpoint) -> Any:
    """Returns the connection to a server, which is made when the first request is sent."""
    target = urllib.parse.urlsplit(endpoint.url).netloc
    if not endpoint.is_secure:
        return grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
    shown = endpoint.credentials
    credentials = grpc.ssl_channel_credentials(
        shown.cacert_bytes, shown.key_bytes, shown.cert_bytes
    )
    if shown.api_key is not None:
        credentials = grpc.composite_channel_credentials(
            credentials, grpc.access_token_call_credentials(shown.api_key)
        )
    return grpc.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)


def _kind(error: Any) -> str:
    """Returns the `ServingError.kind` of a failed call."""
    code, details = error.code().name, error.details() or ""
    if code == "DEADLINE_EXCEEDED":
        return "timeout"
    if code == "RESOURCE_EXHAUSTED":  # also the code of a model that is out of memory
        if "Threadpool Exhausted" in details:
            return THREADS_EXHAUSTED
        if TOO_MANY_REQUESTS in details:
            return TOO_MANY_REQUESTS
        # The first is the message of saved_models/nginx.conf, the second that of a gRPC server.
        if "request is too large" in details or "larger than max" in details:
            return TOO_LARGE
    return code


_CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # By default all clients of a process share one connection. A load test needs many.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),  # `_request` repeats
]


def _to_lists(array: np.ndarray) -> Any:
    """Returns an array as nested lists of numbers and strings."""
    if array.dtype == object:
        decode = np.vectorize(lambda value: value.decode("utf-8", "replace"), otypes=[object])
        array = decode(array)
    return array.tolist()
