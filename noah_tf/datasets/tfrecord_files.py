"""The source "tfrecord": TFRecord files of `tf.train.Example` in the classic layout."""

import functools
import glob
import os
import struct

import tensorflow as tf

from noah_tf.datasets.records import read_records
from noah_tf.datasets.source import Source
from noah_tf.utils.paths import Path, PathLike, RemotePath, as_path

IMAGE_KEY, LABEL_KEY = "image/encoded", "image/class/label"
# A record is its length, a checksum of the length, its bytes, and a checksum of the bytes.
_LENGTH_BYTES, _CHECKSUM_BYTES = 8, 4


def open_tfrecord(
    split: str,
    data_dir: PathLike | None,
    class_names: tuple[str, ...],
    image_key: str | None = None,
    label_key: str | None = None,
) -> Source:
    """Opens TFRecord files, for `registry.open_source`.

    Args:
        split: the name of a file in `data_dir`, or a pattern such as "train-*".
        data_dir: the folder of the files.
        class_names: the names of the classes; label i is the i-th one, from 0.
        image_key: the key of the encoded photo. None means "image/encoded".
        label_key: the key of the label, an integer. None means "image/class/label".

    Raises:
        ValueError: `data_dir` is None, the files are not TFRecords, or a key is missing.
        FileNotFoundError: no file has such a name.
    """
    if data_dir is None:
        raise ValueError('name="tfrecord" needs data_dir, the folder of the TFRecord files.')
    root = as_path(data_dir)
    paths = sorted(path for path in _matching(root, split) if as_path(path).is_file())
    if not paths:
        raise FileNotFoundError(
            f"{root} has no file {split!r}; the split of name='tfrecord' must be the name of a "
            "file in data_dir, or a pattern such as 'train-*'."
        )
    counts = [(path, 0, count_records(path)) for path in paths]
    files = tuple(file for file in counts if file[-1])
    if not files:
        raise ValueError(f"The files {split!r} in {root} have no records: name other files.")
    image_key, label_key = image_key or IMAGE_KEY, label_key or LABEL_KEY
    _check_keys(files[0][0], image_key, label_key)
    features = {
        image_key: tf.io.FixedLenFeature([], tf.string),
        label_key: tf.io.FixedLenFeature([], tf.int64),
    }

    message = (
        f"A label must be from 0 to {len(class_names) - 1}, one for each name of "
        "data.class_names (if the labels begin at 1, begin the names with 'background'), got"
    )

    def parse(record):
        values = tf.io.parse_single_example(record, features)
        label = values[label_key]
        is_class = (label >= 0) & (label < len(class_names))
        with tf.control_dependencies([tf.debugging.Assert(is_class, [message, label])]):
            return {"image": values[image_key], "label": tf.identity(label)}

    return Source(
        name="tfrecord",
        split=split,
        num_examples=sum(count for _, _, count in files),
        class_names=tuple(class_names),
        multi_label=False,
        read=functools.partial(read_records, files, parse),
    )


def _matching(root: Path, pattern: str) -> list[str]:
    if isinstance(root, RemotePath):
        return [str(path) for path in root.glob(pattern)]
    return glob.glob(os.path.join(glob.escape(str(root)), pattern))


def count_records(path: PathLike) -> int:
    """Returns the number of records in a TFRecord file, from their lengths alone.

    Args:
        path: the file.

    Raises:
        ValueError: the file is cut off, or is not a TFRecord file.
    """
    size, position, count = tf.io.gfile.stat(str(path)).length, 0, 0
    with as_path(path).open("rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(_LENGTH_BYTES)
            if len(header) < _LENGTH_BYTES:
                position = size + 1
                break
            (length,) = struct.unpack("<Q", header)
            position += _LENGTH_BYTES + _CHECKSUM_BYTES + length + _CHECKSUM_BYTES
            count += 1
    if position != size:
        raise ValueError(
            f"{path} is not a whole TFRecord file: its {count} records do not end where the file "
            f"ends, at byte {size}. Copy it again, or name other files as the split."
        )
    return count


def _check_keys(path, image_key, label_key):
    record = next(iter(tf.data.TFRecordDataset(path))).numpy()
    try:
        features = tf.train.Example.FromString(record).features.feature
    except Exception as error:  # protobuf's DecodeError, which has no stable import path
        raise ValueError(f"{path} has records that are not tf.train.Example ({error}).") from error
    kinds = {key: feature.WhichOneof("kind") for key, feature in features.items()}
    for option, key, kind in (
        ("image_key", image_key, "bytes_list"),
        ("label_key", label_key, "int64_list"),
    ):
        if kinds.get(key) != kind:
            raise ValueError(
                f"data.{option}={key!r} is not a {kind.removesuffix('_list')} feature of {path}; "
                f"its features are {', '.join(f'{k} ({v})' for k, v in sorted(kinds.items()))}."
            )
