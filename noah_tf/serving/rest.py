"""TF Serving's REST interface, which KServe calls its protocol v1."""

import base64
import contextlib
import json
import time
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

import requests
import requests.adapters
import requests.auth
import urllib3

from noah_tf.serving.clock import Clock
from noah_tf.serving.endpoint import Endpoint
from noah_tf.serving.errors import (
    TOO_LARGE,
    TOO_MANY_REQUESTS,
    ServingError,
    readable_message,
)
from noah_tf.serving.status import ModelStatus, status_of, status_without_versions

_MAX_PAUSE = 10.0  # seconds between two attempts, even if the server asks for a longer pause


class _Retry(urllib3.Retry):
    """Repeats a request while the server is unavailable or busy.

    A request that timed out is not repeated, and neither is one whose connection timed out.
    """

    pause: Callable[[float], None] = staticmethod(time.sleep)

    def new(self, **changes: Any) -> "_Retry":
        retry = super().new(**changes)
        retry.pause = self.pause  # type: ignore[method-assign]
        return retry

    def increment(
        self, method=None, url=None, response=None, error=None, *arguments: Any, **options: Any
    ) -> "_Retry":
        if isinstance(error, urllib3.exceptions.ReadTimeoutError):
            raise error
        # A refused connection is a NewConnectionError, which urllib3 counts among the timeouts.
        if isinstance(error, urllib3.exceptions.ConnectTimeoutError) and not isinstance(
            error, urllib3.exceptions.NewConnectionError
        ):
            # requests expects this error around that of the connection.
            raise urllib3.exceptions.MaxRetryError(options["_pool"], url, error)
        return super().increment(method, url, response, error, *arguments, **options)

    def get_retry_after(self, response: Any) -> float | None:
        seconds = super().get_retry_after(response)
        return None if seconds is None else min(seconds, _MAX_PAUSE)

    def sleep(self, response: Any = None) -> None:
        requested = None if response is None else self.get_retry_after(response)
        self.pause(requested or self.get_backoff_time())


