"""TFRecord files as examples: shuffled by file, divided among hosts, readable from any position."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from noah_tf.datasets.source import from_numpy, host_range, random_order

_INTERLEAVED_FILES = 16
_BLOCK = 16  # consecutive records from one file


class FileRange(NamedTuple):
    """A range of the records of one file.

    Attributes:
        path: the file.
        skip: number of records to skip at the start of the file.
        take: number of records to read.
        start: index of the first of these in natural order.
    """

    path: str
    skip: int
    take: int
    start: int


# The arrays that `_file_groups` returns: (groups, files of a group), and the last one (groups,).
_GROUPS = (
    tf.TensorSpec([None, None], tf.string),
    *[tf.TensorSpec([None, None], tf.int64)] * 3,
    tf.TensorSpec([None], tf.int64),
)
_EMPTY_RANGE = FileRange("", 0, 0, 0)  # The file is never opened, because nothing is taken.


def read_records(
    files: Sequence[tuple[str, int, int]],
    parse: Callable[[tf.Tensor], dict[str, Any]],
    shuffle_seed: int | tf.Tensor | None,
    skip: int | tf.Tensor = 0,
    shard: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Returns the records of TFRecord files, in an order that is a function of the seed.

    The files are shuffled, and each host takes its range of the records. It reads the files in
    groups of 16, and the files of a group alternately. A host therefore reads only its own files,
    apart from those at the ends of its range, and it can start at any position without reading
    the records before it.

    TFDS can shuffle files too, but its order also depends on TensorFlow's global seed.

    Args:
        files: sequence of (path, records to skip, records to take).
        parse: a function from a serialized record to a dict.
        shuffle_seed: an int or a scalar tensor, or None for the natural order.
        skip: number of the host's records to skip, an int or a scalar tensor. Groups of files
            before this position are not opened; within a group, the records are read but not
            parsed.
        shard: (index, count) of the host, see `host_range`.

    Returns:
        A dataset of the results of `parse`, with the index in natural order as "index".
    """
    width = 1 if shuffle_seed is None else min(_INTERLEAVED_FILES, len(files))

    def file_groups(skip, seed=None):
        return _file_groups(host_files(files, seed, shard), width, skip)

    arguments = (skip,) if shuffle_seed is None else (skip, shuffle_seed)
    groups = from_numpy(file_groups, arguments, _GROUPS)

    def read_file(path, record_skip, take, start):
        return tf.data.TFRecordDataset(path).skip(record_skip).take(take).enumerate(start)

    def read_group(paths, record_skips, takes, starts, group_skip):
        interleaved = tf.data.Dataset.from_tensor_slices(
            (paths, record_skips, takes, starts)
        ).interleave(
            read_file,
            cycle_length=width,
            block_length=_BLOCK,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return interleaved.skip(group_skip)

    return (
        tf.data.Dataset.from_tensor_slices(tuple(groups))
        .flat_map(read_group)
        .map(
            lambda index, record: {**parse(record), "index": index},
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
    )


def host_files(
    files: Sequence[tuple[str, int, int]],
    shuffle_seed: int | None,
    shard: tuple[int, int] = (0, 1),
) -> list[FileRange]:
    """Returns the parts of the files that one host reads, in order.

    Args:
        files: sequence of (path, records to skip, records to take).
        shuffle_seed: None for the natural order. With an int, the files are shuffled, and all hosts
            get the same number of records.
        shard: (index, count) of the host.
    """
    takes = np.array([take for _, _, take in files])
    starts = np.cumsum(takes) - takes  # in natural order
    order = np.arange(len(files))
    if shuffle_seed is not None:
        order = random_order(shuffle_seed, size=len(files))
    first, last = host_range(int(takes.sum()), shard, even=shuffle_seed is not None)
    ranges, num_before = [], 0
    for number in order.tolist():
        path, skip, take = files[number]
        low, high = max(first - num_before, 0), min(last - num_before, take)
        if low < high:
            ranges.append(FileRange(path, skip + low, high - low, int(starts[number]) + low))
        num_before += take
    return ranges


def _file_groups(ranges, width, skip):
    """Returns groups of `width` ranges without those that are skipped.

    Args:
        ranges: a list of `FileRange`.
        width: the number of files in a group. Empty ranges fill up the last one.
        skip: number of records to skip.

    Returns:
        Arrays as in `_GROUPS`: the four fields of the ranges, and how many records to skip in each
        group.
    """
    groups = [ranges[i : i + width] for i in range(0, len(ranges), width)]
    while groups and skip >= (size := sum(file.take for file in groups[0])):
        skip -= size
        groups.pop(0)
    if not groups:
        groups, skip = [[_EMPTY_RANGE]], 0
    padded = [group + [_EMPTY_RANGE] * (width - len(group)) for group in groups]
    paths = np.array([[file.path for file in group] for group in padded], object)
    numbers = (
        np.array([[getattr(file, field) for file in group] for group in padded], np.int64)
        for field in ("skip", "take", "start")
    )
    return paths, *numbers, np.array([skip] + [0] * (len(groups) - 1), np.int64)
