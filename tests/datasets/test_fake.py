import ml_collections
import numpy as np
import pytest
import tensorflow as tf
from training_batches import training_dataset

from noah_tf.datasets import fake
from noah_tf.datasets.registry import open_source, source_from_config
from noah_tf.images.preprocessing import Preprocessing, decode

pytestmark = pytest.mark.one_stack


@pytest.fixture(scope="module")
def source():
    return open_source("fake", "train", num_examples=1_281_167, num_classes=1000)


def test_examples(source):
    assert (source.num_examples, source.num_classes, source.multi_label) == (1_281_167, 1000, False)
    examples = list(source.examples().take(20))
    assert [int(e["index"]) for e in examples] == list(range(20))
    assert {decode(e["image"]).shape for e in examples} == {(375, 500, 3)}
    assert len({e["image"].numpy() for e in examples}) == fake._NUM_PHOTOS
    assert all(60_000 < len(e["image"].numpy()) < 200_000 for e in examples), (
        "as large as real photos"
    )
    last = source.examples_at([1_281_166])[0]
    assert 0 <= last["label"] < 1000 and last["label"].dtype == tf.int64


def test_deterministic(source):
    again = open_source("fake", "train", num_examples=20, num_classes=3)
    other = open_source("fake", "test", num_examples=20, num_classes=3)
    images = [next(iter(s.examples()))["image"].numpy() for s in (source, again, other)]
    assert images[0] == images[1] != images[2]
    assert {int(e["label"]) for e in other.examples()} == {0, 1, 2}


def test_large_epoch_starts_anywhere(source):
    steps = source.num_examples // 4
    options = {"epoch": 2, "skip_batches": steps - 1}
    (images, labels, _, weights), *more = training_dataset(source, Preprocessing(16), 4, **options)
    assert images.shape == (4, 16, 16, 3) and not more and weights.numpy().all()
    assert labels.dtype == np.int32


def test_config():
    config = ml_collections.ConfigDict(
        {"name": "fake", "num_examples": 10, "num_classes": 2}
        | dict.fromkeys(("data_dir", "manual_dir", "image_key", "label_key"))
    )
    assert source_from_config(config, "train").num_examples == 10
    config.num_examples = 0
    with pytest.raises(ValueError, match="num_examples must be a positive integer, got 0"):
        source_from_config(config, "train")


def test_bad_arguments_raise(tmp_path):
    with pytest.raises(ValueError, match="num_classes must be a positive integer, got 0"):
        open_source("fake", "train", num_examples=5, num_classes=0)
    with pytest.raises(ValueError, match="is for TFDS sets; leave it out for 'fake'"):
        open_source("fake", "train", num_examples=5, num_classes=1, manual_dir=tmp_path)
    with pytest.raises(
        ValueError, match="num_classes is for tfrecord and fake; leave it out for 'cifar10', got 5"
    ):
        open_source("cifar10", "train", num_classes=5)
