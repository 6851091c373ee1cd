"""What all command lines share: quiet libraries, and errors as one sentence.

Imported before anything that imports TensorFlow, which reads its log level while it loads.
"""

import difflib
import os
import pathlib
import re
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging

# What noah_tf raises for what a user can mend; anything else is a defect, and shows its traceback.
_USER_ERRORS = (ValueError, OSError, FloatingPointError, ImportError, MemoryError)
_WHERE = re.compile("Graph execution error:|Detected at |<stack traces unavailable>|\\s*$")


def run(main, required=(), positional=False):
    """Runs `main` with absl's flags parsed.

    Args:
        main: function of the arguments left over.
        required: names of the flags that have to be given.
        positional: whether there may be arguments that are no flags; `main` looks at them.
    """
    flags.mark_flags_as_required(required)

    def guarded(arguments):
        if not flags.FLAGS["verbosity"].present:
            # app.run has made it INFO, and TFDS warns of its own deprecations.
            logging.set_verbosity(logging.ERROR)
        if len(arguments) > 1 and not positional:
            raise app.UsageError(f"Not understood: {' '.join(arguments[1:])}")
        from tensorflow import errors

        from noah_tf.training.interrupt import Interrupted

        try:
            return main(arguments)
        except Interrupted as interruption:
            print(interruption, flush=True)
            # As a shell reports a process that a signal ended.
            return 128 + (interruption.signum or signal.SIGTERM)
        except (*_USER_ERRORS, errors.OpError) as error:
            if logging.get_verbosity() >= logging.INFO:
                raise
            sentence = str(error)
            if isinstance(error, errors.OpError):
                # Of disk, memory or a file; the first line says which, behind where it was.
                lines = [line for line in error.message.splitlines() if not _WHERE.match(line)]
                sentence = f"{type(error).__name__}: {' '.join(lines[:1])[:500]}"
            print(f"{sentence}\n(--verbosity=0 shows where this was raised.)", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("Interrupted; nothing new was saved.", file=sys.stderr)
            return 128 + signal.SIGINT

    app.run(guarded, flags_parser=_parse)


def class_names(path):
    """The names in a file, one a line; None without a file."""
    if not path:
        return None
    try:
        text = pathlib.Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"--class_names={path} is no UTF-8 text: {error}.") from error
    # splitlines() would also cut within a name, at U+2028 for one.
    return text.removesuffix("\n").split("\n")


def _parse(arguments):
    """Parses the flags; what is wrong with a recipe is one sentence, too.

    --config.KEY=None unsets a key, which ml_collections has no way to say.
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
        # A config file that raises comes with its traceback; a user's mistake in its last line.
        _, mistake, sentence = str(error).rstrip().rpartition("\nValueError: ")
        _fail(sentence if mistake else str(error))


def _recipe(arguments):
    """What --config is given, or None."""
    found = None
    for text, after in zip(arguments, [*arguments[1:], None], strict=True):
        if re.fullmatch("--?config", text):
            found = after
        elif re.match("--?config=", text):
            found = text.partition("=")[2]
    return found


def _unset(config, path):
    *sections, key = path.split(".")
    for section in sections:
        config = config[section]
    config[key]  # an unknown one raises
    with config.ignore_type():
        config[key] = None


def _unknown_key(arguments):
    """A sentence about the first override of a key that the config does not have, or None."""
    recipe = _recipe(arguments)
    for text in arguments:
        path = text.lstrip("-").partition("=")[0].split(".")
        if path[0] != "config" or len(path) == 1 or not recipe:
            continue
        # The flag itself has no value until all of them are parsed.
        section = flags.FLAGS["config"].parser.parse(recipe)
        for place, key in enumerate(path[1:], 1):
            if key not in section:
                near = difflib.get_close_matches(key, list(section), n=1, cutoff=0)
                nearest = ".".join([*path[:place], *near, *path[place + 1 :]])
                hint = f"the nearest is --{nearest}" if near else "nor anything else there"
                return f"The recipe has no {'.'.join(path[1:])}; {hint}."
            section = section[key]
    return None


def _fail(message):
    print(message, file=sys.stderr)
    sys.exit(1)
