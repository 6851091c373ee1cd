"""A checkpoint of the authors becomes a .keras file and a SavedModel."""

import numpy as np
import pytest
import tensorflow as tf
from recipes import CLASSES

import noah_tf
from noah_tf.export.from_checkpoint import import_official
from noah_tf.export.model_card import read_card
from noah_tf.images.preprocessing import decode
from noah_tf.models.official import state_dict
from noah_tf.models.zoo import preprocessing_for

NAME, SIZE = "noah_mobilenetv2_035", 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Returns a checkpoint with three classes, and its model, whose logits differ widely."""
    model = noah_tf.create_model(NAME, 3, (SIZE, SIZE, 3))
    rng = np.random.default_rng(0)
    model.set_weights([w + 0.1 * np.abs(rng.normal(size=w.shape)) for w in model.get_weights()])
    path = tmp_path_factory.mktemp("checkpoints") / "shapes.safetensors"
    return noah_tf.save_official_weights(model, path), model


@pytest.mark.slow
def test_written_files_give_the_logits_of_the_checkpoints_model(checkpoint, shapes, tmp_path):
    path, model = checkpoint
    imported = import_official(
        NAME, path, tmp_path / "made", num_classes=3, image_size=SIZE, class_names=CLASSES
    )
    preprocessing = preprocessing_for(NAME, (SIZE, SIZE))
    photo = next((shapes / "test" / "ring").iterdir()).read_bytes()
    image = preprocessing.evaluation(decode(photo))[None]
    expected = model(image, training=False).numpy()
    assert np.abs(expected).max() > 0.1

    assert imported.keras_file == tmp_path / "made" / "model.keras"
    loaded = tf.keras.models.load_model(str(imported.keras_file), compile=False)
    np.testing.assert_allclose(loaded(image, training=False), expected, rtol=1e-5)
    assert loaded.name == NAME
    card = read_card(imported.saved_model)
    assert (card["architecture"], card["weights"]) == (NAME, path.name)

    assert imported.saved_model == tmp_path / "made" / "saved_model" / "1"
    serve = tf.saved_model.load(str(imported.saved_model)).signatures["serving_default"]
    answer = serve(image_bytes=tf.constant([photo]))
    np.testing.assert_allclose(answer["logits"], expected, rtol=1e-4)
    names = [CLASSES[index] for index in np.argsort(-expected[0])]
    assert [label.decode() for label in answer["labels"].numpy()[0]] == names

    assert imported.num_parameters == sum(np.prod(w.shape) for w in model.trainable_weights)


@pytest.mark.exhaustive
def test_importing_again_writes_the_next_version(checkpoint, tmp_path):
    path, _ = checkpoint
    for version in ("1", "2"):
        imported = import_official(
            NAME, path, tmp_path, num_classes=3, image_size=SIZE, class_names=["x", "y", "z"]
        )
        assert imported.saved_model.name == version
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.keras", "saved_model"]
    serve = tf.saved_model.load(str(imported.saved_model)).signatures["serve_tensor"]
    answer = serve(images=tf.zeros((1, SIZE, SIZE, 3), tf.uint8))
    assert {label.decode() for label in answer["labels"].numpy()[0]} == {"x", "y", "z"}


@pytest.mark.exhaustive
def test_averaged_weights_and_pre_logits(tmp_path):
    name, size = "noah_deit_tiny_050_patch16_224", 32
    model = noah_tf.create_model(name, 3, (size, size, 3), pre_logits=False)
    plain = state_dict(model)
    averaged = {key: array + 1 for key, array in plain.items()}
    imported = import_official(
        name,
        {"model": plain, "model_ema": averaged},
        tmp_path,
        ema=True,
        num_classes=3,
        image_size=size,
        pre_logits=False,
    )
    loaded = tf.keras.models.load_model(str(imported.keras_file), compile=False)
    for key, array in state_dict(loaded).items():
        np.testing.assert_array_equal(array, averaged[key])


def test_output_that_is_a_file_raises(checkpoint, tmp_path):
    path, _ = checkpoint
    (tmp_path / "made").write_text("mine")
    with pytest.raises(FileExistsError):
        import_official(NAME, path, tmp_path / "made", num_classes=3, image_size=SIZE)
    assert (tmp_path / "made").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "noah_mobilenetv2_050"}, "wrong"),
        ({"num_classes": 4}, "wrong"),
        ({"class_names": ["a", "b"]}, "must contain 3 names, one per class, got 2"),
        ({"name": "noah_mobilenetv4"}, "name must be one of noah_tf.list_models"),
    ],
)
def test_invalid_arguments_write_nothing(arguments, message, checkpoint, tmp_path):
    path, _ = checkpoint
    with pytest.raises(ValueError, match=message):
        import_official(
            **{
                "name": NAME,
                "checkpoint": path,
                "output": tmp_path / "made",
                "num_classes": 3,
                "image_size": SIZE,
                **arguments,
            }
        )
    assert not (tmp_path / "made").exists()
