"""SavedModels as TF Serving runs them."""

import contextlib

import tensorflow as tf


@contextlib.contextmanager
def loaded_graph(path):
    """A function of a signature's name and its inputs, run in a Session of the C++ loader."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(path))

        def call(signature, **inputs):
            info = meta.signature_def[signature]
            feed = {info.inputs[name].name: value for name, value in inputs.items()}
            return session.run({name: out.name for name, out in info.outputs.items()}, feed)

        yield call


def run_graph(path, signature, **inputs):
    """One call of `loaded_graph`."""
    with loaded_graph(path) as call:
        return call(signature, **inputs)
