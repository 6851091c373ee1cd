"""Boxes of objects: top, left, bottom, right as shares of an image's sides."""

import tensorflow as tf


def has_boxes(example):
    """Whether an example of a `datasets.source.Source`, or its specification, has boxes."""
    return bool({"bbox", "boxes"} & set(example))


def boxes_in_view(example, photo_size, preprocessing, num_classes):
    """Where an example's objects are in what a model sees of the photo.

    Args:
        example: of a `datasets.source.Source`, with boxes.
        photo_size: int (2,), the photo's height and width.
        preprocessing: a `Preprocessing`, whose centre crop is what is seen.
        num_classes: M.

    Returns:
        float32 (M, 4): of each class its box, cut to what is seen, and one without area where
        there is none.
    """
    boxes = example.get("boxes")
    if boxes is None:
        boxes = tf.one_hot(example["label"], num_classes)[:, None] * example["bbox"]
    region = preprocessing.region(photo_size)
    corner, size = tf.tile(region[:2], [2]), tf.tile(region[2:] - region[:2], [2])
    return tf.clip_by_value((boxes - corner) / size, 0.0, 1.0)


def areas(boxes):
    """The share of the image that boxes (..., 4) cover."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
