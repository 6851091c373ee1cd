"""Compares the forward time of our models with the same models of Keras applications.

    python benchmarks/backbone_speed.py

Each model is traced once for a fixed batch size. The two models of a pair run alternately in one
process, and the script prints the ratio of the medians.
"""

import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from absl import app, flags

import noah_tf

_BATCH = flags.DEFINE_integer("batch_size", 8, "Images per batch.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 20, "Timed runs of each model.", lower_bound=3)

_PEERS = {
    "resnet50": lambda: tf.keras.applications.ResNet50(weights=None, classifier_activation=None),
    "mobilenetv2_100": lambda: tf.keras.applications.MobileNetV2(
        weights=None, classifier_activation=None
    ),
    "mobilenetv3_small": lambda: tf.keras.applications.MobileNetV3Small(
        weights=None, classifier_activation=None, include_preprocessing=False
    ),
}


def compare(name, images, repeats):
    """Returns the median seconds of our model and of Keras's, and their ratio."""
    models = (noah_tf.create_model(name), _PEERS[name]())
    functions = [tf.function(lambda x, m=model: m(x, training=False)) for model in models]
    for function in functions:
        for _ in range(2):
            function(images)
    times = ([], [])
    for _ in range(repeats):
        for function, record in zip(functions, times, strict=True):
            start = time.perf_counter()
            function(images).numpy()
            record.append(time.perf_counter() - start)
    ours, peer = (statistics.median(record) for record in times)
    return ours, peer, ours / peer


def main(_):
    images = tf.random.normal((_BATCH.value, 224, 224, 3))
    print(f"TensorFlow {tf.__version__}, batch {_BATCH.value}, median of {_REPEATS.value}")
    print(f"{'model':18} {'ours':>9} {'Keras':>9} {'ratio':>6}")
    for name in _PEERS:
        ours, peer, ratio = compare(name, images, _REPEATS.value)
        print(f"{name:18} {ours * 1e3:6.1f} ms {peer * 1e3:6.1f} ms {ratio:6.2f}")


if __name__ == "__main__":
    app.run(main)
