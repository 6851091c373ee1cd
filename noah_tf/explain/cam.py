"""Class activation maps of models that end in average pooling and one linear layer."""

import tensorflow as tf

from noah_tf.head.dropout import Dropout
from noah_tf.models.feature_map import is_functional, layer_before, num_positions
from noah_tf.utils.validation import class_indices

_POOLING = (tf.keras.layers.GlobalAveragePooling1D, tf.keras.layers.GlobalAveragePooling2D)
_DROPOUT = (Dropout, tf.keras.layers.Dropout)
_RESHAPING = (tf.keras.layers.Flatten, tf.keras.layers.Reshape)
_ACTIVATION = (tf.keras.layers.Activation, tf.keras.layers.Softmax)


class PooledHead:
    """Average pooling over all positions and a linear layer, at the end of a model.

    `attach_noah(head="gap")` makes such models; the standard models of the paper that pool, and
    those of Keras applications, are others. Dropout may stand between the two, and an activation
    behind them.

    Args:
        model: a functional Keras model, images to class scores.

    Attributes:
        input: the symbolic feature map, (B, H, W, C) or (B, L, C).
        num_classes: M.

    Raises:
        ValueError: something else stands between the feature map and the scores, for which class
            activation maps are not defined.
    """

    def __init__(self, model):
        if not is_functional(model) or len(model.outputs) != 1:
            raise ValueError(
                f"Model {model.name!r} has no graph of layers with one output, so its head cannot "
                "be found: give a functional model."
            )
        layer, inputs = layer_before(model.outputs[0])
        while isinstance(layer, _ACTIVATION):
            layer, inputs = layer_before(inputs[0])
        self._linear = layer
        if not isinstance(layer, tf.keras.layers.Dense):
            raise ValueError(_undefined(model, layer))
        layer, inputs = layer_before(inputs[0])
        while isinstance(layer, _DROPOUT) or _only_reshapes(layer, inputs):
            layer, inputs = layer_before(inputs[0])
        if not isinstance(layer, _POOLING) or layer.data_format != "channels_last":
            raise ValueError(_undefined(model, layer))
        self.input = inputs[0]
        self.num_classes = self._linear.units

    def class_activation(self, features, classes=None):
        """How much each place adds to the score of each class.

        That is the average's share of a position times the linear layer's weights; so the map sums
        over the positions to the logit without its bias.

        Args:
            features: (B, H, W, C) or (B, L, C), the model's at `input`.
            classes: indices of the K classes wanted, or None for all.

        Returns:
            (B, H, W, K) or (B, L, K).

        Raises:
            ValueError: a class is out of range.

        Reference: arXiv 1512.04150, equation 2, divided by the number of positions.
        """
        kernel = tf.convert_to_tensor(self._linear.kernel)
        if classes is not None:
            kernel = tf.gather(kernel, class_indices(classes, self.num_classes), axis=-1)
        features = tf.cast(features, kernel.dtype)
        count = tf.reduce_prod(tf.shape(features)[1:-1])
        return tf.tensordot(features, kernel, 1) / tf.cast(count, kernel.dtype)


def _only_reshapes(layer, inputs):
    """Whether a layer turns (B, 1, 1, C) into (B, C)."""
    return isinstance(layer, _RESHAPING) and num_positions(inputs[0].shape) == 1


def _undefined(model, layer):
    return (
        f"Model {model.name!r} has the layer {layer.name!r} ({type(layer).__name__}) between its "
        "feature map and its scores, where a class activation map needs average pooling and one "
        "linear layer: give a model made by attach_noah, with either head."
    )
