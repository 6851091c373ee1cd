"""The pointing game, and the energy inside the box."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import PREPROCESSING, planted_gap, planted_noah, planted_source
from stacks import slow_on_one_stack

from noah_tf import attach_noah
from noah_tf.datasets.registry import open_source
from noah_tf.explain.localization import energy_inside, localize, pointing_game
from noah_tf.images.preprocessing import Preprocessing

pytestmark = pytest.mark.one_stack

corners = st.tuples(*[st.floats(0, 1)] * 4).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=100, deadline=None)
@given(corners, sizes)
def test_energy_of_a_uniform_map_is_the_area_of_the_box(box, size):
    area = (box[2] - box[0]) * (box[3] - box[1])
    np.testing.assert_allclose(energy_inside(np.full((1, *size), 0.3), [box]), area, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(corners, sizes, st.integers(0, 2**32 - 1))
def test_energy_equals_that_of_the_enlarged_map(box, size, seed):
    box = np.round(np.array(box) * 12) / 12
    maps = np.random.default_rng(seed).normal(size=(1, *size))
    # Every cell becomes 12x12 pixels, and the sides of the box lie between pixels.
    positive = np.maximum(maps[0].repeat(12, 0).repeat(12, 1), 0)
    top, left, bottom, right = (box * (12 * np.array([*size, *size]))).round().astype(int)
    inside, total = positive[top:bottom, left:right].sum(), positive.sum()
    expected = inside / total if total else 0
    np.testing.assert_allclose(energy_inside(maps, [box]), expected, atol=1e-9)


def test_energy_of_small_maps():
    # The left half has 3 of the positive total of 4; the wider box also has half of the right 1.
    maps = np.array([[[3.0, 1.0], [-5.0, -1.0]]])
    np.testing.assert_allclose(energy_inside(maps, [[0, 0, 1, 0.5]]), 0.75)
    np.testing.assert_allclose(energy_inside(maps, [[0, 0, 1, 0.75]]), 0.875)
    np.testing.assert_array_equal(energy_inside(-np.ones((1, 2, 2)), [[0, 0, 1, 1]]), 0)


def test_pointing_game_of_small_maps():
    maps = np.zeros((3, 4, 4))
    maps[0, 1, 2] = 1  # the center of this cell is at 0.375, 0.625
    maps[1, 3, 0] = 1
    maps[2, 0, 0] = maps[2, 3, 3] = 1  # two highest cells
    boxes = [[0.3, 0.6, 0.4, 0.7], [0.3, 0.6, 0.4, 0.7], [0, 0, 0.5, 0.5]]
    np.testing.assert_array_equal(pointing_game(maps, boxes), [1, 0, 0.5])


def test_pointing_game_of_a_uniform_map_is_the_area_of_the_box():
    np.testing.assert_allclose(pointing_game(np.ones((1, 4, 4)), [[0, 0, 0.5, 0.25]]), 1 / 8)


@pytest.mark.parametrize("batch_size", [5, 64])
def test_maps_on_the_object_have_the_best_results(batch_size):
    result = localize(planted_noah(), planted_source(), PREPROCESSING, batch_size=batch_size)
    assert result.pop("examples") == 12
    assert result.pop("chance") == pytest.approx(1 / 16)
    assert set(result) == {
        f"{method}_{measure}"
        for method in ("attention", "contribution")
        for measure in ("pointing", "energy")
    }
    for name, value in result.items():
        assert isinstance(value, float) and value == pytest.approx(1, abs=1e-6), name
    result = localize(planted_gap(), planted_source(), PREPROCESSING)
    assert result["cam_pointing"] == result["cam_energy"] == 1


def test_attention_with_half_its_energy_on_the_object():
    # The softmax weighs the object's cell with exp(ln 15) = 15, each of the 15 others with 1.
    model = planted_noah(key=np.log(15.0), value=-1.0)
    result = localize(model, planted_source(), PREPROCESSING)
    assert result["attention_energy"] == pytest.approx(0.5, abs=1e-5)
    assert result["attention_pointing"] == 1
    assert result["contribution_energy"] == 0  # the value is negative


def test_uniform_attention_equals_chance():
    result = localize(planted_noah(key=0.0), planted_source(), PREPROCESSING, ["attention"])
    for name in ("attention_energy", "attention_pointing"):
        assert result[name] == pytest.approx(result["chance"], abs=1e-6)


def test_each_of_several_labels_has_its_own_box():
    source = planted_source(multi_label=True)
    result = localize(planted_noah(), source, PREPROCESSING)
    assert result["examples"] == 24
    assert result["attention_pointing"] == 1
    model = planted_noah()
    head = model.get_layer("noah_head")
    swapped = [weight[..., ::-1] for weight in head.get_weights()]
    head.set_weights(swapped)  # the model confuses red and green
    assert localize(model, source, PREPROCESSING)["attention_pointing"] == 0


def test_boxes_are_clipped_to_the_center_crop():
    # The image is scaled to twice its size, and the crop removes the outer cells.
    zoomed = dataclasses.replace(PREPROCESSING, resize_size=64)
    source = planted_source(count=40)
    result = localize(planted_gap(), source, zoomed)
    boxes = np.array([example["bbox"] for example in source.examples()])
    num_inner = np.all((boxes > 0.2) & (boxes < 0.8), axis=1).sum()
    assert 0 < result["examples"] == num_inner < 40
    assert result["chance"] == pytest.approx(1 / 4)
    assert result["cam_pointing"] == 1


def test_boxes_of_a_stretched_photo():
    source = planted_source(multi_label=True)
    wide = dataclasses.replace(PREPROCESSING, image_size=(32, 64), stretch=True)
    model = planted_noah(image_size=(32, 64))
    result = localize(model, source, wide)
    # Stretching keeps every box in view, and its shares of the sides.
    assert result["examples"] == 24 and result["chance"] == pytest.approx(1 / 16)
    assert result["attention_pointing"] == 1
    assert result["attention_energy"] == pytest.approx(1, abs=1e-5)


@slow_on_one_stack
def test_digit_scenes(tfds_dir):
    model = attach_noah(
        tf.keras.Sequential([tf.keras.Input((64, 64, 3)), tf.keras.layers.Conv2D(8, 8, 8)]),
        num_classes=10,
    )
    preprocessing = Preprocessing(image_size=64)
    for name, min_boxes in (("single", 200), ("multi", 201)):
        source = open_source(f"digit_scenes/{name}", "test", data_dir=tfds_dir)
        result = localize(model, source, preprocessing, ["attention"])
        assert result["examples"] >= min_boxes
        if name == "single":
            boxes = np.array([example["bbox"] for example in source.examples()])
            area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            assert result["chance"] == pytest.approx(area.mean(), rel=1e-5)
        for measure in ("pointing", "energy"):
            assert 0 < result[f"attention_{measure}"] < 0.5


def test_missing_boxes_or_methods_raise():
    with pytest.raises(ValueError, match="'planted' has no boxes, which localization needs"):
        localize(planted_gap(), planted_source(boxes=False), PREPROCESSING)
    with pytest.raises(ValueError, match="pooled head, whose maps are cam, got method='attention'"):
        localize(planted_gap(), planted_source(), PREPROCESSING, ["attention"])
