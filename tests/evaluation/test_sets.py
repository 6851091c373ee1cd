"""Sets by their names, and what a run's weights say of them."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from noah_tf.datasets.registry import open_source
from noah_tf.evaluation import sets
from noah_tf.evaluation.corruptions import Corruption
from noah_tf.evaluation.evaluator import Evaluator, evaluate_run
from noah_tf.runs.checkpoint import load_run
from noah_tf.runs.workdir import Workdir


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (None, None)),
        ("test", (None, "test")),
        ("test[:90%]+train[5:]", (None, "test[:90%]+train[5:]")),
        ("imagenet_v2:test", ("imagenet_v2", "test")),
        ("imagenet_v2:", ("imagenet_v2", None)),
        ("mnist:3.0.1:test[10:20]", ("mnist:3.0.1", "test[10:20]")),
        (" digit_scenes/multi:test ", ("digit_scenes/multi", "test")),
    ],
)
def test_names_of_sets(text, expected):
    assert sets.split_name(text) == expected


@pytest.mark.parametrize("text", ["test[:", ":test", "test]"])
def test_what_names_no_set(text):
    with pytest.raises(ValueError, match="A set is SPLIT or DATA:SPLIT"):
        sets.split_name(text)


@pytest.fixture
def evaluated(finished_run):
    """A function of a source and more that evaluates the run on it."""
    run = load_run(finished_run)
    evaluator = Evaluator(run.model)

    def evaluate(source, config=None, **options):
        subject = run if config is None else dataclasses.replace(run, config=config)
        options = {"batch_size": 4, "threshold": 0.5, **options}
        return sets.evaluate_set(subject, evaluator, "last", sets.NamedSet("a", source), **options)

    evaluate.run = run
    return evaluate


def test_scores_are_those_of_evaluate_run(finished_run, shapes, evaluated):
    source = open_source("folder", "test", data_dir=shapes)
    entry = evaluated(source)
    expected, _ = evaluate_run(finished_run, "test")
    for name, value in expected.items():
        assert entry.scores[name] == pytest.approx(value, rel=1e-5)
    assert entry.predictions.places.tolist() == list(range(10))
    other = evaluated(source, batch_size=3)
    np.testing.assert_array_equal(other.predictions.predicted, entry.predictions.predicted)
    assert other.scores == pytest.approx(entry.scores)


def test_a_corrupted_copy_is_scored_without_its_predictions(shapes, evaluated):
    source = open_source("folder", "test", data_dir=shapes)
    entry = evaluated(source, corruption=Corruption("contrast", 5))
    assert entry.predictions is None and entry.scores["examples"] == 10
    assert entry.scores["loss"] != evaluated(source).scores["loss"]


def with_labels(source, labels):
    """The source with other labels, several an image."""

    def read(*arguments):
        def relabelled(example):
            return {**example, "label": tf.constant(labels)[example["index"]]}

        return source.read(*arguments).map(relabelled)

    return dataclasses.replace(source, multi_label=True, read=read, fetch=None)


def test_images_with_several_labels_and_without_any(shapes, evaluated):
    # As in imagenet2012_real.
    source = open_source("folder", "test", data_dir=shapes)
    predicted = evaluated(source).predictions.predicted
    labels = np.zeros((10, 3), np.float32)
    labels[np.arange(7), predicted[:7]] = 1
    labels[np.arange(5), (predicted[:5] + 1) % 3] = 1  # of two labels any is right
    labels[7, (predicted[7] + 1) % 3] = 1
    found = evaluated(with_labels(source, labels))
    assert (found.scores["examples"], found.scores["unlabelled"]) == (8, 2)
    assert found.scores["top1"] == 7 / 8
    assert found.predictions.places.tolist() == list(range(8))
    assert sorted(found.predictions.true_classes(0)) == sorted(np.flatnonzero(labels[0]))


def test_photos_that_do_not_decode_are_counted_and_the_others_keep_their_places(shapes, evaluated):
    source = open_source("folder", "test", data_dir=shapes)

    def read(*arguments):
        def broken(example):
            bad = example["index"] == 3
            return {**example, "image": tf.where(bad, b"no photo", example["image"])}

        return source.read(*arguments).map(broken)

    bad = dataclasses.replace(source, read=read, fetch=None)
    config = evaluated.run.config.copy_and_resolve_references()
    config.data.on_corrupt = "skip"
    found = evaluated(bad, config)
    assert (found.scores["examples"], found.scores["skipped"]) == (9, 1)
    whole = evaluated(source).predictions
    places = found.predictions.places
    assert places.tolist() == [0, 1, 2, *range(4, 10)]
    np.testing.assert_array_equal(found.predictions.predicted, whole.predicted[places])
    with pytest.raises(ValueError, match="Some photos cannot be decoded"):
        evaluated(bad)


def test_other_classes_are_refused(finished_run, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "0.png").write_bytes(
            tf.io.encode_png(tf.zeros((8, 8, 3), tf.uint8)).numpy()
        )
    with pytest.raises(ValueError, match="folder has 2 classes, cat, dog .*, and the run has 3"):
        sets.open_sets(Workdir(finished_run), ["folder:test"], data_dir=tmp_path)


def test_a_name_is_opened_once_and_empty_is_the_runs_own(finished_run):
    opened = sets.open_sets(Workdir(finished_run), ["", "test", "train", "test"])
    assert [named.name for named in opened] == ["test", "train"]


def test_several_workers_are_refused(finished_run, monkeypatch):
    monkeypatch.setattr(sets.distribute, "is_multi_worker", lambda _: True)
    with pytest.raises(ValueError, match="takes one machine: unset"):
        sets.load_runs(Workdir(finished_run), ["last"], "single")


# Evaluates a run on two replicas, and on one.
REPLICAS = """
import json, sys
import tensorflow as tf

devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
from noah_tf.evaluation.report import report_run
for strategy in ("mirrored", "single"):
    folder = f"{sys.argv[2]}/{strategy}"
    report_run(sys.argv[1], output=folder, batch_size=4, corruptions=["noise"], strategy=strategy)
"""


@pytest.mark.slow
def test_two_replicas_count_every_example_once(finished_run, tmp_path):
    from head_helpers import run_python

    process = run_python(REPLICAS, str(finished_run), str(tmp_path))
    assert process.returncode == 0, process.stderr[-3000:]
    mirrored, single = (
        json.loads((tmp_path / name / "result.json").read_text())["results"]
        for name in ("mirrored", "single")
    )
    assert len(mirrored) == len(single) == 6
    for ours, expected in zip(mirrored, single, strict=True):
        assert ours["examples"] == 10
        for name, value in expected.items():
            close = value if isinstance(value, str) else pytest.approx(value, rel=1e-5)
            assert ours[name] == close, name
    confusions = [
        (tmp_path / name / "confusion.csv").read_text() for name in ("mirrored", "single")
    ]
    assert confusions[0] == confusions[1]
