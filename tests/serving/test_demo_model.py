"""The demo page shows the numbers of the export, and pictures of where it saw each class."""

import io
import types

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colormaps
from photos import encoded, noise, smooth
from PIL import Image
from stacks import slow_on_one_stack
from tiny_model import write_tiny_model

from noah_tf import attach_noah, export_savedmodel
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.serving.demo_model import BadPhoto, DemoModel, explain_photo, load_model, overlay

PREPROCESSING = Preprocessing(image_size=24, resize_size=30, exif_rotation=True)
NAMES = ("a", "b", "Ä b", "<i>d</i>")


@pytest.fixture(scope="module")
def keras_model():
    tf.keras.utils.set_random_seed(0)
    inputs = tf.keras.Input((24, 24, 3))
    features = tf.keras.layers.Conv2D(16, 5, strides=4, activation="relu")(inputs)
    return attach_noah(tf.keras.Model(inputs, features), len(NAMES))


@pytest.fixture(scope="module")
def exported(keras_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "shapes"
    export_savedmodel(keras_model, folder, PREPROCESSING, NAMES, warmup_batch_sizes=(), top_k=3)
    return load_model(folder)


def constant_model(explains=True, card=None, **outputs):
    """Returns a model that gives the same outputs for every photo."""

    def signature(image_bytes):
        assert image_bytes.shape == (1,)
        return {name: tf.constant([value]) for name, value in outputs.items()}

    root = types.SimpleNamespace(signatures={"explain": signature, "serving_default": signature})
    return DemoModel("fixed", "1", root, explains, card or {})


@pytest.mark.slow
def test_the_answer_is_that_of_the_export_for_the_bytes_of_the_file(exported, keras_model):
    data = encoded(smooth(40, 80), "JPEG", quality=30)
    image = PREPROCESSING.evaluation(PREPROCESSING.decode(data))
    expected = tf.nn.softmax(keras_model(image[None], training=False))[0].numpy()
    probabilities, pictures = explain_photo(exported, data)
    best = np.argsort(-expected)[:3]
    assert list(probabilities) == [NAMES[index] for index in best]
    np.testing.assert_allclose(list(probabilities.values()), expected[best], atol=1e-5)
    captions = ["the photo", *(f"{n}: {p:.1%}" for n, p in probabilities.items())]
    assert [caption for _, caption in pictures] == captions
    assert {picture.shape for picture, _ in pictures} == {(240, 480, 3)}
    photo = np.asarray(Image.open(io.BytesIO(data)).resize((480, 240), Image.BICUBIC), int)
    assert np.abs(pictures[0][0] - photo).mean() < 1
    # The crop has 24 of the 60 columns and 24 of the 30 rows of the resized photo.
    outputs = exported.root.signatures["explain"](image_bytes=tf.constant([data]))
    np.testing.assert_allclose(outputs["region"][0], [3 / 30, 18 / 60, 27 / 30, 42 / 60], atol=1e-6)
    drawn = overlay(pictures[0][0], outputs["attention"][0, ..., 1].numpy(), outputs["region"][0])
    np.testing.assert_array_equal(pictures[2][0], drawn)


@pytest.mark.parametrize("rotation", [True, False])
def test_the_photo_is_rotated_only_if_the_model_rotates_it(rotation):
    exif = Image.Exif()
    exif[0x112] = 6  # orientation: rotate by 90 degrees
    data = encoded(smooth(40, 80), "JPEG", exif=exif)
    card = {"preprocessing": {"exif_rotation": rotation}}
    model = constant_model(
        card=card,
        classes=[0],
        labels=["a"],
        probabilities=[1.0],
        attention=np.ones((2, 2, 1), np.float32),
        region=[0.0, 0.0, 1.0, 1.0],
    )
    _, pictures = explain_photo(model, data)
    assert {picture.shape for picture, _ in pictures} == {
        (480, 240, 3) if rotation else (240, 480, 3)
    }


@pytest.mark.slow
def test_the_card_is_loaded_with_the_model(exported):
    assert exported.card["preprocessing"]["exif_rotation"] is True
    assert (exported.name, exported.version) == ("shapes", "1")


@slow_on_one_stack
@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "The model cannot read this photo: it is empty."),
        (b"hello", "not a JPEG, .*: it begins with 68 65 6c 6c 6f\\.$"),
        (encoded(noise(9, 9), "PNG")[:150], "photo: .*PNG.*\\.$"),
        (encoded(noise(90, 90), "JPEG")[:700], "photo: .*JPEG.*\\.$"),
    ],
)
def test_a_photo_that_a_strict_export_refuses_is_one_sentence(exported, data, sentence):
    with pytest.raises(BadPhoto, match=sentence) as raised:
        explain_photo(exported, data)
    message = str(raised.value)
    assert "node" not in message and "\n" not in message and "request" not in message
    assert explain_photo(exported, encoded(noise(9, 9), "PNG"))[0]


def test_the_status_of_a_tolerant_export_is_one_sentence(tmp_path):
    write_tiny_model(tmp_path / "tiny" / "1", tolerant=True)
    model = load_model(tmp_path / "tiny")
    sentence = "The model cannot read this photo: neither PNG nor JPEG."
    with pytest.raises(BadPhoto, match=sentence):
        explain_photo(model, b"text")
    assert len(explain_photo(model, encoded(noise(9, 9), "PNG"))[1]) == 3


