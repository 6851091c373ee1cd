"""Where a model saw a class: the maps of either head."""

import math

import numpy as np
import tensorflow as tf

from noah_tf.explain.cam import PooledHead
from noah_tf.head.inference import InferenceHead
from noah_tf.head.layer import NOAHHead
from noah_tf.utils.validation import class_indices

METHODS = ("attention", "contribution", "cam")
# Those whose maps sum to the logit: what speaks against a class is negative.
SIGNED = ("contribution", "cam")


class Explainer:
    """Maps of where a model saw a class, or found evidence for it.

    A model with a NOAHHead has two: "attention", which weighs the places and sums to 1, and
    "contribution", attention times value, which sums to the logit. A model of `for_inference` has
    "attention" alone. One with average pooling and a linear layer has "cam", the class activation
    map, which sums to the logit without its bias.

    Args:
        model: a functional Keras model, images to logits.

    Attributes:
        methods: the names of the model's maps, its usual one first.
        model_name: the model's name.
        traced_maps: the method `maps` as a `tf.function`, which is faster for many images.

    Raises:
        ValueError: the model has neither head.

    Example:

    >>> logits, maps = Explainer(model)(images)  # of the predicted classes
    """

    def __init__(self, model):
        kinds = (NOAHHead, InferenceHead)
        heads = [layer for layer in model.layers if isinstance(layer, kinds)]
        if heads:
            self._head = heads[-1]
            self._maps = {"attention": self._head.attention}
            if isinstance(self._head, NOAHHead):
                self._maps["contribution"] = self._head.contributions
        else:
            self._head = PooledHead(model)
            self._maps = {"cam": self._head.class_activation}
        self.model_name = model.name
        self.methods = tuple(self._maps)
        self._features = tf.keras.Model(model.input, [self._head.input, model.output])
        self.traced_maps = tf.function(self.maps, autograph=False, reduce_retracing=True)

    def __call__(self, images, classes=None, method=None, per_group=False):
        """Predictions of a batch, and where some classes were seen in it.

        Args:
            images: (B, height, width, 3), preprocessed.
            classes: (B, K) class indices of each image, or None for the predicted class, K = 1.
            method: one of `methods`; None for the first.
            per_group: whether to return one map for each of the head's N groups.

        Returns:
            logits (B, M), and maps (B, H, W, K), with `per_group` (B, H, W, N, K); both numpy
            arrays. Tokens come as the grid of square patches that they were.

        Raises:
            ValueError: the tokens are no such grid, a class is out of range, or the head has no
                such maps.
        """
        features, logits = self.forward(images)
        if classes is None:
            classes = tf.argmax(logits, axis=-1)[:, None]
        class_indices(np.ravel(classes), self._head.num_classes)
        classes = tf.convert_to_tensor(classes)
        maps = self.traced_maps(features, classes, np.shape(images)[1:3], method, per_group)
        return logits.numpy(), maps.numpy()

    def forward(self, images):
        """Predicts, and keeps what maps are computed from.

        Args:
            images: float32 (B, H, W, 3), preprocessed.

        Returns:
            The feature map that the head takes, and the logits (B, M), as tensors.
        """
        return self._features(images, training=False)

    def has_maps(self, image_size):
        """Whether `maps` has a grid to show.

        Args:
            image_size: (height, width) of the images in pixels.

        Returns:
            Bool.
        """
        shape = self._head.input.shape
        return len(shape) == 4 or (shape[1] is not None and _rows(shape[1], image_size) is not None)

    def maps(self, features, classes, image_size, method=None, per_group=False):
        """The maps of `__call__` as a tensor, in TensorFlow ops alone.

        Args:
            features: the head's, as `forward` gives them.
            classes: int (B, K).
            image_size: (height, width) of the images, in pixels.
            method: as of `__call__`.
            per_group: likewise.
        """
        method = method or self.methods[0]
        self._check(method, per_group)
        options = {"per_group": True} if per_group else {}

        def one(image):
            own_features, own_classes = image
            maps = self._maps[method](own_features[None], classes=own_classes, **options)[0]
            if own_features.shape.rank == 2:
                maps = _as_grid(maps, image_size)
            return tf.cast(maps, tf.float32)

        spec = tf.TensorSpec((None,) * (4 if per_group else 3), tf.float32)
        return tf.map_fn(one, (features, tf.convert_to_tensor(classes)), fn_output_signature=spec)

    def _check(self, method, per_group):
        if method not in self.methods:
            kind = "pooled" if isinstance(self._head, PooledHead) else "NOAH"
            raise ValueError(
                f"Model {self.model_name!r} has a {kind} head, whose maps are "
                f"{' and '.join(self.methods)}, got method={method!r}."
            )
        if per_group and isinstance(self._head, PooledHead):
            raise ValueError(
                f"Model {self.model_name!r} has a pooled head, without groups: leave per_group out."
            )


def _as_grid(maps, image_size):
    """(H, W, ...) of the maps (L, ...) of patches that tile an image row by row."""
    tokens = maps.shape[0]
    rows = _rows(tokens, image_size)
    if rows is None:
        raise ValueError(
            f"{tokens} tokens do not tile an image of {image_size[0]}x{image_size[1]} pixels with "
            "square patches, so there is no picture of them: use the head's own methods."
        )
    return tf.reshape(maps, tf.concat([(rows, tokens // rows), tf.shape(maps)[1:]], 0))


def _rows(tokens, image_size):
    """How many rows of square patches an image has, or None where they do not tile it."""
    height, width = image_size
    rows = round(math.sqrt(tokens * height / width))
    fits = rows and not tokens % rows and rows * width == tokens // rows * height
    return rows if fits else None
