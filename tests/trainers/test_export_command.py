"""trainers/export.py as a user types it, in a folder of their own."""

import json

import numpy as np
import pytest
import tensorflow as tf
from loaded_graph import run_graph
from PIL import Image
from stacks import slow_on_one_stack
from test_command_lines import command, last_lines

from noah_tf import attach_noah, create_model, save_official_weights
from noah_tf.export.model_card import read_card
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.models.zoo import preprocessing_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of drawn photos, in folders."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(4):
        shade = np.random.default_rng(index).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        file = folder / f"class {index % 2}" / f"{index}.jpg"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(shade).resize((80, 60)).save(file)
    return folder


def test_a_run_with_its_variants(finished_run, tmp_path):
    done = command(
        tmp_path,
        "export",
        f"--workdir={finished_run}",
        "--name=shapes",
        "--variants=tflite_dynamic",
        "--tolerant",
        "--warmup_batch_sizes=1",
        "--count=6",
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "saved_models" / "shapes" / "1"
    # KerasCV on Keras 2 says hello.
    lines = [line for line in done.stdout.splitlines() if "backend" not in line]
    assert lines[0] == (
        "Wrote saved_models/shapes/1: signatures serving_default, serve_tensor, explain."
    )
    assert lines[1].startswith("saved_model.pb: top-1 agrees on 100.0 % of 6 photos")
    assert lines[2].startswith("model_dynamic.tflite: top-1 agrees on ")
    assert lines[3].startswith("16 photos take ")
    card = read_card(folder)
    result = json.loads((finished_run / "result.json").read_text())
    assert card["metrics"]["top1"] == result["top1"]
    assert card["data"]["train_examples"] == 24 and card["recipe"]["seed"] == 0
    assert card["limits"]["tolerant_cost"] > 0
    assert (folder / "model_dynamic.tflite").stat().st_size > 1000


@slow_on_one_stack
def test_a_keras_file_with_its_preprocessing(photos, tmp_path):
    inputs = tf.keras.Input((24, 24, 3))
    features = tf.keras.layers.Conv2D(16, 5, strides=4)(inputs)
    model = attach_noah(tf.keras.Model(inputs, features), 3)
    model.save(str(tmp_path / "flowers.keras"))
    (tmp_path / "names.txt").write_text("rose\ntulip\ndaisy\n")
    arguments = ("--keras_file=flowers.keras", "--class_names=names.txt", "--model_base=served")
    preprocessing = '--preprocessing={"image_size": [24, 24], "resize_size": 30}'
    done = command(tmp_path, "export", *arguments, preprocessing, f"--photos={photos}", "--count=3")
    assert done.returncode == 0, done.stderr
    assert "saved_model.pb: top-1 agrees on 100.0 % of 3 photos" in done.stdout
    data = next(photos.rglob("*.jpg")).read_bytes()
    answer = run_graph(tmp_path / "served" / "flowers" / "1", "serving_default", image_bytes=[data])
    own = Preprocessing(image_size=24, resize_size=30)
    expected = model(own.evaluation(own.decode(data))[None], training=False).numpy()
    np.testing.assert_allclose(answer["logits"], expected, atol=1e-5)
    assert answer["labels"][0, 0] == (b"rose", b"tulip", b"daisy")[expected.argmax()]

    wrong = {
        "--preprocessing=x": "--preprocessing must be a JSON object",
        "--keras_file=names.txt": "names.txt cannot be read by Keras",
        "--keras_file=nothing.keras": "There is no file nothing.keras.",
        "--weights=ema": "--weights is not for an export with --keras_file: leave it out.",
        "--name=..": "A served model's name has letters, digits, '_', '-' and '.', got '..'",
        f"--photos={tmp_path / 'none'}": "none is no folder.",
        "--variants=onx": "each of variants must be one of tflite_dynamic, tflite_int8, onnx, got",
    }
    for flag, message in wrong.items():
        done = command(tmp_path, "export", *arguments, flag)
        assert done.returncode == 1 and message in last_lines(done), (flag, done.stderr)
        assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "served" / "flowers").iterdir()] == ["1"]


@pytest.mark.exhaustive
def test_a_model_of_the_paper_with_official_weights(photos, tmp_path):
    name = "noah_mobilenetv2_035"
    model = create_model(name, 5, input_shape=(64, 64, 3))
    save_official_weights(model, tmp_path / "official.safetensors")
    flags = (f"--model={name}", "--num_classes=5", "--image_size=64", "--warmup_batch_sizes=")
    done = command(tmp_path, "export", *flags)
    assert done.returncode == 1 and "needs the --checkpoint" in last_lines(done)
    flags += ("--checkpoint=official.safetensors",)
    done = command(tmp_path, "export", *flags)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "saved_models" / name / "1"
    data = next(photos.rglob("*.jpg")).read_bytes()
    own = preprocessing_for(name, 64)
    expected = model(own.evaluation(own.decode(data))[None], training=False).numpy()
    answer = run_graph(path, "serving_default", image_bytes=[data])
    np.testing.assert_allclose(answer["logits"], expected, atol=1e-5)
    assert read_card(path)["architecture"] == name
    assert not (path / "assets.extra").exists()
    done = command(tmp_path, "export", *flags, "--workdir=run")
    assert done.returncode == 1
