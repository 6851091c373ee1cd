"""A small MS-COCO: the builder of coco/2017 in TFDS, on synthetic photos."""

import contextlib
import json
from unittest import mock

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

# The 80 classes of COCO have identifiers up to 90. The photos show four of them.
NAMES = ("person", "bicycle", "car", "kite", *(f"class {number}" for number in range(5, 81)))
IDENTIFIERS = tuple(number for number in range(1, 91) if number % 9)
COLORS = {0: (255, 40, 40), 1: (40, 255, 40), 2: (60, 60, 255), 3: (250, 250, 40)}
TRAIN_EXAMPLES, EVAL_EXAMPLES = 24, 10
SIZES = ((48, 64), (64, 40), (40, 40))  # height, width

# The objects (class, whether it is a crowd) of the photos; the list is repeated.
OBJECTS = (
    [(0, False)],
    [(1, False), (2, False)],
    [],
    [(2, False), (2, False)],
    [(0, True)],
    [(3, False), (0, False), (1, False)],
)


def labels(index):
    """Returns the multi-hot label of a photo of the train or validation split, float (80,)."""
    label = np.zeros(80, np.float32)
    label[[number for number, _ in OBJECTS[index % len(OBJECTS)]]] = 1
    return label


@contextlib.contextmanager
def coco_files(folder):
    """Makes TFDS read the archives of coco/2017 from `folder` instead of the network."""
    paths = {}
    for name, year_name, count in (
        ("train", "train2017", TRAIN_EXAMPLES),
        ("validation", "val2017", EVAL_EXAMPLES),
        ("test", "test2017", 4),
    ):
        kind = "image_info" if name == "test" else "instances"
        images, objects = _draw(folder / "photos" / year_name, count)
        categories = [{"id": i, "name": n} for i, n in zip(IDENTIFIERS, NAMES, strict=True)]
        text = {"images": images, "categories": categories}
        if name != "test":
            text["annotations"] = objects
        path = folder / "annotations" / f"{kind}_{year_name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(text))
        paths |= {f"{name}_images": str(folder / "photos"), f"{name}_annotations": str(folder)}
    manager = tfds.download.DownloadManager
    with mock.patch.object(manager, "download_and_extract", lambda self, urls: paths):
        yield


def make_coco(folder):
    """Prepares coco/2017 and returns the TFDS data directory."""
    from noah_tf.datasets.tfds_sources import prepare

    with coco_files(folder / "archives"):
        prepare(tfds.builder("coco/2017", data_dir=folder / "tfds"))
    return folder / "tfds"


def _draw(folder, count):
    """Writes the photos; returns the descriptions of photos and objects in COCO's format."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(count)
    images, objects = [], []
    for index in range(count):
        height, width = SIZES[index % len(SIZES)]
        photo = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
        for label, crowd in OBJECTS[index % len(OBJECTS)]:
            side = 14
            top, left = rng.integers(0, height - side), rng.integers(0, width - side)
            photo[top : top + side, left : left + side] = COLORS[label]
            objects.append(
                {
                    "id": len(objects),
                    "image_id": index,
                    "category_id": IDENTIFIERS[label],
                    "bbox": [int(left), int(top), side, side],
                    "area": side**2,
                    "iscrowd": int(crowd),
                }
            )
        name = f"{index:012}.jpg"
        (folder / name).write_bytes(tf.io.encode_jpeg(photo, quality=95).numpy())
        images.append({"id": index, "file_name": name, "height": height, "width": width})
    return images, objects
