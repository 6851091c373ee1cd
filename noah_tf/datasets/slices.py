"""Splits of folders: names such as "train", and slices such as "all[:80%]"."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from noah_tf.datasets.source import random_order

_SLICE = "a slice such as 'all[:80%]' or 'all[80%:]'"


class Slice(NamedTuple):
    """A split, or the part of it between two percentages.

    Attributes:
        name: the name of the split.
        start: the percentage where the part begins.
        stop: the percentage where the part ends.
    """

    name: str
    start: float = 0.0
    stop: float = 100.0

    @classmethod
    def parse(cls, spec: str) -> "Slice":
        """Returns the slice that a text such as "all[20%:80%]" means.

        Raises:
            ValueError: the text is not a slice in percent.

        Example:

        >>> Slice.parse("all[80%:]")
        Slice(name='all', start=80.0, stop=100.0)
        """
        if "[" not in spec and "+" not in spec:
            return cls(spec)
        match = re.fullmatch(r"([^\[\]+]+)\[(\d+(?:\.\d+)?%)?:(\d+(?:\.\d+)?%)?\]", spec)
        if match is None:
            raise ValueError(f"the split of a folder must be a name or {_SLICE}, got {spec!r}.")
        name, start, stop = match.groups()
        low, high = (float(x.rstrip("%")) if x else d for x, d in ((start, 0), (stop, 100)))
        if not 0 <= low < high <= 100:
            raise ValueError(
                f"the percentages of a split must increase from 0 to 100, got {spec!r}."
            )
        return cls(name, float(low), float(high))


def stratified_indices(labels: Sequence[int], part: Slice, seed: int) -> np.ndarray:
    """Returns the indices of the examples of a slice, in natural order.

    The examples of each class are shuffled by the seed, and the slice has the same share of each
    class. Slices that do not overlap share no example, and all slices together have every example.

    Args:
        labels: the label of each example.
        part: the slice.
        seed: the seed, 0 or more.
    """
    array = np.asarray(labels)
    if (part.start, part.stop) == (0, 100):
        return np.arange(len(array))
    chosen = []
    for label in np.unique(array):
        indices = np.flatnonzero(array == label)
        indices = indices[random_order(seed, int(label), size=len(indices))]
        first, last = (round(len(indices) * share / 100) for share in (part.start, part.stop))
        chosen.append(indices[first:last])
    return np.sort(np.concatenate(chosen))
