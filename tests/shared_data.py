"""The folders of the checkout and of the reference data.

They are not in conftest.py, because subfolders of tests have a conftest.py too, and
`import conftest` could import any of them.
"""

import os
import pathlib

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def shared_folder():
    """Returns the folder of reference data: NOAH_TF_SHARED, or `../shared` next to the checkout."""
    folder = pathlib.Path(os.environ.get("NOAH_TF_SHARED", "../shared"))
    return folder if folder.is_absolute() else REPOSITORY / folder


SCENES = 200  # Examples per split of digit_scenes in the fixture `tfds_dir`.
