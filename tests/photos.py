"""Synthetic photos, encoded, for tests of preprocessing."""

import io

import numpy as np
import tensorflow as tf
from PIL import Image


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height, width):
    """Returns a smooth picture, which JPEG changes little."""
    rows, columns = np.mgrid[:height, :width]
    channels = (rows * 255 / height, columns * 255 / width, (rows + columns) * 127 / height)
    return np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8)


def encoded(image, file_format, mode=None, **options):
    picture = Image.fromarray(image)
    buffer = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(buffer, file_format, **options)
    return buffer.getvalue()


def in_pipeline(function, *inputs):
    """Returns the result of `function` inside tf.data."""
    return next(iter(tf.data.Dataset.from_tensors(inputs).map(function))).numpy()
