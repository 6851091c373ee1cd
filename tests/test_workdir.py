"""What a run writes, and how it refuses to mix two runs."""

import pytest
from recipes import quickstart

from noah_tf.workdir import Workdir, write_whole

CLASSES = {"names": ("a", "b"), "multi_label": False}


def test_config_and_classes_come_back(tmp_path):
    workdir = Workdir(tmp_path / "new" / "run")
    workdir.begin(quickstart(), CLASSES)
    assert workdir.config().train.epochs == quickstart().train.epochs
    assert workdir.config().model.num_groups is None
    assert workdir.classes() == {"names": ["a", "b"], "multi_label": False}
    workdir.begin(quickstart(), CLASSES)  # the same run again


def test_another_config_is_refused_and_nothing_changes(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.begin(quickstart(), CLASSES)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other = quickstart("gap")
    other.train.epochs = 77
    with pytest.raises(ValueError) as error:
        workdir.begin(other, CLASSES)
    assert "model.head: 'noah' there, 'gap' here" in str(error.value)
    assert "train.epochs: 3 there, 77 here" in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        Workdir(tmp_path).config()
    assert Workdir(tmp_path).result() is None


def test_epochs_done_again_replace_their_rows(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.keep_epochs(0)  # nothing there yet
    for epoch in (1, 2, 3):
        workdir.add_epoch({"epoch": epoch, "loss": epoch / 2})
    workdir.keep_epochs(1)
    workdir.add_epoch({"epoch": 2, "loss": 9})
    assert (tmp_path / "epochs.csv").read_text().split() == ["epoch,loss", "1,0.5", "2,9"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_whole(path, "old")

    def full_disk(self, text):
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, "new")
    assert path.read_bytes() == b"old"
