"""Measures the throughput of the training input pipeline, compared with timm and decoding alone.

    python benchmarks/input_pipeline.py --images DIR

DIR holds JPEGs, which are kept in memory; for meaningful results they are photos of ImageNet. The
rows of the table:

    decode          decodes the random windows of the recipe in tf.data, and does nothing else
    cnn             configs/resnet.py: random resized crop like PIL's, flip, batching
    cnn fast        the same with augment.crop_antialias=False
    deit, mixer     configs/deit.py and configs/mixer.py
    timm cnn, ...   the transforms of timm for the same recipe, in a thread pool, and batching

The recipes make what the device takes, as timm does: normalization, random erasing and mixing are
part of the train step. The rows of timm need the extra `torch-models`; without it they are left
out.

By default TensorFlow does not divide an operation among threads, as in training on GPUs. Training
on CPUs does (--operation_threads=0).

All cases run in one process with the same number of threads, and alternate. Each turn restarts the
case and measures it after a warm-up, because tf.data takes about a second to tune its parallelism.
The table shows, for each number of threads, medians over the turns and the range of CPU time:
images per second, CPU milliseconds per image, the number of busy CPU cores, and the CPU time
relative to timm's in the same round. CPU time is shown because wall time depends on other programs
on the machine.
"""

import concurrent.futures
import os
import pathlib
import runpy

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from absl import app, flags
from photo_source import photo_files, photo_source
from timm_transforms import timm_pipeline
from turns import seconds_of

from noah_tf.datasets.batch_options import BatchOptions
from noah_tf.datasets.pipeline import train_batches
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.images.random_crop import RandomCrop, crop_draws, decode_random_window
from noah_tf.images.train_transform import TrainTransform

_IMAGES = flags.DEFINE_string("images", None, "Folder of JPEGs.", required=True)
_COUNT = flags.DEFINE_integer("count", 2048, "Photos per measured turn.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 64, "Images per batch.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Turns per case.", lower_bound=1)
_THREADS = flags.DEFINE_multi_integer("threads", [1, 2], "Threads per case, one table for each.")
_OPERATION_THREADS = flags.DEFINE_integer(
    "operation_threads", 1, "TensorFlow's threads within an operation; 0: one per core."
)

_WARM_UP = 512  # photos per turn before the measurement
_CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"
# Row → file of the recipe, its row, and changes of its `augment` section.
_RECIPES = {
    "cnn": ("resnet.py", "noah_resnet18", {}),
    "cnn fast": ("resnet.py", "noah_resnet18", {"crop_antialias": False}),
    "deit": ("deit.py", "noah_deit_tiny", {}),
    "mixer": ("mixer.py", "noah_mixer_s16", {}),
}


def recipe_sections(row):
    """Returns the `preprocess` and the `augment` section of a row as dicts."""
    file, name, changes = _RECIPES[row]
    config = runpy.run_path(str(_CONFIGS / file))["get_config"](name)
    # The groups are those of the paper's batches, not of the batches here.
    augment = {**config.augment.to_dict(), "mix_group": None, "repeats": 1, **changes}
    return config.preprocess.to_dict(), augment


def decoded_windows(source, batch_size, threads):
    """Returns batches of the shapes of decoded windows, with the settings of `train_batches`."""

    def decode(index):
        draws = crop_draws(tf.stack([tf.constant(1, tf.int64), index]))
        return tf.shape(decode_random_window(source.fetch(index)["image"], draws, RandomCrop()))

    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = threads
    shapes = tf.data.Dataset.range(source.num_examples).map(
        decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return shapes.batch(batch_size).with_options(options).prefetch(tf.data.AUTOTUNE)


def start_dataset(dataset, warm_up, steps):
    """Takes the first batches, and returns a function that takes the measured ones."""
    iterator = iter(dataset)

    def take(count):
        for _ in range(count):
            next(iterator)

    take(warm_up)
    return lambda: take(steps)


def start_timm(transform, photos, batch_size, threads):
    """Returns a function that makes the batches of timm's transform from the photos."""

    def make_batches():
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(photos), batch_size):
                np.stack(list(pool.map(transform, photos[start : start + batch_size])))

    return make_batches


def make_cases(source, photos, batch_size, threads, warm_up, steps):
    """Returns row → a function that starts the case and returns the function to measure."""

    def dataset_case(dataset):
        return lambda: start_dataset(dataset, warm_up, steps)

    cases = {"decode": dataset_case(decoded_windows(source, batch_size, threads))}
    options = BatchOptions(batch_size, threads=threads)
    for row in _RECIPES:
        preprocess, augment = recipe_sections(row)
        transform = TrainTransform.from_config(augment, Preprocessing.from_dict(preprocess))
        cases[row] = dataset_case(train_batches(source, transform, options, seed=0, epoch=0))
    for row in ("cnn", "deit", "mixer"):
        try:
            transform = timm_pipeline(*recipe_sections(row))
        except ImportError as error:
            print(f"The rows of timm are left out: {error}.")
            break
        cases[f"timm {row}"] = lambda t=transform: start_timm(t, photos, batch_size, threads)
    return cases


def measure(cases, count, repeats):
    """Measures the seconds per photo: name → (repeats, 2), wall time and CPU time.

    Args:
        cases: name → a function that starts the case and returns a function that runs it.
        count: photos per turn.
        repeats: number of turns.
    """
    seconds = {name: [] for name in cases}
    for _ in range(repeats):
        for name, start in cases.items():
            run = start()
            seconds[name].append(seconds_of(run) / count)
    return {name: np.array(rows) for name, rows in seconds.items()}


def print_table(times):
    """Prints a row for each case."""
    print(f"{'':12} {'images/s':>9} {'CPU ms':>7} {'range':>13} {'busy':>6} {'CPU/timm':>9}")
    for name, seconds in times.items():
        wall, cpu = np.median(seconds, 0)
        low, high = seconds[:, 1].min() * 1e3, seconds[:, 1].max() * 1e3
        busy = np.median(seconds[:, 1] / seconds[:, 0])
        peer = times.get("timm " + name.split()[0])
        ratio = "" if peer is None else f"{np.median(seconds[:, 1] / peer[:, 1]):.2f}"
        print(
            f"{name:12} {1 / wall:9.0f} {cpu * 1e3:7.2f} {low:6.2f}-{high:6.2f} {busy:6.2f} "
            f"{ratio:>9}"
        )


def main(_):
    tf.config.threading.set_intra_op_parallelism_threads(_OPERATION_THREADS.value)
    batch_size = _BATCH.value
    warm_up, steps = -(-_WARM_UP // batch_size), -(-_COUNT.value // batch_size)
    count = steps * batch_size
    source = photo_source(photo_files(_IMAGES.value), warm_up * batch_size + count)
    photos = [source.fetch(index)["image"].numpy() for index in range(count)]
    for threads in _THREADS.value:
        cases = make_cases(source, photos, batch_size, threads, warm_up, steps)
        times = measure(cases, count, _REPEATS.value)
        print(
            f"TensorFlow {tf.__version__}, {count} photos of {_IMAGES.value} per turn, batch "
            f"{batch_size}, {threads} threads, medians of {_REPEATS.value}"
        )
        print_table(times)


if __name__ == "__main__":
    app.run(main)
