"""From a source to batches, for training and for evaluation.

The order and the pixels of a training batch are functions of (seed, epoch, step) alone. They do not
depend on where the run was started, on the number of replicas, on TensorFlow's global seed, or on
timing.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from noah_tf.datasets.batch_options import BatchOptions
from noah_tf.datasets.corrupt import replacing_corrupt
from noah_tf.datasets.epochs import fetch_from_memory, training_examples
from noah_tf.datasets.source import Source, file_names, host_range
from noah_tf.images import Preprocessing, TrainTransform, to_uint8
from noah_tf.utils.seeds import derived_seed
from noah_tf.utils.validation import check_positive_int

# (seed, epoch) is used for several purposes, and each has random numbers of its own.
_PIXELS = 1  # 0 in epochs.py


def train_batches(
    source: Source,
    transform: TrainTransform,
    options: BatchOptions,
    *,
    seed: int,
    epoch: int,
    num_epochs: int = 1,
    skip_batches: int = 0,
    shard: tuple[int, int] = (0, 1),
    replicas: int = 1,
    balanced: bool = False,
) -> tf.data.Dataset:
    """Returns the batches of training epochs, without those that were trained on already.

    Every host makes its share of each batch. If the source can fetch any example (`cache`, folders,
    "fake"), the shares of all hosts together are the batch that a single host would make. Otherwise
    each host reads its own files.

    With `transform.repeats` above 1, a batch holds ceil(batch_size / repeats) different examples.
    They form blocks: each block has all of them in the same order, and the last block is cut off.
    The copies of an example therefore fall on different replicas, as with the sampler of the
    reference, and the BatchNorm statistics of a replica come from different photos. The number of
    steps per epoch stays the same, so an epoch sees about 1 / repeats of the examples, and each
    epoch sees others.

    Args:
        source: the training examples.
        transform: from an encoded photo to pixels. The pixels and the seeds are functions of (seed,
            epoch, example, copy). Normalization, erasing and mixing are left to the device, see
            `TrainTransform.on_device`.
        options: batch size, caching, and handling of corrupt photos. Examples that do not fill a
            batch are dropped, and each epoch drops others; or they make a smaller batch, see
            `BatchOptions.last_batch_multiple`.
        seed: the seed of the run, 0 or more.
        epoch: the first epoch, from 0. Each epoch has its own order and its own crops.
        num_epochs: number of epochs. A single pipeline makes their batches, one epoch after the
            other, so that the batches of an epoch are prefetched while the last one is evaluated.
        skip_batches: number of batches of the first epoch to skip; the others are the same as in a
            whole epoch. Skipped photos are not decoded, and as far as possible not read (see
            `Source.examples`).
        shard: (index, count) of the host: `input_pipeline_id` and `num_input_pipelines` of a
            `tf.distribute.InputContext`.
        replicas: number of replicas of the host. Its share of a batch is split into one batch per
            replica, in the order that `distribute_datasets_from_function` expects.
        balanced: whether every class is drawn equally often, see `order.balanced_order`.

    Returns:
        A `tf.data.Dataset` of (images, labels, seeds, weights). images: uint8 (B, H, W, 3). labels:
        int32 (B,), or float32 (B, num_classes) if the source is multi-label. seeds: int64 (B, 2),
        from which the images were made. weights: float32 (B,), 0 for the substitutes of corrupt
        photos and 1 for all others. B is batch_size / hosts / replicas.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        transform = TrainTransform(Preprocessing(64))
        for images, labels, seeds, weights in train_batches(
            source, transform, BatchOptions(128), seed=0, epoch=0, num_epochs=90
        ):
            images, targets = transform.on_device(images, labels, seeds, source.num_classes)
            ...

        strategy.distribute_datasets_from_function(
            lambda context: train_batches(
                source,
                transform,
                BatchOptions(1024),
                seed=0,
                epoch=0,
                shard=(context.input_pipeline_id, context.num_input_pipelines),
                replicas=context.num_replicas_in_sync // context.num_input_pipelines,
            )
        )
    """
    host_batch = options.host_batch_size(shard, replicas)
    if options.batch_size > source.num_examples:
        raise ValueError(
            f"batch_size {options.batch_size} is larger than the {source.num_examples} examples of "
            f"{source.name!r}, split {source.split!r}: use a smaller batch_size."
        )
    if min(seed, epoch, skip_batches) < 0:
        raise ValueError(
            "seed, epoch and skip_batches must be 0 or more, "
            f"got {seed}, {epoch} and {skip_batches}."
        )
    check_positive_int("num_epochs", num_epochs)
    skip_batches = min(skip_batches, options.steps_per_epoch(source.num_examples))
    epochs = range(epoch, epoch + num_epochs)
    pixel_seeds = tf.constant([derived_seed(seed, number, _PIXELS) for number in epochs], tf.int64)
    transform_photo = _traced_transform(transform)

    def transform_example(example):
        # Each example and copy has its own number, so that no hashing is needed.
        number = example["index"] + example["copy"] * source.num_examples
        photo_seed = tf.stack([pixel_seeds[example["epoch"] - epoch], number])
        return transform_photo(example["image"], photo_seed), _label(example), photo_seed

    dataset, load = training_examples(
        source, options, transform.repeats, seed, epochs, skip_batches, shard, balanced
    )
    if options.last_batch_multiple:
        _check_last_batch(transform, options)
    if options.on_corrupt == "skip":
        # Loading stays outside: a file that cannot be read is an error all the same.
        dataset = replacing_corrupt(_map(dataset, load), transform_example, host_batch)
    else:
        dataset = _map(dataset, lambda *element: (*transform_example(load(*element)), 1.0))
        dataset = _batch_epochs(
            dataset, host_batch // replicas, replicas, options, source.num_examples, skip_batches
        )
    if replicas > 1 and options.on_corrupt == "skip":
        dataset = dataset.rebatch(host_batch // replicas, drop_remainder=True)
    return _with_runtime_options(dataset, options, replicas)


def _check_last_batch(transform, options):
    """Raises ValueError if an epoch cannot end with a smaller batch."""
    others = transform.augmentation.mixes, transform.repeats > 1, options.on_corrupt == "skip"
    if any(others):
        raise ValueError(
            "An epoch ends with a smaller batch only without mixup, CutMix, repeats and "
            "on_corrupt='skip': drop that batch, or leave these out."
        )


def eval_batches(
    source: Source,
    preprocessing: Preprocessing,
    options: BatchOptions,
    *,
    shard: tuple[int, int] = (0, 1),
    replicas: int = 1,
    pixel_transform: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
) -> tf.data.Dataset:
    """Returns every example once, in natural order, in batches of the same shape.

    With several hosts, each one reads its part of the natural order. All hosts make the same number
    of batches.

    Args:
        source: the examples.
        preprocessing: how photos are decoded, cropped and normalized.
        options: batch size, caching, and handling of corrupt photos.
        shard: (index, count) of the host, see `train_batches`.
        replicas: number of replicas of the host.
        pixel_transform: a hashable function from the cropped photo, uint8 (H, W, 3), and the
            example's index in natural order to another photo of this shape, applied before the
            normalization.

    Returns:
        A `tf.data.Dataset` of (images, labels, mask). images: float32 (B, H, W, 3). labels: int32
        (B,), or float32 (B, num_classes) if the source is multi-label. mask: float32 (B,), 1 for an
        example, and 0 for padding of the last batches or a corrupt photo. B is batch_size / hosts /
        replicas.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        for images, labels, mask in eval_batches(source, Preprocessing(224), BatchOptions(64)):
            ...
    """
    host_batch = options.host_batch_size(shard, replicas)
    preprocess_photo = _traced_preprocessing(preprocessing, pixel_transform)

    def preprocess_example(example):
        return preprocess_photo(example["image"], example["index"]), _label(example)

    start, stop = host_range(source.num_examples, shard, even=False)
    if options.cache:
        dataset = tf.data.Dataset.range(start, stop)
        load = fetch_from_memory(source)
    else:
        dataset, load = source.examples(shard=shard), _identity
    largest_share = -(-source.num_examples // shard[1])
    padded_share = -(-largest_share // host_batch) * host_batch
    if options.on_corrupt == "skip":
        dataset = replacing_corrupt(_map(dataset, load), preprocess_example, host_batch)
        num_missing = padded_share // host_batch - -(-(stop - start) // host_batch)  # batches
    else:
        dataset = _map(dataset, lambda element: (*preprocess_example(load(element)), 1.0))
        num_missing = padded_share - (stop - start)  # examples
    if num_missing:
        padding = tf.nest.map_structure(
            lambda spec: tf.zeros(spec.shape, spec.dtype), dataset.element_spec
        )
        dataset = dataset.concatenate(tf.data.Dataset.from_tensors(padding).repeat(num_missing))
    if options.on_corrupt != "skip":
        dataset = _batch(dataset, host_batch // replicas)
    elif replicas > 1:
        dataset = dataset.rebatch(host_batch // replicas, drop_remainder=True)
    return _with_runtime_options(dataset, options, replicas)


def photo_batches(
    files: Sequence[str], preprocessing: Preprocessing, batch_size: int
) -> tf.data.Dataset:
    """Returns the photos of files as `eval_batches` preprocesses them, without those that fail.

    Args:
        files: the paths of the photos.
        preprocessing: how photos are decoded, cropped and normalized.
        batch_size: the largest number of photos in a batch.

    Returns:
        A `tf.data.Dataset` of (indices, images) in the order of the files. indices: int64 (B,).
        images: float32 (B, H, W, 3). A file that cannot be read or decoded is left out.
    """
    preprocess_photo = _traced_preprocessing(preprocessing, None)
    paths = file_names(files)

    def load(index):
        return index, preprocess_photo(tf.io.read_file(paths[index]), index)

    photos = _map(tf.data.Dataset.range(len(files)), load).ignore_errors()
    return photos.batch(batch_size).prefetch(tf.data.AUTOTUNE)


# Tracing RandAugment takes seconds. The functions below are therefore traced once for their options
# and take the seeds of an epoch as tensors. They need no AutoGraph, which would double that time.


@functools.lru_cache(maxsize=8)
def _traced_transform(transform: TrainTransform) -> Callable[..., Any]:
    """Returns `transform` as a `tf.function` of an encoded photo and a seed."""
    signature = [tf.TensorSpec([], tf.string), tf.TensorSpec([2], tf.int64)]
    return tf.function(transform.__call__, input_signature=signature, autograph=False)


@functools.lru_cache(maxsize=8)
def _traced_preprocessing(
    preprocessing: Preprocessing, pixel_transform: Callable[..., Any] | None
) -> Callable[..., Any]:
    """Returns the preprocessing as a `tf.function` of an encoded photo and its index."""
    signature = [tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)]

    @tf.function(input_signature=signature, autograph=False)
    def preprocess(image_bytes, index):
        image = preprocessing.decode(image_bytes)
        if pixel_transform is None:
            return preprocessing.evaluation(image)
        cropped = to_uint8(preprocessing.center_crop(image))
        return preprocessing.normalize(pixel_transform(cropped, index))

    return preprocess


def _label(example):
    """Returns the label: int64 as int32, which every loss takes; multi-hot vectors unchanged."""
    label = example["label"]
    return tf.cast(label, tf.int32) if label.dtype == tf.int64 else label


def _identity(example):
    return example


def _map(dataset, function):
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _batch(dataset, size):
    return dataset.batch(size, drop_remainder=True)


def _batch_epochs(dataset, size, replicas, options, num_examples, skip_batches):
    """Returns batches of `size` examples, and the last one of each epoch if it is kept.

    Args:
        dataset: the examples of one host.
        size: examples of an ordinary batch of one replica.
        replicas: number of replicas of the host.
        options: the `BatchOptions`.
        num_examples: number of examples of the source.
        skip_batches: number of batches of the first epoch that are left out.
    """
    last_batch = options.last_batch_size(num_examples)
    if last_batch == options.batch_size:
        return _batch(dataset, size)
    last_size = last_batch * size // options.batch_size
    full_steps = options.steps_per_epoch(num_examples) - 1
    sizes = [size] * (full_steps * replicas) + [last_size] * replicas
    skipped = skip_batches * replicas
    return dataset.batch(math.gcd(size, last_size)).rebatch(sizes[skipped:] + sizes[:skipped])


def _with_runtime_options(dataset, batch_options, replicas):
    options = tf.data.Options()
    options.deterministic = True
    if batch_options.threads is not None:
        options.threading.private_threadpool_size = batch_options.threads
    # If a strategy distributes the whole dataset, each worker reads the same order and keeps its
    # share of the elements: a source may have fewer files than there are workers.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    prefetch = batch_options.prefetch
    buffer_size = tf.data.AUTOTUNE if prefetch is None else prefetch * replicas
    return dataset.with_options(options).prefetch(buffer_size)
