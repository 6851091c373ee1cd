"""A client of TF Serving and of KServe's protocol v1, over REST or gRPC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from noah_tf.serving.clock import SYSTEM_CLOCK, Clock
from noah_tf.serving.credentials import Credentials
from noah_tf.serving.endpoint import Endpoint
from noah_tf.serving.errors import ServingError
from noah_tf.serving.status import ModelStatus


class Client:
    """Asks a served model about photos.

    The client repeats a request, with growing random pauses, while the server cannot be reached or
    reports that it is unavailable (HTTP 503, gRPC UNAVAILABLE) or busy (HTTP 429, and "Server
    Threadpool Exhausted" over gRPC). Each thread needs its own client.

    Args:
        url: address of the server: "http://HOST:8501" for REST, "grpc://HOST:8500" for gRPC, which
            needs tensorflow-serving-api (`pip install 'noah-tf[serving]'`). The address of a front
            with TLS begins with "https" or "grpcs".
        model: name of the model on the server.
        version: number of the version to ask; None for the newest.
        label: label of the version to ask, such as "canary"; excludes `version`.
        timeout: seconds before a request fails. Over REST each attempt has this much time, over
            gRPC all attempts together.
        retries: how often a request is repeated. Over gRPC, a request to a busy server is repeated
            until the timeout, unless `retries` is 0.
        credentials: the API key and the certificates for a front with TLS.
        clock: the time to measure and wait by; tests replace it.

    Raises:
        ValueError: an argument is invalid.
        ImportError: the url is one of gRPC, and tensorflow-serving-api is not installed.

    Example:

    >>> with noah_tf.serving.Client("http://localhost:8501", "flowers") as client:
    ...     client.wait_until_ready(30)
    ...     client.predict([pathlib.Path("rose.jpg").read_bytes()])[0]["labels"]
    ['rose', 'tulip', 'daisy', 'dandelion', 'sunflower']
    """

    def __init__(
        self,
        url: str,
        model: str,
        version: int | None = None,
        label: str | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        credentials: Credentials | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._endpoint = Endpoint(
            url, model, version, label, timeout, retries, credentials or Credentials()
        )
        self.url, self.model = self._endpoint.url, model
        self._clock = clock
        self._transport: Any = _make_transport(self._endpoint, clock)

    def wait_until_ready(self, seconds: float = 30.0) -> None:
        """Waits until the server has loaded the model. Asks the server at least once.

        Args:
            seconds: how long to wait at most.

        Raises:
            ServingError: the model did not become ready in time; the message says why.
        """
        ready, state, elapsed = self._clock.wait_for(self.readiness, seconds)
        if not ready:
            raise ServingError(
                f"{self._endpoint.description} at {self._endpoint.url} was not ready in "
                f"{elapsed:.1f} s: {state}.",
                "not ready",
            )

    def readiness(self, timeout: float = 10.0) -> tuple[bool, str]:
        """Returns whether the server has loaded the model, and the states of its versions in words.

        Args:
            timeout: seconds before the server counts as not ready.
        """
        status = self.status(timeout)
        return status.is_ready, status.description

    def status(self, timeout: float = 10.0) -> ModelStatus:
        """Returns the state of the model, or of the client's version, on the server.

        Args:
            timeout: seconds before the server counts as not ready.

        Example:

        >>> Client("http://localhost:8501", "flowers", version=2).status().is_ready
        True
        """
        return self._transport.status(timeout=timeout)

    def metadata(self) -> dict[str, Any]:
        """Returns the model's signatures, as TF Serving describes them.

        Returns:
            Dict with "model_spec" and "metadata"; the signatures are in
            `["metadata"]["signature_def"]["signature_def"]`.

        Raises:
            ServingError: the server has no such model, or cannot be reached.
        """
        return self._transport.metadata()

    def predict(
        self, images: Sequence[bytes], signature: str = "serving_default"
    ) -> list[dict[str, Any]]:
        """Returns the model's outputs for some photos, which it sends in one request.

        Args:
            images: list of bytes, one encoded photo each, which are sent unchanged.
            signature: name of a signature that takes encoded photos: "serving_default", "explain"
                or "embed".

        Returns:
            List of one dict per photo: the signature's outputs, as numbers, strings and lists.

        Raises:
            ServingError: the server refused the photos (`refused` is true) or cannot be reached.
        """
        return self._transport.parse(self.prepare(images, signature)(), len(images))

    def prepare(
        self, images: Sequence[bytes], signature: str = "serving_default"
    ) -> Callable[[], Any]:
        """Encodes a request without sending it.

        Args:
            images: as for `predict`.
            signature: as for `predict`.

        Returns:
            Function without arguments that sends the request and returns the undecoded response,
            or raises `ServingError`.
        """
        if not images or not all(isinstance(image, bytes) for image in images):
            raise ValueError(
                "images must be a list of bytes with at least one photo, got "
                f"{[type(image).__name__ for image in images]}."
            )
        request = self._transport.encode(images, signature)
        return lambda: self._transport.send(request)

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _make_transport(endpoint: Endpoint, clock: Clock) -> Any:
    """Returns the connection that speaks the protocol of the endpoint's url."""
    if endpoint.is_grpc:  # imported here because it needs TensorFlow, which REST does not
        from noah_tf.serving.rpc import RpcTransport

        return RpcTransport(endpoint, clock)
    from noah_tf.serving.rest import RestTransport

    return RestTransport(endpoint, clock)
