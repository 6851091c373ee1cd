"""Deletion and insertion curves."""

import numpy as np
import pytest
import tensorflow as tf
from planted import PREPROCESSING, planted_gap, planted_noah, planted_source

from noah_tf.explain.faithfulness import areas_under, faithfulness, faithfulness_curves


@pytest.fixture(scope="module")
def curves():
    return faithfulness_curves(planted_noah(key=8.0), planted_source(), PREPROCESSING, steps=8)


def test_the_score_falls_with_the_important_pixels_and_rises_with_them(curves):
    logit = 10 * np.exp(8) / (np.exp(8) + 15)  # of the true class, the other's is 0
    intact = 1 / (1 + np.exp(-logit))
    for method in ("attention", "contribution"):
        deletion, insertion = curves[f"{method}_deletion"], curves[f"{method}_insertion"]
        assert deletion.shape == insertion.shape == (9,)
        # Without the object, a sixteenth of the pixels, there is nothing to tell the classes by.
        np.testing.assert_allclose(deletion[[0, 2, -1]], [intact, 0.5, 0.5], atol=0.02)
        assert insertion[-1] == pytest.approx(intact, abs=1e-6)
        assert insertion[2] > 0.999 and insertion[0] < 0.96
        assert deletion[1] < curves["random_deletion"][1] - 0.1


def test_good_maps_beat_noise_and_maps_of_the_rest_lose_to_it(curves):
    found = areas_under(curves)
    for method in ("attention", "contribution"):
        assert found[f"{method}_deletion"] < found["random_deletion"] - 0.1
        assert found[f"{method}_insertion"] > found["random_insertion"]


def test_a_map_that_does_not_show_what_decides_is_found_out():
    # Attention is everywhere but on the object, and the evidence is on it all the same.
    model = planted_noah(key=-1.0, value=400.0)
    found = faithfulness(model, planted_source(), PREPROCESSING, steps=8)
    assert found["attention_deletion"] > found["random_deletion"] + 0.05
    assert found["contribution_deletion"] < found["random_deletion"] - 0.05


def test_the_areas_are_trapezoids_and_both_functions_agree(curves):
    found = faithfulness(
        planted_noah(key=8.0), planted_source(), PREPROCESSING, steps=8, batch_size=5
    )
    assert found.pop("examples") == 12
    assert set(found) == set(curves)
    for name, values in curves.items():
        expected = (values[1:] + values[:-1]).mean() / 2
        assert found[name] == pytest.approx(expected, abs=1e-6)


def test_images_and_noise_are_functions_of_the_seed():
    def run(seed):
        return faithfulness(
            planted_gap(100.0), planted_source(), PREPROCESSING, count=4, steps=4, seed=seed
        )

    assert run(0) == run(0)
    assert run(0)["random_deletion"] != run(1)["random_deletion"]
    assert run(0)["examples"] == 4


def test_of_several_labels_the_score_is_the_sigmoids():
    source = planted_source(count=2, multi_label=True)
    model = planted_gap(160.0, bias=(-5.0, -6.0))
    curves = faithfulness_curves(model, source, PREPROCESSING, steps=4)
    assert curves["cam_deletion"][0] == pytest.approx(float(tf.sigmoid(5.0)), abs=1e-6)
    assert curves["cam_deletion"][-1] == pytest.approx(float(tf.sigmoid(-5.0)), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count must be a positive integer, got 0"),
        ({"steps": 1.5}, "steps must be a positive integer, got 1.5"),
        ({"methods": ["cam"]}, "NOAH head, whose maps are attention and contribution, got"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        faithfulness(planted_noah(), planted_source(), PREPROCESSING, **options)
