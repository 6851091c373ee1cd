"""The options that the subcommands share, and the photos that they are given."""

import argparse
import pathlib

from noah_tf.serving.client import Client


def add_server_options(parser, batch_size, retries=True):
    """Adds the options that say which model is asked, how, and about which photos.

    Args:
        parser: the subcommand's `argparse` parser.
        batch_size: the default of --batch-size.
        retries: whether the subcommand tries requests again.
    """
    parser.add_argument(
        "--url", required=True, help="http://HOST:8501 (or https) for REST, grpc://HOST:8500"
    )
    parser.add_argument("--model", required=True, help="the model's name on the server")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", type=positive, help="its version (the newest)")
    which.add_argument("--label", help="its version's label, such as stable or canary")
    parser.add_argument(
        "--signature", default="serving_default", help="or explain (%(default)s)", metavar="NAME"
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=batch_size,
        metavar="N",
        help="photos in a request (%(default)s)",
    )
    parser.add_argument(
        "--timeout", type=duration, default=60.0, help="seconds a request may take (%(default)g)"
    )
    parser.add_argument(
        "--wait",
        type=pause,
        default=10.0,
        help="seconds to wait until the model is ready (%(default)g)",
    )
    if retries:
        parser.add_argument(
            "--retries",
            type=natural,
            default=4,
            metavar="N",
            help="how often a request is tried again while the server is not available "
            "(%(default)s)",
        )
    parser.add_argument("photos", nargs="+", metavar="photo", help="image files, sent as they are")


def client_of(options, retries):
    """The client that the options describe."""
    return Client(
        options.url,
        options.model,
        version=options.version,
        label=options.label,
        timeout=options.timeout,
        retries=retries,
    )


def positive(text):
    """An option's value as a positive integer."""
    return _number(text, int, 1, "a positive integer")


def natural(text):
    """An option's value as 0 or a positive integer."""
    return _number(text, int, 0, "0 or a positive integer")


def pause(text):
    """An option's value as a number of seconds, or 0."""
    return _number(text, float, 0, "a number of seconds")


def duration(text):
    """An option's value as a number of seconds."""
    return _number(text, float, 1e-3, "a positive number of seconds")


def _number(text, kind, least, what):
    try:
        value = kind(text)
    except ValueError:
        value = None
    # Written so that NaN, which is not at least anything, is refused.
    if value is None or not least <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be {what}, got {text!r}")
    return value


def check_photos(paths):
    """Looks whether all files can be read, before the first one is sent.

    Raises:
        OSError: one of them is missing, is no file, or may not be read.
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


def batches_of(paths, size):
    """Yields the paths in lists of at most `size`."""
    for start in range(0, len(paths), size):
        yield paths[start : start + size]
