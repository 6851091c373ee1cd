"""Expensive fixtures are built once per test run, not once per pytest-xdist worker."""

import os

import filelock


def once_per_run(tmp_path_factory, name, build):
    """Returns a folder that is built by the first worker that asks for it.

    Tests share the folder, so they only read it.

    Args:
        tmp_path_factory: pytest's fixture.
        name: the name of the folder, unique in the test run.
        build: a function of the empty folder that fills it.

    Returns:
        The `pathlib.Path` of the folder.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # A worker's own folder is inside the folder of the test run.
    folder, complete = base / name, base / f"{name}.complete"
    with filelock.FileLock(f"{folder}.lock"):
        if not complete.exists():
            folder.mkdir()
            build(folder)
            complete.touch()
    return folder
