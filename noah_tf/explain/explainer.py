"""Maps that show which positions of an image a model used for a class, for both heads."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from noah_tf.explain.cam import PooledHead
from noah_tf.head import InferenceHead, NOAHHead
from noah_tf.utils.validation import class_indices

METHODS = ("attention", "contribution", "cam")
METHOD_TITLES = dict(zip(METHODS, ("attention", "contribution", "class activation"), strict=True))
# The maps of these methods sum to the logit: evidence against the class is negative.
SIGNED = ("contribution", "cam")


class Explainer:
    """Computes the maps of a model's head for any classes.

    A model with a NOAHHead has two methods: "attention", whose maps sum to 1 over the positions,
    and "contribution", attention times value, whose maps sum to the logit. A model returned by
    `for_inference` has "attention" only. A model with average pooling and a linear layer has "cam",
    the class activation map, which sums to the logit without its bias.

    Args:
        model: a functional Keras model from images to logits.

    Attributes:
        methods: the names of the model's methods, the default first.
        model_name: the model's name.
        traced_maps: the method `maps` as a `tf.function`, which is faster for many images.

    Raises:
        ValueError: the model has neither head.

    Example:

    >>> logits, maps = Explainer(model)(images)  # maps of the predicted classes
    """

    def __init__(self, model: tf.keras.Model) -> None:
        noah_types = (NOAHHead, InferenceHead)
        noah_heads = [layer for layer in model.layers if isinstance(layer, noah_types)]
        self._head: Any = noah_heads[-1] if noah_heads else PooledHead(model)
        self._compute_maps: dict[str, Callable[..., tf.Tensor]]
        if isinstance(self._head, PooledHead):
            self._compute_maps = {"cam": self._head.class_activation}
        else:
            self._compute_maps = {"attention": self._head.attention}
            if isinstance(self._head, NOAHHead):
                self._compute_maps["contribution"] = self._head.contributions
        self.model_name = model.name
        self.methods = tuple(self._compute_maps)
        self._features_and_logits = tf.keras.Model(model.input, [self._head.input, model.output])
        self.traced_maps = tf.function(self.maps, autograph=False, reduce_retracing=True)

    def __call__(
        self,
        images: tf.Tensor,
        classes: Any = None,
        method: str | None = None,
        per_group: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predicts a batch and computes its maps.

        Args:
            images: (B, height, width, 3), preprocessed.
            classes: (B, K) class indices for each image, or None for the predicted class, K = 1.
            method: one of `methods`; None for the first.
            per_group: whether to return a map for each of the head's N groups.

        Returns:
            NumPy arrays: logits (B, M), and maps (B, H, W, K), with `per_group` (B, H, W, N, K).
            Tokens (B, L, C) are arranged in the grid of square patches that they stand for.

        Raises:
            ValueError: the tokens do not form such a grid, a class is out of range, or the head
                does not have the method.
        """
        features, logits = self.forward(images)
        if classes is None:
            classes = tf.argmax(logits, axis=-1)[:, None]
        class_indices(np.ravel(classes), self._head.num_classes)
        classes = tf.convert_to_tensor(classes)
        maps = self.traced_maps(features, classes, np.shape(images)[1:3], method, per_group)
        return logits.numpy(), maps.numpy()

    def forward(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs the model.

        Args:
            images: float32 (B, H, W, 3), preprocessed.

        Returns:
            The feature map that the head takes, and the logits (B, M).
        """
        return self._features_and_logits(images, training=False)

    def has_maps(self, image_size: Sequence[int]) -> bool:
        """Returns True if the positions of the head's feature map form a grid.

        Args:
            image_size: height and width of the images, in pixels.
        """
        shape = self._head.input.shape
        if len(shape) == 4:
            return True
        return shape[1] is not None and _grid_rows(shape[1], image_size) is not None

    def maps(
        self,
        features: tf.Tensor,
        classes: tf.Tensor,
        image_size: Sequence[int],
        method: str | None = None,
        per_group: bool = False,
    ) -> tf.Tensor:
        """Computes the maps that `__call__` returns, with TensorFlow ops only.

        Args:
            features: the feature map that `forward` returns.
            classes: int (B, K).
            image_size: height and width of the images, in pixels.
            method: see `__call__`.
            per_group: see `__call__`.

        Returns:
            float32 (B, H, W, K), with `per_group` (B, H, W, N, K).

        Raises:
            ValueError: see `__call__`.
        """
        method = method or self.methods[0]
        self._check(method, per_group)
        options = {"per_group": True} if per_group else {}
        is_tokens = features.shape.rank == 3
        # An error inside of map_fn would leave TensorFlow 2.15's variable scope changed.
        grid = _grid_of_tokens(features.shape[1], image_size) if is_tokens else None

        def example_maps(example):
            example_features, example_classes = example
            maps = self._compute_maps[method](
                example_features[None], classes=example_classes, **options
            )[0]
            if is_tokens:
                maps = tf.reshape(maps, tf.concat([grid, tf.shape(maps)[1:]], 0))
            return tf.cast(maps, tf.float32)

        spec = tf.TensorSpec((None,) * (4 if per_group else 3), tf.float32)
        elements = features, tf.convert_to_tensor(classes)
        return tf.map_fn(example_maps, elements, fn_output_signature=spec)

    def embeddings(self, features: tf.Tensor, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns one vector for each image: its features, averaged in two ways.

        Args:
            features: the feature map that `forward` returns, (B, H, W, C) or (B, L, C).
            logits: the logits that `forward` returns.

        Returns:
            A dict of float32 (B, C), computed with TensorFlow ops only. "pooled" is the average
            over the positions. "attended", which models with a NOAH head have, is the average
            weighted by the attention for the class with the largest logit.
        """
        features = tf.cast(features, tf.float32)
        positions = tf.reshape(features, (tf.shape(features)[0], -1, features.shape[-1]))
        embeddings = {"pooled": tf.reduce_mean(positions, axis=1)}
        if "attention" in self.methods:
            attention = self._attention_of(features, tf.argmax(logits, axis=-1))
            embeddings["attended"] = tf.einsum("bp,bpc->bc", attention, positions)
        return embeddings

    def _attention_of(self, features: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Returns the attention of one class of each image, averaged over the groups, (B, L)."""

        def example_attention(example):
            example_features, label = example
            attention = self._head.attention(example_features[None], classes=label[None])
            return tf.cast(tf.reshape(attention, [-1]), tf.float32)

        spec = tf.TensorSpec([None], tf.float32)
        return tf.map_fn(example_attention, (features, classes), fn_output_signature=spec)

    def _check(self, method: str, per_group: bool) -> None:
        if method not in self.methods:
            kind = "pooled" if isinstance(self._head, PooledHead) else "NOAH"
            raise ValueError(
                f"Model {self.model_name!r} has a {kind} head, whose maps are "
                f"{' and '.join(self.methods)}, got method={method!r}."
            )
        if per_group and isinstance(self._head, PooledHead):
            raise ValueError(
                f"Model {self.model_name!r} has a pooled head without groups: leave per_group out."
            )


def _grid_of_tokens(num_tokens: int, image_size: Sequence[int]) -> tuple[int, int]:
    """Returns the rows and columns of the square patches that tile an image row by row."""
    rows = _grid_rows(num_tokens, image_size)
    if rows is None:
        raise ValueError(
            f"{num_tokens} tokens do not tile an image of {image_size[0]}x{image_size[1]} pixels "
            "with square patches, so they do not form a map: use the head's own methods."
        )
    return rows, num_tokens // rows


def _grid_rows(num_tokens: int, image_size: Sequence[int]) -> int | None:
    """Returns the number of rows of square patches, or None if they do not tile the image."""
    height, width = image_size
    rows = round(math.sqrt(num_tokens * height / width))
    fits = rows and not num_tokens % rows and rows * width == num_tokens // rows * height
    return rows if fits else None
