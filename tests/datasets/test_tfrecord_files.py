"""TFRecord files in the classic layout."""

import numpy as np
import pytest
import tensorflow as tf

from noah_tf.datasets import BatchOptions, eval_batches, open_source, source_from_config
from noah_tf.datasets.tfrecord_files import count_records
from noah_tf.images import Preprocessing
from noah_tf.runs import recipe
from noah_tf.utils.files import copy_folder
from noah_tf.utils.paths import as_path


def serialized(number, image_key="image/encoded", label_key="image/class/label"):
    pixels = np.full((4, 4, 3), number, np.uint8)
    image = tf.train.BytesList(value=[tf.io.encode_png(pixels).numpy()])
    features = {
        image_key: tf.train.Feature(bytes_list=image),
        label_key: tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 3])),
        "image/format": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"PNG"])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write(path, numbers, **keys):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in numbers:
            writer.write(serialized(number, **keys))


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "train-00000-of-00002", range(5))
    write(tmp_path / "train-00001-of-00002", range(5, 12))
    write(tmp_path / "val.tfrecord", range(3))
    (tmp_path / "names.txt").write_text("ant\nbee\nfly\n")
    return tmp_path


def options(root, **changes):
    return {"data_dir": root, "class_names": "names.txt", **changes}


def test_shards_are_found_by_a_pattern(root):
    source = open_source("tfrecord", "train-*", **options(root))
    assert source.num_examples == 12 and source.class_names == ("ant", "bee", "fly")
    examples = list(source.examples())
    assert [int(example["label"]) for example in examples] == [n % 3 for n in range(12)]
    assert [int(example["index"]) for example in examples] == list(range(12))
    (batch,) = eval_batches(source, Preprocessing(4, resize_size=4), BatchOptions(12))
    assert batch[0].shape == (12, 4, 4, 3)
    skipped = [int(example["index"]) for example in source.examples(shuffle_seed=1, skip=3)]
    assert len(skipped) == 9 and len(set(skipped)) == 9


def test_shards_elsewhere(root):
    remote = as_path("ram://tfrecord_files")
    copy_folder(root, remote, last="")
    (source, local) = (open_source("tfrecord", "train-*", **options(r)) for r in (remote, root))
    assert source.num_examples == 12 and source.class_names == local.class_names
    for shuffle_seed in (None, 1):
        pairs = zip(source.examples(shuffle_seed), local.examples(shuffle_seed), strict=True)
        assert all(bool(one["image"] == other["image"]) for one, other in pairs)
    with pytest.raises(FileNotFoundError, match="ram://tfrecord_files has no file 'test-"):
        open_source("tfrecord", "test-*", **options(remote))


def test_other_keys_and_numbers_as_names(root):
    write(root / "other", range(4), image_key="jpeg", label_key="y")
    config = recipe.base().data
    config.update({"name": "tfrecord", "data_dir": str(root), "num_classes": 3})
    config.update({"image_key": "jpeg", "label_key": "y"})
    source = source_from_config(config, "other")
    assert source.class_names == ("0", "1", "2")
    assert [int(example["label"]) for example in source.examples()] == [0, 1, 2, 0]
    config.image_key = None
    with pytest.raises(ValueError, match="data.image_key='image/encoded' is not a bytes feature"):
        source_from_config(config, "other")
    config.update({"image_key": "jpeg", "label_key": "image/format"})
    with pytest.raises(ValueError, match="data.label_key='image/format' is not a int64 feature"):
        source_from_config(config, "other")
    config.num_classes = None
    with pytest.raises(ValueError, match="'tfrecord' needs data.class_names, .* or data.num_class"):
        source_from_config(config, "other")


def test_records_are_counted(root):
    assert count_records(root / "train-00001-of-00002") == 7


@pytest.mark.parametrize("cut", [1, 20])
def test_a_file_that_is_cut_off_raises(root, cut):
    path = root / "val.tfrecord"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match="val.tfrecord is not a whole TFRecord file: its ."):
        open_source("tfrecord", "val.tfrecord", **options(root))


def test_other_files_raise(root):
    for content in (b"photo", b"\xff\xd8\xff" * 100):
        (root / "photo").write_bytes(content)
        with pytest.raises(ValueError, match="photo is not a whole TFRecord file"):
            open_source("tfrecord", "photo", **options(root))
    with tf.io.TFRecordWriter(str(root / "text")) as writer:
        writer.write(b"\xff\xff no example")
    with pytest.raises(ValueError, match="text has records that are not tf.train.Example"):
        open_source("tfrecord", "text", **options(root))
    with pytest.raises(FileNotFoundError, match="has no file 'test-.'; the split of name='tfrec"):
        open_source("tfrecord", "test-*", **options(root))
    with pytest.raises(ValueError, match="needs data_dir, the folder of the TFRecord files"):
        open_source("tfrecord", "train-*", class_names=root / "names.txt")


def test_empty_shards_are_skipped_and_labels_are_checked(root):
    folder = root / "odd [1]"
    folder.mkdir()
    for file in root.glob("train-*"):
        file.rename(folder / file.name)
    (folder / "train-empty").write_bytes(b"")
    names = {"data_dir": folder, "class_names": ("ant", "bee", "fly")}
    assert open_source("tfrecord", "train-*", **names).num_examples == 12
    with pytest.raises(ValueError, match="'train-empty' in .* have no records: name other files"):
        open_source("tfrecord", "train-empty", **names)
    names["class_names"] = ("ant", "bee")
    with pytest.raises(tf.errors.InvalidArgumentError, match="A label must be from 0 to 1, one fo"):
        list(open_source("tfrecord", "train-*", **names).examples())
