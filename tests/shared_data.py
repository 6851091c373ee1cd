"""Where the checkout and the reference data are.

Not in conftest.py: a subfolder of tests has one of its own, and `import conftest` finds either.
"""

import os
import pathlib

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def shared_folder():
    """The folder of reference data: NOAH_TF_SHARED, else `../shared` beside the checkout."""
    folder = pathlib.Path(os.environ.get("NOAH_TF_SHARED", "../shared"))
    return folder if folder.is_absolute() else REPOSITORY / folder


SCENES = 200  # in a split of the `tfds_dir` fixture's digit_scenes
