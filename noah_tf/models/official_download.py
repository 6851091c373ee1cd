"""The authors' checkpoints, downloaded from Google Drive once into Keras's cache folder.

`official_checkpoints.tsv` has the id of each file. It comes from the tables of pretrained models in
the README of github.com/OSVAI/NOAH; docs/models.md reports the same models.
"""

import contextlib
import difflib
import functools
import importlib.resources
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from noah_tf.models.keras_file import sha256_of
from noah_tf.models.tensor_files import import_torch, is_html_page, read_checkpoint
from noah_tf.utils.files import save_atomically, write_text_atomically

# The value of an argument `weights` that stands for the authors' checkpoint.
OFFICIAL = "official"
DRIVE = "https://drive.google.com"
# Seconds without a byte after which a download fails.
_TIMEOUT = 60


class OfficialFile(NamedTuple):
    """The checkpoint that the authors published for a model.

    Attributes:
        name: the model's name.
        file_id: the id of the file on Google Drive.
    """

    name: str
    file_id: str

    @property
    def page(self) -> str:
        """The address of the page with the file."""
        return f"{DRIVE}/file/d/{self.file_id}/view"

    @property
    def path(self) -> pathlib.Path:
        """Where the file is kept: in noah_tf/ below $KERAS_HOME, by default ~/.keras."""
        home = pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
        return home / "noah_tf" / f"{self.name}.pth"

    @property
    def sha256_path(self) -> pathlib.Path:
        """Where the file's SHA-256 is kept, as `sha256sum` writes and checks it."""
        return self.path.with_name(f"{self.path.name}.sha256")

    @property
    def by_hand(self) -> str:
        """A phrase that says how to get the file without a download from Python."""
        return f"download {self.page} in a browser and save it as {self.path}"


def official_file(name: str) -> OfficialFile:
    """Returns the checkpoint that the authors published for a model.

    Args:
        name: one of `list_models()`, except those of ViT-Large.

    Raises:
        ValueError: the authors published no checkpoint of such a model.

    Example:

    >>> official_file("noah_resnet18").page
    'https://drive.google.com/file/d/1G1FWERwP-bRp7-ykqSk0yfSOKSnkXNPm/view'
    """
    ids = _file_ids()
    if name not in ids:
        near = ", ".join(difflib.get_close_matches(str(name), ids, n=3, cutoff=0))
        raise ValueError(
            f"weights='official' is for the {len(ids)} models whose checkpoints the authors "
            f"published, such as {near}, got {name!r}: name one of them, or the path of a file."
        )
    return OfficialFile(name, ids[name])


@contextlib.contextmanager
def official_checkpoint(name: str, base_url: str = DRIVE) -> Iterator[pathlib.Path]:
    """Yields the path of the authors' checkpoint of a model, and downloads it on first use.

    A download that is incomplete, killed, or not a checkpoint leaves no file behind. A file that
    the user put at the path is used as it is. If the body of the `with` statement takes the file
    without an error, its SHA-256 is written beside it, and checked from then on.

    Args:
        name: the name of the model.
        base_url: the address that serves the files of Google Drive, at /uc?id=ID.

    Yields:
        The path of a .pth file in Keras's cache folder.

    Raises:
        ConnectionError: the file could not be downloaded.
        ImportError: gdown, which downloads the file, or PyTorch, which reads it, is missing.
        ValueError: the authors published no checkpoint of such a model, or the file has another
            SHA-256 than when it was first used.

    Example:

    >>> with official_checkpoint("noah_resnet18") as path:
    ...     load_official_weights(model, path)
    """
    file = official_file(name)
    if not file.path.is_file():
        _download(file, base_url)
    sha256 = sha256_of(file.path)
    is_new = not file.sha256_path.is_file()
    if not is_new:
        _check_sha256(file, sha256)
    yield file.path
    if is_new:
        with _lock(file):  # Two processes must not write to the same temporary file.
            write_text_atomically(file.sha256_path, f"{sha256}  {file.path.name}\n")


@functools.cache
def _file_ids() -> dict[str, str]:
    """Returns {name of a model: id of its checkpoint on Google Drive}."""
    table = importlib.resources.files(__package__) / "official_checkpoints.tsv"
    lines = table.read_text("utf-8").splitlines()
    return dict(line.split("\t") for line in lines if not line.startswith("#"))


def _lock(file: OfficialFile) -> Any:
    """Returns the lock that a process holds while it writes files beside the checkpoint."""
    import filelock

    return filelock.FileLock(f"{file.path}.lock")


def _check_sha256(file: OfficialFile, sha256: str) -> None:
    recorded = file.sha256_path.read_text("utf-8").partition(" ")[0].strip()
    if sha256 != recorded:
        raise ValueError(
            f"{file.path} has changed since it was first used: its SHA-256 is {sha256}, and "
            f"{file.sha256_path.name} has {recorded}. Remove both files to download the checkpoint "
            "again, or only the second one if you changed the checkpoint yourself."
        )


def _download(file: OfficialFile, base_url: str) -> None:
    """Downloads a checkpoint to its path, where it appears when it is complete and readable."""
    # The folder exists even after an error, for a user who puts the file there.
    file.path.parent.mkdir(parents=True, exist_ok=True)
    import_torch(file.path)  # Before a download that nothing could read.
    try:
        import gdown  # noqa: F401
    except ImportError:
        raise ImportError(
            f"The authors' checkpoint of {file.name} is downloaded with gdown, which is not "
            f"installed: pip install gdown, or {file.by_hand}."
        ) from None
    with _lock(file):
        if not file.path.is_file():  # Another process may have downloaded it meanwhile.
            save_atomically(lambda partial: _fetch(file, base_url, partial), file.path)


def _fetch(file: OfficialFile, base_url: str, partial: str) -> None:
    """Downloads a checkpoint to a temporary path and checks that it is one."""
    import requests
    from gdown.download import get_url_from_gdrive_confirmation
    from gdown.exceptions import DownloadError

    url = f"{base_url}/uc?id={file.file_id}"
    try:
        _fetch_url(url, file, partial)
        if is_html_page(partial):
            # gdown itself follows the page that asks to confirm only on Drive's own address.
            page = pathlib.Path(partial).read_text("utf-8", errors="replace")
            _fetch_url(get_url_from_gdrive_confirmation(page), file, partial)
        read_checkpoint(partial)
    except (DownloadError, requests.RequestException, ValueError) as error:
        reason = " ".join(str(error).replace(partial, file.path.name).split()).rstrip(".")
        raise ConnectionError(
            f"The authors' checkpoint of {file.name} could not be downloaded ({reason[:300]}): try "
            f"again later, or {file.by_hand}."
        ) from error


def _fetch_url(url: str, file: OfficialFile, partial: str) -> None:
    import gdown

    messages = {"start": f"Downloading {file.page}\n", "output": f"To: {file.path}\n"}
    with open(partial, "wb") as output:
        gdown.download(url, output, use_cookies=False, log_messages=messages, timeout=_TIMEOUT)
