"""`Source`: one split of one data set, wherever it is stored.

A source yields encoded photos and labels in an order that is a function of a seed. Each example has
an index, its position in the natural order of the split, which does not depend on the shuffling.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """One split of one data set.

    Attributes:
        name: the name of the data set, e.g. "cifar10" or "folder".
        split: the name of the split, e.g. "train" or "train[:90%]".
        num_examples: number of examples in the split.
        class_names: the names of the classes, in the order of their labels.
        multi_label: whether an example may have several classes.
        read: the function behind `examples`, with the same arguments.
        files: the paths of the photos in natural order if each has a file, otherwise empty.
        fetch: a function from an index (int64 tensor) to that example, for sources that can load
            any example without reading others; otherwise None.
        labels: the labels of all examples in natural order if they are known without reading the
            photos, (num_examples,) or (num_examples, num_classes) if `multi_label`; otherwise None.
    """

    name: str
    split: str
    num_examples: int
    class_names: tuple[str, ...]
    multi_label: bool
    read: Callable[..., tf.data.Dataset] = dataclasses.field(repr=False)
    files: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    fetch: Callable[[Any], dict[str, Any]] | None = dataclasses.field(default=None, repr=False)
    labels: np.ndarray | None = dataclasses.field(default=None, repr=False)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def examples(
        self,
        shuffle_seed: int | tf.Tensor | None = None,
        skip: int | tf.Tensor = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """Returns the examples as a `tf.data.Dataset` of dicts.

        Args:
            shuffle_seed: None for the natural order. An int shuffles by this seed: the photos of a
                folder, but only the files of a TFDS set, several of which are read alternately. The
                examples of a TFDS set therefore need further shuffling. Within the function of a
                dataset, such as `flat_map`, the seed and `skip` may be tensors.
            skip: number of examples to skip at the start. Files of a TFDS set that are skipped as a
                whole are not opened.
            shard: (index, count): read only the part of host `index` of `count`, see `host_range`.

        Returns:
            A dataset of {"image": encoded bytes, "label": int64 scalar, or a multi-hot float32
            vector (num_classes,) if `multi_label`, "index": int64 index in natural order}. If the
            set has one box per example, "bbox" is float32 (4,): ymin, xmin, ymax, xmax from 0 to 1.
            If its objects have boxes and classes, "boxes" is float32 (num_classes, 4): for each
            class the smallest box around all of its objects, or zeros without any.
        """
        return self.read(shuffle_seed, skip, shard)

    def examples_at(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """Returns the examples with the given indices as dicts, sorted by index."""
        if self.fetch is not None:
            return [self.fetch(tf.constant(index, tf.int64)) for index in sorted(indices)]
        wanted = tf.constant(indices, tf.int64)
        examples = self.examples().filter(lambda e: tf.reduce_any(e["index"] == wanted))
        return list(examples.take(len(wanted)))

    def has_labels(self) -> bool:
        """Returns whether any example has a label. The test splits of COCO, for one, have none."""
        if not self.multi_label:
            return True
        labeled = self.examples().filter(lambda example: tf.reduce_any(example["label"] > 0))
        return any(True for _ in labeled.take(1))

    @functools.cached_property
    def in_memory(self) -> dict[str, tf.Tensor]:
        """All examples in natural order, still encoded, as one dict of tensors; read only once."""
        batches = list(self.examples().batch(1024))
        return {key: tf.concat([batch[key] for batch in batches], 0) for key in batches[0]}

    def known_labels(self, cached: bool, purpose: str) -> np.ndarray:
        """Returns the label of each example in natural order, without reading other photos.

        Args:
            cached: whether the encoded examples are kept in memory anyway.
            purpose: the option that needs the labels, for the error message.

        Raises:
            ValueError: the labels are not known.
        """
        if self.labels is not None:
            return self.labels
        if cached:
            return self.in_memory["label"].numpy()
        raise ValueError(
            f"{purpose} needs the labels of all examples, and {self.name!r} does not have them "
            "apart from the photos: set data.cache=True, or use a folder or a label file."
        )

    def label_names(self, label: Any) -> tuple[str, ...]:
        """Returns the class names of an example's label: exactly one unless `multi_label`."""
        label = np.asarray(label)
        indices = np.flatnonzero(label) if self.multi_label else [int(label)]
        return tuple(self.class_names[index] for index in indices)

    def describe(self, index: int) -> str:
        """Returns a phrase that identifies an example: its index, split, data set, and file."""
        file = f" ({self.files[index]})" if self.files else ""
        return f"example {index} of {self.name!r}, split {self.split!r}{file}"


