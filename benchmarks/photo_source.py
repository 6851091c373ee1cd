"""Real photos as the data of benchmarks."""

import pathlib

import tensorflow as tf

from noah_tf.datasets.source import Source, read_by_index


def photo_files(folder: str) -> list[str]:
    """Returns the paths of the JPEGs of a folder, sorted."""
    paths = sorted(pathlib.Path(folder).iterdir())
    files = [str(path) for path in paths if path.suffix.lower() in (".jpeg", ".jpg")]
    if not files:
        raise SystemExit(f"{folder} holds no JPEGs.")
    return files


def photo_source(files: list[str], count: int) -> Source:
    """Returns a source of `count` examples that repeats photos, which are kept in memory."""
    data = tf.constant([pathlib.Path(file).read_bytes() for file in files])

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
