"""Figures of photos with their maps."""

import numpy as np
import pytest
import tensorflow as tf

from noah_tf.explain.overlays import attention_grid

pytestmark = pytest.mark.one_stack


def test_grid_shows_photo_box_and_map(tmp_path):
    photos = np.zeros((2, 20, 30, 3), np.uint8)
    maps = np.zeros((2, 4, 6, 1), np.float32)
    maps[:, 0, 5] = 1  # top right corner
    titles = [("photo", "map")] * 2
    figure = attention_grid(photos, maps, titles, boxes=np.array([[0.5, 0, 1, 0.5]] * 2))
    figure.savefig(tmp_path / "grid.png", dpi=50)
    axes = np.array(figure.axes).reshape(2, 2)
    photo, heat = axes[0, 1].images
    assert tuple(photo.get_extent()) == tuple(heat.get_extent())
    (box,) = axes[0, 0].patches
    assert box.get_bbox().bounds == (0, 10, 15, 10)
    pixels = tf.io.decode_png((tmp_path / "grid.png").read_bytes()).numpy()
    assert pixels.std() > 10


def test_signed_maps_are_red_and_blue_over_a_gray_photo(tmp_path):
    photos = np.full((1, 20, 20, 3), (200, 100, 0), np.uint8)
    maps = [np.array([[[0.0, 2.0], [-2.0, 0.0]]]), np.ones((1, 5, 5))]  # two sizes
    figure = attention_grid(photos, maps, [["photo", "signed", "plain"]], signed=[True, False])
    gray, heat = figure.axes[1].images
    assert np.ptp(gray.get_array(), axis=-1).max() == 0
    colors = np.asarray(heat.get_array())
    np.testing.assert_allclose(colors[..., 3], [[0, 1], [1, 0]])
    assert colors[0, 1, 0] > 0.8 > 0.3 > colors[0, 1, 2]
    assert colors[1, 0, 2] > 0.8 > 0.3 > colors[1, 0, 0]
    assert figure.axes[2].images[0].get_array().shape == photos.shape[1:]
    assert "red: evidence" in figure._supxlabel.get_text()
    assert attention_grid(photos, maps[1:], [["photo", "plain"]])._supxlabel is None


def test_long_titles_are_cut_and_images_may_have_any_number_of_boxes():
    photos = np.zeros((2, 8, 8, 3), np.uint8)
    titles = [["true: a, b", "great white shark, white shark, man-eater: 12%\nrun"]] * 2
    boxes = [np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]), np.zeros((0, 4))]
    figure = attention_grid(photos, np.ones((2, 2, 2, 1)), titles, boxes)
    first, second = figure.axes[1].get_title().split("\n")
    assert len(first) <= 27 and first.startswith("great white shark") and first.endswith("…")
    assert second == "run"
    assert [len(figure.axes[number].patches) for number in (0, 2)] == [2, 0]
