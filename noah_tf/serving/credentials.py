"""The credentials that a client shows to a server, and those by which it knows the server."""

import dataclasses
import pathlib
import ssl
from typing import Any


@dataclasses.dataclass(frozen=True)
class Credentials:
    """An API key and certificates for https:// and grpcs:// urls, read when they are constructed.

    Args:
        api_key_file: file with the API key, which is sent as `Authorization: Bearer KEY`.
        cacert: PEM file of the authorities that sign the server's certificate. None is those that
            the library for REST or gRPC brings along.
        cert: PEM file of the client's certificate.
        key: PEM file of the certificate's private key.

    Attributes:
        api_key: the text of `api_key_file`, or None.

    Raises:
        OSError: a file cannot be read.
        ValueError: `api_key_file` is not one line of ASCII, one of `cert` and `key` is missing, a
            file is not PEM, or `key` does not belong to `cert`.

    Example:

    >>> credentials = Credentials(api_key_file="front/alice.key", cacert="front/server.crt")
    >>> client = noah_tf.serving.Client("https://HOST:8443", "flowers", credentials=credentials)
    """

    api_key_file: str | pathlib.PurePath | None = None
    cacert: str | pathlib.PurePath | None = None
    cert: str | pathlib.PurePath | None = None
    key: str | pathlib.PurePath | None = None
    api_key: str | None = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        for path in (self.cacert, self.cert, self.key):
            _read(path)
        if (self.cert is None) != (self.key is None):
            raise ValueError(
                f"cert and key belong together, got cert={self.cert} and key={self.key}: give both."
            )
        _check_certificates("cacert", self.cacert)
        _check_certificates("cert", self.cert)
        _check_key(self.cert, self.key)
        content = _read(self.api_key_file)
        api_key = None if content is None else content.decode("ascii", "replace").strip()
        if api_key is not None and not (
            api_key.isascii() and api_key.isprintable() and len(api_key.split()) == 1
        ):
            raise ValueError(
                f"An API key is one word of ASCII, got something else in {self.api_key_file}: make "
                "one with openssl rand -hex 32."
            )
        object.__setattr__(self, "api_key", api_key)

    @property
    def is_empty(self) -> bool:
        """True if nothing is given."""
        return not any((self.api_key_file, self.cacert, self.cert, self.key))

    @property
    def cacert_bytes(self) -> bytes | None:
        """The content of `cacert`, or None."""
        return _read(self.cacert)

    @property
    def cert_bytes(self) -> bytes | None:
        """The content of `cert`, or None."""
        return _read(self.cert)

    @property
    def key_bytes(self) -> bytes | None:
        """The content of `key`, or None."""
        return _read(self.key)


def _read(path: Any) -> bytes | None:
    """Returns the content of a file, or None for None."""
    if path is None:
        return None
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OSError(f"{path} cannot be read: {reason}.") from None


def _check_certificates(option: str, path: Any) -> None:
    """Raises ValueError unless a file has certificates."""
    if path is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise ValueError(
            f"{option} must be a PEM file with a certificate, got {path}: give a file with a line "
            "-----BEGIN CERTIFICATE-----, which openssl x509 -inform DER makes of one in DER."
        ) from None


def _check_key(cert: Any, key: Any) -> None:
    """Raises ValueError unless a file has the private key of a certificate."""
    if key is None:
        return
    try:
        # Without a function for the passphrase OpenSSL would ask the terminal for it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=lambda: "")
    except ssl.SSLError as error:
        problem = f"key must be a PEM file with a private key without a passphrase, got {key}"
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"key must be that of cert, got {key}, which does not belong to {cert}"
        elif error.reason is not None:  # such as EE_KEY_TOO_SMALL
            reason = error.reason.lower().replace("_", " ")
            problem = f"OpenSSL accepts neither cert nor key, got {cert} and {key} ({reason})"
        raise ValueError(f"{problem}: give the key that the certificate was made with.") from None
