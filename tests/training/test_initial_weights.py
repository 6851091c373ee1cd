"""The initial weights of a new run."""

import library_tensors
import numpy as np
import pytest
import safetensors.numpy
from library_tensors import random_tensors
from recipes import quickstart, recipe, small_recipe

import noah_tf
from noah_tf.models import official_file, tensor_files
from noah_tf.models.official import state_dict
from noah_tf.runs.checkpoint import load_run
from noah_tf.runs.model_config import model_from_config
from noah_tf.training.initial_weights import copy_weights, load_initial_weights
from noah_tf.training.param_groups import backbone_layers


def model_of(config, num_classes):
    return model_from_config(config, (32, 32, 3), num_classes)


def backbone(model):
    return [w for layer in backbone_layers(model) for w in layer.get_weights()]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_other_classes_start_from_a_finished_run_without_its_head(finished_run, shapes):
    config = small_recipe(shapes).model
    config.weights, config.weights_head = str(finished_run), "skip"
    model = model_of(config, num_classes=7)
    head = model.get_layer("noah_head").get_weights()
    trained = load_run(finished_run).model
    assert not same(backbone(model), backbone(trained))
    load_initial_weights(model, config)
    assert same(backbone(model), backbone(trained))
    assert same(head, model.get_layer("noah_head").get_weights())
    config.head = "gap"
    pooled = model_of(config, num_classes=7)
    load_initial_weights(pooled, config)
    assert same(backbone(pooled), backbone(trained))


def test_same_classes_start_from_the_whole_model(finished_run, shapes):
    config = small_recipe(shapes).model
    config.weights = str(finished_run)
    model = model_of(config, num_classes=3)
    load_initial_weights(model, config)
    assert same(model.get_weights(), load_run(finished_run).model.get_weights())


def test_run_with_other_classes_or_another_backbone_raises(finished_run, shapes):
    config = small_recipe(shapes).model
    config.weights = str(finished_run)
    model = model_of(config, num_classes=7)
    before = model.get_weights()
    with pytest.raises(ValueError, match="skip the head, if only the classes differ"):
        load_initial_weights(model, config)
    assert same(before, model.get_weights())
    other = noah_tf.create_model("noah_mobilenetv2_035", 3, (32, 32, 3))
    with pytest.raises(ValueError, match="weights to copy, and .* give weights of the same"):
        copy_weights(load_run(finished_run).model, other)


def test_folder_without_a_run_raises(tmp_path):
    config = quickstart().model
    config.weights = str(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        load_initial_weights(model_of(config, 7), config)


def test_weights_of_another_library_start_a_run(tmp_path):
    tensors = random_tensors(library_tensors.resnet18())
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    config = recipe("finetune").model
    config.architecture, config.weights_head = "resnet18", "skip"
    config.weights = str(tmp_path / "model.safetensors")
    model = model_of(config, num_classes=3)
    load_initial_weights(model, config)
    loaded = state_dict(model)
    assert "head.query.weight" in loaded
    for name in ("conv1.weight", "layer4.1.bn2.running_var"):
        np.testing.assert_array_equal(loaded[name], tensors[name])


def test_files_of_tensors_need_an_architecture(tmp_path):
    config = quickstart().model
    config.weights = str(tmp_path / "noah_resnet18.safetensors")
    with pytest.raises(FileNotFoundError, match="no weights at model.weights=.*safetensors"):
        load_initial_weights(model_of(config, 7), config)
    (tmp_path / "noah_resnet18.safetensors").touch()
    with pytest.raises(ValueError, match="which needs model.architecture"):
        load_initial_weights(model_of(config, 7), config)


def test_the_authors_weights_without_their_head(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    # The real file needs PyTorch, which has an environment of its own.
    monkeypatch.setattr(tensor_files, "_read_pickle", tensor_files._read_safetensors)
    source = noah_tf.create_model("noah_mobilenetv2_035", input_shape=(64, 64, 3))
    saved = noah_tf.save_official_weights(source, tmp_path / "weights.safetensors")
    path = official_file(source.name).path
    path.parent.mkdir()
    saved.rename(path)
    config = quickstart().model
    config.backbone, config.architecture = None, "mobilenetv2_035"
    config.weights, config.weights_head = "official", "skip"
    model = model_from_config(config, (64, 64, 3), 5)
    load_initial_weights(model, config)
    assert same(backbone(model), backbone(source))
