"""The photos of `finetuning.py`, the feature maps of its backbone, and how both are drawn."""

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from noah_tf import attach_noah
from noah_tf.datasets import BatchOptions, Source, eval_batches
from noah_tf.datasets.registry import open_source
from noah_tf.images import Preprocessing
from noah_tf.models import load_keras_file

# EfficientNet-Lite was trained on (pixel - 127) / 128.
MEAN, STD = 127 / 255, 128 / 255
# Training takes random crops of a photo whose sides are larger by this factor, and evaluation the
# central crop.
_RESIZE = 8 / 7
# The splits of CIFAR-10 that the study uses.
_CIFAR_SPLITS = ("train[:25000]", "test[:5000]")
# How many photos a learning rate search evaluates.
MIN_SEARCH_PHOTOS, MAX_SEARCH_PHOTOS = 100, 1000


class Examples(NamedTuple):
    """Photos or their feature maps.

    Attributes:
        inputs: (examples, H, W, C), uint8 pixels or float16 features.
        labels: int32 (examples,).
    """

    inputs: np.ndarray
    labels: np.ndarray

    def take(self, indices: np.ndarray) -> "Examples":
        """Returns the examples with these indices."""
        return Examples(self.inputs[indices], self.labels[indices])


def open_splits(
    data: str, photos: pathlib.Path | None, data_dir: str | None
) -> tuple[Source, Source]:
    """Opens the training and the test photos of a data set.

    Args:
        data: "trash6" or "cifar10".
        photos: the folder with the splits train/ and val/ of trash6.
        data_dir: TFDS's folder with CIFAR-10. None uses TFDS's default.
    """
    if data == "cifar10":
        train, test = (open_source(data, split, data_dir=data_dir) for split in _CIFAR_SPLITS)
    else:
        train, test = (open_source("folder", split, data_dir=photos) for split in ("train", "val"))
    return train, test


def load_backbone(path: pathlib.Path, size: int) -> tf.keras.Model:
    """Returns the model from normalized images to its last feature map.

    Args:
        path: a classifier in a `.keras` file, such as `efficientnet_lite0.py` writes.
        size: the side of the images in pixels, which may differ from that of the file.
    """
    classifier = load_keras_file(path)
    images = tf.keras.Input((size, size, 3))
    resized = tf.keras.models.clone_model(classifier, input_tensors=images)
    resized.set_weights(classifier.get_weights())
    # attach_noah finds the last feature map.
    pooled = attach_noah(resized, num_classes=1, head="gap")
    return tf.keras.Model(images, pooled.get_layer("gap_pool").input)


def load_photos(source: Source, size: int) -> Examples:
    """Returns the photos, resized to `size` pixels plus a margin for random crops."""
    side = round(size * _RESIZE)
    preprocessing = Preprocessing(
        side, resize_size=side, interpolation="bicubic", mean=(MEAN,) * 3, std=(STD,) * 3
    )
    images, labels = [], []
    for batch, batch_labels, mask in eval_batches(source, preprocessing, BatchOptions(50)):
        is_example = mask.numpy() > 0
        pixels = np.round(batch.numpy()[is_example] * 255 * STD + 255 * MEAN)
        images.append(pixels.astype(np.uint8))
        labels.append(batch_labels.numpy()[is_example])
    return Examples(np.concatenate(images), np.concatenate(labels).astype(np.int32))


def central_crop(images: np.ndarray, size: int) -> np.ndarray:
    """Returns the central crops of photos, (examples, size, size, 3)."""
    top, left = ((side - size) // 2 for side in images.shape[1:3])
    return images[:, top : top + size, left : left + size]


def normalize(images: tf.Tensor) -> tf.Tensor:
    """Returns the backbone's inputs, float32, for uint8 pixels."""
    return (tf.cast(images, tf.float32) - 255 * MEAN) / (255 * STD)


def compute_features(backbone: tf.keras.Model, photos: Examples) -> Examples:
    """Returns the backbone's feature maps of the central crops."""
    crops = central_crop(photos.inputs, backbone.input_shape[1])
    forward = tf.function(
        lambda images: tf.cast(backbone(normalize(images), training=False), tf.float16)
    )
    return Examples(apply_in_batches(forward, crops, 50), photos.labels)


def apply_in_batches(
    function: Callable[[tf.Tensor], tf.Tensor], inputs: np.ndarray, batch_size: int
) -> np.ndarray:
    """Returns the results of a function for all inputs, which it gets a batch at a time."""
    batches = [inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size)]
    return np.concatenate([function(tf.constant(batch)).numpy() for batch in batches])


