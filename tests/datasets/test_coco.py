"""MS-COCO through the builder of TFDS: labels of objects, and error messages."""

import re
from unittest import mock

import numpy as np
import pytest
import tensorflow_datasets as tfds
from coco_like import EVAL_EXAMPLES, NAMES, OBJECTS, TRAIN_EXAMPLES, coco_files, labels

from noah_tf.datasets.registry import open_source

pytestmark = pytest.mark.one_stack


def photo_numbers(coco_dir, year_name):
    """Returns the number of each photo by its bytes, since TFDS stores photos in another order."""
    folder = coco_dir.parent / "archives" / "photos" / year_name
    return {path.read_bytes(): int(path.stem) for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("split", "year_name", "count"),
    [("train", "train2017", TRAIN_EXAMPLES), ("validation", "val2017", EVAL_EXAMPLES)],
)
def test_labels_are_the_classes_of_the_objects(coco_dir, split, year_name, count):
    source = open_source("coco/2017", split, data_dir=coco_dir, download=False)
    assert (source.num_examples, source.num_classes, source.multi_label) == (count, 80, True)
    assert source.class_names == NAMES
    numbers = photo_numbers(coco_dir, year_name)
    examples = {numbers[e["image"].numpy()]: e for e in source.examples()}
    assert sorted(examples) == list(range(count))
    for number, example in examples.items():
        np.testing.assert_array_equal(example["label"], labels(number))
        np.testing.assert_array_equal(example["boxes"].numpy().any(axis=1), labels(number))
    # These photos show two cars, nothing, and a crowd.
    assert [float(examples[number]["label"].numpy().sum()) for number in (3, 2, 4)] == [1, 0, 1]
    assert OBJECTS[4] == [(0, True)] and source.label_names(examples[4]["label"]) == ("person",)
    assert source.has_labels()


def test_split_without_labels(coco_dir):
    source = open_source("coco/2017", "test", data_dir=coco_dir, download=False)
    assert source.num_examples == 4 and not source.has_labels()


def test_class_names_are_read_after_the_preparation(tmp_path):
    with coco_files(tmp_path / "archives"):
        source = open_source("coco/2017", "validation", data_dir=tmp_path / "tfds")
    assert source.class_names == NAMES and len(list(source.examples())) == EVAL_EXAMPLES


def test_missing_set_names_the_command_to_build_it(tmp_path):
    build = f"run `tfds build coco/2017 --data_dir={tmp_path}`"
    with pytest.raises(FileNotFoundError, match=re.escape(build)) as caught:
        open_source("coco/2017", "train", data_dir=tmp_path, download=False)
    assert str(caught.value).startswith("'coco/2017' is not prepared in ")

    def unreachable(*_):
        raise ConnectionError("Failed to resolve 'images.cocodataset.org'")

    with (
        mock.patch.object(tfds.download.DownloadManager, "download_and_extract", unreachable),
        pytest.raises(FileNotFoundError, match=re.escape(build)) as caught,
    ):
        open_source("coco/2017", "train", data_dir=tmp_path)
    assert "(Failed to resolve 'images.cocodataset.org')" in str(caught.value)
