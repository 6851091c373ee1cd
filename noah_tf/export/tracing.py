"""Traces models into graphs that every server and converter can read."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def inlined_grouped_convolutions(model: tf.keras.Model) -> Iterator[None]:
    """Traces the grouped convolutions of a model as plain ops, inside the `with` block.

    Keras puts a grouped convolution into a function of its own that XLA must compile. Not every
    server can do that, and tf2onnx cannot read such a function. Keras and TensorFlow have no option
    for a single trace or thread. Therefore this function switches
    `tf.config.run_functions_eagerly`, which affects the whole process: meanwhile, other threads run
    their functions eagerly, with the same results. It does so only if the model has a grouped
    convolution.

    Args:
        model: the model that is traced inside the `with` block.
    """
    if not any(_has_grouped_convolution(layer) for layer in model._flatten_layers()):
        yield
        return
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _has_grouped_convolution(layer: tf.keras.layers.Layer) -> bool:
    # The groups of GroupNormalization are no convolution.
    num_groups = getattr(layer, "groups", 1)
    is_convolution = not isinstance(layer, tf.keras.layers.GroupNormalization)
    return is_convolution and isinstance(num_groups, int) and num_groups > 1
