"""Trains heads on cached feature maps: the linear probes of `finetuning.py`."""

from typing import Any

import numpy as np
import tensorflow as tf
from finetuning_data import (
    Examples,
    cosine_rates,
    draw_batches,
    reset_optimizer,
    top1_accuracy,
)

from noah_tf import attach_noah

BATCH_SIZE = 64


def make_head(
    maps_shape: tuple[int, ...], num_classes: int, options: dict[str, Any]
) -> tf.keras.Model:
    """Returns a model from feature maps to logits, with a new head.

    Args:
        maps_shape: (H, W, C).
        num_classes: M, the number of classes.
        options: further arguments of `attach_noah`.
    """
    inputs = tf.keras.Input(maps_shape)
    # attach_noah needs a layer between the input and the head.
    features = tf.keras.layers.Activation("linear", name="features")(inputs)
    backbone = tf.keras.Model(inputs, features)
    return attach_noah(backbone, num_classes, feature_layer="features", **options)


class Probe:
    """Trains new heads of one kind on feature maps, with Adam and a cosine schedule.

    All heads share one compiled training loop, because compiling costs more than training.

    Args:
        maps_shape: (H, W, C).
        num_classes: M, the number of classes.
        options: further arguments of `attach_noah`, and "key_rate", a factor of the learning rate
            of the keys.
        steps: training steps, the same for all heads.
    """

    def __init__(
        self, maps_shape: tuple[int, ...], num_classes: int, options: dict[str, Any], steps: int
    ) -> None:
        options = dict(options)
        key_rate = options.pop("key_rate", 1.0)
        self._arguments = maps_shape, num_classes, options
        self._model = make_head(*self._arguments)
        keys, others = [], []
        for variable in self._model.trainable_variables:
            (keys if variable.name.startswith("key_") else others).append(variable)
        # Weights, the factor of their learning rate, and their optimizer.
        self._groups = [
            (weights, factor, tf.keras.optimizers.Adam())
            for weights, factor in ((others, 1.0), (keys, key_rate))
            if weights
        ]
        for weights, _, optimizer in self._groups:
            optimizer.build(weights)
        self._steps = steps
        self._maps = tf.Variable(
            np.zeros((0, *maps_shape), np.float16), shape=(None, *maps_shape), trainable=False
        )
        self._train = tf.function(self._train_steps, reduce_retracing=True)
        self._predict = tf.function(self._logits, reduce_retracing=True)

    @property
    def parameters(self) -> int:
        """The number of weights of a head."""
        return self._model.count_params()

    def accuracy(self, train: Examples, test: Examples, rate: float, seed: int) -> float:
        """Trains a new head and returns its top-1 accuracy on the test photos.

        Args:
            train: the feature maps of the training photos.
            test: the feature maps of the test photos.
            rate: the learning rate of the first step.
            seed: the seed of the initial weights and of the order of the photos.
        """
        self.trained_head(train, rate, seed)
        return top1_accuracy(self._predict, test, 256)

    def trained_head(self, train: Examples, rate: float, seed: int) -> tf.keras.Model:
        """Trains a new head and returns its model, which the next training changes.

        Args:
            train: the feature maps of the training photos.
            rate: the learning rate of the first step.
            seed: the seed of the initial weights and of the order of the photos.
        """
        tf.keras.utils.set_random_seed(seed)
        self._model.set_weights(make_head(*self._arguments).get_weights())
        for _, _, optimizer in self._groups:
            reset_optimizer(optimizer)
        self._maps.assign(train.inputs)
        batches = draw_batches(len(train.labels), BATCH_SIZE, self._steps, seed)
        rates = cosine_rates(rate, self._steps)
        self._train(tf.constant(train.labels), tf.constant(batches), tf.constant(rates))
        return self._model

    def _train_steps(self, labels: tf.Tensor, batches: tf.Tensor, rates: tf.Tensor) -> None:
        for step in tf.range(tf.shape(rates)[0]):
            maps = tf.cast(tf.gather(self._maps, batches[step]), tf.float32)
            with tf.GradientTape() as tape:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                    labels=tf.gather(labels, batches[step]), logits=self._model(maps, training=True)
                )
                loss = tf.reduce_mean(losses)
            gradients = tape.gradient(loss, [weights for weights, _, _ in self._groups])
            for group_gradients, (weights, factor, optimizer) in zip(
                gradients, self._groups, strict=True
            ):
                optimizer.learning_rate.assign(factor * rates[step])
                optimizer.apply(group_gradients, weights)

    def _logits(self, maps: tf.Tensor) -> tf.Tensor:
        return self._model(tf.cast(maps, tf.float32), training=False)
