"""`Source`: one split of one data set, wherever it comes from.

A source yields encoded photos and labels in an order that is a function of a seed, and gives
each example the number of its place in the split, whatever the order.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """One split of one data set.

    Attributes:
        name: the data set's name, e.g. "cifar10" or "folder".
        split: the split's name, e.g. "train" or "train[:90%]".
        num_examples: how many examples the split has.
        class_names: the classes' names in the order of their labels.
        multi_label: whether an example may have several classes.
        read: the function behind `examples`.
        files: the photos' paths in natural order where the source is a folder, else empty.
        fetch: a function from a place in the natural order (int64 tensor) to its example, where
            any example can be had without reading others; else None.
    """

    name: str
    split: str
    num_examples: int
    class_names: tuple
    multi_label: bool
    read: Callable = dataclasses.field(repr=False)
    files: tuple = dataclasses.field(default=(), repr=False)
    fetch: Callable | None = dataclasses.field(default=None, repr=False)

    @property
    def num_classes(self):
        """The number of classes."""
        return len(self.class_names)

    def examples(self, shuffle_seed=None, skip=0, shard=(0, 1)):
        """The examples as a `tf.data.Dataset` of dicts.

        Args:
            shuffle_seed: None for the natural order; an int for an order that depends on it alone.
                A TFDS set is shuffled by whole files, which are then read alternately: shuffle the
                examples, too. A folder is shuffled by photos.
            skip: leave out this many at the start, unread where that is possible: files of a TFDS
                set that lie before the position as a whole are not opened.
            shard: (index, count): only the part of host `index` of `count`, see `host_range`.

        Returns:
            A dataset of {"image": encoded bytes, "label": int64 scalar, or float32 (num_classes,)
            of zeros and ones where `multi_label`, "index": int64 place in the natural order}, and
            "bbox": float32 (4,) (ymin, xmin, ymax, xmax from 0 to 1) where the set has one box an
            example, or "boxes": float32 (num_classes, 4) where its objects have boxes and classes:
            of each class the smallest box around all its objects, zeros where there is none.
        """
        return self.read(shuffle_seed, skip, shard)

    def pick(self, indices):
        """The examples at some places of the natural order, in that order: a list of dicts."""
        if self.fetch is not None:
            return [self.fetch(tf.constant(index, tf.int64)) for index in sorted(indices)]
        indices = tf.constant(indices, tf.int64)
        found = self.examples().filter(lambda example: tf.reduce_any(example["index"] == indices))
        return list(found.take(len(indices)))

    def has_labels(self):
        """Whether any example has a label: the test splits of COCO, for one, have none."""
        if not self.multi_label:
            return True
        labelled = self.examples().filter(lambda example: tf.reduce_any(example["label"] > 0))
        return any(True for _ in labelled.take(1))

    @functools.cached_property
    def in_memory(self):
        """All examples in natural order, encoded, as one dict of tensors (read once, then kept)."""
        batches = list(self.examples().batch(1024))
        return {key: tf.concat([batch[key] for batch in batches], 0) for key in batches[0]}

    def label_names(self, label):
        """The names of an example's classes: a tuple, with one name unless `multi_label`."""
        label = np.asarray(label)
        indices = np.flatnonzero(label) if self.multi_label else [int(label)]
        return tuple(self.class_names[index] for index in indices)

    def describe(self, index):
        """Words for an example that help to find it: the set, the split, its place or its file."""
        where = f" ({self.files[index]})" if self.files else ""
        return f"example {index} of {self.name!r}, split {self.split!r}{where}"


def random_order(seed, *purpose, size):
    """The numbers 0..size-1 in an order that depends on (seed, *purpose), all ints, alone."""
    return np.random.Generator(np.random.PCG64([seed, *purpose])).permutation(size)


def host_range(size, shard, even):
    """The part of the positions 0..size-1 that a host reads.

    Args:
        size: how many there are.
        shard: (index, count): the host's place among the hosts.
        even: whether all hosts get equally many, so that up to count - 1 are left out; else every
            position is some host's.

    Returns:
        (start, stop).
    """
    index, count = shard
    if even:
        return index * (size // count), (index + 1) * (size // count)
    return index * size // count, (index + 1) * size // count


def read_places(fetch, size, shuffle_seed, skip, shard):
    """`Source.read` for a source that can fetch any example."""
    order = np.arange(size) if shuffle_seed is None else random_order(shuffle_seed, size=size)
    start, stop = host_range(size, shard, even=shuffle_seed is not None)
    places = tf.data.Dataset.from_tensor_slices(order[start:stop][skip:])
    return places.map(fetch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
