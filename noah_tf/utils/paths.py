"""Paths of this machine, and of the other file systems that TensorFlow reads, such as gs://.

`as_path` decides which of the two a path is. Nothing else in noah_tf looks at a scheme.
"""

import fnmatch
import os
import pathlib
import posixpath
from collections.abc import Iterator
from typing import Any, TypeAlias

import tensorflow as tf


class RemotePath:
    """A path of another file system, with those methods of `pathlib.Path` that noah_tf uses.

    It is no `os.PathLike`, because functions of Python that take one would read "gs://bucket/run"
    as a folder "gs:" of this machine. TensorFlow's functions take `str(path)`.

    Args:
        url: the scheme, "://" and the path.

    Raises:
        ValueError: TensorFlow does not know the scheme, or nothing follows it.

    Example:

    >>> RemotePath("gs://bucket/runs") / "noah" / "config.json"
    RemotePath('gs://bucket/runs/noah/config.json')
    """

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        known = sorted({*tf.io.gfile.get_registered_schemes()} - {"", "file"})
        if scheme not in known:
            raise ValueError(
                f"{url} has the scheme {scheme}://, and TensorFlow knows "
                f"{', '.join(f'{name}://' for name in known)} here: use one of these or a folder "
                "of this machine, or install the file system for TensorFlow."
            )
        if not rest.strip("/"):
            raise ValueError(f"{url} must name a folder or a file after {scheme}://.")
        self._scheme = scheme
        self._path = pathlib.PurePosixPath(posixpath.normpath(rest))

    def __str__(self) -> str:
        return f"{self._scheme}://{self._path}"

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: "RemotePath") -> bool:
        return str(self) < str(other)

    def __truediv__(self, name: str | os.PathLike[str]) -> "RemotePath":
        return RemotePath(f"{self}/{os.fspath(name)}")

    @property
    def name(self) -> str:
        """The last component."""
        return self._path.name

    @property
    def stem(self) -> str:
        """The last component without its suffix."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """The suffix of the last component, with its dot."""
        return self._path.suffix

    @property
    def parts(self) -> tuple[str, ...]:
        """The scheme and the components."""
        return f"{self._scheme}://", *self._path.parts

    @property
    def parent(self) -> "RemotePath":
        """The folder that holds the path."""
        return RemotePath(f"{self._scheme}://{self._path.parent}")

    def with_name(self, name: str) -> "RemotePath":
        """Returns the path with another last component."""
        return RemotePath(f"{self._scheme}://{self._path.with_name(name)}")

    def with_suffix(self, suffix: str) -> "RemotePath":
        """Returns the path with another suffix."""
        return RemotePath(f"{self._scheme}://{self._path.with_suffix(suffix)}")

    def resolve(self) -> "RemotePath":
        """Returns the path itself, which is absolute and has no links."""
        return self

    def exists(self) -> bool:
        """Returns whether there is a file or a folder."""
        return tf.io.gfile.exists(str(self))

    def is_dir(self) -> bool:
        """Returns whether there is a folder."""
        return tf.io.gfile.isdir(str(self))

    def is_file(self) -> bool:
        """Returns whether there is a file."""
        try:
            return not tf.io.gfile.stat(str(self)).is_directory
        except tf.errors.NotFoundError:
            return False

    def iterdir(self) -> Iterator["RemotePath"]:
        """Yields the paths in the folder."""
        for name in tf.io.gfile.listdir(str(self)):
            yield self / name.rstrip("/")  # Some file systems mark folders with a slash.

    def walk(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yields the path, the folders and the files of each folder, as `os.walk` does."""
        folders: list[str] = []
        files: list[str] = []
        for path in self.iterdir():
            (folders if path.is_dir() else files).append(path.name)
        yield str(self), folders, files
        for name in folders:
            yield from (self / name).walk()

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Yields the paths in the folder whose last component matches the pattern."""
        if self.is_dir():
            yield from (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
        """Creates the folder and the folders above it, unless they exist."""
        if not parents or not exist_ok:
            raise NotImplementedError("RemotePath.mkdir needs parents=True and exist_ok=True.")
        tf.io.gfile.makedirs(str(self))

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the file."""
        if not missing_ok or self.exists():
            tf.io.gfile.remove(str(self))

    def rename(self, target: "RemotePath") -> "RemotePath":
        """Renames the file, and replaces a file of that name."""
        tf.io.gfile.rename(str(self), str(target), overwrite=True)
        return target

    def open(self, mode: str = "rb") -> Any:
        """Returns the open file, a `tf.io.gfile.GFile`."""
        return tf.io.gfile.GFile(str(self), mode)

    def read_bytes(self) -> bytes:
        """Returns the content of the file.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            with self.open() as file:
                return file.read()
        except tf.errors.OpError as error:
            raise OSError(f"{self} cannot be read: {error.message}") from error

    def read_text(self, encoding: str = "utf-8") -> str:
        """Returns the text in the file."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> int:
        """Writes a new file, or replaces one, and returns its number of bytes."""
        self.unlink(missing_ok=True)  # ram:// would append to it.
        with self.open("wb") as file:
            file.write(content)
        return len(content)

    def write_text(self, text: str, encoding: str = "utf-8") -> int:
        """Writes the text to the file."""
        return self.write_bytes(text.encode(encoding))


Path: TypeAlias = pathlib.Path | RemotePath
# Whatever `as_path` takes.
PathLike: TypeAlias = str | os.PathLike[str] | RemotePath


def as_path(path: PathLike) -> Path:
    """Returns the path of a file or folder on this machine or elsewhere.

    Args:
        path: a string, an `os.PathLike`, or a `RemotePath`. A scheme says that it is elsewhere. A
            "~" at its beginning is the home folder, and "file://" is this machine.

    Raises:
        ValueError: TensorFlow does not know the scheme.

    Example:

    >>> as_path("runs/noah"), as_path("gs://bucket/noah")
    (PosixPath('runs/noah'), RemotePath('gs://bucket/noah'))
    """
    if isinstance(path, RemotePath):
        return path
    text = os.fspath(path)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    elif "://" in text:
        return RemotePath(text)
    return pathlib.Path(text).expanduser()


def join(folder: Path, name: str | os.PathLike[str]) -> Path:
    """Returns the path of a file that is named relative to a folder.

    Args:
        folder: the folder.
        name: a relative path, or one that needs no folder: absolute, or with a scheme.
    """
    text = os.path.expanduser(os.fspath(name))
    return as_path(text) if "://" in text or os.path.isabs(text) else folder / text
