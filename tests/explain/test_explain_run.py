"""Figures, arrays and measures of the maps of one run or two."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from recipes import CLASSES, TEST_EXAMPLES

from noah_tf.explain import run as explain
from noah_tf.explain.explainer import Explainer
from noah_tf.explain.measures import curves_figure, figure_path, measure_run, measures_table
from noah_tf.explain.options import MapOptions
from noah_tf.explain.run import explain_run
from noah_tf.runs.checkpoint import load_run

pytestmark = pytest.mark.one_stack


@pytest.fixture
def drawn(monkeypatch):
    """A dict of the arguments that the last figure was drawn with."""
    arguments = {}
    draw = explain.attention_grid

    def recording(photos, maps, titles, boxes, signed):
        arguments.update(maps=maps, titles=titles, signed=signed, boxes=boxes)
        return draw(photos, maps, titles, boxes, signed)

    monkeypatch.setattr(explain, "attention_grid", recording)
    return arguments


def test_explain_run_draws_the_predicted_and_the_true_class(finished_run, tmp_path, drawn):
    path = explain_run(finished_run, tmp_path / "new" / "grid.png", count=2)
    assert [title.split(": ")[0] for title in drawn["titles"][0]] == ["photo", "predicted", "true"]
    other = explain_run(finished_run, tmp_path / "other.png", count=2, options=MapOptions(seed=1))
    assert path.read_bytes() != other.read_bytes()
    assert tf.io.decode_png(path.read_bytes()).shape[0] > 100


def test_arrays_hold_the_maps_of_the_photos(finished_run, tmp_path):
    arrays = tmp_path / "new" / "maps.npz"
    explain_run(
        finished_run,
        tmp_path / "a.png",
        count=3,
        arrays=arrays,
        options=MapOptions(methods=["attention", "contribution"]),
    )
    saved = np.load(arrays)
    assert saved["photos"].shape == (3, 32, 32, 3) and saved["photos"].dtype == np.uint8
    assert tuple(saved["class_names"]) == CLASSES
    assert sorted(saved["index"]) == sorted(set(saved["index"])) and saved["index"].max() < 10
    run = load_run(finished_run)
    images = run.preprocessing.normalize(saved["photos"])
    np.testing.assert_allclose(run.model(images), saved["logits"], atol=1e-5)
    np.testing.assert_array_equal(saved["classes"][:, 0], saved["logits"].argmax(axis=1))
    np.testing.assert_array_equal(saved["classes"][:, 1], saved["label"])
    _, maps = Explainer(run.model)(images, saved["classes"])
    np.testing.assert_allclose(saved["attention"], maps, atol=1e-6)
    logits = np.take_along_axis(saved["logits"], saved["classes"], axis=1)
    np.testing.assert_allclose(saved["contribution"].sum(axis=(1, 2)), logits, atol=1e-4)


def test_given_classes_and_each_group(finished_run, tmp_path, drawn):
    arrays = tmp_path / "maps.npz"
    explain_run(
        finished_run,
        tmp_path / "a.png",
        count=2,
        classes=["ring", "0"],
        per_group=True,
        arrays=arrays,
    )
    saved = np.load(arrays)
    assert saved["classes"].tolist() == [[2, 0]] * 2
    assert saved["attention"].shape[3:] == (4, 2)
    # The maps are ordered by class, then by group.
    for number, maps in enumerate(drawn["maps"]):
        np.testing.assert_array_equal(maps, saved["attention"][..., number % 4, number // 4])
        label, group = drawn["titles"][1][1 + number].split("\n")
        assert label.startswith(("ring: ", "blob: ")[number // 4]) and label.endswith("%")
        assert group == f"group {number % 4 + 1}"


@pytest.mark.slow
def test_two_runs_side_by_side(finished_run, gap_run, tmp_path, drawn):
    arrays = tmp_path / "maps.npz"
    options = MapOptions(compare_workdir=gap_run)
    explain_run(finished_run, tmp_path / "a.png", count=2, arrays=arrays, options=options)
    assert drawn["signed"] == [False, True, True]
    kinds = [title.split("\n")[-1] for title in drawn["titles"][0][1:]]
    assert kinds == ["noah: attention", "noah: contribution", "gap: class activation"]
    saved = np.load(arrays)
    np.testing.assert_array_equal(saved["classes"], saved["label"][:, None])
    np.testing.assert_array_equal(saved["compare_cam"][..., 0], drawn["maps"][2])
    run = load_run(gap_run)
    bias = run.model.get_layer("gap_logits").bias.numpy()
    logits = np.take_along_axis(saved["compare_logits"] - bias, saved["classes"], axis=1)
    np.testing.assert_allclose(saved["compare_cam"].sum(axis=(1, 2)), logits, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["rign"]}, "There is no class 'rign': the nearest of the 3 names are ring"),
        ({"classes": ["3"]}, "indices go from 0 to 2"),
        ({"classes": [-1]}, "There is no class -1"),
        (
            {"options": MapOptions(methods=["cam"])},
            "methods must be one of attention, contribution",
        ),
        (
            {"options": MapOptions(methods=[])},
            "methods must include one of attention, contribution",
        ),
        ({"arrays": "maps.npy"}, r"ends in \.npz, got maps\.npy"),
        ({"count": 0}, "count must be a positive integer, got 0"),
    ],
)
def test_invalid_arguments_raise(finished_run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        explain_run(finished_run, tmp_path / "a.png", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_pooled_head_has_no_groups_and_no_attention(finished_run, gap_run, tmp_path):
    with pytest.raises(ValueError, match="without groups"):
        explain_run(gap_run, tmp_path / "a.png", per_group=True)
    with pytest.raises(ValueError, match="methods must include one of cam for model .*_gap', got"):
        explain_run(
            finished_run,
            tmp_path / "a.png",
            options=MapOptions(compare_workdir=gap_run, methods=["attention"]),
        )


def test_runs_with_different_classes_or_crops_raise(finished_run, tmp_path):
    for file, key, value, message in (
        ("data.json", "class_names", ["a", "b", "c"], r"3 classes \(a, b, c\): compare runs"),
        ("config.json", "preprocess", None, "compare runs with the same preprocessing"),
    ):
        other = tmp_path / file / "other"
        shutil.copytree(finished_run, other)
        values = json.loads((other / file).read_text())
        values[key] = value or {**values[key], "resize_size": 40}
        (other / file).write_text(json.dumps(values))
        with pytest.raises(ValueError, match=message):
            explain_run(finished_run, tmp_path / "a.png", options=MapOptions(compare_workdir=other))


@pytest.mark.slow
def test_measures_of_two_runs(finished_run, gap_run):
    options = MapOptions(compare_workdir=gap_run, weights="best")
    result, path = measure_run(finished_run, ["faithfulness"], count=100, options=options)
    try:
        assert path == finished_run / "maps_test_best.json"
        assert json.loads(path.read_text()) == result
        with Image.open(figure_path(path)) as drawn:
            assert drawn.size == (900, 360)
    finally:
        path.unlink()
        figure_path(path).unlink(missing_ok=True)
    noah, gap = result[str(finished_run)], result[str(gap_run)]
    assert noah["images"] == gap["images"] == TEST_EXAMPLES
    for measured, methods in ((noah, ("attention", "contribution")), (gap, ("cam",))):
        for name in (*methods, "random"):
            curves = measured["curves"]
            assert curves[f"{name}_deletion"][0] == curves["random_insertion"][-1]
            assert 0 < measured[f"{name}_deletion"] < 1
    for axis, curve in zip(curves_figure(result).axes, ("deletion", "insertion"), strict=True):
        drawn = {line.get_label(): line.get_ydata() for line in axis.get_lines()}
        name = f"{gap_run.name}: cam, {gap[f'cam_{curve}']:.3f}"
        np.testing.assert_array_equal(drawn[name], gap["curves"][f"cam_{curve}"])
        assert len(drawn) == 5
    lines = measures_table(result).split("\n")
    assert [line.split()[1] for line in lines] == [
        "maps", "attention", "contribution", "chance", "cam", "chance",
    ]  # fmt: skip
    assert f"{noah['contribution_insertion']:.3f}" == lines[2].split()[-1]
    assert f"{gap['random_deletion']:.3f}" == lines[5].split()[-2]


def test_unknown_measures_and_missing_boxes_raise(finished_run):
    with pytest.raises(ValueError, match="'folder' has no boxes, which localization needs"):
        measure_run(finished_run)
    with pytest.raises(ValueError, match="measures must be one of localization, .*, got 'all'"):
        measure_run(finished_run, ["all"])
