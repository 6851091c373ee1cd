"""Measures the throughput of the training input pipeline, compared with decoding alone and PIL.

    python benchmarks/input_pipeline.py --images DIR

DIR holds JPEGs, which are kept in memory; for meaningful results they are photos of ImageNet. The
rows of the table:

    decode     decodes the random windows of the recipe in tf.data, and does nothing else
    known      the same with windows that are known beforehand: the time of the JPEG library alone
    cnn        configs/resnet.py: random resized crop like PIL's, flip, normalization, batching
    cnn fast   the same with augment.crop_antialias=False
    jitter     the same as `cnn fast` with augment.color_jitter=0.4
    mixer, deit   configs/mixer.py and configs/deit.py
    PIL        decode (no draft mode), random resized crop and flip with PIL, in a thread pool

All cases run in one process with the same number of threads, and alternate. Each turn restarts the
case and measures it after a warm-up, because tf.data takes about a second to tune its parallelism.
The table shows medians over the turns: images per second, CPU milliseconds per image, the number of
busy CPU cores, and both rates relative to `decode` in the same round. CPU time is shown as well,
because wall time depends on other programs on the machine.
"""

import concurrent.futures
import io
import os
import pathlib
import runpy

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from absl import app, flags
from PIL import Image
from turns import seconds_of

from noah_tf.datasets.batch_options import BatchOptions
from noah_tf.datasets.pipeline import train_batches
from noah_tf.datasets.source import Source, read_by_index
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.images.random_crop import RandomCrop, crop_draws, decode_random_window, random_window
from noah_tf.images.train_transform import TrainTransform

_IMAGES = flags.DEFINE_string("images", None, "Folder of JPEGs.", required=True)
_COUNT = flags.DEFINE_integer("count", 2048, "Photos per measured turn.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 64, "Images per batch.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Turns per case.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", os.cpu_count(), "Threads per case.", lower_bound=1)

_WARM_UP = 512  # photos per turn before the measurement
_CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"


def recipes():
    """Returns the transforms of the rows that are whole pipelines, by name."""

    def recipe(config, row, **changes):
        config = runpy.run_path(str(_CONFIGS / config))["get_config"](row)
        preprocessing = Preprocessing.from_dict(config.preprocess.to_dict())
        section = {**config.augment.to_dict(), **changes}
        normalize = bool(section["erasing"])  # like the trainer
        return TrainTransform.from_config(section, preprocessing, normalize)

    return {
        "cnn": recipe("resnet.py", "noah_resnet18"),
        "cnn fast": recipe("resnet.py", "noah_resnet18", crop_antialias=False),
        "jitter": recipe("resnet.py", "noah_resnet18", crop_antialias=False, color_jitter=0.4),
        "mixer": recipe("mixer.py", "noah_mixer_s16"),
        "deit": recipe("deit.py", "noah_deit_tiny"),
    }


def photo_source(folder, count):
    """Returns a source of `count` examples that repeats the photos of a folder, kept in memory."""
    files = sorted(
        p for p in pathlib.Path(folder).iterdir() if p.suffix.lower() in (".jpeg", ".jpg")
    )
    if not files:
        raise app.UsageError(f"{folder} holds no JPEGs.")
    data = tf.constant([file.read_bytes() for file in files])

    def fetch(index):
        return {"image": data[index % len(files)], "label": index % 1000, "index": index}

    return Source(
        name="photos",
        split="train",
        num_examples=count,
        class_names=tuple(str(number) for number in range(1000)),
        multi_label=False,
        read=lambda *arguments: read_by_index(fetch, count, *arguments),
        fetch=fetch,
    )


def map_shapes(dataset, function, batch_size, threads):
    """Returns the shapes of the results of `function`, with the settings of `train_batches`."""
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = threads
    shapes = dataset.map(
        lambda *x: tf.shape(function(*x)), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return shapes.batch(batch_size).with_options(options).prefetch(tf.data.AUTOTUNE)


def decode_datasets(source, batch_size, threads):
    """Returns the datasets of the two rows that only decode, by name."""
    crop = RandomCrop()

    def draws(index):
        return crop_draws(tf.stack([tf.constant(1, tf.int64), index]))

    def decode_drawn(index):
        return decode_random_window(source.fetch(index)["image"], draws(index), crop)

    windows = []
    for index in tf.range(source.num_examples, dtype=tf.int64):
        size = tf.io.extract_jpeg_shape(source.fetch(index)["image"])[:2]
        windows.append(random_window(size, draws(index), crop))

    def decode_known(index, window):
        return tf.image.decode_and_crop_jpeg(source.fetch(index)["image"], window, channels=3)

    indices = tf.data.Dataset.range(source.num_examples)
    with_windows = tf.data.Dataset.zip((indices, tf.data.Dataset.from_tensor_slices(windows)))
    return {
        "decode": map_shapes(indices, decode_drawn, batch_size, threads),
        "known": map_shapes(with_windows, decode_known, batch_size, threads),
    }


def pil_view(image_bytes, seed):
    """Applies RandomResizedCrop(224) and RandomHorizontalFlip of torchvision with PIL."""
    rng = np.random.default_rng(seed)
    picture = Image.open(io.BytesIO(image_bytes)).convert("RGB")
    width, height = picture.size
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    picture = picture.crop((left, top, left + w, top + h))
    picture = picture.resize((224, 224), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(picture)


def pil_views(data, threads):
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(pil_view, data, range(len(data))):
            pass


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


def start_dataset(dataset, warm_up, steps):
    """Takes the first batches, and returns a function that takes the measured ones."""
    iterator = iter(dataset)

    def take(count):
        for _ in range(count):
            next(iterator)

    take(warm_up)
    return lambda: take(steps)


def main(_):
    batch_size, threads = _BATCH.value, _THREADS.value
    warm_up, steps = -(-_WARM_UP // batch_size), -(-_COUNT.value // batch_size)
    source = photo_source(_IMAGES.value, (warm_up + steps) * batch_size)
    datasets = decode_datasets(source, batch_size, threads)
    options = BatchOptions(batch_size, threads=threads)
    for name, transform in recipes().items():
        datasets[name] = train_batches(source, transform, options, seed=0, epoch=0)
    cases = {
        name: lambda d=dataset: start_dataset(d, warm_up, steps)
        for name, dataset in datasets.items()
    }
    data = [source.fetch(index)["image"].numpy() for index in range(steps * batch_size)]
    cases["PIL"] = lambda: lambda: pil_views(data, threads)

    times = measure(cases, steps * batch_size, _REPEATS.value)
    print(
        f"TensorFlow {tf.__version__}, {steps * batch_size} photos of {_IMAGES.value} per turn, "
        f"batch {batch_size}, {threads} threads, medians of {_REPEATS.value}"
    )
    print(f"{'':15} {'images/s':>9} {'of decode':>10} {'CPU ms':>7} {'of decode':>10} {'busy':>6}")
    for name, seconds in times.items():
        wall, cpu = np.median(seconds, 0)
        wall_share, cpu_share = np.median(times["decode"] / seconds, 0)
        busy = np.median(seconds[:, 1] / seconds[:, 0])
        print(
            f"{name:15} {1 / wall:9.0f} {wall_share:10.2f} {cpu * 1e3:7.2f} "
            f"{cpu_share:10.2f} {busy:6.2f}"
        )


if __name__ == "__main__":
    app.run(main)
