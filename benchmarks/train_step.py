"""What a step of our training loop costs beside Keras's own `fit`.

    python benchmarks/train_step.py

Trains MobileNetV2 x0.35 with a NOAH head, 224 px, batch 32, one device, with SGD, by either on the
same images in memory, in turns, and prints the median time of a step of each and their ratio, by
the wall's clock and by the processor's, which does not see what other programs take.
"""

import argparse
import contextlib
import io
import tempfile

import numpy as np
import tensorflow as tf
from turns import seconds_in_turns

from noah_tf.runs import recipe
from noah_tf.training.loop import build, train_steps
from noah_tf.training.progress import Progress
from noah_tf.utils import distribute

CLASSES = 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=10, help="in each turn")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    shape = (arguments.batch_size, arguments.image_size, arguments.image_size, 3)
    rng = np.random.default_rng(0)
    images = rng.normal(size=shape).astype(np.float32)
    labels = rng.integers(0, CLASSES, shape[0]).astype(np.int32)

    turns = {
        "keras fit": keras_turn(images, labels, arguments.steps),
        "noah_tf": our_turn(images, labels, arguments.steps),
    }
    for turn in turns.values():
        turn()  # traces and compiles
    times = seconds_in_turns(turns, arguments.repeats)
    times = {name: turn / arguments.steps for name, turn in times.items()}
    print(f"TensorFlow {tf.__version__}, {arguments.repeats} turns of {arguments.steps} steps")
    for name, turn in times.items():
        wall, processor = 1000 * np.median(turn, axis=0)
        print(f"{name:10} {wall:8.1f} ms a step, {processor:8.1f} ms of processors, medians")
    wall, processor = np.median(times["noah_tf"] / times["keras fit"], axis=0)
    print(f"ratio of a turn, median: {wall:.3f}, of processors {processor:.3f}")


def configuration(batch_size, image_size):
    """The recipe of the trained model, for both."""
    config, _ = recipe.imagenet("noah_mobilenetv2_035", ("mobilenetv2_035",))
    config.preprocess.image_size = (image_size, image_size)
    config.train.batch_size = batch_size
    config.schedule.name = "constant"
    return config


def keras_turn(images, labels, steps):
    """A function that does steps by `fit`."""
    config = configuration(len(images), images.shape[1])
    model = build(config, tf.distribute.get_strategy(), CLASSES, steps).model
    model.compile(
        tf.keras.optimizers.SGD(0.1, momentum=0.9),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[
            "accuracy",
            tf.keras.metrics.SparseTopKCategoricalAccuracy(5),
        ],
        jit_compile=False,
    )
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat(steps)

    def turn():
        model.fit(batches, verbose=0)

    return turn


def our_turn(images, labels, steps):
    """A function that does steps by our loop's parts."""
    strategy = distribute.make_strategy("single")
    config = configuration(len(images), images.shape[1])
    parts = build(config, strategy, CLASSES, steps)
    step = train_steps(config, strategy, parts, multi_label=False)(epoch=0)
    weights = np.ones(len(images), np.float32)
    batches = tf.data.Dataset.from_tensors((images, labels, weights)).repeat(steps)
    writer = tf.summary.create_file_writer(tempfile.mkdtemp())
    progress = Progress(config.train, steps, writer)

    def turn():
        with contextlib.redirect_stdout(io.StringIO()):
            progress.begin_epoch(0)
            distributed = strategy.distribute_datasets_from_function(lambda _: batches)
            for number, batch in enumerate(distributed, 1):
                progress.add(step(batch), waited=0.0)
                if number % config.train.log_every == 0:
                    progress.look(number, parts.optimizer.schedule(number))
            progress.end_epoch(steps, 0.0, {})

    return turn


if __name__ == "__main__":
    main()
