"""The source "folder": photos in one folder per class."""

import functools
import logging
import os
import pathlib

import tensorflow as tf

from noah_tf.datasets.source import Source, read_by_index

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_FOLDER_LAYOUT = f"DATA_DIR/SPLIT/CLASS/*{{{','.join(IMAGE_SUFFIXES)}}}"


def open_folder(split: str, data_dir: str | os.PathLike | None) -> Source:
    """Opens one split of a folder of photos, for `registry.open_source`.

    Args:
        split: the name of the split's folder.
        data_dir: the folder that holds `SPLIT/CLASS/PHOTO`.

    Raises:
        ValueError: `data_dir` is None, or the split or its photos do not exist, or a class is
            missing in the training split.
        FileNotFoundError: `data_dir` does not exist.
    """
    if data_dir is None:
        raise ValueError(f'name="folder" needs data_dir, laid out as {_FOLDER_LAYOUT}.')
    root = pathlib.Path(data_dir).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{root} does not exist; photos go to {_FOLDER_LAYOUT}.")
    splits = _subfolders(root)
    if split not in splits:
        raise ValueError(
            f"{root} has no split {split!r}; it has {', '.join(splits) or 'no folders'}. "
            f"Photos go to {_FOLDER_LAYOUT}."
        )
    # Every split uses the labels of the training split, even if it lacks a class.
    class_names = _subfolders(root / ("train" if "train" in splits else split))
    unknown = sorted(set(_subfolders(root / split)) - set(class_names))
    if unknown:
        raise ValueError(
            f"{root / split} has classes that {root / 'train'} does not have: "
            f"{', '.join(unknown)}; rename or remove them."
        )
    files, labels = _list_photos(root / split, class_names)
    if not files:
        raise ValueError(f"{root / split} holds no photos; they go to {_FOLDER_LAYOUT}.")
    logger.info("%s: %d photos, %d classes", root / split, len(files), len(class_names))
    fetch = _make_fetch(files, labels)
    return Source(
        name="folder",
        split=split,
        num_examples=len(files),
        class_names=class_names,
        multi_label=False,
        read=functools.partial(read_by_index, fetch, len(files)),
        files=files,
        fetch=fetch,
    )


def _subfolders(folder):
    names = (entry.name for entry in os.scandir(folder) if entry.is_dir())
    return tuple(sorted(name for name in names if not name.startswith(".")))


def _list_photos(folder, class_names):
    files, labels = [], []
    for label, name in enumerate(class_names):
        paths = sorted(
            str(path) for path in (folder / name).glob("*") if path.suffix.lower() in IMAGE_SUFFIXES
        )
        files += paths
        labels += [label] * len(paths)
    return tuple(files), tuple(labels)


def _make_fetch(files, labels):
    """Returns a function from an index to the example with that file and label."""
    file_tensor, label_tensor = tf.constant(files), tf.constant(labels, tf.int64)

    def fetch(index):
        image = tf.io.read_file(file_tensor[index])
        return {"image": image, "label": label_tensor[index], "index": index}

    return fetch
