"""Measures the throughput of evaluation and prediction, compared with their two halves.

    python benchmarks/evaluation_speed.py --images DIR

DIR holds JPEGs. The rows of the table:

    decode        the input pipeline of the evaluation alone: decode, resize, crop, normalize
    forward       the model alone, on batches in memory
    evaluation    `Evaluator`, as `trainers/evaluate.py` runs it
    read files    the input pipeline of the prediction alone
    predict       `KerasPredictor`, as `trainers/predict.py` runs it

On CPUs both halves share the cores, so the rate of the whole is at best
1 / (1 / decode + 1 / forward). The last column is the rate relative to that, in the same round.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from photo_source import photo_files, photo_source
from turns import seconds_in_turns

import noah_tf
from noah_tf.datasets.batch_options import BatchOptions
from noah_tf.datasets.pipeline import eval_batches, photo_batches
from noah_tf.evaluation.evaluator import Evaluator
from noah_tf.evaluation.prediction import KerasPredictor
from noah_tf.images.preprocessing import Preprocessing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", required=True, help="folder of JPEGs")
    parser.add_argument("--model", default="noah_mobilenetv2_050", help="a model of create_model")
    parser.add_argument("--count", type=int, default=512, help="photos of each turn")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    count, batch_size = arguments.count, arguments.batch_size
    files = photo_files(arguments.images)
    files = [files[index % len(files)] for index in range(count)]
    source = photo_source(files, count)
    preprocessing = Preprocessing(224, 256)
    model = noah_tf.create_model(arguments.model)
    names = tuple(str(number) for number in range(1000))
    evaluator, predictor = Evaluator(model), KerasPredictor(model, preprocessing, names)
    batches = eval_batches(source, preprocessing, BatchOptions(batch_size))
    file_batches = photo_batches(files, preprocessing, batch_size)
    forward = tf.function(lambda images: model(images, training=False))
    images = next(iter(batches))[0]
    turns = {
        "decode": lambda: run_through(batches),
        "forward": lambda: [forward(images).numpy() for _ in range(count // batch_size)],
        "evaluation": lambda: evaluator(source, preprocessing, batch_size),
        "read files": lambda: run_through(file_batches),
        "predict": lambda: run_through(predictor(files, batch_size)),
    }
    for turn in turns.values():
        turn()  # traces
    times = {
        name: seconds / (count // batch_size * batch_size)
        for name, seconds in seconds_in_turns(turns, arguments.repeats).items()
    }
    print(
        f"TensorFlow {tf.__version__}, {arguments.model}, {count} photos per turn, batch "
        f"{batch_size}, {os.cpu_count()} cores, medians of {arguments.repeats}"
    )
    print(f"{'':12} {'images/s':>9} {'CPU ms':>7} {'of the best':>12}")
    halves = {"evaluation": "decode", "predict": "read files"}
    for name, seconds in times.items():
        wall, cpu = np.median(seconds, 0)
        line = f"{name:12} {1 / wall:9.0f} {cpu * 1e3:7.2f}"
        if name in halves:
            best = times[halves[name]][:, 0] + times["forward"][:, 0]
            line += f" {np.median(best / seconds[:, 0]):12.2f}"
        print(line)


def run_through(iterable):
    """Takes all elements."""
    for _ in iterable:
        pass


if __name__ == "__main__":
    main()