def random_order(seed: int, *purpose: int, size: int) -> np.ndarray:
    """Returns a permutation of 0..size-1 that is a function of (seed, *purpose)."""
    return np.random.Generator(np.random.PCG64([seed, *purpose])).permutation(size)


def host_range(size: int, shard: tuple[int, int], even: bool) -> tuple[int, int]:
    """Returns the part (start, stop) of the range 0..size-1 that one host reads.

    Args:
        size: the length of the range.
        shard: (index, count) of the host.
        even: True gives all hosts parts of the same length, and drops up to count - 1 elements.
            False covers the whole range.
    """
    index, count = shard
    if even:
        return index * (size // count), (index + 1) * (size // count)
    return index * size // count, (index + 1) * size // count


def read_by_index(
    fetch: Callable[[Any], dict[str, Any]],
    size: int,
    shuffle_seed: int | tf.Tensor | None,
    skip: int | tf.Tensor,
    shard: tuple[int, int],
) -> tf.data.Dataset:
    """Implements `Source.read` for a source of `size` examples that can fetch any of them.

    Args:
        fetch: see `Source`.
        size: number of examples.
        shuffle_seed: see `Source.examples`, also for the next two.
        skip: see there.
        shard: see there.
    """
    start, stop = host_range(size, shard, even=shuffle_seed is not None)

    def host_indices(seed, skip):
        return (random_order(seed, size=size)[start:stop][skip:],)

    if shuffle_seed is None:
        order = np.arange(start, stop)[skip:]
    else:
        (order,) = from_numpy(host_indices, (shuffle_seed, skip), [tf.TensorSpec([None], tf.int64)])
    indices = tf.data.Dataset.from_tensor_slices(order)
    return indices.map(fetch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def from_numpy(
    function: Callable[..., tuple[np.ndarray, ...]],
    arguments: Sequence[int | tf.Tensor],
    signature: Sequence[tf.TensorSpec],
) -> Sequence[Any]:
    """Calls a NumPy function of ints, at once or, if they are tensors, in TensorFlow's graph.

    Args:
        function: a function from ints to a tuple of arrays.
        arguments: ints or scalar integer tensors.
        signature: the shapes and dtypes of the arrays.

    Returns:
        The arrays or tensors.
    """
    if all(isinstance(argument, int) for argument in arguments):
        return function(*arguments)
    tensors = tf.numpy_function(
        lambda *values: function(*map(int, values)), arguments, [spec.dtype for spec in signature]
    )
    for tensor, spec in zip(tensors, signature, strict=True):
        tensor.set_shape(spec.shape)
    return tensors


def photos_source(files: Sequence[str], class_names: Sequence[str]) -> Source:
    """Returns a source of photos without labels, named "photos".

    Args:
        files: the paths of the photos, in natural order.
        class_names: the names of the classes, of which no photo has any.
    """
    return _source_of_files(
        "photos", "", files, lambda index: tf.zeros(len(class_names)), class_names, multi_label=True
    )


def file_names(files: Sequence[str]) -> tf.Tensor:
    """Returns paths as a string tensor, also those that are not UTF-8."""
    return tf.constant([os.fsencode(file) for file in files], tf.string)


def files_source(
    name: str,
    split: str,
    files: Sequence[str],
    labels: Sequence[Any] | np.ndarray,
    class_names: Sequence[str],
    multi_label: bool = False,
) -> Source:
    """Returns a source of files, each of which has one photo.

    Args:
        name: see `Source`, also for the next one.
        split: see there.
        files: the paths of the photos, in natural order.
        labels: for each photo its label, or its multi-hot vector if `multi_label`.
        class_names: the names of the classes.
        multi_label: whether a photo may have several classes.
    """
    label_tensor = tf.constant(labels, tf.float32 if multi_label else tf.int64)
    return _source_of_files(
        name,
        split,
        files,
        lambda index: label_tensor[index],
        class_names,
        multi_label,
        np.asarray(labels),
    )


def _source_of_files(name, split, files, label_of, class_names, multi_label, labels=None):
    """Returns a source of files, whose labels a function of their index gives."""
    file_tensor = file_names(files)

    def fetch(index):
        image = tf.io.read_file(file_tensor[index])
        return {"image": image, "label": label_of(index), "index": index}

    return Source(
        name=name,
        split=split,
        num_examples=len(files),
        class_names=tuple(class_names),
        multi_label=multi_label,
        read=functools.partial(read_by_index, fetch, len(files)),
        files=tuple(files),
        fetch=fetch,
        labels=labels,
    )
