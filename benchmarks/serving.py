"""Speed of an exported model, relative to the Keras model with the same decoding.

    python benchmarks/serving.py --images FOLDER_OF_JPEGS

Exports MobileNetV2 x0.35 with a NOAH head (224 px, 1000 classes) and sends encoded photos through
its signature `serving_default`. The baseline is a `tf.function` that decodes and preprocesses the
same photos in a `tf.map_fn` and calls the Keras model. Both run in turns. The benchmark prints the
medians of the wall time and of the CPU time, which other programs do not affect, and their ratio.
With --tolerant the export reports a status for each photo, and the ratio shows the cost of that.
"""

import argparse
import functools
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from turns import seconds_in_turns, seconds_of

from noah_tf import create_model, export_savedmodel
from noah_tf.models.zoo import preprocessing_for

NAME = "noah_mobilenetv2_035"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", help="folder of JPEGs; by default noise of 500 x 375 pixels")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each turn")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--tolerant", action="store_true")
    arguments = parser.parse_args()

    photos = find_photos(arguments.images, max(arguments.batch_sizes))
    model = create_model(NAME)
    with tempfile.TemporaryDirectory() as folder:
        exported = export_signature(model, folder, arguments.tolerant)
    baseline = make_baseline(model)
    print(f"TensorFlow {tf.__version__}, {'tolerant' if arguments.tolerant else 'strict'} export")
    for batch_size in arguments.batch_sizes:
        batch = tf.constant(photos[:batch_size])
        turns = {
            "keras": functools.partial(baseline, batch),
            "export": functools.partial(exported, image_bytes=batch),
        }
        np.testing.assert_allclose(
            turns["export"]()["logits"], turns["keras"]()[0], rtol=1e-4, atol=1e-5
        )
        calls = max(1, round(arguments.seconds / seconds_of(turns["keras"], 3)[0]))
        times = seconds_in_turns(turns, arguments.repeats, calls)
        for name, turn in times.items():
            wall, cpu = batch_size / np.median(turn, axis=0)
            print(f"batch {batch_size:3} {name:7} {wall:7.1f} images/s, {cpu:7.1f} per CPU second")
        wall, cpu = np.median(times["keras"] / times["export"], axis=0)
        print(f"batch {batch_size:3} export relative to Keras: {wall:.3f}, by CPU time {cpu:.3f}")


def find_photos(folder: str | None, count: int) -> list[bytes]:
    """Returns `count` encoded JPEGs of a folder, or of noise if there is no folder."""
    if folder is None:
        noise = np.random.default_rng(0).integers(0, 256, (count, 12, 16, 3)).astype(np.float32)
        pixels = tf.cast(tf.image.resize(noise, (375, 500)), tf.uint8)
        return [tf.io.encode_jpeg(image).numpy() for image in pixels]
    files = sorted(
        p for p in pathlib.Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg")
    )
    if len(files) < count:
        raise SystemExit(f"{folder} has {len(files)} JPEGs, and the largest batch needs {count}.")
    return [file.read_bytes() for file in files[:: len(files) // count][:count]]


def export_signature(model: tf.keras.Model, folder: str, tolerant: bool) -> Callable:
    """Exports the model, loads the export, and returns its signature `serving_default`."""
    path = export_savedmodel(
        model, folder, preprocessing_for(NAME), tolerant=tolerant, warmup_batch_sizes=()
    )
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    signature.owner = loaded  # keeps the weights alive
    return signature


def make_baseline(model: tf.keras.Model) -> Callable:
    """Returns a function from encoded photos to logits and probabilities of the Keras model."""
    preprocessing = preprocessing_for(NAME)
    spec = tf.TensorSpec((*preprocessing.image_size, 3), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def call(image_bytes):
        images = tf.map_fn(
            lambda data: preprocessing.evaluation(preprocessing.decode(data)),
            image_bytes,
            fn_output_signature=spec,
        )
        logits = model(images, training=False)
        return logits, tf.nn.softmax(logits)

    return call


if __name__ == "__main__":
    main()
