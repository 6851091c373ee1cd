"""Versions of a served model: folders with numbers, each of which appears whole or not at all."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import tempfile

from noah_tf.utils.validation import check_positive_int

_LARGEST = 2**63 - 1


def check_version(model_dir, version):
    """Checks early what `new_version` would find at its end.

    Args:
        model_dir: folder of all versions, which need not exist.
        version: positive integer, or None for the next one, which always works.

    Raises:
        ValueError: the version is no positive integer, or is there already.
    """
    if version is not None:
        check_positive_int("version", version)
        if version > _LARGEST:
            raise ValueError(f"version must be at most 2^63 - 1, as servers count, got {version}.")
        if version in _versions(model_dir):
            raise _version_exists(model_dir, version)


@contextlib.contextmanager
def new_version(model_dir, version=None):
    """Makes a version in the folder of a model: written under another name, then renamed.

    A server that polls the folder never sees half of it, what is there already is never touched,
    and if the block raises, nothing is left.

    Args:
        model_dir: folder of all versions, made if it is missing.
        version: positive integer; None for the one after the highest there.

    Yields:
        A `Draft` whose `path` is an empty folder to write in; after the block it is the version's.

    Raises:
        ValueError: the version exists.
    """
    model_dir = pathlib.Path(model_dir)
    made = not model_dir.exists()
    model_dir.mkdir(parents=True, exist_ok=True)
    # On the same file system, and not a number, so that no server takes it for a version.
    draft = Draft(pathlib.Path(tempfile.mkdtemp(prefix=".writing-", dir=model_dir)))
    written = draft.path
    try:
        yield draft
        # mkdtemp makes it for this user alone, and a server may run as another one.
        written.chmod(model_dir.stat().st_mode)
        draft.path = _rename_to_version(written, model_dir, version)
    finally:
        shutil.rmtree(written, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):  # unless there is something in it
                model_dir.rmdir()


class Draft:
    """A version while it is written.

    Attributes:
        path: the `pathlib.Path` of its folder.
    """

    def __init__(self, path):
        self.path = path


def latest_version(model_dir):
    """The highest version in a model's folder.

    Args:
        model_dir: folder of all versions.

    Returns:
        `pathlib.Path` of the version's folder.

    Raises:
        FileNotFoundError: there is none.
    """
    versions = _versions(model_dir)
    if not versions:
        raise FileNotFoundError(
            f"{model_dir} has no version of a model: trainers/export.py writes them."
        )
    return versions[max(versions)]


def _rename_to_version(written, model_dir, version):
    while True:
        target = model_dir / str(version or _next_version(model_dir))
        if version is not None:
            check_version(model_dir, version)
        try:
            # Onto a folder that is not empty, as another export's is, a rename fails.
            os.rename(written, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if version is not None:
                raise _version_exists(model_dir, version) from None
            # Another export was faster: take the next version.
        else:
            return target


def _version_exists(model_dir, version):
    path = _versions(model_dir).get(version, pathlib.Path(model_dir) / str(version))
    return ValueError(
        f"{path} exists and is left as it is: give another "
        f"version, or none for {_next_version(model_dir)}."
    )


def _next_version(model_dir):
    return max(_versions(model_dir), default=0) + 1


def _versions(model_dir):
    """Dict of version to path: a server reads a name with leading zeros as a number, too."""
    folder = pathlib.Path(model_dir)
    if not folder.is_dir():
        return {}
    found = {int(p.name): p for p in folder.iterdir() if re.fullmatch("[0-9]+", p.name)}
    return {version: path for version, path in found.items() if version <= _LARGEST}