def test_padding_is_omitted_and_equal_labels_get_their_class_index():
    labels = ["crane", "crane", "", ""]
    model = constant_model(
        classes=[134, 517, -1, -1],
        labels=labels,
        probabilities=[0.9, 0.5, 0.0, 0.0],
        attention=np.ones((2, 3, 4), np.float32),
        region=[0.0, 0.0, 1.0, 1.0],
    )
    probabilities, pictures = explain_photo(model, encoded(noise(8, 8), "PNG"))
    assert list(probabilities) == ["crane", "crane (class 517)"]
    np.testing.assert_allclose(list(probabilities.values()), [0.9, 0.5], rtol=1e-6)
    captions = ["the photo", "crane: 90.0%", "crane (class 517): 50.0%"]
    assert [caption for _, caption in pictures] == captions
    model = constant_model(False, classes=[-1], labels=[""], probabilities=[0.0])
    probabilities, pictures = explain_photo(model, encoded(noise(8, 8), "PNG"))
    assert probabilities == {}
    assert [caption for _, caption in pictures] == ["the photo"]


def test_a_model_without_attention_shows_the_photo_alone():
    model = constant_model(False, classes=[1], labels=["b"], probabilities=[0.75])
    probabilities, pictures = explain_photo(model, encoded(noise(30, 20), "PNG"))
    assert probabilities == {"b": 0.75}
    assert [picture.shape for picture, _ in pictures] == [(480, 320, 3)]


def test_the_overlay_covers_its_region_and_the_rest_is_dark():
    photo = np.full((100, 200, 3), 100, np.uint8)
    attention = np.zeros((2, 4), np.float32)
    attention[1, 2] = 0.5
    picture = overlay(photo, attention, (0.2, 0.25, 0.8, 0.75))
    assert (picture[:20] == 35).all() and (picture[80:] == 35).all()
    assert (picture[:, :50] == 35).all() and (picture[:, 150:] == 35).all()
    for line in (picture[20, 50:150], picture[79, 50:150], picture[20:80, 50], picture[20:80, 149]):
        assert (line == 255).all()
    # A cell has 30 x 25 pixels, and the center of this one is at row 65, column 112.5.
    inside = picture[21:79, 51:149].astype(int).sum(axis=-1)
    row, column = np.unravel_index(inside.argmax(), inside.shape)
    assert abs(row + 21 - 65) <= 1 and abs(column + 51 - 112.5) <= 1
    brightest = 35 + 0.65 * 255 * np.array(colormaps["inferno"](1.0)[:3])
    np.testing.assert_allclose(picture[65, 112], brightest, atol=8)
    darkest = 35 + 0.65 * 255 * np.array(colormaps["inferno"](0.0)[:3])
    np.testing.assert_allclose(picture[25, 55], darkest, atol=1)


def test_an_overlay_of_the_whole_photo_has_no_line_around_it():
    picture = overlay(np.zeros((40, 60, 3), np.uint8), np.ones((3, 3), np.float32), (0, 0, 1, 1))
    np.testing.assert_array_equal(picture, np.broadcast_to(picture[0, 0], picture.shape))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_every_region_of_every_photo_has_an_overlay(data):
    sides = [data.draw(st.integers(1, 40)) for _ in range(2)]
    corners = [sorted(data.draw(st.floats(-1e-6, 1 + 1e-6)) for _ in range(2)) for _ in range(2)]
    (top, bottom), (left, right) = corners
    cells = [data.draw(st.integers(1, 5)) for _ in range(2)]
    photo = noise(*sides)
    picture = overlay(
        photo, noise(*cells, channels=0) / np.float32(255), (top, left, bottom, right)
    )
    assert picture.shape == photo.shape and picture.dtype == np.uint8


def test_a_model_that_takes_no_photos_raises(tmp_path):
    root = tf.Module()
    root.double = tf.function(
        lambda x: {"y": 2 * x}, [tf.TensorSpec((None,), tf.float32, name="x")]
    )
    signatures = {"serving_default": root.double}
    tf.saved_model.save(root, str(tmp_path / "double" / "1"), signatures)
    message = r"double/1 has no signature serving_default that takes image_bytes \(it has serving_d"
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "double")


def test_a_broken_model_is_one_sentence(tmp_path):
    (tmp_path / "m" / "3").mkdir(parents=True)
    with pytest.raises(OSError, match="m/3 holds no SavedModel"):
        load_model(tmp_path / "m")
    (tmp_path / "m" / "3" / "saved_model.pb").write_bytes(b"no such thing")
    with pytest.raises((OSError, ValueError), match="m/3"):
        load_model(tmp_path / "m")


def test_an_unreadable_card_is_reported_and_ignored(tmp_path, capsys):
    write_tiny_model(tmp_path / "tiny" / "1")
    assert load_model(tmp_path / "tiny").card == {}
    assert capsys.readouterr().err == ""
    (tmp_path / "tiny" / "1" / "MODEL_CARD.md").write_text("no front matter")
    assert load_model(tmp_path / "tiny").card == {}
    assert capsys.readouterr().err.endswith("The page is shown without the card.\n")
