"""The examples of training epochs, in random order, not yet loaded."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from noah_tf.datasets.batch_options import BatchOptions
from noah_tf.datasets.order import (
    balanced_order,
    epoch_indices,
    first_examples,
    repeated,
    shuffled,
)
from noah_tf.datasets.source import Source, from_numpy, random_order
from noah_tf.utils.seeds import derived_seed

_ORDER = 0  # the purpose of the seeds, see pipeline.py


def training_examples(
    source: Source,
    options: BatchOptions,
    repeats: int,
    seed: int,
    epochs: range,
    skip_batches: int,
    shard: tuple[int, int],
    balanced: bool,
) -> tuple[tf.data.Dataset, Callable[..., dict[str, Any]]]:
    """Returns one host's examples of the epochs in random order, not yet loaded.

    Args:
        source: see `pipeline.train_batches`, like all arguments but `epochs`.
        options: see there.
        repeats: number of copies of an example in a batch.
        seed: see there.
        epochs: the range of the epochs.
        skip_batches: see there.
        shard: see there.
        balanced: see there.

    Returns:
        A dataset, and the function from its elements to examples with "copy" and "epoch".
    """
    steps = options.steps_per_epoch(source.num_examples)
    last_share = options.last_batch_size(source.num_examples) // shard[1]
    numbers = tf.data.Dataset.range(epochs.start, epochs.stop)
    if not balanced and not options.cache and source.fetch is None:
        host_batch = options.batch_size // shard[1]
        distinct = -(-host_batch // repeats)  # each host repeats its own examples
        order_seeds = tf.constant([derived_seed(seed, number, _ORDER) for number in epochs])

        def read_epoch(number):
            skipped = tf.where(number == epochs.start, skip_batches, 0)
            skipped = tf.cast(skipped, tf.int64)
            examples = shuffled(
                source,
                order_seeds[number - epochs.start],
                options.shuffle_buffer,
                skip=skipped * distinct,
                shard=shard,
            )
            if last_share < host_batch:
                examples = examples.concatenate(first_examples(source, shard))
                num_examples = tf.maximum((steps - 1 - skipped) * host_batch + last_share, 0)
            else:
                num_examples = (steps - skipped) * distinct
            examples = examples.take(num_examples)
            return repeated(examples, host_batch, distinct).map(
                lambda example: {**example, "epoch": number}
            )

        return numbers.flat_map(read_epoch), lambda example: example

    labels = source.known_labels(options.cache, "balanced sampling") if balanced else None
    fetch = fetch_from_memory(source) if options.cache else source.fetch

    def epoch_order(number):
        if labels is None:
            indices = random_order(seed, number, _ORDER, size=source.num_examples)
            occurrences = np.zeros_like(indices)
        else:
            indices, occurrences = balanced_order(labels, seed, number, _ORDER)
        skipped = skip_batches if number == epochs.start else 0
        positions, copies = epoch_indices(
            np.arange(source.num_examples),
            source.num_examples // options.batch_size,
            options.batch_size,
            repeats,
            skipped,
            shard,
        )
        if last_share < options.batch_size // shard[1] and skipped < steps:
            # Behind the last example, the epoch begins again.
            last = (steps - 1) * options.batch_size + shard[0] * last_share + np.arange(last_share)
            positions = np.concatenate([positions, last % source.num_examples])
            copies = np.concatenate([copies, last // source.num_examples])
        # Each occurrence and copy of an example has its own number, and so its own pixels.
        return indices[positions], copies + repeats * occurrences[positions]

    def list_epoch(number):
        indices, copies = from_numpy(epoch_order, [number], [tf.TensorSpec([None], tf.int64)] * 2)
        rows = tf.data.Dataset.from_tensor_slices((indices, copies))
        return rows.map(lambda index, copy: (index, copy, number))

    def load(index, copy, number):
        return {**fetch(index), "copy": copy, "epoch": number}

    return numbers.flat_map(list_epoch), load


def fetch_from_memory(source: Source) -> Callable[[Any], dict[str, Any]]:
    """Returns a function from an index in natural order to the cached example."""
    columns = {key: source.in_memory[key] for key in ("image", "label", "index")}
    return lambda index: {key: column[index] for key, column in columns.items()}
