"""SavedModels: same numbers as the evaluation, versions that nobody sees half of."""

import numpy as np
import pytest
import tensorflow as tf
from head_helpers import run_python

from noah_tf import attach_noah, export
from noah_tf.checkpoint import load_run
from noah_tf.export import export_run, export_savedmodel
from noah_tf.preprocess import Preprocessing, decode


def photo(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.float32)
    return tf.cast(tf.image.resize(pixels, (height, width)), tf.uint8)


@pytest.fixture(scope="module")
def model():
    inputs = tf.keras.Input((24, 24, 3))
    features = tf.keras.layers.Conv2D(16, 5, strides=4, activation="relu")(inputs)
    return attach_noah(tf.keras.Model(inputs, features), num_classes=6, dropout=0.5)


@pytest.fixture(scope="module")
def preprocessing():
    return Preprocessing(image_size=24, resize_size=30, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def served(model, preprocessing, tmp_path_factory):
    """The exported model, loaded again, and the preprocessing it was given."""
    folder = tmp_path_factory.mktemp("served") / "shapes"
    names = ["a", "b", "c", "d", "e", "f"]
    return tf.saved_model.load(str(export_savedmodel(model, folder, preprocessing, names)))


def test_bytes_of_any_format_and_size_give_the_evaluations_logits(served, model, preprocessing):
    files = [
        tf.io.encode_jpeg(photo(40, 50, 1)),
        tf.io.encode_jpeg(photo(31, 90, 2)[..., :1]),
        tf.io.encode_png(photo(24, 24, 3)),
        tf.io.encode_png(photo(10, 12, 4)),
    ]
    answer = served.signatures["serving_default"](image_bytes=tf.stack(files))
    images = tf.stack([preprocessing.evaluation(decode(data)) for data in files])
    expected = model(images, training=False).numpy()
    np.testing.assert_allclose(answer["logits"], expected, atol=1e-5)
    order = np.argsort(-expected, axis=1)[:, :5]
    np.testing.assert_array_equal(answer["classes"], order)
    probabilities = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        answer["probabilities"], np.take_along_axis(probabilities, order, 1), atol=1e-5
    )
    labels = [[b"abcdef"[c : c + 1] for c in row] for row in order]
    np.testing.assert_array_equal(answer["labels"], labels)


def test_tensors_give_the_evaluations_logits(served, model, preprocessing):
    images = tf.stack([photo(40, 50, seed) for seed in range(3)])
    answer = served.signatures["serve_tensor"](images=images)
    prepared = tf.stack([preprocessing.evaluation(image) for image in images])
    np.testing.assert_allclose(answer["logits"], model(prepared, training=False), atol=1e-5)


def test_a_corrupt_image_fails_the_request(served):
    with pytest.raises(tf.errors.InvalidArgumentError):
        served.signatures["serving_default"](image_bytes=tf.constant([b"no photo"]))


def test_it_loads_where_neither_keras_nor_noah_tf_is_imported(model, tmp_path):
    path = export_savedmodel(model, tmp_path / "model")
    code = f"""
import sys
import tensorflow as tf
loaded = tf.saved_model.load({str(path)!r})
photo = tf.io.encode_png(tf.zeros((30, 30, 3), tf.uint8))
answer = loaded.signatures["serving_default"](image_bytes=photo[None])
assert "noah_tf" not in sys.modules
print(answer["logits"].shape, answer["labels"].numpy()[0])
"""
    process = run_python(code)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.startswith("(1, 6)")


def test_multi_label_probabilities_are_sigmoids(model, tmp_path):
    loaded = tf.saved_model.load(str(export_savedmodel(model, tmp_path, multi_label=True, top_k=6)))
    answer = loaded.signatures["serve_tensor"](images=photo(24, 24)[None])
    logits = np.sort(answer["logits"].numpy()[0])[::-1]
    np.testing.assert_allclose(answer["probabilities"][0], 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_versions_count_up_and_are_never_touched(model, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "7").mkdir()
    assert export_savedmodel(model, tmp_path).name == "8"
    assert export_savedmodel(model, tmp_path, version=3).name == "3"
    assert export_savedmodel(model, tmp_path).name == "9"
    with pytest.raises(ValueError, match="/7 exists and is left as it is: .* none for 10"):
        export_savedmodel(model, tmp_path, version=7)
    assert not list((tmp_path / "7").iterdir())
    for version in (0, -1, True, "2"):
        with pytest.raises(ValueError, match="version must be a positive integer"):
            export_savedmodel(model, tmp_path, version=version)
    assert {path.name for path in tmp_path.iterdir()} == {"notes", "3", "7", "8", "9"}


def test_a_failed_export_leaves_nothing(model, tmp_path, monkeypatch):
    def full_disk(source, target):
        raise OSError("no space left")

    monkeypatch.setattr(export.os, "rename", full_disk)
    with pytest.raises(OSError, match="no space"):
        export_savedmodel(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_two_exports_at_once_both_land(model, tmp_path, monkeypatch):
    rename = export.os.rename

    def overtaken(source, target):
        monkeypatch.setattr(export.os, "rename", rename)
        target.mkdir()
        (target / "saved_model.pb").touch()
        rename(source, target)

    monkeypatch.setattr(export.os, "rename", overtaken)
    assert export_savedmodel(model, tmp_path).name == "2"
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2"}


def test_a_model_that_does_not_end_in_logits_is_refused(tmp_path):
    inputs = tf.keras.Input((8, 8, 3))
    features = tf.keras.layers.Conv2D(8, 3)(inputs)
    for head in ("noah", "gap"):
        model = attach_noah(tf.keras.Model(inputs, features), 3, head=head, activation="softmax")
        with pytest.raises(ValueError, match="'softmax', and an export needs logits"):
            export_savedmodel(model, tmp_path)


def test_a_model_of_any_size_needs_a_preprocessing(tmp_path):
    inputs = tf.keras.Input((None, None, 3))
    model = attach_noah(tf.keras.Model(inputs, tf.keras.layers.Conv2D(8, 3)(inputs)), 3)
    with pytest.raises(ValueError, match="preprocessing=Preprocessing"):
        export_savedmodel(model, tmp_path)
    assert export_savedmodel(model, tmp_path, Preprocessing(image_size=16)).name == "1"


def test_top_k_must_be_positive(model, tmp_path):
    with pytest.raises(ValueError, match="top_k must be a positive integer, got 0"):
        export_savedmodel(model, tmp_path, top_k=0)


def test_class_names_must_fit(model, tmp_path):
    with pytest.raises(ValueError, match="6 classes, but class_names has 2"):
        export_savedmodel(model, tmp_path, class_names=["a", "b"])


def test_a_run_is_exported_with_its_own_preprocessing(finished_run, tmp_path):
    run = load_run(finished_run)
    loaded = tf.saved_model.load(str(export_run(finished_run, tmp_path / "shapes")))
    image = photo(50, 40)
    answer = loaded.signatures["serve_tensor"](images=image[None])
    expected = run.model(run.preprocessing.evaluation(image)[None], training=False)
    np.testing.assert_allclose(answer["logits"], expected, atol=1e-5)
    assert answer["labels"].numpy()[0, 0].decode() in run.class_names
