"""MS-COCO in small: TFDS's own builder of coco/2017, on photos that are drawn on the spot."""

import contextlib
import json
from unittest import mock

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

# COCO's 80 classes have identifiers up to 90; of these some are drawn.
NAMES = ("person", "bicycle", "car", "kite", *(f"class {number}" for number in range(5, 81)))
IDENTIFIERS = tuple(number for number in range(1, 91) if number % 9)
COLOURS = {0: (255, 40, 40), 1: (40, 255, 40), 2: (60, 60, 255), 3: (250, 250, 40)}
TRAIN_EXAMPLES, EVAL_EXAMPLES = 24, 10
SIZES = ((48, 64), (64, 40), (40, 40))  # height, width

# What is in each photo: (class, whether it is a crowd) of every object, in turns.
OBJECTS = (
    [(0, False)],
    [(1, False), (2, False)],
    [],
    [(2, False), (2, False)],
    [(0, True)],
    [(3, False), (0, False), (1, False)],
)


def labels(index):
    """Float (80,), the classes of a photo of the train or the validation split."""
    found = np.zeros(80, np.float32)
    found[[label for label, _ in OBJECTS[index % len(OBJECTS)]]] = 1
    return found


@contextlib.contextmanager
def coco_files(folder):
    """While it lasts, TFDS gets the archives of coco/2017 from here, not from the network."""
    made = {}
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
        made |= {f"{name}_images": str(folder / "photos"), f"{name}_annotations": str(folder)}
    manager = tfds.download.DownloadManager
    with mock.patch.object(manager, "download_and_extract", lambda self, urls: made):
        yield


def make_coco(folder):
    """Prepares coco/2017 in a TFDS data directory, which is returned."""
    from noah_tf.datasets.tfds_sources import prepare

    with coco_files(folder / "archives"):
        prepare(tfds.builder("coco/2017", data_dir=folder / "tfds"))
    return folder / "tfds"


def _draw(folder, count):
    """Writes the photos; their descriptions and those of their objects, as COCO has them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(count)
    images, objects = [], []
    for index in range(count):
        height, width = SIZES[index % len(SIZES)]
        photo = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
        for label, crowd in OBJECTS[index % len(OBJECTS)]:
            side = 14
            top, left = rng.integers(0, height - side), rng.integers(0, width - side)
            photo[top : top + side, left : left + side] = COLOURS[label]
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
