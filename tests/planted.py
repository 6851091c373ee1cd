"""A data set and models whose maps are known: one bright cell of 4x4, red or green."""

import numpy as np
import tensorflow as tf

from noah_tf import NOAHHead
from noah_tf.datasets.source import Source
from noah_tf.images.preprocessing import Preprocessing

CELLS, CELL = 4, 8  # of the maps each way, and a cell's pixels each way
PREPROCESSING = Preprocessing(image_size=CELLS * CELL, mean=(0, 0, 0), std=(1, 1, 1))


def planted_source(count=12, boxes=True, multi_label=False, seed=0):
    """Images of one bright cell: of class 0 it is red, of class 1 green; its box is the cell's.

    With several labels both are there, in two cells.
    """
    rng = np.random.default_rng(seed)
    columns = {"image": [], "label": [], "index": [], "boxes" if multi_label else "bbox": []}
    for index in range(count):
        classes = [0, 1] if multi_label else [index % 2]
        image = np.zeros((CELLS * CELL, CELLS * CELL, 3), np.uint8)
        found = np.zeros((2, 4), np.float32)
        for place, label in zip(rng.permutation(CELLS**2), classes, strict=False):
            row, column = divmod(place, CELLS)
            image[row * CELL :, column * CELL :, label][:CELL, :CELL] = 255
            found[label] = np.array([row, column, row + 1, column + 1]) / CELLS
        columns["image"].append(tf.io.encode_png(image).numpy())
        columns["label"].append(np.ones(2, np.float32) if multi_label else np.int64(classes[0]))
        columns["index"].append(np.int64(index))
        columns["boxes" if multi_label else "bbox"].append(
            found if multi_label else found[classes[0]]
        )
    if not boxes:
        columns.pop("boxes" if multi_label else "bbox")
    examples = tf.data.Dataset.from_tensor_slices(
        {key: np.array(column) for key, column in columns.items()}
    )
    return Source(
        "planted", "test", count, ("red", "green"), multi_label, lambda *_: examples, fetch=None
    )


def planted_noah(key=40.0, value=10.0, size=(CELLS * CELL, CELLS * CELL)):
    """Keys and values of a class are so many times the brightness of its colour."""
    inputs, features = _features(size)
    head = NOAHHead(2, num_groups=1, split_key_value=False, name="noah_head")
    model = tf.keras.Model(inputs, head(features))
    colours = np.eye(3)[None, :, :2]
    head.set_weights([key * colours, np.zeros((1, 2)), value * colours, np.zeros((1, 2))])
    return model


def planted_gap(weight=10.0, bias=(0.0, 0.0)):
    """The logit of a class is so many times the mean brightness of its colour, plus its bias."""
    inputs, features = _features()
    pooled = tf.keras.layers.GlobalAveragePooling2D()(features)
    linear = tf.keras.layers.Dense(2)
    model = tf.keras.Model(inputs, linear(pooled))
    linear.set_weights([weight * np.eye(3)[:, :2], np.array(bias)])
    return model


def _features(size=(CELLS * CELL, CELLS * CELL)):
    inputs = tf.keras.Input((*size, 3))
    return inputs, tf.keras.layers.AveragePooling2D([side // CELLS for side in size])(inputs)
