"""Trains all layers of a pretrained backbone with a new head: the full runs of `finetuning.py`."""

import numpy as np
import tensorflow as tf
from finetuning_data import Examples, central_crop, draw_batches, normalize

BATCH_SIZE = 32


def join_head(backbone: tf.keras.Model, head: tf.keras.Model) -> tf.keras.Model:
    """Returns the model from normalized images to logits.

    Batch normalization keeps its averages and weights, because few photos estimate them badly.

    Args:
        backbone: the result of `finetuning_data.load_backbone`.
        head: the result of `finetuning_probe.make_head`, with its trained weights.
    """
    for layer in backbone.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.trainable = False
    return tf.keras.Model(backbone.inputs, head(backbone.output))


def train_all_layers(
    model: tf.keras.Model, photos: Examples, rate: float, epochs: int, seed: int
) -> None:
    """Trains a model with Adam, a cosine schedule, random crops and random flips.

    Args:
        model: the result of `join_head`.
        photos: the training photos, uint8 with a margin around the crops.
        rate: the learning rate of the first step.
        epochs: passes over the photos.
        seed: the seed of the order, the crops and the flips.
    """
    count = len(photos.labels)
    steps = epochs * max(1, count // BATCH_SIZE)
    size = model.input_shape[1]

    def load_batch(index: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images = tf.gather(photos.inputs, indices)
        seeds = tf.random.split([seed, tf.cast(index, tf.int32)], tf.shape(indices)[0])
        return tf.map_fn(
            lambda pair: _augment(*pair, size), (images, seeds), fn_output_signature=tf.uint8
        ), tf.gather(photos.labels, indices)

    batches = tf.data.Dataset.from_tensor_slices(draw_batches(count, BATCH_SIZE, steps, seed))
    batches = batches.enumerate().map(load_batch)
    model.compile(
        tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(rate, steps)),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(batches.map(lambda images, labels: (normalize(images), labels)), verbose=0)


def _augment(image, seed, size):
    image = tf.image.stateless_random_crop(image, (size, size, 3), seed)
    return tf.image.stateless_random_flip_left_right(image, seed + 1)


def top1(model: tf.keras.Model, photos: Examples) -> float:
    """Returns the top-1 accuracy on the central crops of photos."""
    predict = tf.function(lambda images: model(normalize(images), training=False))
    crops = central_crop(photos.inputs, model.input_shape[1])
    predicted = [
        predict(tf.constant(crops[start : start + 50])).numpy().argmax(1)
        for start in range(0, len(crops), 50)
    ]
    return float(np.mean(np.concatenate(predicted) == photos.labels))
