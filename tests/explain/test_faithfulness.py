"""Deletion and insertion curves."""

import numpy as np
import pytest
import tensorflow as tf
from planted import PREPROCESSING, planted_gap, planted_noah, planted_source

from noah_tf.explain.faithfulness import areas_under, faithfulness, faithfulness_curves

pytestmark = pytest.mark.one_stack


@pytest.fixture(scope="module")
def curves():
    """The curves of a model that looks at the object. Read-only."""
    return faithfulness_curves(planted_noah(key=8.0), planted_source(), PREPROCESSING, steps=8)


def test_deletion_of_the_object_lowers_the_probability_and_insertion_raises_it(curves):
    logit = 10 * np.exp(8) / (np.exp(8) + 15)  # of the true class; the other logit is 0
    intact = 1 / (1 + np.exp(-logit))
    for method in ("attention", "contribution"):
        deletion, insertion = curves[f"{method}_deletion"], curves[f"{method}_insertion"]
        assert deletion.shape == insertion.shape == (9,)
        # Without the object, a sixteenth of the pixels, both classes are equally probable.
        np.testing.assert_allclose(deletion[[0, 2, -1]], [intact, 0.5, 0.5], atol=0.02)
        assert insertion[-1] == pytest.approx(intact, abs=1e-6)
        assert insertion[2] > 0.999 and insertion[0] < 0.96
        assert deletion[1] < curves["random_deletion"][1] - 0.1


def test_maps_of_the_object_are_better_than_noise(curves):
    areas = areas_under(curves)
    for method in ("attention", "contribution"):
        assert areas[f"{method}_deletion"] < areas["random_deletion"] - 0.1
        assert areas[f"{method}_insertion"] > areas["random_insertion"]


def test_map_that_misses_the_object_is_worse_than_noise():
    # The attention is low on the object, but the evidence lies on it.
    model = planted_noah(key=-1.0, value=400.0)
    areas = faithfulness(model, planted_source(), PREPROCESSING, steps=8)
    assert areas["attention_deletion"] > areas["random_deletion"] + 0.05
    assert areas["contribution_deletion"] < areas["random_deletion"] - 0.05


def test_areas_are_those_of_the_trapezoidal_rule(curves):
    areas = faithfulness(
        planted_noah(key=8.0), planted_source(), PREPROCESSING, steps=8, batch_size=5
    )
    assert areas.pop("examples") == 12
    assert set(areas) == set(curves)
    for name, values in curves.items():
        expected = (values[1:] + values[:-1]).mean() / 2
        assert areas[name] == pytest.approx(expected, abs=1e-6)


def test_results_are_functions_of_the_seed():
    def areas(seed):
        return faithfulness(
            planted_gap(100.0), planted_source(), PREPROCESSING, count=4, steps=4, seed=seed
        )

    assert areas(0) == areas(0)
    assert areas(0)["random_deletion"] != areas(1)["random_deletion"]
    assert areas(0)["examples"] == 4


def test_multi_label_probabilities_are_sigmoids():
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
def test_invalid_arguments_raise(options, message):
    with pytest.raises(ValueError, match=message):
        faithfulness(planted_noah(), planted_source(), PREPROCESSING, **options)
