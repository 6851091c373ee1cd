"""Where examples come from: any TFDS set, `digit_scenes`, or folders of photos, one a class.

A `Source` yields encoded photos and labels in an order that is a function of a seed, and gives
each example the number of its place in the split, whatever the order.
"""

import dataclasses
import difflib
import functools
import logging
import os
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_INTERLEAVED_FILES = 16
_FOLDER_LAYOUT = f"DATA_DIR/SPLIT/CLASS/*{{{','.join(IMAGE_SUFFIXES)}}}"


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """One split of one data set.

    Attributes:
        name: the data set's name, e.g. "cifar10" or "folder".
        split: the split's name, e.g. "train" or "train[:90%]".
        num_examples: how many examples the split has.
        class_names: the classes' names in the order of their labels.
        multi_label: whether an example may have several classes.
        files: the photos' paths in natural order where the source is a folder, else empty.
    """

    name: str
    split: str
    num_examples: int
    class_names: tuple
    multi_label: bool
    read: Callable = dataclasses.field(repr=False)
    files: tuple = dataclasses.field(default=(), repr=False)

    @property
    def num_classes(self):
        """The number of classes."""
        return len(self.class_names)

    def examples(self, shuffle_seed=None):
        """The examples as a `tf.data.Dataset` of dicts.

        Args:
            shuffle_seed: None for the natural order; an int for an order that depends on it alone.
                A TFDS set is shuffled by whole files, which are then read alternately: shuffle the
                examples, too. A folder is shuffled by photos.

        Returns:
            A dataset of {"image": encoded bytes, "label": int64 scalar, or float32 (num_classes,)
            of zeros and ones where `multi_label`, "index": int64 place in the natural order}, and
            "bbox": float32 (4,) (ymin, xmin, ymax, xmax from 0 to 1) where the set has one box an
            example.
        """
        return self.read(shuffle_seed)

    @functools.cached_property
    def in_memory(self):
        """All examples in natural order, encoded, as one dict of tensors (read once, then kept)."""
        batches = list(self.examples().batch(1024))
        return {key: tf.concat([batch[key] for batch in batches], 0) for key in batches[0]}

    def describe(self, index):
        """Words for an example that help to find it: the set, the split, its place or its file."""
        where = f" ({self.files[index]})" if self.files else ""
        return f"example {index} of {self.name!r}, split {self.split!r}{where}"


def open_source(name, split, data_dir=None, image_key=None, label_key=None, download=True):
    """Opens one split of a data set, preparing it first where that is needed and possible.

    Args:
        name: a TFDS name ("cifar10", "imagenet2012", "digit_scenes/multi" ...), or "folder" for
            photos in `data_dir/SPLIT/CLASS/`.
        split: the split; for TFDS also its slices ("train[:90%]") and sums ("train+test").
        data_dir: TFDS's data directory (default: TFDS's own), or the folder of the splits.
        image_key: the photo's feature where a TFDS set has several.
        label_key: the label's feature where a TFDS set has several; "objects/label" reaches into
            a sequence. Sequences of labels and 0/1 vectors make the source multi-label.
        download: whether to download and prepare a TFDS set that is not there.

    Returns:
        A `Source`.

    Raises:
        ValueError: name, split or key does not exist, is ambiguous, or the split is empty.
        FileNotFoundError: the data is not there and cannot be prepared.

    Example:
        source = open_source("cifar10", "train[:90%]", data_dir="/data/tfds")
        source.num_examples, source.class_names[0]  # 45000, "airplane"
    """
    if name == "folder":
        if image_key or label_key:
            raise ValueError("image_key and label_key are for TFDS sets; a folder has none.")
        return _open_folder(split, data_dir)
    from noah_tf.datasets import tfds_sources  # TensorFlow Datasets is slow to import

    return tfds_sources.open_tfds(name, split, data_dir, image_key, label_key, download)


def random_order(seed, *purpose, size):
    """The numbers 0..size-1 in an order that depends on (seed, *purpose), all ints, alone."""
    return np.random.Generator(np.random.PCG64([seed, *purpose])).permutation(size)


def nearest(wanted, known):
    """Up to three of the known words, the most similar first."""
    return difflib.get_close_matches(wanted, list(known), n=3, cutoff=0.4)


def _open_folder(split, data_dir):
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


def read_records(files, parse, shuffle_seed):
    """Reads TFRecord files in an order that is a function of the seed.

    TFDS's own shuffling is not used: it depends on TensorFlow's global seed as well.

    Args:
        files: sequence of (path, records to skip, records to take).
        parse: function from a serialised record to a dict.
        shuffle_seed: None for the natural order, or an int.

    Returns:
        A dataset of what `parse` gives, with the record's place in the natural order as "index".
    """
    paths, skips, takes = zip(*files, strict=True)
    starts = np.cumsum((0, *takes[:-1]))
    columns = [np.array(paths), *(np.array(c, np.int64) for c in (skips, takes, starts))]
    if shuffle_seed is not None:
        order = random_order(shuffle_seed, size=len(paths))
        columns = [column[order] for column in columns]

    def records(path, skip, take, start):
        return tf.data.TFRecordDataset(path).skip(skip).take(take).enumerate(start)

    dataset = tf.data.Dataset.from_tensor_slices(tuple(columns)).interleave(
        records,
        cycle_length=1 if shuffle_seed is None else min(_INTERLEAVED_FILES, len(paths)),
        block_length=16,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return dataset.map(
        lambda index, record: {**parse(record), "index": index},
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
