"""Sources → batches: training from any position of any epoch, evaluation exactly once.

The order and the pixels of a training batch are functions of (seed, epoch, position) alone, not of
where the run was started, of the number of replicas, TensorFlow's global seed, or timing.
"""

import dataclasses
import difflib
import functools

import tensorflow as tf

from noah_tf.datasets.corrupt import (
    ON_CORRUPT,
    corrupt_examples,
    naming_corrupt_examples,
    replacing_corrupt,
)
from noah_tf.datasets.order import derived_seed, places, repeated, shuffled
from noah_tf.datasets.source import host_range, random_order
from noah_tf.images.augmentation import Augmentation
from noah_tf.images.pil_ops import to_uint8
from noah_tf.images.random_crop import check_crop_options

__all__ = [
    "corrupt_examples",
    "eval_batches",
    "naming_corrupt_examples",
    "train_batches",
    "train_options",
]

# The purposes that (seed, epoch) is used for, so that their random numbers differ.
_ORDER, _PIXELS, _MIX = 0, 1, 2
_CROP_OPTIONS = (
    "crop_scale",
    "crop_ratio",
    "crop_interpolation",
    "crop_antialias",
    "flip",
    "pad",
)


def train_batches(
    source,
    preprocessing,
    batch_size,
    *,
    seed,
    epoch,
    skip_batches=0,
    shard=(0, 1),
    replicas=1,
    shuffle_buffer=10_000,
    cache=False,
    on_corrupt="error",
    prefetch=None,
    threads=None,
    crop_scale=(0.08, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    crop_interpolation="same",
    crop_antialias=True,
    flip=True,
    pad=0,
    repeats=1,
    augmentation=Augmentation(),  # noqa: B008  (it is frozen)
    normalize=True,
):
    """One epoch of training batches, or what is left of it.

    Every host makes its share of each batch. Where examples can be had in any order (`cache`,
    folders, "fake"), the hosts' shares together are the batch that one host would make; else each
    host reads its own files.

    With `repeats` above 1 a batch holds ceil(batch_size / repeats) examples, laid out as that many
    blocks of the same examples in the same order, the last one cut. Blocks, because then copies of
    one example fall on different replicas, as those of the reference's sampler do: BatchNorm's
    statistics, which each replica takes for itself, see different photos. An epoch keeps its number
    of steps and sees about 1 / repeats of the examples, others in each epoch.

    Args:
        source: a `Source`.
        preprocessing: a `Preprocessing`.
        batch_size: examples in a batch, over all hosts and replicas. What does not fill one is left
            out; which examples these are changes with the epoch.
        seed: int, the run's.
        epoch: int from 0; each has its own order and its own crops.
        skip_batches: leave out this many batches at the start, unread as far as possible (see
            `Source.examples`) and undecoded: the batches are those that a whole epoch would go on
            with.
        shard: (index, count): the host's place, `input_pipeline_id` and `num_input_pipelines` of
            `tf.distribute.InputContext`. A host makes batch_size / count examples a step.
        replicas: the host's replicas: its share is mixed as one and then cut into so many batches,
            which follow each other, as `distribute_datasets_from_function` wants it.
        shuffle_buffer: where examples cannot be had in any order, they are shuffled in windows of
            this many (encoded, in memory twice).
        cache: keep the encoded examples in memory and shuffle them as a whole.
        on_corrupt: "error", or "skip": another photo of the batch stands in for one that does not
            decode, with weight 0. "skip" costs time even where all are good.
        prefetch: batches made ahead; None leaves it to tf.data.
        threads: how many threads tf.data works with; None takes TensorFlow's own.
        crop_scale: see `Preprocessing.random_crop`, as for the next five.
        crop_ratio: see there.
        crop_interpolation: see there.
        crop_antialias: see there.
        flip: see there.
        pad: see there.
        repeats: how many times an example occurs in a batch, each time with other pixels
            (repeated augmentation, arXiv 1902.05509).
        augmentation: an `Augmentation`. Pixels are a function of (seed, epoch, example, copy), the
            mixing of a batch one of (seed, epoch, host, step).
        normalize: whether images are normalised. Left to the accelerator, it costs a processor
            that is short of time nothing; but erasing needs it done.

    Returns:
        A `tf.data.Dataset` of (images, targets, weights): float32 (B, height, width, 3); int32
        (B,), or float32 (B, num_classes) where the source is multi-label or the augmentation
        mixes; float32 (B,), 1, or 0 for what stands in for a corrupt photo. B is batch_size /
        hosts / replicas.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        batches = train_batches(source, Preprocessing(64), 128, seed=0, epoch=0)
        for images, targets, weights in batches:
            ...

        strategy.distribute_datasets_from_function(
            lambda context: train_batches(
                source,
                preprocessing,
                1024,
                seed=0,
                epoch=0,
                shard=(context.input_pipeline_id, context.num_input_pipelines),
                replicas=context.num_replicas_in_sync // context.num_input_pipelines,
            )
        )
    """
    share = _check_batches(batch_size, shard, replicas, on_corrupt)
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
    _check_count("repeats", repeats)
    check_crop_options(crop_scale, crop_ratio, pad, crop_interpolation, crop_antialias)
    steps = source.num_examples // batch_size
    pixel_seed = derived_seed(seed, epoch, _PIXELS)
    if augmentation.erasing and not normalize:
        raise ValueError("Erasing fills in normalised pixels: it needs normalize=True, got False.")
    training_view = _training_view(
        preprocessing,
        augmentation,
        normalize,
        crop_scale=crop_scale and tuple(crop_scale),
        crop_ratio=tuple(crop_ratio),
        crop_interpolation=crop_interpolation,
        crop_antialias=crop_antialias,
        flip=flip,
        pad=pad,
    )

    def view(example):
        # A key of its own for each example and copy: no hashing is needed.
        key = tf.stack([pixel_seed, example["index"] + example["copy"] * source.num_examples])
        return training_view(example["image"], key), _label(example)

    if cache or source.fetch is not None:
        order = random_order(seed, epoch, _ORDER, size=source.num_examples)
        epoch_places = places(order, steps, batch_size, repeats, skip_batches, shard)
        dataset = tf.data.Dataset.from_tensor_slices(epoch_places)
        fetch = _fetch_from_memory(source) if cache else source.fetch

        def find(place, copy):
            return {**fetch(place), "copy": copy}
    else:
        distinct = -(-share // repeats)  # each host repeats its own examples
        dataset = shuffled(
            source,
            derived_seed(seed, epoch, _ORDER),
            shuffle_buffer,
            skip=min(skip_batches, steps) * distinct,
            shard=shard,
        ).take(max(steps - skip_batches, 0) * distinct)
        dataset, find = repeated(dataset, share, distinct), _as_it_is

    mixes = augmentation.mixes
    if on_corrupt == "skip":
        # A file that cannot be read is an error all the same.
        dataset = _map(dataset, find)
        dataset = replacing_corrupt(dataset, view, share)
    else:
        dataset = _map(dataset, lambda *element: (*view(find(*element)), 1.0))
        dataset = _batch(dataset, share if mixes else share // replicas)
    if mixes:
        mix_seed = derived_seed(seed, epoch, _MIX, shard[0])
        mixed = _mixed(augmentation)

        def mix(step, batch):
            images, targets, weights = batch
            if not source.multi_label:
                targets = tf.one_hot(targets, source.num_classes)
            images, targets = mixed(images, targets, tf.stack([mix_seed, step]))
            return images, targets, weights

        dataset = _map(dataset.enumerate(skip_batches), mix)
    if replicas > 1 and (mixes or on_corrupt == "skip"):
        dataset = dataset.rebatch(share // replicas, drop_remainder=True)
    return _finish(dataset, prefetch, threads, replicas)


def train_options(section, preprocessing):
    """A recipe's `augment` section as keyword arguments of `train_batches`.

    Args:
        section: mapping with any of crop_scale, crop_ratio, crop_interpolation, crop_antialias,
            flip, pad, repeats (of `train_batches`), color_jitter, rand_augment, erasing,
            erasing_mode, mixup, cutmix, mix_probability, mix_switch (of `Augmentation`); what is
            absent keeps its default.
        preprocessing: the recipe's `Preprocessing`: RandAugment interpolates as the crop does.

    Returns:
        Dict with the crop's options, `repeats` and `augmentation`.

    Raises:
        ValueError: a key is unknown or a value out of its range; the message names `augment.KEY`.

    Example:
        options = train_options({"repeats": 3, "mixup": 0.8, "cutmix": 1.0}, preprocessing)
        batches = train_batches(source, preprocessing, 1024, seed=0, epoch=0, **options)
    """
    section = dict(section)
    fields = [f.name for f in dataclasses.fields(Augmentation) if f.name != "interpolation"]
    known = (*_CROP_OPTIONS, "repeats", *fields)
    for key in section:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0)
            raise ValueError(
                f"There is no augment.{key}; the nearest is augment.{near[0]} "
                f"(all: {', '.join(known)})."
            )
    options = {key: section[key] for key in (*_CROP_OPTIONS, "repeats") if key in section}
    defaults = {"crop_scale": None, "crop_ratio": (3 / 4, 4 / 3), "pad": 0}
    checked = [options.get(key, default) for key, default in defaults.items()]
    interpolation = options.get("crop_interpolation", "same")
    try:
        check_crop_options(*checked, interpolation, options.get("crop_antialias", True))
        _check_count("repeats", options.get("repeats", 1))
    except ValueError as error:
        raise ValueError(f"augment.{error}") from error
    if not isinstance(options.get("flip", True), bool):
        raise ValueError(f"augment.flip must be True or False; received {options['flip']!r}.")
    options["augmentation"] = Augmentation(
        interpolation=preprocessing.interpolation if interpolation == "same" else interpolation,
        **{key: section[key] for key in fields if key in section},
    )
    return options


def eval_batches(
    source,
    preprocessing,
    batch_size,
    *,
    cache=False,
    shard=(0, 1),
    replicas=1,
    on_corrupt="error",
    prefetch=None,
    threads=None,
    change=None,
):
    """Every example once, in natural order, in batches of one shape.

    Of several hosts each takes its part of the natural order; all make equally many batches.

    Args:
        source: a `Source`.
        preprocessing: a `Preprocessing`.
        batch_size: examples in a batch, over all hosts and replicas.
        cache: keep the encoded examples in memory.
        shard: (index, count), the host's place, as for the next four see `train_batches`.
        replicas: the host's replicas.
        on_corrupt: "error", or "skip": a photo that does not decode has the mask 0.
        prefetch: batches made ahead.
        threads: how many threads tf.data works with.
        change: a function, which can be hashed, of what is seen of a photo, uint8
            (height, width, 3), and of its place in the natural order, to another such picture,
            before it is normalised.

    Returns:
        A `tf.data.Dataset` of (images, labels, mask): the first two as `train_batches` gives them
        without mixing, and float32 (B,): 1 for an example, 0 for what fills the last batches up.

    Raises:
        ValueError: an argument is out of its range.
    """
    share = _check_batches(batch_size, shard, replicas, on_corrupt)
    evaluation_view = _evaluation_view(preprocessing, change)

    def view(example):
        return evaluation_view(example["image"], example["index"]), _label(example)

    start, stop = host_range(source.num_examples, shard, even=False)
    if cache:
        dataset = tf.data.Dataset.range(start, stop)
        find = _fetch_from_memory(source)
    else:
        dataset, find = source.examples(shard=shard), _as_it_is
    largest = -(-source.num_examples // shard[1])
    size = -(-largest // share) * share
    if on_corrupt == "skip":
        dataset = replacing_corrupt(_map(dataset, find), view, share)
        missing = size // share - -(-(stop - start) // share)
    else:
        dataset = _map(dataset, lambda element: (*view(find(element)), 1.0))
        missing = size - (stop - start)
    if missing:
        filler = tf.nest.map_structure(
            lambda spec: tf.zeros(spec.shape, spec.dtype), dataset.element_spec
        )
        dataset = dataset.concatenate(tf.data.Dataset.from_tensors(filler).repeat(missing))
    if on_corrupt != "skip":
        dataset = _batch(dataset, share // replicas)
    elif replicas > 1:
        dataset = dataset.rebatch(share // replicas, drop_remainder=True)
    return _finish(dataset, prefetch, threads, replicas)


# Every epoch builds its pipeline anew, and tracing RandAugment takes seconds: so what is done to a
# photo and to a batch is traced once for its options, and takes the epoch's seeds as tensors.
# Nothing in it is for AutoGraph, which would take as long again.


@functools.lru_cache(maxsize=8)
def _training_view(preprocessing, augmentation, normalize, **crop_options):
    """A function from an encoded photo and its seed to what the model is given."""
    fill = [255 * mean for mean in preprocessing.mean]

    @tf.function(
        input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([2], tf.int64)],
        autograph=False,
    )
    def view(image_bytes, seed):
        image = preprocessing.random_crop(image_bytes, seed, **crop_options)
        image = augmentation.image(image, seed, fill)
        return augmentation.erase(preprocessing.normalize(image), seed) if normalize else image

    return view


@functools.lru_cache(maxsize=8)
def _evaluation_view(preprocessing, change):
    """A function from an encoded photo and its place to what the model is given."""

    @tf.function(
        input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)],
        autograph=False,
    )
    def view(image_bytes, place):
        image = preprocessing.decode(image_bytes)
        if change is None:
            return preprocessing.evaluation(image)
        seen = to_uint8(preprocessing.centre_crop(image))
        return preprocessing.normalize(change(seen, place))

    return view


@functools.lru_cache(maxsize=8)
def _mixed(augmentation):
    """A function from (images, targets, seed) to images and targets, mixed."""
    return tf.function(augmentation.mix, autograph=False)


def _check_batches(batch_size, shard, replicas, on_corrupt):
    """The host's share of a batch."""
    _check_count("batch_size", batch_size)
    _check_count("replicas", replicas)
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard must be (index, count), 0 <= index < count; received {shard!r}.")
    if batch_size % (count * replicas):
        raise ValueError(
            f"batch_size {batch_size} does not divide among {count} hosts with {replicas} replicas "
            f"each: use a multiple of {count * replicas}."
        )
    if on_corrupt not in ON_CORRUPT:
        raise ValueError(
            f"on_corrupt must be one of {', '.join(ON_CORRUPT)}; received {on_corrupt!r}."
        )
    return batch_size // count


def _check_count(name, value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive int; received {value!r}.")


def _label(example):
    """int64 → int32, which every loss takes; multi-hot vectors stay."""
    label = example["label"]
    return tf.cast(label, tf.int32) if label.dtype == tf.int64 else label


def _as_it_is(example):
    return example


def _fetch_from_memory(source):
    """A function from a place in the split to its example."""
    columns = {key: source.in_memory[key] for key in ("image", "label", "index")}
    return lambda place: {key: column[place] for key, column in columns.items()}


def _map(dataset, function):
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _batch(dataset, size):
    return dataset.batch(size, drop_remainder=True)


def _finish(dataset, prefetch, threads, replicas):
    options = tf.data.Options()
    options.deterministic = True
    if threads is not None:
        _check_count("threads", threads)
        options.threading.private_threadpool_size = threads
    # Where a strategy is given the whole dataset: workers read the same order and keep their own
    # share of it; sources may have fewer files than there are workers.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    if prefetch is not None:
        _check_count("prefetch", prefetch)
    ahead = tf.data.AUTOTUNE if prefetch is None else prefetch * replicas
    return dataset.with_options(options).prefetch(ahead)
