"""Sources → batches: training from any position of any epoch, evaluation exactly once.

The order and the pixels of a training batch are functions of (seed, epoch, position) alone, not of
where the run was started, TensorFlow's global seed, or timing.
"""

import contextlib

import numpy as np
import tensorflow as tf

from noah_tf.datasets.source import random_order
from noah_tf.preprocess import check_crop_options, decode

# The purposes that (seed, epoch) is used for, so that their random numbers differ.
_ORDER, _PIXELS = 0, 1


def train_batches(
    source,
    preprocessing,
    batch_size,
    *,
    seed,
    epoch,
    skip_batches=0,
    shuffle_buffer=10_000,
    cache=False,
    crop_scale=(0.08, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip=True,
    pad=0,
):
    """One epoch of training batches, or what is left of it.

    Args:
        source: a `Source`.
        preprocessing: a `Preprocessing`.
        batch_size: examples in a batch, over all replicas. What does not fill one is left out;
            which examples these are changes with the epoch.
        seed: int, the run's.
        epoch: int from 0; each has its own order and its own crops.
        skip_batches: leave out this many batches at the start, unread where the source is cached
            and undecoded elsewhere: the batches are those that a whole epoch would go on with.
        shuffle_buffer: where the source is not cached, examples are shuffled in windows of this
            many (encoded, in memory twice).
        cache: keep the encoded examples in memory and shuffle them as a whole.
        crop_scale: see `Preprocessing.random_crop`, as for the next three.
        crop_ratio: see there.
        flip: see there.
        pad: see there.

    Returns:
        A `tf.data.Dataset` of (images, labels): float32 (batch_size, height, width, 3) and int32
        (batch_size,), or float32 (batch_size, num_classes) where the source is multi-label. It can
        go to `strategy.experimental_distribute_dataset`.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        for images, labels in train_batches(source, Preprocessing(64), 128, seed=0, epoch=0):
            ...
    """
    _check_batch_size(batch_size)
    if batch_size > source.num_examples:
        raise ValueError(
            f"batch_size {batch_size} is larger than the {source.num_examples} examples of "
            f"{source.name!r}, split {source.split!r}: there would be no batch; make it smaller."
        )
    if min(seed, epoch, skip_batches) < 0 or shuffle_buffer < 1:
        raise ValueError(
            "seed, epoch and skip_batches must be 0 or more and shuffle_buffer 1 or more; received "
            f"{seed}, {epoch}, {skip_batches}, {shuffle_buffer}."
        )
    check_crop_options(crop_scale, crop_ratio, pad)
    pixel_seed = _derived_seed(seed, epoch, _PIXELS)

    def view(example):
        # (pixel_seed, index) is a key of its own for each example: no hashing is needed.
        image = preprocessing.training(
            example["image"],
            tf.stack([pixel_seed, example["index"]]),
            crop_scale=crop_scale,
            crop_ratio=crop_ratio,
            flip=flip,
            pad=pad,
        )
        return image, _label(example)

    if cache:
        order = random_order(seed, epoch, _ORDER, size=source.num_examples)
        dataset, find = _from_memory(source, order[skip_batches * batch_size :])
    else:
        dataset = _shuffled(source, _derived_seed(seed, epoch, _ORDER), shuffle_buffer)
        dataset, find = dataset.skip(skip_batches * batch_size), _as_it_is
    dataset = _map(dataset, lambda element: view(find(element)))
    return _finish(dataset.batch(batch_size, drop_remainder=True))


def eval_batches(source, preprocessing, batch_size, *, cache=False):
    """Every example once, in natural order, in batches of one shape.

    Args:
        source: a `Source`.
        preprocessing: a `Preprocessing`.
        batch_size: examples in a batch, over all replicas.
        cache: keep the encoded examples in memory.

    Returns:
        A `tf.data.Dataset` of (images, labels, mask): the first two as `train_batches` gives them,
        and float32 (batch_size,): 1 for an example, 0 for what fills the last batch up.

    Raises:
        ValueError: batch_size is no positive int.
    """
    _check_batch_size(batch_size)

    def view(example):
        return preprocessing.evaluation(decode(example["image"])), _label(example), 1.0

    if cache:
        dataset, find = _from_memory(source, np.arange(source.num_examples))
    else:
        dataset, find = source.examples(), _as_it_is
    dataset = _map(dataset, lambda element: view(find(element)))
    missing = -source.num_examples % batch_size
    if missing:
        filler = tf.nest.map_structure(
            lambda spec: tf.zeros(spec.shape, spec.dtype), dataset.element_spec
        )
        dataset = dataset.concatenate(tf.data.Dataset.from_tensors(filler).repeat(missing))
    return _finish(dataset.batch(batch_size, drop_remainder=True))


def corrupt_examples(source, limit=10):
    """Finds the examples whose photo does not decode, by decoding them all.

    Args:
        source: a `Source`.
        limit: stop after this many.

    Returns:
        A list of (index in natural order, what the decoder says).
    """

    def decoded(example):
        return example["index"], tf.shape(decode(example["image"]))

    # A decoder's error does not say which photo it was about, so the gaps are looked for.
    good = {int(index) for index, _ in _map(source.examples(), decoded).ignore_errors()}
    bad = [index for index in range(source.num_examples) if index not in good][:limit]
    return (
        [(int(e["index"]), _decoder_message(e["image"])) for e in source.pick(bad)] if bad else []
    )


@contextlib.contextmanager
def naming_corrupt_examples(source):
    """Where a batch fails for a photo that does not decode, says which photo it is.

    Nothing is paid for it until then; the search decodes the whole split once.

    Args:
        source: the `Source` that is read inside.

    Raises:
        ValueError: a photo does not decode.

    Example:
        with naming_corrupt_examples(source):
            for images, labels in train_batches(source, ...):
                ...
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = corrupt_examples(source)
        if not found:
            raise
        lines = [f"{source.describe(index)}: {message}" for index, message in found]
        raise ValueError(
            "Photos that do not decode; replace or remove them:\n" + "\n".join(lines)
        ) from error


def _decoder_message(image_bytes):
    try:
        decode(image_bytes)
    except tf.errors.InvalidArgumentError as error:
        return error.message.split("} ")[-1].split(" [Op:")[0]
    return "decodes"


def _check_batch_size(batch_size):
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive int; received {batch_size!r}.")


def _derived_seed(*numbers):
    """A positive int64 that depends on all the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _label(example):
    """int64 → int32, which every loss takes; multi-hot vectors stay."""
    label = example["label"]
    return tf.cast(label, tf.int32) if label.dtype == tf.int64 else label


def _as_it_is(example):
    return example


def _from_memory(source, order):
    """A dataset of places in the split, and the function from a place to its example."""
    columns = {key: source.in_memory[key] for key in ("image", "label", "index")}
    dataset = tf.data.Dataset.from_tensor_slices(order)
    return dataset, lambda place: {key: column[place] for key, column in columns.items()}


def _shuffled(source, seed, window):
    """The source's examples in a random order that depends on the seed alone.

    `Dataset.shuffle` would depend on TensorFlow's global seed as well.
    """

    def shuffle_window(number, examples):
        size = tf.shape(examples["index"])[0]
        order = tf.random.experimental.stateless_shuffle(
            tf.range(size), tf.stack([seed, number]), alg="philox"
        )
        places = tf.data.Dataset.from_tensor_slices(order)
        return places.map(lambda place: {key: v[place] for key, v in examples.items()})

    keys = ("image", "label", "index")
    examples = source.examples(shuffle_seed=seed).map(lambda e: {key: e[key] for key in keys})
    return examples.batch(window).prefetch(1).enumerate().flat_map(shuffle_window)


def _map(dataset, function):
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _finish(dataset):
    options = tf.data.Options()
    options.deterministic = True
    # Workers read the same order and keep their own share of it; sources may have fewer files than
    # there are workers.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)
