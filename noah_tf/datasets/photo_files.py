"""Finds the photos in folders, and leaves out what file managers and archives add to them."""

import logging
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from noah_tf.utils.paths import Path, PathLike, RemotePath, as_path

logger = logging.getLogger(__name__)

# The suffixes of photos, in lower case. A photo is decoded by its content, whatever its suffix is.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8")
_IGNORED_NAMES = ("__MACOSX", "Thumbs.db", "desktop.ini")


class PhotoFiles(NamedTuple):
    """The files below a folder.

    Attributes:
        photos: the paths of the photos, sorted.
        ignored: the paths of other files and of ignored folders, sorted.
    """

    photos: tuple[str, ...]
    ignored: tuple[str, ...]


def is_ignored(name: str) -> bool:
    """Returns whether a file or folder is never a photo or a class.

    These are hidden ones, such as `.ipynb_checkpoints`, and what file managers and archives add,
    such as `__MACOSX` and `Thumbs.db`.

    Args:
        name: the name without its folder.
    """
    return name.startswith(".") or name in _IGNORED_NAMES


def subfolders(folder: PathLike) -> tuple[str, ...]:
    """Returns the sorted names of the folders in a folder that are not ignored."""
    names = [path.name for path in as_path(folder).iterdir() if path.is_dir()]
    return tuple(sorted(name for name in names if not is_ignored(name)))


def find_photos(folder: PathLike) -> PhotoFiles:
    """Returns the photos in a folder and in the folders below it.

    A file is a photo if it has the suffix of one, in upper or lower case, or if it begins as a
    JPEG, PNG, GIF, BMP or WebP file does.

    Args:
        folder: the folder.
    """
    photos: list[str] = []
    ignored: list[str] = []
    for path, folders, files in _walk(as_path(folder)):
        ignored += [os.path.join(path, name) for name in folders if is_ignored(name)]
        folders[:] = sorted(name for name in folders if not is_ignored(name))
        for name in files:
            file = os.path.join(path, name)
            (photos if not is_ignored(name) and _is_photo(file) else ignored).append(file)
    return PhotoFiles(tuple(sorted(photos)), tuple(sorted(ignored)))


def find_files(paths: Sequence[PathLike]) -> list[str]:
    """Returns the photos that paths name: files as they are, and the photos below folders.

    Args:
        paths: files and folders.

    Raises:
        FileNotFoundError: a path does not exist, or there are no photos.
    """
    files: list[str] = []
    for path in map(as_path, paths):
        if path.is_dir():
            found = find_photos(path)
            files += found.photos
            if found.ignored:
                logger.info(
                    "%s: ignored %d files and folders, such as %s",
                    path,
                    len(found.ignored),
                    found.ignored[0],
                )
        elif path.exists():
            files.append(str(path))
        else:
            raise FileNotFoundError(f"There is no photo or folder {path}.")
    if not files:
        raise FileNotFoundError(
            f"There are no photos in {', '.join(map(str, paths)) or 'nothing'}."
        )
    return list(dict.fromkeys(files))


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields what `os.walk` does. A folder that several links lead to is visited once."""
    if isinstance(folder, RemotePath):
        yield from folder.walk()
        return
    visited = set()
    for path, folders, files in os.walk(folder, followlinks=True):
        # Links can form circles.
        real = os.path.realpath(path)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        yield path, folders, files


def _is_photo(path: str) -> bool:
    if pathlib.PurePath(path).suffix.lower() in IMAGE_SUFFIXES:
        return True
    try:
        with as_path(path).open("rb") as file:
            start = file.read(12)
    except (OSError, tf.errors.OpError):
        return False
    is_webp = start[:4] == b"RIFF" and start[8:] == b"WEBP"
    is_bmp = start[:2] == b"BM" and start[6:10] == b"\0\0\0\0"
    return start.startswith(_MAGIC) or is_webp or is_bmp
