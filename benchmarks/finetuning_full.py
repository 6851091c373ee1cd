"""Trains all layers of a pretrained backbone with a new head: the full runs of `finetuning.py`."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from finetuning_data import (
    Examples,
    central_crop,
    cosine_rates,
    draw_batches,
    normalize,
    reset_optimizer,
    top1_accuracy,
)

BATCH_SIZE = 32


class FullTraining:
    """Trains all layers with Adam, a cosine schedule, random crops and random flips.

    Batch normalization keeps its averages and weights, because few photos estimate them badly. All
    trainings start from the same backbone and share one compiled step.

    Args:
        backbone: the result of `finetuning_data.load_backbone`.
        head: the result of `finetuning_probe.make_head`.
    """

    def __init__(self, backbone: tf.keras.Model, head: tf.keras.Model) -> None:
        for layer in backbone.layers:
            if isinstance(layer, tf.keras.layers.BatchNormalization):
                layer.trainable = False
        self._backbone, self._head = backbone, head
        self._start = backbone.get_weights()
        self._model = tf.keras.Model(backbone.inputs, head(backbone.output))
        self._optimizer = tf.keras.optimizers.Adam()
        self._optimizer.build(self._model.trainable_variables)
        self._step = tf.function(self._train_step)
        self._predict = tf.function(lambda images: self._model(normalize(images), training=False))

    @property
    def parameters(self) -> int:
        """The number of weights of the backbone and the head."""
        return self._model.count_params()

    def train(
        self,
        head_weights: Sequence[np.ndarray],
        photos: Examples,
        rate: float,
        epochs: int,
        seed: int,
    ) -> None:
        """Trains the backbone anew, with a head that is trained already.

        Args:
            head_weights: the weights of the head at the start.
            photos: the training photos, uint8 with a margin around the crops.
            rate: the learning rate of the first step.
            epochs: passes over the photos.
            seed: the seed of the order, the crops, the flips and the dropout.
        """
        tf.keras.utils.set_random_seed(seed)
        self._backbone.set_weights(self._start)
        self._head.set_weights(head_weights)
        reset_optimizer(self._optimizer)
        count = len(photos.labels)
        steps = epochs * max(1, count // BATCH_SIZE)
        size = self._model.input_shape[1]

        def load_batch(index: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            images = tf.gather(photos.inputs, indices)
            seeds = tf.random.split([seed, tf.cast(index, tf.int32)], tf.shape(indices)[0])
            return tf.map_fn(
                lambda pair: _augment(*pair, size), (images, seeds), fn_output_signature=tf.uint8
            ), tf.gather(photos.labels, indices)

        batches = tf.data.Dataset.from_tensor_slices(draw_batches(count, BATCH_SIZE, steps, seed))
        batches = batches.enumerate().map(load_batch)
        for (images, labels), step_rate in zip(batches, cosine_rates(rate, steps), strict=True):
            self._step(images, labels, tf.constant(step_rate))

    def get_weights(self) -> list[np.ndarray]:
        """Returns the weights of the backbone and the head."""
        return self._model.get_weights()

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Sets the weights of the backbone and the head."""
        self._model.set_weights(weights)

    def top1(self, photos: Examples) -> float:
        """Returns the top-1 accuracy on the central crops of photos."""
        crops = central_crop(photos.inputs, self._model.input_shape[1])
        return top1_accuracy(self._predict, Examples(crops, photos.labels), 50)

    def _train_step(self, images: tf.Tensor, labels: tf.Tensor, rate: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = self._model(normalize(images), training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            loss = tf.reduce_mean(losses)
        weights = self._model.trainable_variables
        self._optimizer.learning_rate.assign(rate)
        self._optimizer.apply(tape.gradient(loss, weights), weights)


def _augment(image, seed, size):
    image = tf.image.stateless_random_crop(image, (size, size, 3), seed)
    return tf.image.stateless_random_flip_left_right(image, seed + 1)
