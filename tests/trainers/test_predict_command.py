"""trainers/predict.py and explain.py --photos, as a user runs them, in a folder of their own."""

import csv
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from forked_commands import error_lines, run_forked, run_trainers

from noah_tf import attach_noah
from noah_tf.export import export_run
from noah_tf.utils.keras_compat import IS_KERAS_3

pytestmark = pytest.mark.slow
PREPROCESSING = "--preprocessing=" + json.dumps(
    {"image_size": [32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
)


@pytest.fixture
def photos(shapes, tmp_path):
    """Photos of the shapes in folders, of which one is broken, and files that are no photos."""
    folder = tmp_path / "my photos"
    shutil.copytree(shapes / "test", folder)
    (folder / "ring" / "broken.JPG").write_bytes(b"\xff\xd8 no photo")
    (folder / "notes.txt").write_text("no photo either")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._a.png").write_bytes(b"junk")
    return folder


def rows_of(text):
    return list(csv.DictReader(text.splitlines()))


def test_run_export_and_keras_file_give_the_same_answers(finished_run, shapes, photos, tmp_path):
    export_run(finished_run, tmp_path / "saved_models" / "shapes")
    names = tmp_path / "names.txt"
    names.write_text("blob\ncross\nring\n")
    keras_flags = (f"--keras_file={finished_run / 'model.keras'}", f"--class_names={names}")
    if not IS_KERAS_3:  # Keras 2 cannot load KerasCV's backbones from .keras files
        keras_flags = (f"--workdir={finished_run}",)
    else:
        keras_flags += (PREPROCESSING,)
    run, export, keras_file, evaluate = run_trainers(
        tmp_path,
        ("predict", f"--workdir={finished_run}", photos, "--logits=run.npz",
         "--embeddings=embeddings.npz", "--output=answers/run.csv", "--batch_size=4"),
        ("predict", "--model_dir=saved_models/shapes", photos, "--logits=export.npz",
         "--embeddings=export_embeddings.npz", "--output=answers/export.jsonl", "--top_k=2"),
        ("predict", *keras_flags, photos, "--logits=keras.npz", "--top_k=1"),
        ("evaluate", f"--workdir={finished_run}", "--output=report"),
    )  # fmt: skip
    assert "Predicted 11 photos, 1 of them cannot be read." in run.stderr
    rows = rows_of((tmp_path / "answers" / "run.csv").read_text("utf-8"))
    assert list(rows[0]) == [
        "file", "error", "class_1", "probability_1", "class_2", "probability_2", "class_3",
        "probability_3",
    ]  # fmt: skip
    bad = [row for row in rows if row["error"]]
    assert [pathlib.Path(row["file"]).name for row in bad] == ["broken.JPG"]
    assert bad[0]["class_1"] == "" and "JPEG" in bad[0]["error"]
    logits = [np.load(tmp_path / f"{name}.npz") for name in ("run", "export", "keras")]
    for other in logits[1:]:
        np.testing.assert_array_equal(other["files"], logits[0]["files"])
        np.testing.assert_allclose(other["logits"], logits[0]["logits"], rtol=1e-5, atol=1e-5)
    embeddings = [np.load(tmp_path / f"{name}embeddings.npz") for name in ("", "export_")]
    for key in ("pooled", "attended"):
        np.testing.assert_allclose(embeddings[1][key], embeddings[0][key], rtol=1e-4, atol=1e-5)

    lines = (tmp_path / "answers" / "export.jsonl").read_text("utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    assert [a["class_1"] or "" for a in answers] == [row["class_1"] for row in rows]
    assert "class_3" not in answers[0]
    printed = rows_of(keras_file.stdout[keras_file.stdout.index("file,") :])
    assert [row["class_1"] for row in printed] == [row["class_1"] for row in rows]
    # The predictions agree with the evaluation of the same photos.
    true = [pathlib.Path(row["file"]).parent.name for row in rows if not row["error"]]
    top1 = np.mean([row["class_1"] == name for row, name in zip(
        [row for row in rows if not row["error"]], true, strict=True)])  # fmt: skip
    (result,) = json.loads((tmp_path / "report" / "result.json").read_text())["results"]
    assert result["top1"] == pytest.approx(top1)


def test_multi_label_answers_and_standard_output(photos, tmp_path):
    images = tf.keras.Input((32, 32, 3))
    features = tf.keras.layers.Conv2D(8, 3, strides=4)(images)
    attach_noah(tf.keras.Model(images, features), 3).save(tmp_path / "model.keras")
    flags = ("--keras_file=model.keras", PREPROCESSING, "--multi_label")
    zero, one = run_trainers(
        tmp_path,
        ("predict", *flags, photos / "blob", "--threshold=0"),
        ("predict", *flags, next((photos / "blob").iterdir()), "--threshold=1"),
    )
    rows = rows_of(zero.stdout[zero.stdout.index("file,") :])
    assert {frozenset(row["classes"].split("|")) for row in rows} == {frozenset("012")}
    assert all(len(row["probabilities"].split("|")) == 3 for row in rows)
    (row,) = rows_of(one.stdout[one.stdout.index("file,") :])
    assert row["classes"] == row["probabilities"] == row["error"] == ""


def test_mistakes_are_one_sentence_and_write_nothing(finished_run, photos, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = [
        ([photos, "--strict", "--output=a.csv"], "broken.JPG: "),
        (["none.jpg"], "none.jpg"),
        ([], "Photos are missing: name files or folders after the flags."),
        ([empty], "no photo"),
        ([photos, "--top_k=0"], "top_k must be at least 1, got 0."),
        ([photos, "--threshold=2"], "threshold must be from 0 to 1, got 2.0."),
        ([photos, "--logits=a.txt"], "--logits must end in .npz, got a.txt."),
        ([photos, "--class_names=x.txt"], "--class_names does not apply together with --workdir"),
        ([photos, "--model_dir=x"], "Exactly one of (workdir, model_dir, keras_file)"),
    ]
    program = (empty, "trainers/predict.py", f"--workdir={finished_run}")
    processes = run_forked([(*program, *words) for words, _ in cases])
    for (_, message), process in zip(cases, processes, strict=True):
        assert process.returncode != 0
        text = process.stderr + process.stdout
        assert message in text and "Traceback" not in text
    assert not list(empty.iterdir())


def test_explain_any_photos(finished_run, photos, tmp_path):
    (explain,) = run_trainers(
        tmp_path,
        ("explain", f"--workdir={finished_run}", f"--photos={photos}", "--images=3",
         "--output=maps.png", "--maps=attention,contribution", "--arrays=maps.npz"),
    )  # fmt: skip
    assert "maps.png" in explain.stdout
    picture = tf.io.decode_png((tmp_path / "maps.png").read_bytes())
    assert picture.shape[0] > 300
    arrays = np.load(tmp_path / "maps.npz")
    assert arrays["attention"].shape[0] == arrays["contribution"].shape[0] == 3
    (process,) = run_forked(
        [(tmp_path, "trainers/explain.py", f"--workdir={finished_run}", "--photos=nowhere")]
    )
    assert process.returncode == 1 and "nowhere" in error_lines(process)
