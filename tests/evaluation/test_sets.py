"""Names of sets, and the evaluation of a run's weights on them."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from noah_tf.datasets.registry import open_source
from noah_tf.evaluation import sets
from noah_tf.evaluation.corruptions import Corruption
from noah_tf.evaluation.evaluator import Evaluator, evaluate_run
from noah_tf.evaluation.options import EvaluationOptions
from noah_tf.evaluation.results import NamedSet
from noah_tf.runs.checkpoint import load_run
from noah_tf.runs.workdir import Workdir

pytestmark = pytest.mark.one_stack


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
def test_split_name(text, expected):
    assert sets.split_name(text) == expected


@pytest.mark.parametrize("text", ["test[:", ":test", "test]"])
def test_invalid_set_name_raises(text):
    with pytest.raises(ValueError, match="A set is SPLIT or DATA:SPLIT"):
        sets.split_name(text)


@pytest.fixture
def evaluated(finished_run):
    """A function that evaluates the run on a source."""
    run = load_run(finished_run)
    evaluator = Evaluator(run.model)

    def evaluate(source, config=None, batch_size=4, corruption=None):
        changed = run if config is None else dataclasses.replace(run, config=config)
        loaded = sets.LoadedWeights("last", changed, evaluator)
        options = EvaluationOptions(batch_size=batch_size)
        return sets.evaluate_set(loaded, NamedSet("a", source), options, corruption)

    evaluate.run = run
    return evaluate


def test_scores_are_those_of_evaluate_run(finished_run, shapes, evaluated):
    source = open_source("folder", "test", data_dir=shapes)
    result = evaluated(source)
    expected, _ = evaluate_run(finished_run, "test")
    for name, value in expected.items():
        assert result.scores[name] == pytest.approx(value, rel=1e-5)
    assert result.predictions.indices.tolist() == list(range(10))
    other = evaluated(source, batch_size=3)
    np.testing.assert_array_equal(other.predictions.predicted, result.predictions.predicted)
    assert other.scores == pytest.approx(result.scores)


def test_result_of_a_corrupted_copy_has_no_predictions(shapes, evaluated):
    source = open_source("folder", "test", data_dir=shapes)
    result = evaluated(source, corruption=Corruption("contrast", 5))
    assert result.predictions is None and result.scores["examples"] == 10
    assert result.scores["loss"] != evaluated(source).scores["loss"]


def with_labels(source, labels):
    """Returns the source with other, multi-hot labels."""

    def read(*arguments):
        def relabeled(example):
            return {**example, "label": tf.constant(labels)[example["index"]]}

        return source.read(*arguments).map(relabeled)

    return dataclasses.replace(source, multi_label=True, read=read, fetch=None)


def test_examples_with_several_labels_and_with_none(shapes, evaluated):
    # As in imagenet2012_real.
    source = open_source("folder", "test", data_dir=shapes)
    predicted = evaluated(source).predictions.predicted
    labels = np.zeros((10, 3), np.float32)
    labels[np.arange(7), predicted[:7]] = 1
    labels[np.arange(5), (predicted[:5] + 1) % 3] = 1  # any of two labels is correct
    labels[7, (predicted[7] + 1) % 3] = 1
    result = evaluated(with_labels(source, labels))
    assert (result.scores["examples"], result.scores["unlabeled"]) == (8, 2)
    assert result.scores["top1"] == 7 / 8
    assert result.predictions.indices.tolist() == list(range(8))
    assert sorted(result.predictions.true_classes(0)) == sorted(np.flatnonzero(labels[0]))


@pytest.mark.slow
def test_undecodable_images_are_counted_and_the_others_keep_their_indices(shapes, evaluated):
    source = open_source("folder", "test", data_dir=shapes)

    def read(*arguments):
        def broken(example):
            bad = example["index"] == 3
            return {**example, "image": tf.where(bad, b"no photo", example["image"])}

        return source.read(*arguments).map(broken)

    bad = dataclasses.replace(source, read=read, fetch=None)
    config = evaluated.run.config.copy_and_resolve_references()
    config.data.on_corrupt = "skip"
    result = evaluated(bad, config)
    assert (result.scores["examples"], result.scores["skipped"]) == (9, 1)
    whole = evaluated(source).predictions
    indices = result.predictions.indices
    assert indices.tolist() == [0, 1, 2, *range(4, 10)]
    np.testing.assert_array_equal(result.predictions.predicted, whole.predicted[indices])
    with pytest.raises(ValueError, match="Some photos cannot be decoded"):
        evaluated(bad)


def test_different_classes_raise(finished_run, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "0.png").write_bytes(
            tf.io.encode_png(tf.zeros((8, 8, 3), tf.uint8)).numpy()
        )
    with pytest.raises(ValueError, match="folders that are none of the 3 classes: cat, dog"):
        sets.open_sets(Workdir(finished_run), EvaluationOptions(["folder:test"], data_dir=tmp_path))


def test_each_set_is_opened_once_and_the_empty_name_is_the_runs_own_split(finished_run):
    opened = sets.open_sets(Workdir(finished_run), EvaluationOptions(["", "test", "train", "test"]))
    assert [named.name for named in opened] == ["test", "train"]


def test_several_workers_raise(finished_run, monkeypatch):
    monkeypatch.setattr(sets.distribute, "is_multi_worker", lambda _: True)
    with pytest.raises(ValueError, match="runs on one machine: unset"):
        sets.load_weights([(finished_run, "last")], "single")


# Evaluates a run on two replicas, and on one.
REPLICAS = """
import json, sys
import tensorflow as tf

devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
from noah_tf.evaluation.options import EvaluationOptions
from noah_tf.evaluation.report import report_run
for strategy in ("mirrored", "single"):
    folder = f"{sys.argv[2]}/{strategy}"
    options = EvaluationOptions(output=folder, batch_size=4, strategy=strategy)
    report_run(sys.argv[1], options, corruptions=["noise"])
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
            is_text = isinstance(value, str)
            assert ours[name] == (value if is_text else pytest.approx(value, rel=1e-5)), name
    confusions = [
        (tmp_path / name / "confusion.csv").read_text() for name in ("mirrored", "single")
    ]
    assert confusions[0] == confusions[1]
