"""The pictures of maps."""

import numpy as np
import tensorflow as tf

from noah_tf.explain.overlays import attention_grid


def test_the_picture_shows_photo_and_maps(tmp_path):
    photos = np.zeros((2, 20, 30, 3), np.uint8)
    maps = np.zeros((2, 4, 6, 1), np.float32)
    maps[:, 0, 5] = 1  # the top right corner
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


def test_evidence_is_red_over_grey_and_what_speaks_against_it_blue(tmp_path):
    photos = np.full((1, 20, 20, 3), (200, 100, 0), np.uint8)
    maps = [np.array([[[0.0, 2.0], [-2.0, 0.0]]]), np.ones((1, 5, 5))]  # of two sizes
    figure = attention_grid(photos, maps, [["photo", "signed", "plain"]], signed=[True, False])
    grey, heat = figure.axes[1].images
    assert np.ptp(grey.get_array(), axis=-1).max() == 0
    colours = np.asarray(heat.get_array())
    np.testing.assert_allclose(colours[..., 3], [[0, 1], [1, 0]])
    assert colours[0, 1, 0] > 0.8 > 0.3 > colours[0, 1, 2]
    assert colours[1, 0, 2] > 0.8 > 0.3 > colours[1, 0, 0]
    assert figure.axes[2].images[0].get_array().shape == photos.shape[1:]
    assert "red: evidence" in figure._supxlabel.get_text()
    assert attention_grid(photos, maps[1:], [["photo", "plain"]])._supxlabel is None


def test_long_titles_are_cut_and_boxes_may_be_many():
    photos = np.zeros((2, 8, 8, 3), np.uint8)
    titles = [["true: a, b", "great white shark, white shark, man-eater: 12%\nrun"]] * 2
    boxes = [np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]), np.zeros((0, 4))]
    figure = attention_grid(photos, np.ones((2, 2, 2, 1)), titles, boxes)
    first, second = figure.axes[1].get_title().split("\n")
    assert len(first) <= 27 and first.startswith("great white shark") and first.endswith("…")
    assert second == "run"
    assert [len(figure.axes[number].patches) for number in (0, 2)] == [2, 0]
