"""Versions of a served model: numbered folders that become visible only when they are complete."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from noah_tf.utils.files import copy_folder
from noah_tf.utils.paths import Path, PathLike, RemotePath, as_path
from noah_tf.utils.validation import check_positive_int

_MAX_VERSION = 2**63 - 1
# The file that is written last, where folders cannot be renamed.
_MARKER = "saved_model.pb"


def model_folder(base: PathLike, name: str) -> Path:
    """Returns the folder of a served model's versions, BASE/NAME.

    Args:
        base: the folder of all served models.
        name: the name that TF Serving serves the model under.

    Raises:
        ValueError: TF Serving's URLs cannot contain the name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name, re.ASCII):
        raise ValueError(
            "The name of a served model must consist of letters, digits, '_', '-' and '.', got "
            f"{name!r}: give another --name."
        )
    return as_path(base) / name


def check_version(model_dir: PathLike, version: int | None) -> None:
    """Checks that `new_version` can create a version, before any work is done.

    Args:
        model_dir: the folder of all versions, which may not exist yet.
        version: a positive integer. None is the next version, which is always possible.

    Raises:
        ValueError: the version is not a positive integer, is too large for TF Serving, or already
            exists.
    """
    if version is None:
        return
    check_positive_int("version", version)
    if version > _MAX_VERSION:
        raise ValueError(
            f"version must be at most 2^63 - 1, the limit of TF Serving, got {version}."
        )
    if version in _versions(model_dir):
        raise _version_exists(model_dir, version)


class Draft:
    """A version while it is being written.

    Attributes:
        path: the folder to write to. After `new_version` it is the version's folder.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path: Any = path


@contextlib.contextmanager
def new_version(model_dir: PathLike, version: int | None = None) -> Iterator[Draft]:
    """Creates a version under a temporary name, and renames it when the block has written it.

    A server that polls the folder never sees an incomplete version, existing versions are never
    changed, and nothing remains if the block raises. A folder that is not on this machine has no
    such rename: the version is written on this machine and copied, saved_model.pb last, without
    which neither a server nor `latest_version` takes the folder as a version.

    Args:
        model_dir: the folder of all versions, which is created if it does not exist.
        version: a positive integer. None is one more than the highest existing version.

    Yields:
        A `Draft`, whose `path` is an empty folder.

    Raises:
        ValueError: the version already exists.
    """
    model_dir = as_path(model_dir)
    if isinstance(model_dir, RemotePath):
        with tempfile.TemporaryDirectory(prefix="noah_tf_") as folder:
            yield (draft := Draft(pathlib.Path(folder)))
            check_version(model_dir, version)
            target = model_dir / str(version or _next_version(model_dir))
            copy_folder(pathlib.Path(folder), target, last=_MARKER)
            draft.path = target
        return
    is_new_folder = not model_dir.exists()
    model_dir.mkdir(parents=True, exist_ok=True)
    # A rename needs the same file system, and TF Serving ignores names that are not numbers.
    draft = Draft(pathlib.Path(tempfile.mkdtemp(prefix=".writing-", dir=model_dir)))
    temporary = draft.path
    try:
        yield draft
        # mkdtemp gives access to this user only, and the server may run as another user.
        temporary.chmod(model_dir.stat().st_mode)
        draft.path = _rename_to_version(temporary, model_dir, version)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_new_folder:
            with contextlib.suppress(OSError):  # The folder is not empty.
                model_dir.rmdir()


def latest_version(model_dir: PathLike) -> Path:
    """Returns the folder of a model's highest version.

    Args:
        model_dir: the folder of all versions.

    Raises:
        FileNotFoundError: there is no version.
    """
    versions = _versions(model_dir)
    if isinstance(as_path(model_dir), RemotePath):
        versions = {v: path for v, path in versions.items() if (path / _MARKER).is_file()}
    if not versions:
        raise FileNotFoundError(
            f"{model_dir} has no version of a model: write one with trainers/export.py."
        )
    return versions[max(versions)]


def _rename_to_version(
    temporary: pathlib.Path, model_dir: pathlib.Path, version: int | None
) -> Path:
    while True:
        target = model_dir / str(version or _next_version(model_dir))
        check_version(model_dir, version)
        try:
            # The rename fails if another process has written the same version in the meantime.
            os.rename(temporary, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if version is not None:
                raise _version_exists(model_dir, version) from None
        else:
            return target


def _version_exists(model_dir: PathLike, version: int) -> ValueError:
    path = _versions(model_dir).get(version, as_path(model_dir) / str(version))
    return ValueError(
        f"{path} already exists and is not replaced: give another version, or leave the version "
        f"out to write {_next_version(model_dir)}."
    )


def _next_version(model_dir: PathLike) -> int:
    return max(_versions(model_dir), default=0) + 1


def _versions(model_dir: PathLike) -> dict[int, Path]:
    """Returns a dict from version to folder. As in TF Serving, a name may have leading zeros."""
    folder = as_path(model_dir)
    if not folder.is_dir():
        return {}
    paths = [path for path in folder.iterdir() if re.fullmatch("[0-9]+", path.name)]
    return {int(path.name): path for path in paths if int(path.name) <= _MAX_VERSION}
