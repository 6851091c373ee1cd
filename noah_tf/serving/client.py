"""A client of TF Serving and of KServe's protocol v1, over REST or gRPC."""

import time
import urllib.parse

from noah_tf.serving.errors import ServingError, model_of
from noah_tf.utils.validation import check_positive_int, is_number

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0  # seconds between two looks at whether a model is ready


class Client:
    """Asks a served model about photos.

    Requests are tried again, with growing pauses, when the server cannot be reached or says that
    it is not available (503, UNAVAILABLE). A client belongs to one thread.

    Args:
        url: the server's address: "http://HOST:8501" (or https) for REST, "grpc://HOST:8500" for
            gRPC, which needs tensorflow-serving-api (`pip install 'noah-tf[serving]'`).
        model: the model's name there.
        version: ask this version; None for the newest.
        label: ask the version with this label, such as "canary".
        timeout: seconds that a try may take; over gRPC, all tries of a request together.
        retries: how often a request is tried again; over gRPC at most 4, which is gRPC's limit.

    Raises:
        ValueError: an argument is of no use.
        ImportError: the url wants gRPC, and tensorflow-serving-api is not installed.

    Example:

    >>> with noah_tf.serving.Client("http://localhost:8501", "flowers") as client:
    ...     client.wait_until_ready(30)
    ...     client.predict([pathlib.Path("rose.jpg").read_bytes()])[0]["labels"]
    ['rose', 'tulip', 'daisy', 'dandelion', 'sunflower']
    """

    def __init__(self, url, model, version=None, label=None, timeout=60.0, retries=4):
        scheme, address = _parsed(url)
        if not model or not isinstance(model, str):
            raise ValueError(f"model must be the model's name on the server, got {model!r}.")
        if version is not None:
            check_positive_int("version", version)
            if label is not None:
                raise ValueError(
                    f"A version ({version}) and a label ({label!r}) are given: give one of them."
                )
        if not is_number(timeout) or timeout <= 0:
            raise ValueError(f"timeout must be a positive number of seconds, got {timeout!r}.")
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ValueError(f"retries must be 0 or a positive integer, got {retries!r}.")
        self.url, self.model = url.rstrip("/"), model
        self._words = model_of(model, version, label)
        if scheme == "grpc":
            from noah_tf.serving.rpc import RpcTransport as Transport
        else:
            from noah_tf.serving.rest import RestTransport as Transport
        self._transport = Transport(address, model, version, label, float(timeout), retries)

    def wait_until_ready(self, seconds=30.0):
        """Waits until the server has loaded the model; one look is taken in any case.

        Args:
            seconds: how long to wait at most.

        Raises:
            ServingError: the model was not ready in time; the message says what came instead.
        """
        begin, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            left = begin + seconds - time.monotonic()
            ready, what = self._transport.readiness(timeout=max(left, _LONGEST_PAUSE))
            if ready:
                return
            left = begin + seconds - time.monotonic()
            if left <= 0:
                raise ServingError(
                    f"{self._words} at {self.url} was not ready in {seconds - left:.1f} s: {what}.",
                    "not ready",
                )
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def metadata(self):
        """The model's signatures, as TF Serving describes them.

        Returns:
            Dict with "model_spec" and "metadata"; the signatures are in
            `["metadata"]["signature_def"]["signature_def"]`.

        Raises:
            ServingError: the server has no such model, or cannot be reached.
        """
        return self._transport.metadata()

    def predict(self, images, signature="serving_default"):
        """Asks about photos, in one request.

        Args:
            images: list of bytes, one encoded photo each; they are sent as they are.
            signature: name of a signature that takes encoded photos: "serving_default", "explain".

        Returns:
            List of dicts, one a photo: the signature's outputs, as numbers, strings and lists.

        Raises:
            ServingError: the server refused the photos (`refused` is true) or cannot be reached.
        """
        return self._transport.parse(self.prepare(images, signature)(), len(images))

    def prepare(self, images, signature="serving_default"):
        """Encodes a request and sends nothing yet.

        Args:
            images: as for `predict`.
            signature: as for `predict`.

        Returns:
            Function without arguments that sends the request, waits for the answer and returns it
            as it came, or raises `ServingError`.
        """
        if not images or not all(isinstance(image, bytes) for image in images):
            raise ValueError(
                "images must be a list of bytes with at least one photo, got "
                f"{[type(image).__name__ for image in images]}."
            )
        request = self._transport.encode(images, signature)
        return lambda: self._transport.send(request)

    def close(self):
        """Closes the connection."""
        self._transport.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _parsed(url):
    """Scheme and address of a server's url; for gRPC the address has no scheme."""
    wanted = "http://HOST:8501, https://HOST or grpc://HOST:8500"
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"The url {url!r} is no address of a server: give {wanted}.") from None
    if parts.scheme not in ("http", "https", "grpc") or not host:
        raise ValueError(f"The url {url!r} is no address of a server: give {wanted}.")
    path = parts.path.rstrip("/")
    if parts.query or parts.fragment or "/v1/" in f"{path}/" or (path and parts.scheme == "grpc"):
        raise ValueError(
            f"The url {url!r} has more than the server's address: give {wanted}; model, version "
            "and signature have options of their own."
        )
    if parts.scheme == "grpc" and port is None:
        raise ValueError(f"The url {url!r} has no port: TF Serving's gRPC port is 8500.")
    return parts.scheme, parts.netloc if parts.scheme == "grpc" else url.rstrip("/")
