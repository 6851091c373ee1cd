"""The pointing game and the energy inside the box."""

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

corners = st.tuples(*[st.floats(0, 1)] * 4).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=100, deadline=None)
@given(corners, sizes)
def test_a_uniform_map_gets_the_boxs_share_of_the_image(box, size):
    area = (box[2] - box[0]) * (box[3] - box[1])
    np.testing.assert_allclose(energy_inside(np.full((1, *size), 0.3), [box]), area, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(corners, sizes, st.integers(0, 2**32 - 1))
def test_energy_is_that_of_the_map_enlarged_pixel_by_pixel(box, size, seed):
    box = np.round(np.array(box) * 12) / 12
    maps = np.random.default_rng(seed).normal(size=(1, *size))
    # Every cell becomes 12x12 pixels, so the box's sides fall between pixels.
    positive = np.maximum(maps[0].repeat(12, 0).repeat(12, 1), 0)
    top, left, bottom, right = (box * (12 * np.array([*size, *size]))).round().astype(int)
    inside, total = positive[top:bottom, left:right].sum(), positive.sum()
    expected = inside / total if total else 0
    np.testing.assert_allclose(energy_inside(maps, [box]), expected, atol=1e-9)


def test_energy_by_hand():
    # 3 of the 4 that are positive lie in the left half, of the right cell's 1 a half.
    maps = np.array([[[3.0, 1.0], [-5.0, -1.0]]])
    np.testing.assert_allclose(energy_inside(maps, [[0, 0, 1, 0.5]]), 0.75)
    np.testing.assert_allclose(energy_inside(maps, [[0, 0, 1, 0.75]]), 0.875)
    np.testing.assert_array_equal(energy_inside(-np.ones((1, 2, 2)), [[0, 0, 1, 1]]), 0)


def test_pointing_by_hand():
    maps = np.zeros((3, 4, 4))
    maps[0, 1, 2] = 1  # its centre is at 0.375, 0.625
    maps[1, 3, 0] = 1
    maps[2, 0, 0] = maps[2, 3, 3] = 1  # one of two
    boxes = [[0.3, 0.6, 0.4, 0.7], [0.3, 0.6, 0.4, 0.7], [0, 0, 0.5, 0.5]]
    np.testing.assert_array_equal(pointing_game(maps, boxes), [1, 0, 0.5])


def test_a_map_without_a_preference_points_by_chance():
    np.testing.assert_allclose(pointing_game(np.ones((1, 4, 4)), [[0, 0, 0.5, 0.25]]), 1 / 8)


@pytest.mark.parametrize("batch_size", [5, 64])
def test_maps_that_lie_on_the_object_are_found_perfect(batch_size):
    found = localize(planted_noah(), planted_source(), PREPROCESSING, batch_size=batch_size)
    assert found.pop("examples") == 12
    assert found.pop("chance") == pytest.approx(1 / 16)
    assert set(found) == {
        f"{method}_{what}"
        for method in ("attention", "contribution")
        for what in ("pointing", "energy")
    }
    for name, value in found.items():
        assert isinstance(value, float) and value == pytest.approx(1, abs=1e-6), name
    found = localize(planted_gap(), planted_source(), PREPROCESSING)
    assert found["cam_pointing"] == found["cam_energy"] == 1


def test_attention_by_hand():
    # At the object's cell exp(ln 15) = 15, at each of the other 15 cells exp(0) = 1.
    model = planted_noah(key=np.log(15.0), value=-1.0)
    found = localize(model, planted_source(), PREPROCESSING)
    assert found["attention_energy"] == pytest.approx(0.5, abs=1e-5)
    assert found["attention_pointing"] == 1
    assert found["contribution_energy"] == 0  # it speaks against the class


def test_uniform_attention_is_at_chance():
    found = localize(planted_noah(key=0.0), planted_source(), PREPROCESSING, ["attention"])
    for name in ("attention_energy", "attention_pointing"):
        assert found[name] == pytest.approx(found["chance"], abs=1e-6)


def test_of_several_labels_each_has_its_own_box():
    source = planted_source(multi_label=True)
    found = localize(planted_noah(), source, PREPROCESSING)
    assert found["examples"] == 24
    assert found["attention_pointing"] == 1
    model = planted_noah()
    head = model.get_layer("noah_head")
    swapped = [weight[..., ::-1] for weight in head.get_weights()]
    head.set_weights(swapped)  # sees green for red
    assert localize(model, source, PREPROCESSING)["attention_pointing"] == 0


def test_boxes_are_cut_to_what_the_model_sees():
    # Twice as large and cut to the middle half: of the outer cells nothing is left.
    zoomed = dataclasses.replace(PREPROCESSING, resize_size=64)
    source = planted_source(count=40)
    found = localize(planted_gap(), source, zoomed)
    boxes = np.array([example["bbox"] for example in source.examples()])
    middle = np.all((boxes > 0.2) & (boxes < 0.8), axis=1).sum()
    assert 0 < found["examples"] == middle < 40
    assert found["chance"] == pytest.approx(1 / 4)
    assert found["cam_pointing"] == 1


def test_boxes_of_a_stretched_photo_are_where_its_objects_are():
    source = planted_source(multi_label=True)
    wide = dataclasses.replace(PREPROCESSING, image_size=(32, 64), stretch=True)
    model = planted_noah(size=(32, 64))
    found = localize(model, source, wide)
    # All boxes are seen, as shares of the sides where they were.
    assert found["examples"] == 24 and found["chance"] == pytest.approx(1 / 16)
    assert found["attention_pointing"] == 1
    assert found["attention_energy"] == pytest.approx(1, abs=1e-5)


@slow_on_one_stack
def test_digit_scenes_of_both_kinds(tfds_dir):
    model = attach_noah(
        tf.keras.Sequential([tf.keras.Input((64, 64, 3)), tf.keras.layers.Conv2D(8, 8, 8)]),
        num_classes=10,
    )
    preprocessing = Preprocessing(image_size=64)
    for name, least in (("single", 200), ("multi", 201)):
        source = open_source(f"digit_scenes/{name}", "test", data_dir=tfds_dir)
        found = localize(model, source, preprocessing, ["attention"])
        assert found["examples"] >= least
        if name == "single":
            boxes = np.array([example["bbox"] for example in source.examples()])
            area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            assert found["chance"] == pytest.approx(area.mean(), rel=1e-5)
        for what in ("pointing", "energy"):
            assert 0 < found[f"attention_{what}"] < 0.5


def test_without_boxes_there_is_nothing_to_measure_by():
    with pytest.raises(ValueError, match="'planted' has no boxes to measure maps by"):
        localize(planted_gap(), planted_source(boxes=False), PREPROCESSING)
    with pytest.raises(ValueError, match="pooled head, whose maps are cam, got method='attention'"):
        localize(planted_gap(), planted_source(), PREPROCESSING, ["attention"])
