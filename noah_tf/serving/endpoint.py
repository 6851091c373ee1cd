"""The model that a client asks, and the server that has it."""

import dataclasses
import urllib.parse

from noah_tf.serving.credentials import Credentials
from noah_tf.utils.validation import check_int, check_positive_int, check_positive_number

_URL_FORMS = "http://HOST:8501, https://HOST, grpc://HOST:8500 or grpcs://HOST:8444"
_TLS_SCHEMES = ("https", "grpcs")


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A served model and the patience of its client, checked when it is constructed.

    Attributes:
        url: address of the server, as for `client.Client`; a slash at its end is removed.
        model: name of the model on the server.
        version: number of the version to ask, or None.
        label: label of the version to ask, or None.
        timeout: seconds before a request fails.
        retries: how often a request is repeated while the server is unavailable. With 0 a request
            is not repeated if the server is busy, either.
        credentials: what the client shows to the server, for https:// and grpcs:// only.

    Raises:
        ValueError: an attribute is invalid.
    """

    url: str
    model: str
    version: int | None = None
    label: str | None = None
    timeout: float = 60.0
    retries: int = 4
    credentials: Credentials = Credentials()

    def __post_init__(self) -> None:
        _check_url(self.url)
        object.__setattr__(self, "url", self.url.rstrip("/"))
        if not self.model or not isinstance(self.model, str):
            raise ValueError(f"model must be the model's name on the server, got {self.model!r}.")
        if self.version is not None:
            check_positive_int("version", self.version)
            if self.label is not None:
                raise ValueError(
                    "version and label exclude each other, got version "
                    f"{self.version} and label {self.label!r}: give one of them."
                )
        check_positive_number("timeout", self.timeout, "seconds")
        check_int("retries", self.retries, minimum=0)
        if not self.credentials.is_empty and not self.is_secure:
            raise ValueError(
                "An API key and certificates need TLS, which the server itself has not, got the "
                f"url {self.url}: give the https:// or grpcs:// url of its front."
            )

    @property
    def is_grpc(self) -> bool:
        """True if the server is asked over gRPC, False for REST."""
        return urllib.parse.urlsplit(self.url).scheme in ("grpc", "grpcs")

    @property
    def is_secure(self) -> bool:
        """True if the connection has TLS."""
        return urllib.parse.urlsplit(self.url).scheme in _TLS_SCHEMES

    @property
    def description(self) -> str:
        """The model for a message, such as "flowers (version 3)"."""
        if self.version is not None:
            return f"{self.model} (version {self.version})"
        return self.model if self.label is None else f"{self.model} (label {self.label})"


def _check_url(url: str) -> None:
    """Raises ValueError unless `url` is the address of a server and nothing more."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except (ValueError, AttributeError, TypeError):
        host = None
    if not host or parts.scheme not in ("http", "https", "grpc", "grpcs"):
        raise ValueError(f"url must be the address of a server, got {url!r}: give {_URL_FORMS}.")
    path = parts.path.rstrip("/")
    has_model = "/v1/" in f"{path}/" or (path and parts.scheme.startswith("grpc"))
    if parts.query or parts.fragment or has_model:
        raise ValueError(
            f"url must be the server's address alone, got {url!r}: give {_URL_FORMS}; model, "
            "version and signature have options of their own."
        )
    if parts.scheme.startswith("grpc") and port is None:
        raise ValueError(f"url must name the port, got {url!r}: TF Serving's gRPC port is 8500.")
