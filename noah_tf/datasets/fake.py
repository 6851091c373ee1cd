"""The source "fake": any number of synthetic photos, to try recipes and measure without data."""

import dataclasses
import functools
import zlib

import numpy as np
import tensorflow as tf

from noah_tf.datasets.source import Source, read_by_index
from noah_tf.utils.validation import check_positive_int

HEIGHT, WIDTH = 375, 500  # the most frequent size in ImageNet
_NUM_PHOTOS = 8


def open_fake(split: str, num_examples: int | None, num_classes: int | None) -> Source:
    """Opens a source of synthetic photos, for `registry.open_source`.

    It draws a few JPEGs of about 100 kB and repeats them; each split has its own. The labels cycle
    through the classes independently of the photos, so there is nothing to learn.

    Args:
        split: any name.
        num_examples: number of examples.
        num_classes: number of classes.

    Raises:
        ValueError: a number is missing or out of its range.
    """
    try:
        num_examples = check_positive_int("num_examples", num_examples)
        num_classes = check_positive_int("num_classes", num_classes)
    except ValueError as error:
        raise ValueError(f'name="fake" needs both numbers: {error}') from error
    photos = tf.constant([_draw_photo(split, number) for number in range(_NUM_PHOTOS)])

    def fetch(index):
        label = _labels(index, num_classes)
        return {"image": photos[index % _NUM_PHOTOS], "label": label, "index": index}

    return Source(
        name="fake",
        split=split,
        num_examples=num_examples,
        class_names=tuple(str(number) for number in range(num_classes)),
        multi_label=False,
        read=functools.partial(read_by_index, fetch, num_examples),
        fetch=fetch,
        labels=_labels(np.arange(num_examples), num_classes),
    )


def with_alpha(source: Source) -> Source:
    """Returns a copy of a fake source whose photos are PNG files with an alpha channel."""
    assert source.fetch is not None

    def fetch(index):
        example = source.fetch(index)
        pixels = tf.io.decode_png(example["image"], channels=3)
        return {**example, "image": tf.io.encode_png(tf.concat([pixels, pixels[..., :1]], -1))}

    read = functools.partial(read_by_index, fetch, source.num_examples)
    return dataclasses.replace(source, fetch=fetch, read=read)


def _labels(index, num_classes):
    # The label changes more slowly than the photo, so that no photo stands for one class.
    return (index + index // _NUM_PHOTOS) % num_classes


def _draw_photo(split, number):
    """Returns a JPEG of colored blobs with grain, which makes it as large as a real photo."""
    rng = np.random.Generator(np.random.PCG64([zlib.crc32(split.encode()), number]))
    blobs = rng.uniform(0, 255, (1, 6, 8, 3)).astype(np.float32)
    smooth = tf.image.resize(blobs, (HEIGHT, WIDTH), "bicubic")[0].numpy()
    pixels = np.clip(smooth + rng.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8)
    return tf.io.encode_jpeg(pixels, quality=92).numpy()
