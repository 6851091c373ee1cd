"""Runs explained from their folders: pictures, arrays, two runs side by side, measures."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from recipes import CLASSES, TEST_EXAMPLES, small_recipe

from noah_tf.explain import run as explain
from noah_tf.explain.explainer import Explainer
from noah_tf.explain.measures import curves_figure, measure_run, measures_table, picture
from noah_tf.explain.run import explain_run
from noah_tf.runs.checkpoint import load_run
from noah_tf.training.loop import train


@pytest.fixture(scope="module")
def gap_run(shapes, tmp_path_factory):
    """As `finished_run`, with a pooled head. Read it only."""
    config = small_recipe(shapes, "gap")
    config.train.epochs = 1
    workdir = tmp_path_factory.mktemp("runs") / "gap"
    train(config, workdir)
    return workdir


@pytest.fixture
def drawn(monkeypatch):
    """What the last picture was drawn with, a dict."""
    calls = {}
    draw = explain.attention_grid

    def recording(photos, maps, titles, boxes, signed):
        calls.update(maps=maps, titles=titles, signed=signed, boxes=boxes)
        return draw(photos, maps, titles, boxes, signed)

    monkeypatch.setattr(explain, "attention_grid", recording)
    return calls


def test_a_run_is_explained_from_its_folder(finished_run, tmp_path, drawn):
    path = explain_run(finished_run, tmp_path / "new" / "grid.png", count=2)
    assert [title.split(": ")[0] for title in drawn["titles"][0]] == ["photo", "predicted", "true"]
    other = explain_run(finished_run, tmp_path / "other.png", count=2, seed=1)
    assert path.read_bytes() != other.read_bytes()
    assert tf.io.decode_png(path.read_bytes()).shape[0] > 100


def test_arrays_are_the_maps_of_the_photos(finished_run, tmp_path):
    arrays = tmp_path / "new" / "maps.npz"
    explain_run(
        finished_run,
        tmp_path / "a.png",
        count=3,
        arrays=arrays,
        methods=["attention", "contribution"],
    )
    found = np.load(arrays)
    assert found["photos"].shape == (3, 32, 32, 3) and found["photos"].dtype == np.uint8
    assert tuple(found["class_names"]) == CLASSES
    assert sorted(found["index"]) == sorted(set(found["index"])) and found["index"].max() < 10
    run = load_run(finished_run)
    images = run.preprocessing.normalize(found["photos"])
    np.testing.assert_allclose(run.model(images), found["logits"], atol=1e-5)
    np.testing.assert_array_equal(found["classes"][:, 0], found["logits"].argmax(axis=1))
    np.testing.assert_array_equal(found["classes"][:, 1], found["label"])
    _, maps = Explainer(run.model)(images, found["classes"])
    np.testing.assert_allclose(found["attention"], maps, atol=1e-6)
    logits = np.take_along_axis(found["logits"], found["classes"], axis=1)
    np.testing.assert_allclose(found["contribution"].sum(axis=(1, 2)), logits, atol=1e-4)


def test_any_class_and_each_group(finished_run, tmp_path, drawn):
    arrays = tmp_path / "maps.npz"
    explain_run(
        finished_run,
        tmp_path / "a.png",
        count=2,
        classes=["ring", "0"],
        per_group=True,
        arrays=arrays,
    )
    found = np.load(arrays)
    assert found["classes"].tolist() == [[2, 0]] * 2
    assert found["attention"].shape[3:] == (4, 2)
    # By class, then group, as the titles say.
    for number, maps in enumerate(drawn["maps"]):
        np.testing.assert_array_equal(maps, found["attention"][..., number % 4, number // 4])
        label, group = drawn["titles"][1][1 + number].split("\n")
        assert label.startswith(("ring: ", "blob: ")[number // 4]) and label.endswith("%")
        assert group == f"group {number % 4 + 1}"


def test_two_heads_side_by_side(finished_run, gap_run, tmp_path, drawn):
    arrays = tmp_path / "maps.npz"
    explain_run(finished_run, tmp_path / "a.png", count=2, compare_workdir=gap_run, arrays=arrays)
    assert drawn["signed"] == [False, True, True]
    kinds = [title.split("\n")[-1] for title in drawn["titles"][0][1:]]
    assert kinds == ["noah: attention", "noah: contribution", "gap: class activation"]
    found = np.load(arrays)
    np.testing.assert_array_equal(found["classes"], found["label"][:, None])
    np.testing.assert_array_equal(found["compare_cam"][..., 0], drawn["maps"][2])
    run = load_run(gap_run)
    bias = run.model.get_layer("gap_logits").bias.numpy()
    logits = np.take_along_axis(found["compare_logits"] - bias, found["classes"], axis=1)
    np.testing.assert_allclose(found["compare_cam"].sum(axis=(1, 2)), logits, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["rign"]}, "There is no class 'rign': the nearest of the 3 names are ring"),
        ({"classes": ["3"]}, "indices go from 0 to 2"),
        ({"classes": [-1]}, "There is no class -1"),
        ({"methods": ["cam"]}, "No head here makes maps by 'cam': there are attention, contri"),
        ({"methods": []}, "makes no map by nothing: add one of attention, contribution"),
        ({"arrays": "maps.npy"}, r"ends in \.npz, got maps\.npy"),
        ({"count": 0}, "count must be a positive integer, got 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(finished_run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        explain_run(finished_run, tmp_path / "a.png", **options)
    assert not list(tmp_path.iterdir())


def test_a_pooled_head_has_no_groups_and_no_attention(finished_run, gap_run, tmp_path):
    with pytest.raises(ValueError, match="without groups"):
        explain_run(gap_run, tmp_path / "a.png", per_group=True)
    with pytest.raises(ValueError, match="_gap makes no map by attention: add one of cam"):
        explain_run(
            finished_run, tmp_path / "a.png", compare_workdir=gap_run, methods=["attention"]
        )


def test_runs_on_other_data_are_not_compared(finished_run, tmp_path):
    for file, key, value, message in (
        ("data.json", "class_names", ["a", "b", "c"], r"a, b, c \.\.\. \(3\): compare runs"),
        ("config.json", "preprocess", None, "compare runs with the same preprocessing"),
    ):
        other = tmp_path / file / "other"
        shutil.copytree(finished_run, other)
        values = json.loads((other / file).read_text())
        values[key] = value or {**values[key], "resize_size": 40}
        (other / file).write_text(json.dumps(values))
        with pytest.raises(ValueError, match=message):
            explain_run(finished_run, tmp_path / "a.png", compare_workdir=other)


def test_measures_of_two_runs(finished_run, gap_run):
    result, path = measure_run(
        finished_run, ["faithfulness"], compare_workdir=gap_run, count=100, weights="best"
    )
    try:
        assert path == finished_run / "maps_test_best.json"
        assert json.loads(path.read_text()) == result
        with Image.open(picture(path)) as drawn:
            assert drawn.size == (900, 360)
    finally:
        path.unlink()
        picture(path).unlink(missing_ok=True)
    noah, gap = result[str(finished_run)], result[str(gap_run)]
    assert noah["images"] == gap["images"] == TEST_EXAMPLES
    for found, methods in ((noah, ("attention", "contribution")), (gap, ("cam",))):
        for name in (*methods, "random"):
            curves = found["curves"]
            assert curves[f"{name}_deletion"][0] == curves["random_insertion"][-1]
            assert 0 < found[f"{name}_deletion"] < 1
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


def test_measures_that_do_not_exist_or_need_boxes_are_refused(finished_run):
    with pytest.raises(ValueError, match="'folder' has no boxes to measure maps by"):
        measure_run(finished_run)
    with pytest.raises(ValueError, match="Measures are localization and faithfulness, got 'all'"):
        measure_run(finished_run, ["all"])
