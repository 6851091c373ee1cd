"""Files that appear only when they are complete, and local copies of files elsewhere."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator

import tensorflow as tf

from noah_tf.utils.paths import Path, RemotePath


def write_text_atomically(path: Path, text: str) -> None:
    """Writes a text file so that a killed process leaves the old file or the new one.

    Args:
        path: the file to write.
        text: its new content.

    Example:

    >>> write_text_atomically(pathlib.Path("runs/noah/result.json"), "{}\\n")
    """
    save_atomically(lambda partial: pathlib.Path(partial).write_text(text), path)


def save_atomically(save: Callable[[str], object], path: Path) -> None:
    """Calls `save` with a temporary path and renames the result to `path` when it is complete.

    Args:
        save: a function that writes a file to the path that it is given, such as `model.save`. The
            path is always one of this machine, because HDF5 writes nowhere else.
        path: the file to write. The temporary file is written beside it; for a path elsewhere, it
            is written on this machine and copied there.

    Example:

    >>> save_atomically(model.save, pathlib.Path("runs/noah/model.keras"))
    """
    # The prefix leaves the suffix as it is, because Keras reads the format from it.
    name = f"partial-{path.name}"
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory(prefix="noah_tf_") as folder:
            local = os.path.join(folder, path.name)
            save(local)
            remote = path.with_name(name)
            remote.unlink(missing_ok=True)  # ram:// would append to what a killed process left.
            tf.io.gfile.copy(local, str(remote))
        remote.rename(path)
        return
    partial = path.with_name(name)
    try:
        save(str(partial))
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # Without this, a power failure can leave an empty file.
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def local_file(path: Path) -> Iterator[pathlib.Path]:
    """Within it, a file is on this machine: itself, or a copy that is removed afterwards.

    Args:
        path: the file.

    Yields:
        The path of the file on this machine. A copy has the same name.

    Example:

    >>> with local_file(as_path("gs://bucket/noah/best.weights.h5")) as path:
    ...     model.load_weights(str(path))
    """
    if isinstance(path, pathlib.Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="noah_tf_") as folder:
        local = pathlib.Path(folder) / path.name
        tf.io.gfile.copy(str(path), str(local))
        yield local


def copy_folder(source: pathlib.Path, target: Path, last: str) -> None:
    """Copies a folder of this machine to a folder elsewhere.

    Args:
        source: the folder.
        target: the copy, which does not exist yet.
        last: the name of the file that is copied last, so that it marks a complete copy.
    """
    files = sorted(path for path in source.rglob("*") if path.is_file())
    files.sort(key=lambda path: path == source / last)
    for file in files:
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        tf.io.gfile.copy(str(file), str(copy))


def remove_folder(path: Path) -> None:
    """Removes a folder and everything in it."""
    if isinstance(path, pathlib.Path):
        shutil.rmtree(path)
    else:
        tf.io.gfile.rmtree(str(path))
