"""trainers/export.py, as a user runs it, in a folder of its own."""

import json

import numpy as np
import pytest
import tensorflow as tf
from forked_commands import error_lines, run_forked, run_trainers
from loaded_graph import run_graph
from PIL import Image
from stacks import slow_on_one_stack

from noah_tf import attach_noah, create_model, save_official_weights
from noah_tf.export.model_card import read_card
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.models.zoo import preprocessing_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Returns a folder of drawn photos, in subfolders."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(4):
        shade = np.random.default_rng(index).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        file = folder / f"class {index % 2}" / f"{index}.jpg"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(shade).resize((80, 60)).save(file)
    return folder


def test_run_with_a_variant(finished_run, tmp_path):
    (export,) = run_trainers(
        tmp_path,
        (
            "export",
            f"--workdir={finished_run}",
            "--name=shapes",
            "--variants=tflite_dynamic",
            "--tolerant",
            "--warmup_batch_sizes=1",
            "--count=6",
        ),
    )
    folder = tmp_path / "saved_models" / "shapes" / "1"
    # With Keras 2, KerasCV prints which backend it uses.
    lines = [line for line in export.stdout.splitlines() if "backend" not in line]
    assert lines[0] == (
        "Wrote saved_models/shapes/1: signatures serving_default, serve_tensor, embed, explain."
    )
    assert lines[1].startswith("saved_model.pb: top-1 agrees on 100.0 % of 6 photos")
    assert lines[2].startswith("model_dynamic.tflite: top-1 agrees on ")
    assert lines[3].startswith("CPU time relative to the strict export, for a request of 16 ")
    card = read_card(folder)
    result = json.loads((finished_run / "result.json").read_text())
    assert card["metrics"]["top1"] == result["top1"]
    assert card["data"]["train_examples"] == 24 and card["recipe"]["seed"] == 0
    assert card["limits"]["tolerant_cost"] > 0
    assert (folder / "model_dynamic.tflite").stat().st_size > 1000


@slow_on_one_stack
def test_keras_file_with_its_preprocessing(photos, tmp_path):
    inputs = tf.keras.Input((24, 24, 3))
    features = tf.keras.layers.Conv2D(16, 5, strides=4)(inputs)
    model = attach_noah(tf.keras.Model(inputs, features), 3)
    model.save(str(tmp_path / "flowers.keras"))
    (tmp_path / "names.txt").write_text("rose\ntulip\ndaisy\n")
    given = (
        "trainers/export.py",
        "--keras_file=flowers.keras",
        "--class_names=names.txt",
        "--model_base=served",
    )
    preprocessing_flag = '--preprocessing={"image_size": [24, 24], "resize_size": 30}'
    messages = {
        "--preprocessing=x": "The preprocessing must be a JSON object",
        "--keras_file=names.txt": "cannot load names.txt (",
        "--keras_file=nothing.keras": "There is no file nothing.keras.",
        "--weights=ema": "--weights does not apply together with --keras_file: leave it out.",
        "--name=..": "must consist of letters, digits, '_', '-' and '.', got '..'",
        f"--photos={tmp_path / 'none'}": "none to take photos from.",
        "--variants=onx": "each of variants must be one of tflite_dynamic, tflite_int8, onnx, got",
        "--warmup_batch_sizes=1,many": "must be numbers separated by commas, got 1,many.",
        "--workdir=run": "Exactly one of (workdir, keras_file, model) must have a value",
    }
    export, *failed = run_forked(
        [
            (tmp_path, *given, preprocessing_flag, f"--photos={photos}", "--count=3"),
            *((tmp_path, *given, flag) for flag in messages),
        ]
    )
    assert export.returncode == 0, export.stderr
    assert "saved_model.pb: top-1 agrees on 100.0 % of 3 photos" in export.stdout
    content = next(photos.rglob("*.jpg")).read_bytes()
    answer = run_graph(
        tmp_path / "served" / "flowers" / "1", "serving_default", image_bytes=[content]
    )
    preprocessing = Preprocessing(image_size=24, resize_size=30)
    expected = model(
        preprocessing.evaluation(preprocessing.decode(content))[None], training=False
    ).numpy()
    np.testing.assert_allclose(answer["logits"], expected, atol=1e-5)
    assert answer["labels"][0, 0] == (b"rose", b"tulip", b"daisy")[expected.argmax()]

    for process, message in zip(failed, messages.values(), strict=True):
        assert process.returncode == 1 and message in error_lines(process), process
        assert "Traceback" not in process.stderr
    assert [path.name for path in (tmp_path / "served" / "flowers").iterdir()] == ["1"]


@pytest.mark.exhaustive
def test_model_of_the_paper_with_official_weights(photos, tmp_path):
    name = "noah_mobilenetv2_035"
    model = create_model(name, 5, input_shape=(64, 64, 3))
    save_official_weights(model, tmp_path / "official.safetensors")
    flags = (f"--model={name}", "--num_classes=5", "--image_size=64", "--warmup_batch_sizes=")
    export, without_checkpoint = run_forked(
        [
            (tmp_path, "trainers/export.py", *flags, "--checkpoint=official.safetensors"),
            (tmp_path, "trainers/export.py", *flags),
        ]
    )
    assert export.returncode == 0, export.stderr
    assert without_checkpoint.returncode == 1
    assert "needs --checkpoint, the file of its weights" in error_lines(without_checkpoint)
    path = tmp_path / "saved_models" / name / "1"
    content = next(photos.rglob("*.jpg")).read_bytes()
    preprocessing = preprocessing_for(name, 64)
    expected = model(
        preprocessing.evaluation(preprocessing.decode(content))[None], training=False
    ).numpy()
    answer = run_graph(path, "serving_default", image_bytes=[content])
    np.testing.assert_allclose(answer["logits"], expected, atol=1e-5)
    assert read_card(path)["architecture"] == name
    assert not (path / "assets.extra").exists()
