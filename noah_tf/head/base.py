"""The base class of the head layers, and functions between (B, H, W, C) and (B, L, C)."""

from typing import Any

import tensorflow as tf

from noah_tf.head import poca


class HeadLayer(tf.keras.layers.Layer):
    """A layer from a feature map to logits.

    Subclasses set `num_classes` in their constructor and `channels` in `build`.
    """

    num_classes: int
    channels: int | None = None

    @property
    def logits_dtype(self) -> str:
        """The dtype of softmax, sums and logits."""
        return poca.logits_dtype(self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        """Returns (B, num_classes)."""
        return (input_shape[0], self.num_classes)

    def compute_output_spec(self, features: Any, training: bool | None = None) -> Any:
        """Returns the spec of the logits for Keras 3, whose default is the compute dtype."""
        self.check_features(features)
        shape = self.compute_output_shape(features.shape)
        return tf.keras.KerasTensor(shape, dtype=self.logits_dtype)

    def check_features(self, features: Any) -> None:
        """Checks the features that the layer is called with, concrete or symbolic.

        Raises:
            TypeError: the features are not floating point.
            ValueError: the rank is neither 3 nor 4, or the channels are unknown or other than those
                that the layer was built for.
        """
        dtype = tf.as_dtype(features.dtype)
        if not dtype.is_floating:
            raise TypeError(
                f"{self.name} needs floating-point features, got {dtype.name}: cast them first, "
                "for example with tf.cast(features, tf.float32)."
            )
        channels = self.known_channels(features.shape)
        if self.built and channels != self.channels:
            raise ValueError(
                f"{self.name} was built for {self.channels} channels, got features of shape "
                f"{tuple(features.shape)}."
            )

    def known_channels(self, shape: Any) -> int:
        """Returns C of the shape (B, H, W, C) or (B, L, C).

        Raises:
            ValueError: the rank is neither 3 nor 4, or C is unknown.
        """
        shape = tuple(shape)
        if len(shape) not in (3, 4):
            raise ValueError(
                f"{self.name} needs features (B, H, W, C) or (B, L, C), got shape {shape}: give it "
                "the feature map before pooling."
            )
        if shape[-1] is None:
            raise ValueError(
                f"{self.name} needs a known number of channels, got shape {shape}: set the last "
                "axis of the input's shape."
            )
        return shape[-1]


def flatten_positions(features: tf.Tensor) -> tf.Tensor:
    """Returns features (B, H, W, C) or (B, L, C) as (B, L, C), with static sizes if known."""
    if features.shape.rank == 3:
        return features
    positions = features.shape[1:3].num_elements()
    if positions is None:
        positions = tf.reduce_prod(tf.shape(features)[1:3])
    return tf.reshape(features, (poca.axis_size(features, 0), positions, features.shape[-1]))


def restore_positions(maps: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
    """Returns maps (B, L, ...) in the shape of the features: (B, H, W, ...) or (B, L, ...)."""
    positions = tf.shape(features)[1:-1]
    return tf.reshape(maps, tf.concat([tf.shape(maps)[:1], positions, tf.shape(maps)[2:]], 0))
