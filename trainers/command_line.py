"""The code that all command lines share: quiet libraries, and errors as one sentence.

A command line imports this module before TensorFlow, which reads its log level at import.
"""

import difflib
import logging as standard_logging
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging

# The errors that noah_tf raises for mistakes that a user can correct. Any other error is a defect,
# and shows its traceback.
_USER_ERRORS = (ValueError, OSError, FloatingPointError, ImportError, MemoryError)
# Lines of a TensorFlow message that say where in the graph an error was raised.
_LOCATION = re.compile("Graph execution error:|Detected at |<stack traces unavailable>|\\s*$")


def run(
    main: Callable[[list[str]], Any], required: Sequence[str] = (), positional: bool = False
) -> None:
    """Parses absl's flags, runs `main`, and exits.

    Args:
        main: function of the arguments that are not flags.
        required: names of the required flags.
        positional: whether arguments that are not flags are allowed.
    """
    flags.mark_flags_as_required(required)

    def guarded(arguments: list[str]) -> int | None:
        if not flags.FLAGS["verbosity"].present:
            # app.run sets INFO, and TFDS logs warnings about its own deprecations.
            logging.set_verbosity(logging.ERROR)
            standard_logging.getLogger("noah_tf").setLevel(standard_logging.INFO)
        if len(arguments) > 1 and not positional:
            raise app.UsageError(f"Unknown arguments: {' '.join(arguments[1:])}")
        from tensorflow import errors

        from noah_tf.training import Interrupted

        try:
            return main(arguments)
        except Interrupted as interruption:
            print(interruption, flush=True)
            # The exit code that a shell reports for a process that a signal ended.
            return 128 + (interruption.signum or signal.SIGTERM)
        except (*_USER_ERRORS, errors.OpError) as error:
            if logging.get_verbosity() >= logging.INFO:
                raise
            sentence = str(error)
            if isinstance(error, errors.OpError):
                # Its first line that is not a location names the cause, such as a full disk.
                lines = [line for line in error.message.splitlines() if not _LOCATION.match(line)]
                sentence = f"{type(error).__name__}: {' '.join(lines[:1])[:500]}"
            print(f"{sentence}\n(--verbosity=0 shows where this was raised.)", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("Interrupted; nothing new was saved.", file=sys.stderr)
            return 128 + signal.SIGINT

    app.run(guarded, flags_parser=_parse)


def check_flags_of_source(flags_of_source: Mapping[str, Sequence[str]]) -> str:
    """Returns the flag that names the model, and checks that the others apply to it.

    Args:
        flags_of_source: the flags that name a model, of which one is given, and the flags that work
            only with that one.

    Raises:
        ValueError: a flag does not apply.
    """
    (source,) = (name for name in flags_of_source if flags.FLAGS[name].value)
    for flag in set().union(*flags_of_source.values()).difference(flags_of_source[source]):
        if flags.FLAGS[flag].present:
            raise ValueError(f"--{flag} does not apply together with --{source}: leave it out.")
    return source


def class_names(path: str | None) -> list[str] | None:
    """Returns the names in a file with one name per line; None without a file."""
    if not path:
        return None
    from noah_tf.utils.paths import as_path

    try:
        text = as_path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"--class_names={path} is not UTF-8 text: {error}.") from error
    # splitlines() would also split names, for example at U+2028.
    return text.removesuffix("\n").split("\n")


def _parse(arguments: list[str]) -> list[str]:
    """Parses the flags, and reports a mistake in them or in a recipe as one sentence.

    --config.KEY=None unsets a key, which ml_collections does not support.
    """
    recipe = _recipe(arguments)
    if recipe and not os.path.exists(recipe.split(":")[0]):
        _fail(f"There is no recipe {recipe}.")
    unset = [text for text in arguments if re.fullmatch(r"--config\..*=None", text)]
    try:
        rest = flags.FLAGS([text for text in arguments if text not in unset])
        for text in unset:
            _unset(flags.FLAGS["config"].value, text.removeprefix("--config.")[: -len("=None")])
        return rest
    except (AttributeError, KeyError):
        unknown = _unknown_key(arguments)
        if unknown is None:
            raise
        _fail(unknown)
    except flags.Error as error:
        # If a config file raises, absl's message has the traceback, and the mistake at its end.
        _, mistake, sentence = str(error).rstrip().rpartition("\nValueError: ")
        _fail(sentence if mistake else str(error))


def _recipe(arguments: list[str]) -> str | None:
    """Returns the value of --config, or None."""
    recipe = None
    for text, next_text in zip(arguments, [*arguments[1:], None], strict=True):
        if re.fullmatch("--?config", text):
            recipe = next_text
        elif re.match("--?config=", text):
            recipe = text.partition("=")[2]
    return recipe


def _unset(config: Any, path: str) -> None:
    *sections, key = path.split(".")
    for section in sections:
        config = config[section]
    config[key]  # raises KeyError if the key is unknown
    with config.ignore_type():
        config[key] = None


def _unknown_key(arguments: list[str]) -> str | None:
    """Returns a sentence about the first override of a key that the config lacks, or None."""
    recipe = _recipe(arguments)
    for text in arguments:
        path = text.lstrip("-").partition("=")[0].split(".")
        if path[0] != "config" or len(path) == 1 or not recipe:
            continue
        # The flag has no value yet, because the parsing of all flags failed.
        section = flags.FLAGS["config"].parser.parse(recipe)
        for index, key in enumerate(path[1:], 1):
            if key not in section:
                matches = difflib.get_close_matches(key, list(section), n=1, cutoff=0)
                nearest = ".".join([*path[:index], *matches, *path[index + 1 :]])
                hint = f"the nearest is --{nearest}" if matches else "the section has no keys"
                return f"The recipe has no {'.'.join(path[1:])}; {hint}."
            section = section[key]
    return None


def _fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(1)
