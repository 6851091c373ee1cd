"""Sources whose labels are the indices of the examples."""

import functools

import numpy as np
import tensorflow as tf

from noah_tf.datasets.records import read_records
from noah_tf.datasets.source import Source, read_by_index

SIDE = 8


def photo(number):
    """Returns a PNG of noise, a different one for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return tf.io.encode_png(pixels).numpy()


def write_records(folder, sizes):
    """Writes a TFRecord file of each size; a record is its index. Returns (path, 0, size)."""
    files, number = [], 0
    for file_number, size in enumerate(sizes):
        path = str(folder / f"{file_number:03}.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for _ in range(size):
                writer.write(str(number).encode())
                number += 1
        files.append((path, 0, size))
    return files


def parse_number(record):
    return {"label": tf.strings.to_number(record, tf.int64)}


def record_source(folder, sizes):
    """Returns a source that can only be read in order, like a TFDS set."""
    files = write_records(folder, sizes)
    photos = tf.constant([photo(number) for number in range(sum(sizes))])

    def parse(record):
        label = parse_number(record)["label"]
        return {"image": photos[label], "label": label}

    return _source("records", sum(sizes), read=functools.partial(read_records, files, parse))


def fetch_source(size):
    """Returns a source that can fetch any example."""
    photos = tf.constant([photo(number) for number in range(size)])

    def fetch(index):
        return {"image": photos[index], "label": index, "index": index}

    read = functools.partial(read_by_index, fetch, size)
    return _source("fetched", size, read=read, fetch=fetch)


def _source(name, size, **options):
    names = tuple(str(number) for number in range(size))
    return Source(name, "train", size, names, multi_label=False, **options)
