"""Folders of photos, one a class, as sources."""

import functools
import logging
import os
import pathlib

import numpy as np
import tensorflow as tf

from noah_tf.datasets.source import Source, random_order

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_FOLDER_LAYOUT = f"DATA_DIR/SPLIT/CLASS/*{{{','.join(IMAGE_SUFFIXES)}}}"


def open_folder(split, data_dir):
    """`open_source` for class folders."""
    if data_dir is None:
        raise ValueError(f'name="folder" needs data_dir, laid out as {_FOLDER_LAYOUT}.')
    root = pathlib.Path(data_dir).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{root} does not exist; photos go to {_FOLDER_LAYOUT}.")
    splits = _subfolders(root)
    if split not in splits:
        raise ValueError(
            f"{root} has no split {split!r}; it has {', '.join(splits) or 'no folder at all'}. "
            f"Photos go to {_FOLDER_LAYOUT}."
        )
    # Labels must mean the same in every split, also where a split lacks a class.
    class_names = _subfolders(root / ("train" if "train" in splits else split))
    strangers = sorted(set(_subfolders(root / split)) - set(class_names))
    if strangers:
        raise ValueError(
            f"{root / split} has classes that {root / 'train'} has not: {', '.join(strangers)}; "
            "rename or remove them."
        )
    files, labels = _list_photos(root / split, class_names)
    if not files:
        raise ValueError(f"{root / split} holds no photos; they go to {_FOLDER_LAYOUT}.")
    logger.info("%s: %d photos, %d classes", root / split, len(files), len(class_names))
    return Source(
        name="folder",
        split=split,
        num_examples=len(files),
        class_names=class_names,
        multi_label=False,
        read=functools.partial(_read_folder, files, labels),
        files=files,
    )


def _subfolders(folder):
    names = (entry.name for entry in os.scandir(folder) if entry.is_dir())
    return tuple(sorted(name for name in names if not name.startswith(".")))


def _list_photos(folder, class_names):
    files, labels = [], []
    for label, name in enumerate(class_names):
        found = sorted(
            str(path) for path in (folder / name).glob("*") if path.suffix.lower() in IMAGE_SUFFIXES
        )
        files += found
        labels += [label] * len(found)
    return tuple(files), tuple(labels)


def _read_folder(files, labels, shuffle_seed):
    size = len(files)
    order = np.arange(size) if shuffle_seed is None else random_order(shuffle_seed, size=size)
    entries = (np.array(files)[order], np.array(labels, np.int64)[order], order.astype(np.int64))

    def load(file, label, index):
        return {"image": tf.io.read_file(file), "label": label, "index": index}

    dataset = tf.data.Dataset.from_tensor_slices(entries)
    return dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
