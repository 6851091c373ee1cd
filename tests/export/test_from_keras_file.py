"""Exports of .keras files: only the parts that need no SavedModel, see test_export_command.py."""

import pytest

from noah_tf.export.from_keras_file import export_keras_file, parse_preprocessing
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.models import load_keras_file


def test_preprocessing_is_parsed_from_json():
    text = '{"image_size": [24, 32], "resize_size": 30}'
    assert parse_preprocessing(text) == Preprocessing((24, 32), resize_size=30)


@pytest.mark.parametrize("text", ["x", "[24, 24]", "", "24"])
def test_other_text_than_a_json_object_raises(text):
    with pytest.raises(ValueError, match="preprocessing must be a JSON object such as .*, got"):
        parse_preprocessing(text)


def test_unknown_preprocessing_argument_raises():
    with pytest.raises(ValueError, match="no 'image'; the nearest is 'image_size'"):
        parse_preprocessing('{"image": 24}')


def test_file_that_keras_cannot_load_raises(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("notes")
    with pytest.raises(ValueError, match="Keras [23] cannot load .*notes.txt .* be a whole .keras"):
        load_keras_file(path)
    with pytest.raises(FileNotFoundError, match="There is no file .*nothing.keras"):
        export_keras_file(tmp_path / "nothing.keras", tmp_path / "served")