class _BearerAuth(requests.auth.AuthBase):
    """Adds an API key to each request."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request


class RestTransport:
    """Sends the requests of a `client.Client` as JSON.

    Args:
        endpoint: the model to ask.
        clock: the time to measure and wait by.
    """

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        version = ""
        if endpoint.version is not None:
            version = f"/versions/{endpoint.version}"
        elif endpoint.label is not None:
            version = f"/labels/{urllib.parse.quote(endpoint.label, safe='')}"
        model = urllib.parse.quote(endpoint.model, safe="")
        self._endpoint, self._clock = endpoint, clock
        self._url = f"{endpoint.url}/v1/models/{model}{version}"
        retry = _Retry(
            total=endpoint.retries,
            allowed_methods=("GET", "POST"),  # a prediction changes nothing on the server
            status_forcelist=(429, 503),
            backoff_factor=0.2,
            backoff_max=_MAX_PAUSE,
            backoff_jitter=0.1,
            raise_on_status=False,
        )
        retry.pause = clock.sleep  # type: ignore[method-assign]
        self._session = self._new_session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))

    def _new_session(self) -> requests.Session:
        """Returns a session without retries that shows the endpoint's credentials."""
        session, shown = requests.Session(), self._endpoint.credentials
        if shown.cert is not None:
            session.cert = (str(shown.cert), str(shown.key))
        if shown.api_key is not None:
            # A function sets the key: requests replaces a header if ~/.netrc names the host.
            session.auth = _BearerAuth(shown.api_key)
        return session

    @property
    def _verify(self) -> str | bool:
        # Each request gets it, because a variable of the environment replaces that of a session.
        cacert = self._endpoint.credentials.cacert
        return True if cacert is None else str(cacert)

    def status(self, timeout: float) -> ModelStatus:
        """Returns the state of the model, or of the endpoint's version."""
        try:
            # The other session has retries, which would exceed the timeout.
            with self._new_session() as session:
                response = session.get(
                    self._url,
                    timeout=min(timeout, self._endpoint.timeout),
                    verify=self._verify,
                )
        except requests.RequestException as error:
            return ModelStatus(False, _cause(error))
        document = _json_of(response)
        if response.status_code == 200 and isinstance(document, dict):
            if isinstance(document.get("model_version_status"), list):
                return status_of(map(_version_state, document["model_version_status"]))
            if "ready" in document:  # KServe
                ready = str(document["ready"]).lower() == "true"
                return ModelStatus(ready, f"the server says ready: {document['ready']}")
        message = _error_text(response)
        return status_without_versions(
            f"the server answered {response.status_code}, {message}",
            message,
            is_not_found=response.status_code == 404,
        )

    def metadata(self) -> dict[str, Any]:
        """Returns what `client.Client.metadata` does."""
        return self._request("GET", "/metadata").json()

    def encode(self, images: Sequence[bytes], signature: str) -> bytes:
        """Returns the body of a request with one row per photo."""
        # A signature with a single input takes the value alone, so that no input is named here.
        rows = [{"b64": base64.b64encode(image).decode()} for image in images]
        return json.dumps({"signature_name": signature, "instances": rows}).encode()

    def send(self, body: bytes) -> bytes:
        """Sends the body that `encode` returned, and returns the body of the response."""
        return self._request("POST", ":predict", body).content

    def parse(self, content: bytes, count: int) -> list[dict[str, Any]]:
        """Returns the outputs of `count` photos, one dict each."""
        try:
            rows = json.loads(content)["predictions"]
        except (ValueError, KeyError, TypeError):
            rows = None
        if not isinstance(rows, list) or len(rows) != count:
            raise ServingError(
                f"{self._url} did not answer with {count} predictions: {_text(content)}.",
                "no predictions",
            )
        if not all(isinstance(row, dict) for row in rows):
            # TF Serving omits the name of an output if there is only one.
            raise ServingError(
                f"{self._endpoint.description} at {self._endpoint.url} has a single output without "
                "a name, and this client reads signatures with several, as noah_tf's exports have.",
                "no predictions",
            )
        return rows

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    def _request(self, method: str, suffix: str, body: bytes | None = None) -> requests.Response:
        """Returns a response with status 200, or raises `ServingError`."""
        url, begin = self._url + suffix, self._clock.now()
        try:
            response = self._session.request(
                method,
                url,
                data=body,
                headers={"Content-Type": "application/json"} if body else None,
                timeout=self._endpoint.timeout,
                verify=self._verify,
                allow_redirects=False,  # requests would repeat a redirected POST as a GET
            )
        except requests.RequestException as error:
            cause = _cause(error)
            duration = self._duration(begin, timed_out=cause == "timeout")
            raise ServingError(f"No answer from {url} in {duration}: {cause}.", cause) from error
        if response.status_code != 200:
            raise self._error(url, response, begin)
        return response

    def _error(self, url: str, response: requests.Response, begin: float) -> ServingError:
        """Returns the error that describes a response without a prediction."""
        status = response.status_code
        if status in (429, 503):
            state, kind = "not available", "HTTP 503"
            if status == 429:
                state, kind = "busy", TOO_MANY_REQUESTS
            return ServingError(
                f"{url} was {state} for {self._duration(begin)}: {_error_text(response)} "
                f"(HTTP {status}).",
                kind,
            )
        if 300 <= status < 400:
            return ServingError(
                f"{url} redirects to {response.headers.get('Location')} (HTTP {status}): give that "
                "address as the url.",
                f"HTTP {status}",
            )
        kind = TOO_LARGE if status == 413 else f"HTTP {status}"
        return ServingError(f"{_error_text(response)} (HTTP {status}).", kind, refused=status < 500)

    def _duration(self, begin: float, timed_out: bool = False) -> str:
        """Returns the time since `begin` and the number of attempts, in words."""
        seconds, retries = self._clock.now() - begin, self._endpoint.retries
        if timed_out:
            return f"{seconds:.1f} s (timeout {self._endpoint.timeout:g} s)"
        return f"{seconds:.1f} s" + (f" and {retries + 1} tries" if retries else "")


def _version_state(status: dict[str, Any]) -> tuple[str, str, str]:
    """Returns version, state and error message of an element of `model_version_status`."""
    error = status.get("status", {}).get("error_message", "")
    return status.get("version", ""), status.get("state", ""), error


def _json_of(response: requests.Response) -> Any:
    """Returns the document in a response, or None."""
    # Older versions of TF Serving escape the apostrophe, which JSON does not allow.
    for text in (response.text, response.text.replace("\\'", "'")):
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return None


def _error_text(response: requests.Response) -> str:
    """Returns the message in TF Serving's "error" or KServe's "detail", or the whole text."""
    document = _json_of(response)
    if isinstance(document, dict):
        for key in ("error", "detail"):
            if document.get(key):
                return readable_message(str(document[key]))
    return _text(response.content)


def _text(content: bytes) -> str:
    return readable_message(content.decode("utf-8", "replace")) or "an empty answer"


def _cause(error: requests.RequestException) -> str:
    """Returns the innermost cause of a failed request in a few words."""
    if isinstance(error, requests.Timeout):
        return "timeout"
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        # urllib3 keeps the cause in `reason` or in the first argument.
        reason = getattr(cause, "reason", None) or (cause.args[:1] or (None,))[0]
        cause = cause.__cause__ or cause.__context__
        if isinstance(reason, BaseException):
            cause = reason
    for cause in reversed(causes):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
    return readable_message(str(causes[-1])) or type(causes[-1]).__name__
