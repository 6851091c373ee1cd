"""Sources whose labels are the examples' numbers, in many small TFRecord files or in a folder."""

import functools

import numpy as np
import tensorflow as tf

from noah_tf.datasets.records import read_records
from noah_tf.datasets.source import Source, read_by_index

SIDE = 8


def photo(number):
    """A PNG of noise, another for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return tf.io.encode_png(pixels).numpy()


def write_records(folder, sizes):
    """Files of so many records each; a record is a number. Returns (path, 0, size) triples."""
    files, number = [], 0
    for place, size in enumerate(sizes):
        path = str(folder / f"{place:03}.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for _ in range(size):
                writer.write(str(number).encode())
                number += 1
        files.append((path, 0, size))
    return files


def parse_number(record):
    return {"label": tf.strings.to_number(record, tf.int64)}


def record_source(folder, sizes):
    """A source that can be read only in order, as those of TFDS."""
    files = write_records(folder, sizes)
    photos = tf.constant([photo(number) for number in range(sum(sizes))])

    def parse(record):
        label = parse_number(record)["label"]
        return {"image": photos[label], "label": label}

    return _source("records", sum(sizes), read=functools.partial(read_records, files, parse))


def fetch_source(size):
    """A source of which any example can be had."""
    photos = tf.constant([photo(number) for number in range(size)])

    def fetch(place):
        return {"image": photos[place], "label": place, "index": place}

    read = functools.partial(read_by_index, fetch, size)
    return _source("places", size, read=read, fetch=fetch)


def _source(name, size, **how):
    names = tuple(str(number) for number in range(size))
    return Source(name, "train", size, names, multi_label=False, **how)
