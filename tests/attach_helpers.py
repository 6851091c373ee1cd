"""Helpers of the tests of attach.py."""

import numpy as np

CLASSES = 5


def images(model, batch=2, seed=0):
    """Returns random inputs for a model. Unknown sizes become 1."""
    shape = [1 if size is None else size for size in model.input_shape[1:]]
    return np.random.default_rng(seed).random((batch, *shape), dtype=np.float32)
