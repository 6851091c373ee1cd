"""The options that `predict` and `load` share, and the photos that they are given."""

import argparse
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from noah_tf.serving.client import Client
from noah_tf.serving.credentials import Credentials


def add_connection_options(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Adds the options that name the server and the model.

    Args:
        parser: the parser of the subcommand.
        several: whether --url may be given several times; its value is then a list.
    """
    parser.add_argument(
        "--url",
        required=True,
        action="append" if several else "store",
        help="http://HOST:8501 for REST, grpc://HOST:8500; with TLS https://HOST, grpcs://HOST:8444"
        + ("; give it once for each replica" if several else ""),
    )
    parser.add_argument("--model", required=True, help="name of the model on the server")
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        default=60.0,
        help="seconds before a request fails (%(default)g)",
    )
    parser.add_argument("--api-key-file", metavar="FILE", help="file with the API key")
    parser.add_argument(
        "--cacert", metavar="FILE", help="authorities that sign the server's certificate, PEM"
    )
    parser.add_argument("--cert", metavar="FILE", help="certificate of this client, PEM")
    parser.add_argument("--key", metavar="FILE", help="private key of --cert, PEM")


def add_server_options(
    parser: argparse.ArgumentParser, batch_size: int, retries: bool = True
) -> None:
    """Adds the options that name the model, the signature and the photos.

    Args:
        parser: the parser of the subcommand.
        batch_size: default of --batch-size.
        retries: whether the subcommand has the option --retries.
    """
    add_connection_options(parser)
    version = parser.add_mutually_exclusive_group()
    version.add_argument("--version", type=positive_int, help="version to ask (the newest)")
    version.add_argument("--label", help="label of the version to ask, such as stable or canary")
    parser.add_argument(
        "--signature",
        default="serving_default",
        help="or explain, embed (%(default)s)",
        metavar="NAME",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=batch_size,
        metavar="N",
        help="photos per request (%(default)s)",
    )
    parser.add_argument(
        "--wait",
        type=nonnegative_seconds,
        default=10.0,
        help="seconds to wait until the model is ready (%(default)g)",
    )
    if retries:
        parser.add_argument(
            "--retries",
            type=natural_int,
            default=4,
            metavar="N",
            help="how often a request is repeated while the server is unavailable (%(default)s)",
        )
    parser.add_argument("photos", nargs="+", metavar="photo", help="image files, sent unchanged")


def client_from_options(
    options: argparse.Namespace,
    retries: int,
    version: int | None = None,
    label: str | None = None,
    url: str | None = None,
) -> Client:
    """Returns the client that the options of `add_connection_options` describe.

    Args:
        options: the parsed options.
        retries: how often a request is repeated.
        version: number of the version to ask.
        label: label of the version to ask.
        url: address of the server; None for that of the options.
    """
    return Client(
        options.url if url is None else url,
        options.model,
        version=version,
        label=label,
        timeout=options.timeout,
        retries=retries,
        credentials=Credentials(options.api_key_file, options.cacert, options.cert, options.key),
    )


def positive_int(text: str) -> int:
    """Returns an option's value as a positive integer."""
    return _number(text, int, 1, "a positive integer")


def natural_int(text: str) -> int:
    """Returns an option's value as 0 or a positive integer."""
    return _number(text, int, 0, "0 or a positive integer")


def nonnegative_seconds(text: str) -> float:
    """Returns an option's value as a number of seconds, which may be 0."""
    return _number(text, float, 0, "a number of seconds")


def positive_seconds(text: str) -> float:
    """Returns an option's value as a positive number of seconds, at least a millisecond."""
    return _number(text, float, 1e-3, "a positive number of seconds")


def _number(text: str, kind: Callable[[str], Any], minimum: float, description: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    # The comparison is false for NaN, which is therefore refused.
    if value is None or not minimum <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be {description}, got {text!r}")
    return value


def check_photos(paths: Sequence[str]) -> None:
    """Checks that all files can be read, before the first one is sent.

    Raises:
        OSError: a file is missing, is a folder, or may not be read.
    """
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            raise OSError(f"{path} is a folder: name the photos in it, such as {path}/*.jpg.")
        try:
            with path.open("rb"):
                pass
        except FileNotFoundError:
            raise OSError(f"There is no file {path}.") from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OSError(f"{path} cannot be read: {reason}.") from None


def split_into_batches(paths: Sequence[str], batch_size: int) -> Iterator[Sequence[str]]:
    """Yields the paths in lists of at most `batch_size`."""
    for start in range(0, len(paths), batch_size):
        yield paths[start : start + batch_size]
