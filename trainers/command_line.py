"""What all command lines share: quiet libraries, and errors as one sentence.

Imported before anything that imports TensorFlow, which reads its log level while it loads.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging

# What noah_tf raises for what a user can mend; anything else is a defect, and shows its traceback.
_USER_ERRORS = (ValueError, OSError, FloatingPointError, ImportError, MemoryError)


def run(main, required=()):
    """Runs `main` with absl's flags parsed.

    Args:
        main: function of the arguments left over.
        required: names of the flags that have to be given.
    """
    flags.mark_flags_as_required(required)

    def guarded(arguments):
        if not flags.FLAGS["verbosity"].present:
            # app.run has made it INFO, and TFDS warns of its own deprecations.
            logging.set_verbosity(logging.ERROR)
        if len(arguments) > 1:
            raise app.UsageError(f"Not understood: {' '.join(arguments[1:])}")
        try:
            return main(arguments)
        except _USER_ERRORS as error:
            if logging.get_verbosity() >= logging.INFO:
                raise
            print(f"{error}\n(--verbosity=0 shows where this was raised.)", file=sys.stderr)
            return 1

    app.run(guarded)
