"""TF Serving's REST interface, which KServe calls its protocol v1."""

import base64
import contextlib
import json
import time
import urllib.parse

import requests
import requests.adapters
import urllib3

from noah_tf.serving.errors import ServingError, model_of, readiness, server_message

_LONGEST_PAUSE = 10.0  # seconds between two tries, whatever the server asks for


class _Retry(urllib3.Retry):
    """Tries again what may work a moment later, which a request that timed out is not."""

    def increment(self, method=None, url=None, response=None, error=None, *arguments, **options):
        if isinstance(error, urllib3.exceptions.ReadTimeoutError):
            raise error
        return super().increment(method, url, response, error, *arguments, **options)

    def get_retry_after(self, response):
        seconds = super().get_retry_after(response)
        return None if seconds is None else min(seconds, _LONGEST_PAUSE)


class RestTransport:
    """What `client.Client` says, in JSON; the arguments are its own."""

    def __init__(self, address, model, version, label, timeout, retries):
        where = f"/versions/{version}" if version is not None else ""
        if label is not None:
            where = f"/labels/{urllib.parse.quote(label, safe='')}"
        self._url = f"{address}/v1/models/{urllib.parse.quote(model, safe='')}{where}"
        self._words = model_of(model, version, label)
        self._timeout, self._retries = timeout, retries
        retry = _Retry(
            total=retries,
            allowed_methods=("GET", "POST"),  # a prediction changes nothing
            status_forcelist=(503,),
            backoff_factor=0.2,
            backoff_max=_LONGEST_PAUSE,
            backoff_jitter=0.1,
            raise_on_status=False,
        )
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))

    def readiness(self, timeout):
        """Whether the model can be asked, and what it is at; see `errors.readiness`."""
        try:
            # Without the session, whose tries would stretch the timeout.
            response = requests.get(self._url, timeout=min(timeout, self._timeout))
        except requests.RequestException as error:
            return False, _what_came(error)
        answer = _json_of(response)
        if response.status_code == 200 and isinstance(answer, dict):
            if isinstance(answer.get("model_version_status"), list):
                return readiness([_version_status(s) for s in answer["model_version_status"]])
            if "ready" in answer:  # KServe
                ready = str(answer["ready"]).lower() == "true"
                return ready, f"the server says ready: {answer['ready']}"
        return False, f"the answer is {response.status_code}, {_message(response)}"

    def metadata(self):
        """See `client.Client.metadata`."""
        return self._answer("GET", "/metadata").json()

    def encode(self, images, signature):
        """The body of a request in rows."""
        # The value alone is a row where a signature has one input, whatever that is called.
        rows = [{"b64": base64.b64encode(image).decode()} for image in images]
        return json.dumps({"signature_name": signature, "instances": rows}).encode()

    def send(self, body):
        """Sends what `encode` gave; returns the answer's body."""
        return self._answer("POST", ":predict", body).content

    def parse(self, content, count):
        """The outputs of `count` photos, one dict each."""
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
            # TF Serving leaves the name out where there is one output only.
            raise ServingError(
                f"{self._words} at {self._url} has a single output without a name, and this "
                "client reads signatures with several, as noah_tf's exports have.",
                "no predictions",
            )
        return rows

    def close(self):
        """Closes the connections."""
        self._session.close()

    def _answer(self, method, verb, body=None):
        url, begin = self._url + verb, time.monotonic()
        try:
            response = self._session.request(
                method,
                url,
                data=body,
                headers={"Content-Type": "application/json"} if body else None,
                timeout=self._timeout,
                allow_redirects=False,  # a redirected POST would arrive as a GET
            )
        except requests.RequestException as error:
            what = _what_came(error)
            raise ServingError(
                f"No answer from {url} in {time.monotonic() - begin:.1f} s{self._tries(what)}: "
                f"{what}.",
                what,
            ) from error
        status = response.status_code
        if status == 200:
            return response
        if status == 503:
            raise ServingError(
                f"{url} was not available for {time.monotonic() - begin:.1f} s{self._tries()}: "
                f"{_message(response)} (HTTP 503).",
                "HTTP 503",
            )
        if 300 <= status < 400:
            raise ServingError(
                f"{url} sends on to {response.headers.get('Location')} (HTTP {status}): give that "
                "address as the url.",
                f"HTTP {status}",
            )
        raise ServingError(
            f"{_message(response)} (HTTP {status}).", f"HTTP {status}", refused=status < 500
        )

    def _tries(self, what=None):
        if what == "timeout":
            return f" (timeout {self._timeout:g} s)"
        return f" and {self._retries + 1} tries" if self._retries else ""


def _version_status(status):
    error = status.get("status", {}).get("error_message", "")
    return status.get("version"), status.get("state"), error


def _json_of(response):
    # Older TF Servings escape the apostrophe, which JSON does not know.
    for text in (response.text, response.text.replace("\\'", "'")):
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return None


def _message(response):
    """What an answer says is wrong: TF Serving's and KServe's "error", else its text."""
    answer = _json_of(response)
    if isinstance(answer, dict):
        for key in ("error", "detail"):
            if answer.get(key):
                return server_message(str(answer[key]))
    return _text(response.content)


def _text(content):
    return server_message(content.decode("utf-8", "replace")) or "an empty answer"


def _what_came(error):
    """The innermost cause of a request's failure, in a few words."""
    if isinstance(error, requests.Timeout):
        return "timeout"
    causes, following = [], error
    while following is not None and following not in causes:
        causes.append(following)
        reason = getattr(following, "reason", None) or (following.args[:1] or (None,))[0]
        following = following.__cause__ or following.__context__
        if isinstance(reason, BaseException):
            following = reason
    for cause in reversed(causes):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
    return server_message(str(causes[-1])) or type(causes[-1]).__name__
