"""Paths of this machine and of TensorFlow's other file systems. `ram://` stands for all of them."""

import pathlib

import pytest
import tensorflow as tf

from noah_tf.utils import files
from noah_tf.utils.paths import RemotePath, as_path, join

pytestmark = pytest.mark.one_stack


@pytest.fixture
def remote(request):
    """A new folder in the memory of this process."""
    folder = as_path(f"ram://tests/{request.node.name}")
    folder.mkdir()
    yield folder
    files.remove_folder(folder)
    assert not folder.exists()


def test_a_scheme_says_that_a_path_is_elsewhere():
    assert as_path("runs/noah") == pathlib.Path("runs/noah")
    assert as_path("~/runs") == pathlib.Path.home() / "runs"
    assert as_path("file:///tmp/run") == pathlib.Path("/tmp/run")
    path = as_path("gs://bucket/runs/../noah/")
    assert isinstance(path, RemotePath) and str(path) == "gs://bucket/noah"
    assert as_path(path) is path and path.resolve() is path
    assert str(path / "a" / "b.weights.h5") == "gs://bucket/noah/a/b.weights.h5"
    assert (path / "a.json").parent == path and path.parts == ("gs://", "bucket", "noah")
    assert (path / "a.b.json").suffix == ".json" and (path / "a.b.json").stem == "a.b"
    assert str((path / "a.json").with_name("c")) == "gs://bucket/noah/c"
    assert str((path / "a.json").with_suffix(".png")) == "gs://bucket/noah/a.png"


@pytest.mark.parametrize("url", ["s4://bucket/run", "http://host/run"])
def test_a_scheme_that_tensorflow_does_not_know_raises_one_sentence(url):
    with pytest.raises(ValueError) as error:
        as_path(url)
    scheme = url.split("/")[0]
    assert f"{url} has the scheme {scheme}//, and TensorFlow knows" in str(error.value)
    assert "gs://, ram:// here: use one of these" in str(error.value)
    assert str(error.value).count(". ") == 0


def test_a_scheme_without_a_path_raises():
    with pytest.raises(ValueError, match="gs:// must name a folder or a file after gs://"):
        as_path("gs://")


def test_functions_of_python_refuse_a_remote_path():
    # pathlib would read it as a folder "gs:" of this machine.
    with pytest.raises(TypeError):
        pathlib.Path(as_path("gs://bucket/noah"))


@pytest.mark.parametrize(
    ("folder", "name", "expected"),
    [
        ("data", "a.jpg", "data/a.jpg"),
        ("data", "/photos/a.jpg", "/photos/a.jpg"),
        ("data", "gs://bucket/a.jpg", "gs://bucket/a.jpg"),
        ("gs://bucket/labels", "../a.jpg", "gs://bucket/a.jpg"),
        ("gs://bucket/labels", "/photos/a.jpg", "/photos/a.jpg"),
    ],
)
def test_join(folder, name, expected):
    assert str(join(as_path(folder), name)) == expected


def test_files_and_folders(remote):
    path = remote / "sub folder" / "a[1].txt"
    assert not path.exists() and not path.is_file() and not path.is_dir()
    path.parent.mkdir()
    assert path.write_text("Grüße") == 7
    assert path.is_file() and not path.is_dir() and path.read_text() == "Grüße"
    assert path.parent.is_dir() and not path.parent.is_file()
    (remote / "b.txt").write_bytes(b"b")
    assert list(remote.glob("*.txt")) == [remote / "b.txt"]
    assert list(path.parent.glob("a[[]*")) == [path]
    assert list((remote / "missing").glob("*")) == []
    assert sorted(remote.walk()) == [
        (str(remote), ["sub folder"], ["b.txt"]),
        (str(path.parent), [], ["a[1].txt"]),
    ]
    path.rename(remote / "b.txt")
    assert (remote / "b.txt").read_text() == "Grüße" and not path.exists()
    path.unlink(missing_ok=True)
    with pytest.raises(OSError, match="missing cannot be read"):
        (remote / "missing").read_bytes()


def test_a_write_that_fails_keeps_the_old_file(remote, monkeypatch):
    path = remote / "result.json"
    files.write_text_atomically(path, "old")

    def cut_off(source, target):
        as_path(target).write_text("ne")
        raise tf.errors.UnavailableError(None, None, "the connection is gone")

    with monkeypatch.context() as context:
        context.setattr(tf.io.gfile, "copy", cut_off)
        with pytest.raises(tf.errors.UnavailableError):
            files.write_text_atomically(path, "new")
    assert path.read_text() == "old"
    files.write_text_atomically(path, "new")
    assert path.read_text() == "new"
    assert [file.name for file in remote.iterdir()] == ["result.json"]


def test_a_local_copy_lasts_for_the_block(remote, tmp_path):
    (remote / "a.weights.h5").write_bytes(b"123")
    with files.local_file(remote / "a.weights.h5") as copy:
        assert copy.name == "a.weights.h5" and copy.read_bytes() == b"123"
    assert not copy.exists()
    with files.local_file(tmp_path) as same:
        assert same == tmp_path
    assert tmp_path.exists()
