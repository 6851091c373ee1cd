"""The order of the examples in a training epoch: shuffling, the shares of hosts, repeats."""

import numpy as np
import tensorflow as tf

from noah_tf.datasets.source import Source, random_order


def epoch_indices(
    order: np.ndarray,
    steps: int,
    batch_size: int,
    repeats: int,
    skip_batches: int,
    shard: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns which examples one host reads in an epoch, in order.

    Args:
        order: permutation of the indices of all examples.
        steps: number of batches in the epoch.
        batch_size: examples per batch, over all hosts.
        repeats: copies of an example in a batch, see `pipeline.train_batches`.
        skip_batches: number of batches to skip.
        shard: (index, count) of the host.

    Returns:
        Two int64 vectors of the same length: the index of each example, and which copy of it.
    """
    host_batch = batch_size // shard[1]
    distinct = -(-batch_size // repeats)
    slots = np.arange(shard[0] * host_batch, (shard[0] + 1) * host_batch)
    copies, offsets = np.divmod(slots, distinct)
    starts = np.arange(min(skip_batches, steps), steps)[:, None] * distinct
    indices = order[starts + offsets]
    return indices.ravel(), np.broadcast_to(copies, indices.shape).ravel()


def balanced_order(labels: np.ndarray, seed: int, *purpose: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a random order of as many examples as there are, with all classes equally often.

    An example of a frequent class may be missing. An example of a rare class is repeated, but only
    once all others of its class were drawn as often.

    Args:
        labels: the label of each example.
        seed: the order is a function of it and of `purpose`.
        *purpose: further integers, such as the epoch.

    Returns:
        Two int64 vectors of the same length as `labels`: the index of each example, and how often
        the example was drawn before.
    """
    classes = np.unique(labels)
    # The first of these classes have one example more.
    classes = classes[random_order(seed, *purpose, 1, size=len(classes))]
    indices, repeats = [], []
    for number, label in enumerate(classes):
        count = len(labels) // len(classes) + (number < len(labels) % len(classes))
        members = np.flatnonzero(labels == label)
        rounds = -(-count // len(members))
        drawn = [
            members[random_order(seed, *purpose, 2, int(label), round_, size=len(members))]
            for round_ in range(rounds)
        ]
        indices.append(np.concatenate(drawn)[:count] if drawn else members[:0])
        repeats.append(np.repeat(np.arange(rounds), len(members))[:count])
    order = random_order(seed, *purpose, 3, size=len(labels))
    return np.concatenate(indices)[order], np.concatenate(repeats)[order]


def shuffled(
    source: Source,
    seed: int | tf.Tensor,
    window: int,
    skip: int | tf.Tensor,
    shard: tuple[int, int],
) -> tf.data.Dataset:
    """Returns the examples of a source that can only be read in order, shuffled.

    Unlike with `Dataset.shuffle`, the order is a function of the seed alone, and not of
    TensorFlow's global seed, and it can start at any position.

    Args:
        source: the source.
        seed: the files and the examples are shuffled by it; an int or a scalar int64 tensor, like
            `skip`.
        window: number of consecutive examples that are shuffled together.
        skip: number of examples to skip at the start of the shuffled order.
        shard: (index, count) of the host.
    """
    skipped_windows, skipped_examples = skip // window, skip % window

    def shuffle_window(number, examples):
        size = tf.shape(examples["index"])[0]
        order = tf.random.experimental.stateless_shuffle(
            tf.range(size), tf.stack([tf.cast(seed, tf.int64), number]), alg="philox"
        )
        is_first = number == tf.cast(skipped_windows, tf.int64)
        order = order[tf.where(is_first, tf.cast(skipped_examples, tf.int64), 0) :]
        rows = tf.data.Dataset.from_tensor_slices(order)
        return rows.map(lambda row: {key: values[row] for key, values in examples.items()})

    examples = source.examples(shuffle_seed=seed, skip=skipped_windows * window, shard=shard)
    windows = examples.map(_without_boxes).batch(window)
    return windows.prefetch(1).enumerate(skipped_windows).flat_map(shuffle_window)


def first_examples(source: Source, shard: tuple[int, int]) -> tf.data.Dataset:
    """Returns the examples of a host in natural order, with the same keys as `shuffled`.

    Args:
        source: the source.
        shard: (index, count) of the host.
    """
    return source.examples(shard=shard).map(_without_boxes)


def _without_boxes(example):
    return {key: example[key] for key in ("image", "label", "index")}


def repeated(examples: tf.data.Dataset, host_batch: int, distinct: int) -> tf.data.Dataset:
    """Repeats every `distinct` examples until there are `host_batch` of them.

    Args:
        examples: a dataset of dicts.
        host_batch: one host's examples per batch.
        distinct: one host's different examples per batch.

    Returns:
        The dataset with the number of the copy in "copy", see `pipeline.train_batches`.
    """
    if host_batch == distinct:
        return examples.map(lambda example: {**example, "copy": tf.constant(0, tf.int64)})

    def repeat_in_blocks(batch):
        slots = tf.data.Dataset.range(host_batch)
        return slots.map(
            lambda slot: {
                **{key: values[slot % distinct] for key, values in batch.items()},
                "copy": slot // distinct,
            }
        )

    return examples.batch(distinct, drop_remainder=True).flat_map(repeat_in_blocks)
