import multiprocessing

import numpy as np
import pytest
import tensorflow_datasets as tfds
from stacks import slow_on_one_stack

from noah_tf.datasets import digit_scenes
from noah_tf.datasets.digit_scenes import SPLITS, draw_scene, split_scans
from noah_tf.datasets.registry import open_source
from noah_tf.images.preprocessing import decode

pytestmark = pytest.mark.one_stack

CONFIGS = ("single", "multi")


def scans_of(split):
    return set(np.concatenate(split_scans(split)).tolist())


def test_scans_are_divided_among_the_splits():
    scans = [scans_of(split) for split in SPLITS]
    assert sum(map(len, scans)) == len(set.union(*scans)) == 1797
    assert all(len(indices) >= 20 for split in SPLITS for indices in split_scans(split))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("split", SPLITS)
def test_scenes_use_only_scans_of_their_split(config, split):
    scenes = [draw_scene(config, split, index) for index in range(100)]
    used = {index for scene in scenes for index in scene.scan_indices}
    assert used <= scans_of(split)


def test_scans_are_all_different():
    # A copy of a scan in another split would leak into it.
    scans, _ = digit_scenes._scans()
    assert len(np.unique(scans.reshape(len(scans), -1), axis=0)) == len(scans)


@pytest.mark.parametrize("config", CONFIGS)
def test_scene_is_a_function_of_its_arguments(config):
    first, again = draw_scene(config, "train", 5), draw_scene(config, "train", 5)
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.labels, first.boxes) == (again.labels, again.boxes)
    others = [draw_scene(config, "train", 15), draw_scene(config, "test", 5)]
    assert all((first.image != other.image).any() for other in others)


def test_known_scenes():
    # The set is the same on both stacks and every machine, since it has one VERSION.
    single, multi = draw_scene("single", "train", 3), draw_scene("multi", "test", 4)
    assert (single.labels, single.boxes) == ((3,), ((23, 33, 47, 47),))
    assert (multi.labels, multi.boxes) == (
        (4, 6, 3),
        ((23, 7, 43, 20), (9, 44, 33, 59), (30, 28, 55, 42)),
    )
    assert single.image.mean() == pytest.approx(100.871, abs=0.01)
    assert multi.image.mean() == pytest.approx(89.023, abs=0.01)


def test_single_classes_are_balanced():
    labels = [draw_scene("single", "train", index).labels for index in range(40)]
    assert labels == [(index % 10,) for index in range(40)]


def test_multi_has_one_to_four_different_digits():
    counts = set()
    for index in range(100):
        labels = draw_scene("multi", "train", index).labels
        assert len(set(labels)) == len(labels)
        counts.add(len(labels))
    assert counts == {1, 2, 3, 4}


@pytest.mark.parametrize("config", CONFIGS)
def test_boxes_are_inside_disjoint_and_of_the_right_size(config):
    low, high = digit_scenes._STYLES[config].digit_size
    for index in range(100):
        boxes = draw_scene(config, "train", index).boxes
        coverage = np.zeros((64, 64), int)
        for top, left, bottom, right in boxes:
            assert 0 < top < bottom < 64 and 0 < left < right < 64
            assert low - 2 <= max(bottom - top, right - left) <= high + 3
            coverage[top:bottom, left:right] += 1
        assert coverage.max() == 1


def test_box_contains_the_digit_and_no_fragment(monkeypatch):
    scene = draw_scene("single", "train", 8)
    top, left, bottom, right = scene.boxes[0]
    monkeypatch.setattr(digit_scenes, "_paint", lambda *args: None)
    empty = draw_scene("single", "train", 8)
    monkeypatch.undo()
    painted = (scene.image != empty.image).any(-1)
    digit = painted[top:bottom, left:right]
    # Strokes touch all four sides of the box, and the pixels around the box are empty.
    assert digit[0].any() and digit[-1].any() and digit[:, 0].any() and digit[:, -1].any()
    assert not painted[top - 1, left - 1 : right + 1].any()
    assert not painted[bottom, left - 1 : right + 1].any()
    assert painted.sum() > digit.sum(), "there are fragments elsewhere"


def test_fragments_are_smaller_than_digits():
    rng = digit_scenes._generator("test")
    longest = [max(digit_scenes._fragment(rng, "train")[0].shape) for _ in range(200)]
    assert max(longest) < 18


def test_unknown_split():
    with pytest.raises(ValueError, match="no split 'val'; it has train, validation, test"):
        split_scans("val")


def test_features_of_single(tfds_dir):
    builder = tfds.builder("digit_scenes", data_dir=tfds_dir)
    assert builder.builder_config.name == "single"
    example = next(iter(builder.as_dataset(split="test")))
    assert example["image"].shape == (64, 64, 3)
    scenes = [draw_scene("single", "test", index) for index in range(200)]
    same = [s for s in scenes if (s.image == example["image"].numpy()).all()]
    assert [s.labels for s in same] == [(int(example["label"]),)]
    np.testing.assert_allclose(example["bbox"] * 64, same[0].boxes[0])


def test_boxes_of_multi_are_by_class(tfds_dir):
    source = open_source("digit_scenes/multi", "test", data_dir=tfds_dir)
    example = next(iter(source.examples()))
    scenes = [draw_scene("multi", "test", index) for index in range(200)]
    image = decode(example["image"]).numpy()
    (same,) = [s for s in scenes if (s.image == image).all()]
    for label, box in zip(same.labels, same.boxes, strict=True):
        np.testing.assert_allclose(example["boxes"][label] * 64, box)


def test_features_of_multi(tfds_dir):
    builder = tfds.builder("digit_scenes/multi", data_dir=tfds_dir)
    for example in builder.as_dataset(split="validation").take(20):
        labels = example["objects"]["label"].numpy()
        assert set(np.flatnonzero(example["label"])) == set(labels)
        assert example["objects"]["bbox"].shape == (len(labels), 4)
    assert builder.info.features["objects"]["label"].names == [str(i) for i in range(10)]


def _prepare(directory, barrier, results):
    from noah_tf.datasets.tfds_sources import prepare

    builder = tfds.builder("digit_scenes", data_dir=directory)
    barrier.wait()
    prepare(builder, max_examples_per_split=60)
    results.put(sum(1 for _ in builder.as_dataset(split="train")))


@slow_on_one_stack
def test_two_processes_prepare_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=_prepare, args=(tmp_path, barrier, results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert [results.get(timeout=5) for _ in workers] == [60, 60]
    versions = [path.name for path in (tmp_path / "digit_scenes" / "single").iterdir()]
    assert versions == ["1.0.0"], "no temporary folder remains"


@pytest.mark.exhaustive
def test_full_sizes(tmp_path):
    from noah_tf.datasets.registry import open_source

    for split, (size, _) in SPLITS.items():
        source = open_source("digit_scenes", split, data_dir=tmp_path)
        assert source.num_examples == size
