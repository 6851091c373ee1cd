"""python -m noah_tf.serving predict --url http://HOST:8501 --model NAME photo.jpg ...

python -m noah_tf.serving load --url http://HOST:8501 --model NAME --concurrency 8 photo.jpg
"""

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence

from noah_tf.serving.errors import ServingError

# Each of these modules has a function `add_parser(subparsers)`, which sets the default `run`: a
# function that takes the parsed options and returns the exit code.
COMMANDS = ("predict", "load", "rollout", "demo")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand, and prints its errors as one sentence.

    Args:
        arguments: list of strings; None for those of the command line.

    Returns:
        The exit code: 0, or 1 if something failed. Wrong usage exits with 2.
    """
    parser = argparse.ArgumentParser(
        prog="python -m noah_tf.serving", description="The client side of serving."
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"noah_tf.serving.{name}").add_parser(subparsers)
    options = parser.parse_args(arguments)
    # urllib3 warns about each retry, and the user needs the outcome only.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        return options.run(options)
    except BrokenPipeError:
        # The reader of the output, such as `head`, has closed it. Without this line Python would
        # flush the rest at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ServingError, OSError, ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
