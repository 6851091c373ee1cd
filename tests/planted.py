"""A data set and models with known maps: one of 4x4 cells of the image is red or green."""

import numpy as np
import tensorflow as tf

from noah_tf import NOAHHead
from noah_tf.datasets.source import Source
from noah_tf.images.preprocessing import Preprocessing

GRID_SIZE, CELL_SIZE = 4, 8  # cells per side of the map, pixels per side of a cell
IMAGE_SIZE = GRID_SIZE * CELL_SIZE
PREPROCESSING = Preprocessing(image_size=IMAGE_SIZE, mean=(0, 0, 0), std=(1, 1, 1))


def planted_source(count=12, boxes=True, multi_label=False, seed=0):
    """Returns a source of black images with one red (class 0) or green (class 1) cell.

    The box of the class is the cell. Multi-label images have a red and a green cell.
    """
    rng = np.random.default_rng(seed)
    box_key = "boxes" if multi_label else "bbox"
    columns = {"image": [], "label": [], "index": [], box_key: []}
    for index in range(count):
        classes = [0, 1] if multi_label else [index % 2]
        image = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        class_boxes = np.zeros((2, 4), np.float32)
        for cell, label in zip(rng.permutation(GRID_SIZE**2), classes, strict=False):
            row, column = divmod(cell, GRID_SIZE)
            top, left = row * CELL_SIZE, column * CELL_SIZE
            image[top : top + CELL_SIZE, left : left + CELL_SIZE, label] = 255
            class_boxes[label] = np.array([row, column, row + 1, column + 1]) / GRID_SIZE
        columns["image"].append(tf.io.encode_png(image).numpy())
        columns["label"].append(np.ones(2, np.float32) if multi_label else np.int64(classes[0]))
        columns["index"].append(np.int64(index))
        columns[box_key].append(class_boxes if multi_label else class_boxes[classes[0]])
    if not boxes:
        columns.pop(box_key)
    examples = tf.data.Dataset.from_tensor_slices(
        {key: np.array(column) for key, column in columns.items()}
    )
    return Source(
        "planted", "test", count, ("red", "green"), multi_label, lambda *_: examples, fetch=None
    )


def planted_noah(key=40.0, value=10.0, image_size=(IMAGE_SIZE, IMAGE_SIZE)):
    """Returns a model whose keys and values are proportional to the brightness of the color."""
    inputs, features = _features(image_size)
    head = NOAHHead(2, num_groups=1, split_key_value=False, name="noah_head")
    model = tf.keras.Model(inputs, head(features))
    colors = np.eye(3)[None, :, :2]
    head.set_weights([key * colors, np.zeros((1, 2)), value * colors, np.zeros((1, 2))])
    return model


def planted_gap(weight=10.0, bias=(0.0, 0.0)):
    """Returns a model whose logits are proportional to the mean brightness of the class's color."""
    inputs, features = _features()
    pooled = tf.keras.layers.GlobalAveragePooling2D()(features)
    linear = tf.keras.layers.Dense(2)
    model = tf.keras.Model(inputs, linear(pooled))
    linear.set_weights([weight * np.eye(3)[:, :2], np.array(bias)])
    return model


def _features(image_size=(IMAGE_SIZE, IMAGE_SIZE)):
    inputs = tf.keras.Input((*image_size, 3))
    pool_size = [side // GRID_SIZE for side in image_size]
    return inputs, tf.keras.layers.AveragePooling2D(pool_size)(inputs)
