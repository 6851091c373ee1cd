"""Predictions for photos in files, with runs and exports."""

import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf
from stacks import slow_on_one_stack

from noah_tf.datasets import find_files, open_source
from noah_tf.evaluation import Evaluator, ExportPredictor, KerasPredictor
from noah_tf.export import export_run
from noah_tf.runs import load_run


@pytest.fixture
def photos(shapes, tmp_path):
    """Ten photos of the shapes, and three files that are none."""
    shutil.copytree(shapes / "test", tmp_path / "photos")
    (tmp_path / "photos" / "blob" / "000 empty.jpg").write_bytes(b"")
    (tmp_path / "photos" / "ring" / "zz text.png").write_bytes(b"no photo")
    cut = next((shapes / "test" / "ring").iterdir()).read_bytes()[:100]
    (tmp_path / "photos" / "ring" / "cut.png").write_bytes(cut)
    return tmp_path / "photos"


def test_a_run_predicts_as_its_evaluation(finished_run, shapes, photos):
    run = load_run(finished_run)
    files = find_files([photos])
    predictions = list(KerasPredictor.from_run(run)(files, batch_size=4))
    assert [prediction.file for prediction in predictions] == files
    errors = {p.file.rpartition("/")[2]: p.error for p in predictions if p.error}
    assert set(errors) == {"000 empty.jpg", "zz text.png", "cut.png"}
    assert "it is empty" in errors["000 empty.jpg"] or "begins with" in errors["000 empty.jpg"]
    assert "it is not a JPEG" in errors["zz text.png"]
    source = open_source("folder", "test", data_dir=shapes)
    batches = Evaluator(run.model).outputs(source, run.preprocessing, 3)
    expected = np.concatenate([logits for _, _, logits in batches])
    good = np.stack([prediction.logits for prediction in predictions if not prediction.error])
    np.testing.assert_allclose(good, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "fixture", ["finished_run", pytest.param("gap_run", marks=pytest.mark.slow)]
)
def test_embeddings(fixture, photos, request):
    run = load_run(request.getfixturevalue(fixture))
    files = [file for file in find_files([photos]) if file.endswith("3.png")]
    predictions = list(KerasPredictor.from_run(run, with_embeddings=True)(files, 64))
    plain = list(KerasPredictor.from_run(run)(files, 64))
    is_noah = fixture == "finished_run"
    head = run.model.get_layer("noah_head" if is_noah else "gap_pool")
    extractor = tf.keras.Model(run.model.input, head.input)
    for prediction, expected in zip(predictions, plain, strict=True):
        np.testing.assert_allclose(prediction.logits, expected.logits, rtol=1e-5, atol=1e-5)
        image = run.preprocessing.evaluation(
            run.preprocessing.decode(tf.io.read_file(expected.file))
        )
        features = extractor(image[None])
        positions = features.numpy().reshape(-1, features.shape[-1])
        np.testing.assert_allclose(prediction.pooled, positions.mean(0), rtol=1e-4, atol=1e-5)
        if not is_noah:
            assert prediction.attended is None
            continue
        label = int(prediction.logits.argmax())
        attention = head.attention(features, classes=[label]).numpy().ravel()
        np.testing.assert_allclose(prediction.attended, attention @ positions, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("tolerant", [False, True])
def test_an_export_predicts_as_its_run(finished_run, photos, tmp_path, tolerant):
    export_run(finished_run, tmp_path / "export", tolerant=tolerant)
    predictor = ExportPredictor(tmp_path / "export")
    run = load_run(finished_run)
    assert predictor.class_names == run.class_names and not predictor.multi_label
    files = find_files([photos])
    of_run = list(KerasPredictor.from_run(run)(files, 5))
    of_export = list(predictor(files, 5))
    for expected, prediction in zip(of_run, of_export, strict=True):
        assert prediction.file == expected.file
        assert bool(prediction.error) == bool(expected.error)
        if not expected.error:
            np.testing.assert_allclose(prediction.logits, expected.logits, rtol=1e-4, atol=1e-4)


def test_find_files(photos, tmp_path):
    inside = photos / "blob"
    files = find_files([inside, inside / "000 empty.jpg", photos / "ring" / "cut.png"])
    assert files[-1].endswith("cut.png") and len(files) == len(set(files))
    with pytest.raises(FileNotFoundError, match="There is no photo or folder .*nowhere"):
        find_files([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="There are no photos in .*empty"):
        find_files([tmp_path / "empty"])


def test_a_wrong_number_of_names_raises(finished_run):
    run = load_run(finished_run)
    with pytest.raises(ValueError, match="model's 3 classes, in the order of the logits, got 2"):
        KerasPredictor(run.model, run.preprocessing, ("a", "b"))


@slow_on_one_stack
def test_a_photo_that_is_too_large_for_an_export_is_an_error(finished_run, photos, tmp_path):
    export_run(finished_run, tmp_path / "export", max_pixels=5000, warmup_batch_sizes=())
    large = tmp_path / "large.png"
    large.write_bytes(tf.io.encode_png(np.zeros((90, 90, 3), np.uint8)).numpy())
    good = [file for file in find_files([photos / "blob"]) if file.endswith("3.png")]
    predictions = list(ExportPredictor(tmp_path / "export")([str(large), *good], 5))
    assert "90 x 90 pixels, more than the 5000 allowed" in predictions[0].error
    assert predictions[0].logits is None and not predictions[1].error


def test_a_preprocessing_for_other_images_raises(finished_run):
    run = load_run(finished_run)
    other = dataclasses.replace(run.preprocessing, image_size=16, resize_size=16)
    with pytest.raises(ValueError, match="takes images of the shape .32, 32, 3., got a preproce"):
        KerasPredictor(run.model, other, run.class_names)
