"""Boxes around objects: top, left, bottom and right as shares of the image's sides."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from noah_tf.images import Preprocessing


def has_boxes(example: Mapping[str, Any]) -> bool:
    """Returns True if an example of a `datasets.source.Source`, or its spec, has boxes."""
    return bool({"bbox", "boxes"} & set(example))


def boxes_in_view(
    example: Mapping[str, Any],
    photo_size: tf.Tensor,
    preprocessing: Preprocessing,
    num_classes: int,
) -> tf.Tensor:
    """Returns the boxes of an example relative to the part of the photo that a model sees.

    Args:
        example: an example with boxes of a `datasets.source.Source`.
        photo_size: int (2,), height and width of the photo.
        preprocessing: a `Preprocessing`, whose center crop the model sees.
        num_classes: M.

    Returns:
        float32 (M, 4): the box of each class, clipped to the crop. A class without an object has
        a box of area 0.
    """
    boxes = example.get("boxes")
    if boxes is None:
        boxes = tf.one_hot(example["label"], num_classes)[:, None] * example["bbox"]
    region = preprocessing.region(photo_size)
    corner, size = tf.tile(region[:2], [2]), tf.tile(region[2:] - region[:2], [2])
    return tf.clip_by_value((boxes - corner) / size, 0.0, 1.0)


def box_areas(boxes: Any) -> Any:
    """Returns the share of the image that each of the boxes (..., 4) covers."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
