"""Fixtures that several test modules share."""

import json
import os
import pathlib

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def shared_folder():
    """The folder of reference data: NOAH_TF_SHARED, else `../shared` beside the checkout."""
    folder = pathlib.Path(os.environ.get("NOAH_TF_SHARED", "../shared"))
    return folder if folder.is_absolute() else REPOSITORY / folder


def golden_heads():
    """The golden head cases and rejected configurations; both empty where the data is missing."""
    manifest = shared_folder() / "goldens" / "heads" / "manifest.json"
    if not manifest.exists():
        return {"cases": [], "rejected_configurations": []}
    return json.loads(manifest.read_text())


@pytest.fixture
def shared():
    """The folder of reference data; skips the test where it is missing."""
    folder = shared_folder()
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder} (set NOAH_TF_SHARED)")
    return folder
