"""Versions become visible only when they are complete."""

import pytest
import tensorflow as tf

from noah_tf.export import versions
from noah_tf.export.versions import check_version, latest_version, model_folder, new_version
from noah_tf.utils.paths import as_path

pytestmark = pytest.mark.one_stack


def write(model_dir, version=None, text="new"):
    with new_version(model_dir, version) as draft:
        (draft.path / "saved_model.pb").write_text(text)
    return draft.path


def test_versions_count_up_and_are_never_replaced(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "saved_model.pb").write_text("old")
    assert write(tmp_path) == tmp_path / "8"
    assert write(tmp_path, 3) == tmp_path / "3"
    assert write(tmp_path) == tmp_path / "9"
    message = "/7 already exists and is not replaced: .* to write 10"
    with pytest.raises(ValueError, match=message):
        check_version(tmp_path, 7)
    with pytest.raises(ValueError, match=message):
        write(tmp_path, 7)
    assert (tmp_path / "7" / "saved_model.pb").read_text() == "old"
    for version in (0, -1, True, "2"):
        with pytest.raises(ValueError, match="version must be a positive integer"):
            check_version(tmp_path, version)
    assert {path.name for path in tmp_path.iterdir()} == {"notes", "3", "7", "8", "9"}


def test_leading_zeros_count_and_other_digits_do_not(tmp_path):
    for name in ("007", "²"):
        (tmp_path / name).mkdir()
    assert latest_version(tmp_path) == tmp_path / "007"
    with pytest.raises(ValueError, match="/007 already exists and is not replaced"):
        write(tmp_path, 7)
    assert write(tmp_path) == tmp_path / "8"


def test_versions_over_the_servers_limit_are_ignored(tmp_path):
    (tmp_path / str(2**63)).mkdir()
    assert write(tmp_path) == tmp_path / "1"
    with pytest.raises(ValueError, match=r"version must be at most 2\^63 - 1"):
        write(tmp_path, 2**63)


def test_an_empty_folder_is_not_replaced(tmp_path):
    with pytest.raises(ValueError, match="/5 already exists"), new_version(tmp_path, 5):
        (tmp_path / "5").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["5"]


def test_version_is_visible_only_when_complete(tmp_path):
    tmp_path = tmp_path / "model"
    with new_version(tmp_path) as draft:
        (draft.path / "saved_model.pb").touch()
        (folder,) = tmp_path.iterdir()
        assert folder == draft.path and not folder.name.isdigit()
        with pytest.raises(FileNotFoundError, match="has no version"):
            latest_version(tmp_path)
    assert latest_version(tmp_path) == draft.path == tmp_path / "1"
    # TF Serving may run as another user.
    assert (tmp_path / "1").stat().st_mode & 0o777 == 0o755


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt), new_version(tmp_path) as draft:
        (draft.path / "saved_model.pb").touch()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), new_version(tmp_path / "new"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())

    def full_disk(source, target):
        raise OSError("no space left")

    monkeypatch.setattr(versions.os, "rename", full_disk)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_simultaneous_exports_write_different_versions(tmp_path, monkeypatch):
    rename = versions.os.rename

    def overtaken(source, target):
        monkeypatch.setattr(versions.os, "rename", rename)
        target.mkdir()
        (target / "saved_model.pb").touch()
        rename(source, target)

    monkeypatch.setattr(versions.os, "rename", overtaken)
    assert write(tmp_path).name == "2"
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2"}
    monkeypatch.setattr(versions.os, "rename", overtaken)
    with pytest.raises(ValueError, match="/5 already exists and is not replaced"):
        write(tmp_path, 5)


def test_latest_version_is_the_highest_number(tmp_path):
    for version in (9, 10, 2):
        write(tmp_path, version)
    assert latest_version(tmp_path).name == "10"
    with pytest.raises(FileNotFoundError, match="nowhere has no version of a model"):
        latest_version(tmp_path / "nowhere")


def test_served_names_are_those_that_urls_can_contain(tmp_path):
    assert model_folder(tmp_path, "resnet-18_v1.0") == tmp_path / "resnet-18_v1.0"
    for name in ("..", ".hidden", "a/b", "a b", "", "é"):
        with pytest.raises(ValueError, match="name of a served model must consist of letters"):
            model_folder(tmp_path, name)


def test_elsewhere_the_marker_is_written_last(monkeypatch):
    model_dir = as_path("ram://versions/digits")
    order = []
    copy = tf.io.gfile.copy

    def recording(source, target, **options):
        order.append(target.removeprefix(f"{model_dir}/"))
        copy(source, target, **options)

    with monkeypatch.context() as context:
        context.setattr(tf.io.gfile, "copy", recording)
        with new_version(model_dir) as draft:
            for name in ("saved_model.pb", "variables/variables.index", "zebra.txt"):
                (draft.path / name).parent.mkdir(exist_ok=True)
                (draft.path / name).write_text("new")
            assert not model_dir.exists()
    assert order == ["1/variables/variables.index", "1/zebra.txt", "1/saved_model.pb"]
    assert draft.path == latest_version(model_dir) == model_dir / "1"
    with pytest.raises(ValueError, match="digits/1 already exists .* to write 2"):
        write(model_dir, 1)
    # A copy that was cut off is not a version, and no later version overwrites it.
    (model_dir / "2").mkdir()
    (model_dir / "2" / "variables.index").write_text("")
    assert latest_version(model_dir) == model_dir / "1"
    assert write(model_dir) == latest_version(model_dir) == model_dir / "3"


def test_a_failure_elsewhere_leaves_nothing():
    model_dir = as_path("ram://versions/failed")
    with pytest.raises(ZeroDivisionError), new_version(model_dir):
        raise ZeroDivisionError
    assert not model_dir.exists()
