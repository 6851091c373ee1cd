"""python -m noah_tf.serving predict --url http://HOST:8501 --model NAME photo.jpg ...

python -m noah_tf.serving load --url http://HOST:8501 --model NAME --concurrency 8 photo.jpg
"""

import argparse
import importlib
import logging
import os
import signal
import sys

# Modules of this package with a function `add_parser(subparsers)`, which sets the default `run`:
# a function of the parsed options that returns the exit code.
COMMANDS = ("predict", "load", "demo")


def main(arguments=None):
    """Runs a subcommand; what a user can mend is one sentence.

    Args:
        arguments: list of strings; None for the command line's.

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
    # It announces each retry; the outcome is what counts.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    from noah_tf.serving.errors import ServingError

    try:
        return options.run(options)
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing is left to be flushed at exit.
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
