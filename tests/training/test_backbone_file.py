"""Runs whose backbone is a model in a .keras file."""

import numpy as np
import pytest
import tensorflow as tf
from recipes import small_recipe
from stacks import slow_on_one_stack
from training_runs import train_and_kill

from noah_tf.evaluation.evaluator import evaluate_run
from noah_tf.export.from_run import export_run
from noah_tf.models import with_input_shape
from noah_tf.runs.checkpoint import load_run
from noah_tf.runs.workdir import Workdir
from noah_tf.training.loop import train

layers = tf.keras.layers


@pytest.fixture
def file(tmp_path):
    """A classifier for photos of 24x24 pixels."""
    tf.keras.utils.set_random_seed(3)
    images = tf.keras.Input((24, 24, 3))
    x = layers.Conv2D(16, 3, strides=4, padding="same", name="stem")(images)
    x = layers.ReLU(name="map")(layers.BatchNormalization(name="norm")(x))
    x = layers.Dense(7, name="scores")(layers.GlobalAveragePooling2D()(x))
    path = tmp_path / "backbone.keras"
    tf.keras.Model(images, x, name="pretrained").save(path)
    return path


def recipe_for(shapes, file, head="noah"):
    config = small_recipe(shapes, head)
    config.model.backbone = str(file)
    return config


def stem(model):
    return model.get_layer("stem").get_weights()[0]


@pytest.mark.parametrize("head", ["noah", pytest.param("gap", marks=slow_on_one_stack)])
def test_a_run_starts_from_the_files_weights(shapes, tmp_path, file, head, capsys):
    config = recipe_for(shapes, file, head)
    config.optimizer.learning_rate = 1e-12
    train(config, tmp_path / "run")
    assert f"starting from {file}" in capsys.readouterr().out
    run = load_run(tmp_path / "run")
    assert run.model.input_shape == (None, 32, 32, 3) and run.model.output_shape == (None, 3)
    np.testing.assert_allclose(stem(run.model), stem(tf.keras.models.load_model(file)), atol=1e-6)


@pytest.mark.slow
def test_a_run_starts_from_the_logits_of_the_files_classifier(shapes, tmp_path, file):
    classifier = tf.keras.models.load_model(file)
    scores = layers.Dense(3, activation="softmax", name="scores")(classifier.layers[-2].output)
    classifier = tf.keras.Model(classifier.input, scores)
    classifier.save(file)
    config = recipe_for(shapes, file)
    config.model.init, config.optimizer.learning_rate = "pooled", 1e-12
    train(config, tmp_path / "run")
    file.unlink()
    run = load_run(tmp_path / "run")
    photos = np.random.default_rng(0).random((2, 24, 24, 3), np.float32)
    model = with_input_shape(run.model, (24, 24, 3))
    # One epoch changes the statistics of the batch normalization.
    norm = classifier.get_layer("norm")
    norm.set_weights(run.model.get_layer("norm").get_weights())
    np.testing.assert_allclose(tf.nn.softmax(model(photos)), classifier(photos), atol=1e-5)
    tf.keras.Model(classifier.input, classifier.get_layer("map").output).save(file)
    with pytest.raises(ValueError, match="no classifier after its feature map"):
        train(config, tmp_path / "other")


@pytest.mark.slow
def test_a_killed_run_goes_on_and_is_exported_without_the_file(shapes, tmp_path, file, monkeypatch):
    config = recipe_for(shapes, file)
    train(config, tmp_path / "whole")
    train_and_kill(monkeypatch, 4, config, tmp_path / "killed")
    file.unlink()
    train(config, tmp_path / "killed")
    whole, killed = (load_run(tmp_path / name) for name in ("whole", "killed"))
    for one, other in zip(whole.model.get_weights(), killed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(stem(whole.model), np.zeros_like(stem(whole.model)))
    metrics, _ = evaluate_run(tmp_path / "killed", "test")
    assert metrics["examples"] == 10
    export_run(tmp_path / "killed", tmp_path / "export")
    with pytest.raises(FileNotFoundError, match="There is no file .*backbone.keras"):
        train(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_another_file_does_not_resume_a_run(shapes, tmp_path, file, monkeypatch):
    config = recipe_for(shapes, file)
    train_and_kill(monkeypatch, 4, config, tmp_path / "run")
    assert len(Workdir(tmp_path / "run").backbone().sha256) == 64
    model = tf.keras.models.load_model(file)
    model.get_layer("scores").bias.assign([1.0] * 7)
    model.save(file)
    with pytest.raises(ValueError, match="was begun with another file .*backbone.keras: its SHA"):
        train(config, tmp_path / "run")


def test_a_file_that_keras_cannot_load_raises(shapes, tmp_path, file):
    file.write_bytes(b"PK not a model")
    with pytest.raises(ValueError, match="cannot load .*backbone.keras .*be a whole .keras file"):
        train(recipe_for(shapes, file), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@slow_on_one_stack
def test_frozen_layers_of_the_file_are_trained_in_the_precision_of_the_run(shapes, tmp_path, file):
    model = tf.keras.models.load_model(file)
    model.trainable = False
    model.save(file)
    config = recipe_for(shapes, file)
    config.precision, config.train.epochs = "mixed_bfloat16", 1
    train(config, tmp_path / "run")
    trained = load_run(tmp_path / "run").model
    assert trained.get_layer("stem").compute_dtype == "bfloat16"
    assert not np.array_equal(stem(trained), stem(model))
