"""Runs SavedModels as TF Serving does: in a Session of the C++ loader."""

import contextlib

import tensorflow as tf


@contextlib.contextmanager
def loaded_graph(path):
    """Yields a function of a signature's name and its inputs, which returns a dict of arrays."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(path))

        def call(signature, **inputs):
            signature_def = meta_graph.signature_def[signature]
            feed = {signature_def.inputs[name].name: value for name, value in inputs.items()}
            outputs = {name: info.name for name, info in signature_def.outputs.items()}
            return session.run(outputs, feed)

        yield call


def run_graph(path, signature, **inputs):
    """Loads a SavedModel and calls one signature."""
    with loaded_graph(path) as call:
        return call(signature, **inputs)
