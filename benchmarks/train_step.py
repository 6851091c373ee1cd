"""The time of a step of our training loop relative to a step of Keras's `fit`.

    python benchmarks/train_step.py

Trains MobileNetV2 x0.35 with a NOAH head (224 px, batch 32, one device, SGD) with both loops in
turns, on the same images in memory, which both normalize on the device. Prints the median time of a
step of each loop and their ratio, as wall time and as CPU time, which does not include the time of
other programs.
"""

import argparse
import contextlib
import io
import tempfile
from collections.abc import Callable

import ml_collections
import numpy as np
import tensorflow as tf
from turns import seconds_in_turns

from noah_tf.runs import recipe
from noah_tf.training.losses import training_loss
from noah_tf.training.plan import TrainingPlan
from noah_tf.training.progress import Progress
from noah_tf.training.state import build_state
from noah_tf.training.train_step import make_train_step
from noah_tf.utils import distribute

CLASSES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=10, help="steps in each turn")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    shape = (arguments.batch_size, arguments.image_size, arguments.image_size, 3)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, shape, np.uint8)
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
        print(f"{name:10} {wall:8.1f} ms per step, {processor:8.1f} ms of CPU time, medians")
    wall, processor = np.median(times["noah_tf"] / times["keras fit"], axis=0)
    print(f"median ratio of a turn: {wall:.3f} in wall time, {processor:.3f} in CPU time")


def configuration(batch_size: int, image_size: int) -> ml_collections.ConfigDict:
    """Returns the recipe of the model that both loops train."""
    config, _ = recipe.imagenet("noah_mobilenetv2_035", ("mobilenetv2_035",))
    config.preprocess.image_size = (image_size, image_size)
    config.train.batch_size = batch_size
    config.schedule.name = "constant"
    return config


def keras_turn(images: np.ndarray, labels: np.ndarray, steps: int) -> Callable[[], None]:
    """Returns a function that does the steps with `fit`."""
    strategy = tf.distribute.get_strategy()
    plan = TrainingPlan.from_config(configuration(len(images), images.shape[1]), strategy)
    inputs = tf.keras.Input(images.shape[1:], dtype="uint8")
    normalized = tf.keras.layers.Rescaling(
        [1 / (255 * std) for std in plan.preprocessing.std],
        [-m / s for m, s in zip(plan.preprocessing.mean, plan.preprocessing.std, strict=True)],
    )(inputs)
    model = build_state(plan, CLASSES, steps).model
    model = tf.keras.Model(inputs, model(normalized))
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


def our_turn(images: np.ndarray, labels: np.ndarray, steps: int) -> Callable[[], None]:
    """Returns a function that does the steps with the parts of our loop."""
    strategy = distribute.make_strategy("single")
    plan = TrainingPlan.from_config(configuration(len(images), images.shape[1]), strategy)
    state = build_state(plan, CLASSES, steps)
    loss = training_loss(plan.loss, multi_label=False)
    step = make_train_step(plan, state, loss, state.freeze_until_start(0))
    seeds = np.zeros((len(images), 2), np.int64)
    weights = np.ones(len(images), np.float32)
    batches = tf.data.Dataset.from_tensors((images, labels, seeds, weights)).repeat(steps)
    writer = tf.summary.create_file_writer(tempfile.mkdtemp())
    progress = Progress(plan.train, steps, writer)

    def turn():
        with contextlib.redirect_stdout(io.StringIO()):
            progress.begin_epoch(0)
            distributed = strategy.distribute_datasets_from_function(lambda _: batches)
            for number, batch in enumerate(distributed, 1):
                progress.add(step(batch), wait_seconds=0.0)
                if number % plan.train.log_every == 0:
                    progress.log(number, state.optimizer.schedule(number))
            progress.end_epoch(steps, 0.0, {})

    return turn


if __name__ == "__main__":
    main()
