"""Files that appear only when they are complete."""

import os
import pathlib
from collections.abc import Callable


def write_text_atomically(path: pathlib.Path, text: str) -> None:
    """Writes a text file so that a killed process leaves the old file or the new one.

    Args:
        path: the file to write.
        text: its new content.

    Example:

    >>> write_text_atomically(pathlib.Path("runs/noah/result.json"), "{}\\n")
    """
    save_atomically(lambda partial: pathlib.Path(partial).write_text(text), path)


def save_atomically(save: Callable[[str], object], path: pathlib.Path) -> None:
    """Calls `save` with a temporary path and renames the result to `path` when it is complete.

    Args:
        save: a function that writes a file to the path that it is given, such as `model.save`.
        path: the file to write. The temporary file is written beside it.

    Example:

    >>> save_atomically(model.save, pathlib.Path("runs/noah/model.keras"))
    """
    # The prefix leaves the suffix as it is, because Keras reads the format from it.
    partial = path.with_name(f"partial-{path.name}")
    try:
        save(str(partial))
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # Without this, a power failure can leave an empty file.
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
