"""The dry run of a recipe."""

import re

import numpy as np
import pytest
import tensorflow as tf
from recipes import quickstart, recipe, small_recipe

import noah_tf
from noah_tf.runs.checkpoint import load_run
from noah_tf.training import cluster_plan
from noah_tf.training.cluster_plan import Cluster
from noah_tf.training.dry_run import dry_run

pytestmark = pytest.mark.one_stack


@pytest.mark.slow
def test_data_size_comes_from_the_source_if_the_recipe_has_none(shapes):
    config = small_recipe(shapes)
    config.train.accumulate = 2
    text = dry_run(config)
    assert "folder train: 24 examples, 3 classes" in text
    assert "2 epochs of 3: 6 steps, 48 images" in text
    assert "batch       8: 8 per device, in 2 parts of 4" in text
    losses = text.split("loss ")[1].split(";")[0].split(" and ")
    assert len(losses) == 2 and all(0 < float(loss) < 10 for loss in losses)


def test_schedule_is_plotted(shapes):
    paper, config = recipe("resnet", "noah_resnet18"), small_recipe(shapes)
    config.optimizer, config.schedule = paper.optimizer, paper.schedule
    config.train.epochs = paper.train.epochs
    lines = dry_run(config).splitlines()
    rates = {}
    for line in lines[lines.index("learning rate after this many epochs:") + 1 :]:
        epoch, rate, *bar = line.split()
        rates[int(epoch)] = (float(rate), len(bar[0]) if bar else 0)
    assert rates[0] == (0.1, 40) and rates[99] == (1e-4, 0)
    assert {rate for rate, _ in rates.values()} == {0.1, 0.01, 0.001, 1e-4}


def test_invalid_recipe_raises():
    config = quickstart()
    config.train.batch_size = 0
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        dry_run(config)


def planned(shapes, **options):
    """Returns the lines of the dry run of a small recipe for a cluster, by their first word."""
    config = small_recipe(shapes)
    config.train.batch_size = 24
    config.augment.repeats = 3  # more than some devices have examples
    lines = dry_run(config, Cluster(**options)).splitlines()
    return {line.split(maxsplit=1)[0]: line[12:] for line in lines if line.strip()}


def numbers(line):
    return [float(text.replace(",", "")) for text in re.findall(r"\d[\d,]*\.?\d*(?:e\+\d+)?", line)]


@pytest.mark.slow
def test_plan_of_a_cluster(shapes, finished_run):
    lines = planned(
        shapes, workers=3, devices=4, bandwidth=0.5, step_seconds=0.25, images_per_core=2
    )
    model = load_run(finished_run).model
    trained, other = (
        sum(4 * np.prod(w.shape) for w in weights)
        for weights in (model.trainable_weights, model.non_trainable_weights)
    )
    assert lines["devices"].startswith("12 in 3 workers with 4 each; tried here on 1 x CPU")
    assert lines["batch"] == "24: 2 per device"
    expected = f"{trained / 1e6:.1f} MB a step and device, summed once, and {other / 1e6:.1f} MB of"
    assert lines["gradients"].startswith(expected)
    # A ring over three machines sends 4/3 of the bytes.
    network = 4 / 3 * 8 * (trained + other) / 0.5e9
    assert numbers(lines["all-reduce"])[0] == pytest.approx(1e3 * network, rel=1e-2)
    assert numbers(lines["step"])[0] == pytest.approx(1e3 * (0.25 + network), rel=1e-2)
    rate = 8 / (0.25 + network)
    assert numbers(lines["input"])[:2] == [round(rate), round(rate / 2, 1)]
    size = numbers(lines["checkpoint"])[0]  # Adam has two slots of each trained weight
    assert size == pytest.approx((3 * trained + other) / 1e6, abs=0.3)


def test_head_of_imagenet_21k_in_the_plan(shapes, monkeypatch):
    monkeypatch.setattr(cluster_plan, "_IMAGENET_21K_CLASSES", 7)
    line = planned(shapes, workers=1, devices=2, images_per_core=1)["21k"]
    features = tf.keras.Input((8, 8, 64))
    weights, products = {}, {}
    for classes in (7, 3):
        head = noah_tf.attach_noah(tf.keras.Model(features, features + 0), classes).layers[-1]
        weights[classes] = head.count_params()
        kernels = sum(np.prod(w.shape) for w in head.weights if "kernel" in w.name)
        products[classes] = f"{8 * 8 * kernels / 1e6:,.2f}"
    assert f"has {weights[7]:,} weights instead of {weights[3]:,}, and" in line
    assert f"multiplies {products[7]} million times an image instead of {products[3]};" in line
    assert "in 0 ms" in line  # one machine sends nothing


@pytest.mark.slow
def test_the_input_pipeline_is_measured_here(shapes):
    line = planned(shapes, workers=1, devices=1, step_seconds=1.0)["input"]
    rate, cores, per_core = numbers(line)[:3]
    assert rate == 24 and per_core > 1
    assert cores == pytest.approx(rate / per_core, abs=0.1)
    assert "CPU time here on fake photos of 500x375 pixels" in line


def test_a_cluster_that_the_batch_does_not_suit_raises(shapes):
    with pytest.raises(ValueError, match="not divisible by the 64 replicas: use 64"):
        planned(shapes, workers=8, devices=8)
    for name in ("workers", "devices"):
        with pytest.raises(ValueError, match=f"{name} must be a positive integer, got 0"):
            Cluster(**{"workers": 1, "devices": 1, name: 0})
    with pytest.raises(ValueError, match="bandwidth must be a positive number of Gbit/s, got 0"):
        Cluster(1, 1, bandwidth=0)
    with pytest.raises(ValueError, match="step_seconds must be a positive number of seconds"):
        Cluster(1, 1, step_seconds=-1.0)
