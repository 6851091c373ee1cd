"""Models with one and with four channels, from training to an export."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from recipes import small_recipe

from noah_tf.datasets import find_files
from noah_tf.evaluation import ExportPredictor, KerasPredictor, evaluate_run
from noah_tf.explain.options import MapOptions
from noah_tf.explain.run import explain_run
from noah_tf.export import export_run, read_card
from noah_tf.export.warmup import read_requests
from noah_tf.runs import load_run
from noah_tf.training.loop import train

MEANS = {1: (0.2,), 4: (0.2, 0.2, 0.2, 0.5)}


def with_alpha(shapes, folder):
    """Copies photos, with the brightness as alpha channel; a model sees nothing else of them."""
    for file in find_files([shapes]):
        pixels = tf.io.decode_png(tf.io.read_file(file)).numpy()
        alpha = pixels.max(axis=-1, keepdims=True)
        target = folder / pathlib.Path(file).relative_to(shapes)
        target.parent.mkdir(parents=True, exist_ok=True)
        image = np.concatenate([np.full_like(pixels, 128), alpha], axis=-1)
        target.write_bytes(tf.io.encode_png(image).numpy())
    return folder


@pytest.fixture
def channel_recipe(shapes, tmp_path):
    def make(channels):
        folder = with_alpha(shapes, tmp_path / "data") if channels == 4 else shapes
        config = small_recipe(folder)
        config.preprocess.mean = MEANS[channels]
        config.preprocess.std = (0.25,) * channels
        config.augment.erasing = 0.5
        config.augment.mixup = 0.2
        if channels == 1:
            config.augment.rand_augment = "rand-m5-n1"
        return config

    return make


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, pytest.param(4, marks=pytest.mark.exhaustive)])
def test_training_evaluation_export_explanation_and_prediction(channel_recipe, tmp_path, channels):
    config = channel_recipe(channels)
    result = train(config, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.model.input_shape == (None, 32, 32, channels)
    metrics, _ = evaluate_run(tmp_path / "run")
    assert metrics["loss"] == pytest.approx(result["loss"], rel=1e-5)
    files = find_files([pathlib.Path(config.data.data_dir) / "test"])
    predictions = list(KerasPredictor.from_run(run, with_embeddings=True)(files, 4))

    path = export_run(tmp_path / "run", tmp_path / "m", warmup_batch_sizes=(1,))
    assert len(read_card(path)["preprocessing"]["mean"]) == channels
    exported = list(ExportPredictor(tmp_path / "m", with_embeddings=True)(files, 4))
    for ours, theirs in zip(predictions, exported, strict=True):
        assert not ours.error and not theirs.error
        for name in ("logits", "pooled", "attended"):
            np.testing.assert_allclose(
                getattr(theirs, name), getattr(ours, name), rtol=1e-4, atol=1e-4
            )
    served = tf.saved_model.load(str(path))
    for name, inputs in read_requests(path):
        served.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
    pixels = served.signatures["serve_tensor"].structured_input_signature[1]["images"]
    assert pixels.shape[-1] == max(3, channels)

    output = explain_run(
        tmp_path / "run", tmp_path / "maps.png", options=MapOptions(photos=files[:2])
    )
    assert tf.io.decode_png(tf.io.read_file(str(output))).shape[0] > 100


def test_photos_without_alpha_are_named(channel_recipe, shapes, tmp_path):
    config = channel_recipe(4)
    jpeg = tf.io.encode_jpeg(np.zeros((32, 32, 3), np.uint8)).numpy()
    file = tmp_path / "data" / "train" / "ring" / "a.jpg"
    file.write_bytes(jpeg)
    with pytest.raises(ValueError, match=r"a.jpg\): it is not a PNG file, which four"):
        train(config, tmp_path / "run")


def test_color_operations_need_colors(channel_recipe, tmp_path):
    config = channel_recipe(4)
    config.augment.color_jitter = (0.4,) * 3
    with pytest.raises(ValueError, match="augment.color_jitter is for photos with three channels"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize("values", [{"mean": (0.5, 0.5)}, {"mean": (0.5,), "std": (0.2,) * 3}])
def test_other_numbers_of_channels_raise(channel_recipe, tmp_path, values):
    config = channel_recipe(1)
    config.preprocess.update(values)
    with pytest.raises(ValueError, match="one for grayscale, four with alpha|one number for each"):
        train(config, tmp_path / "run")
