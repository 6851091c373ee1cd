"""Class activation maps of models that end in average pooling and one linear layer."""

from collections.abc import Sequence

import tensorflow as tf

from noah_tf.head import Dropout
from noah_tf.models import is_functional, layer_before, num_positions
from noah_tf.utils.validation import class_indices

_POOLING = (tf.keras.layers.GlobalAveragePooling1D, tf.keras.layers.GlobalAveragePooling2D)
_DROPOUT = (Dropout, tf.keras.layers.Dropout)
_RESHAPING = (tf.keras.layers.Flatten, tf.keras.layers.Reshape)
_ACTIVATION = (tf.keras.layers.Activation, tf.keras.layers.Softmax)


class PooledHead:
    """The head of a model that ends in global average pooling and a linear layer.

    `attach_noah(head="gap")` makes such models. Several standard models of the paper and of Keras
    Applications have such a head, too. Dropout may stand between the pooling and the linear layer,
    and an activation behind the linear layer.

    Args:
        model: a functional Keras model from images to class scores.

    Attributes:
        input: the symbolic feature map, (B, H, W, C) or (B, L, C).
        num_classes: M.

    Raises:
        ValueError: the model has another head, for which class activation maps are not defined.
    """

    def __init__(self, model: tf.keras.Model) -> None:
        if not is_functional(model) or len(model.outputs) != 1:
            raise ValueError(
                f"Model {model.name!r} has no graph of layers with one output, so its head cannot "
                "be found: use a functional model."
            )
        layer, inputs = layer_before(model.outputs[0])
        while isinstance(layer, _ACTIVATION):
            layer, inputs = layer_before(inputs[0])
        self._linear = layer
        if not isinstance(layer, tf.keras.layers.Dense):
            raise ValueError(_unsupported_layer(model, layer))
        layer, inputs = layer_before(inputs[0])
        while isinstance(layer, _DROPOUT) or _only_reshapes(layer, inputs):
            layer, inputs = layer_before(inputs[0])
        if not isinstance(layer, _POOLING) or layer.data_format != "channels_last":
            raise ValueError(_unsupported_layer(model, layer))
        self.input = inputs[0]
        self.num_classes = self._linear.units

    def class_activation(
        self, features: tf.Tensor, classes: Sequence[int] | None = None
    ) -> tf.Tensor:
        """Computes the class activation maps.

        The map of a class is the features times the weights of the linear layer, divided by the
        number of positions. It sums over the positions to the logit without its bias.

        Args:
            features: (B, H, W, C) or (B, L, C), the feature map at `input`.
            classes: indices of the K classes to compute, or None for all of them.

        Returns:
            (B, H, W, K) or (B, L, K).

        Raises:
            ValueError: a class is out of range.

        Source: arXiv 1512.04150, equation 2, divided by the number of positions.
        """
        kernel = tf.convert_to_tensor(self._linear.kernel)
        if classes is not None:
            kernel = tf.gather(kernel, class_indices(classes, self.num_classes), axis=-1)
        features = tf.cast(features, kernel.dtype)
        num_positions = tf.reduce_prod(tf.shape(features)[1:-1])
        return tf.tensordot(features, kernel, 1) / tf.cast(num_positions, kernel.dtype)


def _only_reshapes(layer, inputs) -> bool:
    """Returns True if a layer reshapes (B, 1, 1, C) to (B, C)."""
    return isinstance(layer, _RESHAPING) and num_positions(inputs[0].shape) == 1


def _unsupported_layer(model, layer) -> str:
    return (
        f"Model {model.name!r} has the layer {layer.name!r} ({type(layer).__name__}) between its "
        "feature map and its scores, but a class activation map needs average pooling and one "
        "linear layer: use a model made by attach_noah, with either head."
    )
