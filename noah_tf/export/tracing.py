"""Tracing a model into a graph that every server and converter can read."""

import collections.abc
import contextlib

import tensorflow as tf


@contextlib.contextmanager
def inlined_grouped_convolutions(model: tf.keras.Model) -> collections.abc.Iterator[None]:
    """While it is active, a trace of the model holds its grouped convolutions as plain ops.

    Keras puts a grouped convolution into a function of its own that XLA must compile. Not every
    server can do that, and tf2onnx cannot read such a function. Neither Keras nor TensorFlow has an
    option for one trace or one thread, so this switches `tf.config.run_functions_eagerly`, which
    holds for the whole process: meanwhile other threads run their functions eagerly, with the same
    results. It is switched only for a model that has a grouped convolution.

    Args:
        model: the model that is traced inside of the `with` block.
    """
    groups = [getattr(layer, "groups", 1) for layer in model._flatten_layers()]
    if not any(isinstance(count, int) and count > 1 for count in groups):
        yield
        return
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
