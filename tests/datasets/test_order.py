"""The order of training examples when every class is drawn equally often."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from training_batches import training_dataset

from noah_tf.datasets import open_source
from noah_tf.datasets.order import balanced_order
from noah_tf.images import Preprocessing

label_lists = st.lists(st.integers(0, 4), min_size=1, max_size=40)


@given(label_lists, st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_classes_are_drawn_equally_often(labels, epoch):
    labels = np.array(labels)
    indices, repeats = balanced_order(labels, 7, epoch)
    assert len(indices) == len(repeats) == len(labels)
    classes = np.unique(labels)
    counts = np.bincount(labels[indices], minlength=5)[classes]
    assert counts.max() - counts.min() <= 1
    for label in classes:
        # No example is drawn again before all others of its class.
        drawn = np.bincount(indices, minlength=len(labels))[labels == label]
        assert drawn.max() - drawn.min() <= 1
    pairs = list(zip(indices.tolist(), repeats.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    for index, repeat in pairs:
        assert repeat < np.sum(indices == index)


@given(label_lists)
@settings(max_examples=20, deadline=None)
def test_the_order_is_a_function_of_seed_and_epoch(labels):
    first, again = (balanced_order(np.array(labels), 3, 1) for _ in range(2))
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))


@pytest.fixture
def unbalanced(tmp_path):
    """Twelve photos of one class and two of another, on which crops can be told apart."""
    noise = np.random.default_rng(0).integers(0, 255, (14, 40, 40, 3), np.uint8)
    for number, pixels in enumerate(noise):
        path = tmp_path / "all" / ("many" if number < 12 else "few") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_png(pixels).numpy())
    return open_source("folder", "all", data_dir=tmp_path)


@pytest.mark.parametrize("cache", [False, True])
def test_batches_with_balanced_sampling(unbalanced, cache):
    def batches(**options):
        dataset = training_dataset(
            unbalanced, Preprocessing(16), 7, cache=cache, balanced=True, **options
        )
        return [(images.numpy(), labels.numpy()) for images, labels, *_ in dataset]

    whole = batches()
    labels = np.concatenate([labels for _, labels in whole])
    assert list(np.bincount(labels)) == [7, 7]
    images = np.concatenate([images for images, _ in whole])[labels == 0]
    # The two rare photos occur several times, each time with another crop.
    assert len(np.unique(images.reshape(7, -1), axis=0)) == 7
    rest = batches(skip_batches=1)
    assert len(rest) == 1
    for one, other in zip(whole[1], rest[0], strict=True):
        np.testing.assert_array_equal(one, other)
    other_epoch = np.concatenate([images for images, _ in batches(epoch=1)])
    assert not np.array_equal(np.concatenate([images for images, _ in whole]), other_epoch)


def test_sources_without_known_labels_raise(scenes):
    with pytest.raises(ValueError, match="balanced sampling needs the labels of all examples, and"):
        training_dataset(scenes, Preprocessing(16), 8, balanced=True)
    batch = next(iter(training_dataset(scenes, Preprocessing(16), 100, balanced=True, cache=True)))
    assert batch[0].shape == (100, 16, 16, 3)
