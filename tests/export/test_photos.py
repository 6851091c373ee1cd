"""Photos on which an export is compared with its model."""

import pytest

from noah_tf.export.photos import photos_in_folder, photos_of_run, read_photos
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.runs.checkpoint import load_run

pytestmark = pytest.mark.one_stack


@pytest.fixture
def folder(tmp_path):
    """Returns a folder with two photos of each of three classes, and other files."""
    for name in ("a/0.jpg", "a/1.JPEG", "b/0.png", "b/1.gif", "c/0.bmp", "c/1.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "b" / "folder.png").mkdir()
    return tmp_path


def test_photos_come_from_all_subfolders(folder):
    assert len(photos_in_folder(folder, 100)) == 6
    paths = photos_in_folder(folder, 3)
    assert [path.relative_to(folder).as_posix() for path in paths] == [
        "a/0.jpg",
        "b/0.png",
        "c/0.bmp",
    ]
    assert photos_in_folder(folder, 0) == []


def test_folder_without_photos_raises(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder .*/none to take photos from"):
        photos_in_folder(tmp_path / "none", 3)
    with pytest.raises(FileNotFoundError, match="folder.png contains no photos"):
        photos_in_folder(folder / "b" / "folder.png", 3)


def test_photos_of_a_run_are_the_same_each_time(finished_run):
    run = load_run(finished_run)
    photos = photos_of_run(run, 4)
    assert len(set(photos)) == 4 and photos == photos_of_run(run, 4)
    assert read_photos(photos, run.preprocessing, 2**20) == tuple(photos)
    assert photos_of_run(run, 0) == []
    run.config.data.data_dir = "/nowhere"
    with pytest.raises(
        FileNotFoundError, match="photos of folder test, which cannot be read: .*--count=0"
    ):
        photos_of_run(run, 4)


def test_missing_photo_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_photos([tmp_path / "none.jpg"], Preprocessing(image_size=8), 100)
