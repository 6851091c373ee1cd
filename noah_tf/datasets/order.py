"""Which example stands where in an epoch: permutations, windows, hosts' shares, repeats."""

import numpy as np
import tensorflow as tf


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


def shuffled(source, seed, window, skip, shard):
    """The source's examples in a random order that depends on the seed alone, from a position.

    `Dataset.shuffle` would depend on TensorFlow's global seed as well.
    """
    whole, rest = divmod(skip, window)

    def shuffle_window(number, examples):
        size = tf.shape(examples["index"])[0]
        order = tf.random.experimental.stateless_shuffle(
            tf.range(size), tf.stack([seed, number]), alg="philox"
        )
        order = order[tf.where(number == whole, rest, 0) :]
        places = tf.data.Dataset.from_tensor_slices(order)
        return places.map(lambda place: {key: v[place] for key, v in examples.items()})

    keys = ("image", "label", "index")
    examples = source.examples(shuffle_seed=seed, skip=whole * window, shard=shard)
    windows = examples.map(lambda e: {key: e[key] for key in keys}).batch(window)
    return windows.prefetch(1).enumerate(whole).flat_map(shuffle_window)


def repeated(examples, share, distinct):
    """`share` examples for every `distinct` ones, with "copy", see `pipeline.train_batches`."""
    if share == distinct:
        return examples.map(lambda example: {**example, "copy": tf.constant(0, tf.int64)})

    def blocks(batch):
        slots = tf.data.Dataset.range(share)
        return slots.map(
            lambda slot: {
                **{k: v[slot % distinct] for k, v in batch.items()},
                "copy": slot // distinct,
            }
        )

    return examples.batch(distinct, drop_remainder=True).flat_map(blocks)