def top1_accuracy(
    logits_of: Callable[[tf.Tensor], tf.Tensor], examples: Examples, batch_size: int
) -> float:
    """Returns the share of examples whose largest logit is that of their class."""
    logits = apply_in_batches(logits_of, examples.inputs, batch_size)
    return float(np.mean(logits.argmax(1) == examples.labels))


def reset_optimizer(optimizer: tf.keras.optimizers.Optimizer) -> None:
    """Sets the state of an optimizer to that before its first step, and its learning rate to 0."""
    for variable in optimizer.variables:
        variable.assign(tf.zeros_like(variable))


@functools.lru_cache(maxsize=4)
def read_examples(path: pathlib.Path) -> Examples:
    """Returns the examples in a file of `write_examples`."""
    with np.load(path) as arrays:
        return Examples(**arrays)


def write_examples(path: pathlib.Path, examples: Examples) -> None:
    """Writes examples to an NPZ file, whose name appears once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    np.savez(partial, **examples._asdict())
    partial.replace(path)


def draw(
    labels: np.ndarray, per_class: int, test_per_class: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws the photos of a seed at random, the same number of each class.

    Args:
        labels: the class of each photo, (examples,).
        per_class: training photos of each class.
        test_per_class: test photos of each class.
        seed: the seed of the draw.

    Returns:
        The indices of the training photos; those of the test photos; and those of the others.

    Raises:
        ValueError: a class has too few photos.
    """
    generator = np.random.default_rng(seed)
    train, test, others = [], [], []
    for label in np.unique(labels):
        indices = generator.permutation(np.flatnonzero(labels == label))
        if len(indices) < test_per_class + per_class:
            raise ValueError(
                f"class {label} has {len(indices)} photos, and the setting needs "
                f"{test_per_class + per_class}: give more photos."
            )
        test.append(indices[:test_per_class])
        train.append(indices[test_per_class : test_per_class + per_class])
        others.append(indices[test_per_class + per_class :])
    return np.concatenate(train), np.concatenate(test), np.concatenate(others)


def search_split(
    labels: np.ndarray, train: np.ndarray, others: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the photos that a learning rate search trains on and evaluates.

    The search trains on the training photos and evaluates others. If fewer than
    `MIN_SEARCH_PHOTOS` are left, a quarter of the training photos are evaluated instead.

    Args:
        labels: the class of each photo, (examples,).
        train: the indices of the training photos.
        others: the indices of the photos that are neither training nor test photos.
        seed: the seed of the draw.
    """
    if len(others) >= MIN_SEARCH_PHOTOS:
        order = np.random.default_rng([seed, 1]).permutation(others)
        return train, order[:MAX_SEARCH_PHOTOS]
    per_class = int(np.bincount(labels[train]).min())
    kept, evaluated, _ = draw(labels[train], per_class - per_class // 4, per_class // 4, seed)
    return train[kept], train[evaluated]


def draw_batches(count: int, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Returns the indices of the examples of each batch, int32 (steps, batch size).

    Every epoch is a new permutation, without its last examples if they do not fill a batch.

    Args:
        count: the number of examples.
        batch_size: the largest size of a batch.
        steps: the number of batches.
        seed: the seed of the permutations.
    """
    generator = np.random.default_rng([seed, 2])
    batch_size = min(batch_size, count)
    per_epoch = count // batch_size
    epochs = [
        generator.permutation(count)[: per_epoch * batch_size]
        for _ in range(-(-steps // per_epoch))
    ]
    return np.concatenate(epochs).reshape(-1, batch_size)[:steps].astype(np.int32)


def cosine_rates(rate: float, steps: int) -> np.ndarray:
    """Returns the learning rate of each step, float32: half a cosine from `rate` to 0."""
    return (0.5 * rate * (1 + np.cos(np.pi * np.arange(steps) / steps))).astype(np.float32)
