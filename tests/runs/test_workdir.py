"""The files of a run, and the errors if two runs would share a folder."""

import json
import shutil

import pytest
from recipes import quickstart

from noah_tf.runs.workdir import Workdir, short_names
from noah_tf.utils.files import write_text_atomically

pytestmark = pytest.mark.one_stack

DATA = {
    "class_names": ("a", "b"),
    "multi_label": False,
    "train_examples": 7,
    "stack": "Keras 3",
}


def test_config_and_classes_are_read_back(tmp_path):
    workdir = Workdir(tmp_path / "new" / "run")
    workdir.begin(quickstart(), DATA)
    assert workdir.config().train.epochs == quickstart().train.epochs
    assert workdir.config().model.num_groups is None
    assert workdir.data().to_dict() == {**DATA, "class_names": ["a", "b"]}
    workdir.begin(quickstart(), DATA)  # the same run again
    workdir.begin(quickstart(), {**DATA, "stack": "Keras 2"})  # for complete runs


def begun(path):
    """Returns a folder in which a run has saved a checkpoint."""
    workdir = Workdir(path)
    workdir.begin(quickstart(), DATA)
    workdir.checkpoints.mkdir()
    (workdir.checkpoints / "ckpt-3.index").touch()
    return workdir


def test_another_config_raises_and_changes_nothing(tmp_path):
    workdir = begun(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    other = quickstart("gap")
    other.train.epochs = 77
    with pytest.raises(ValueError) as error:
        workdir.begin(other, DATA)
    assert "model.head: 'noah' there, 'gap' here" in str(error.value)
    assert "train.epochs: 3 there, 77 here" in str(error.value)
    after = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert after == before


def test_run_without_progress_is_replaced(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.begin(quickstart(), DATA)
    other = quickstart("gap")
    workdir.begin(other, {**DATA, "train_examples": 6})
    assert workdir.config().model.head == "gap"
    assert workdir.data().train_examples == 6


def test_other_data_raises(tmp_path):
    workdir = begun(tmp_path)
    for change, message in (
        ({"class_names": ("a", "c")}, "data: class_names: ['a', 'b'] there, ['a', 'c'] here"),
        ({"train_examples": 8}, "data: train_examples: 7 there, 8 here"),
    ):
        with pytest.raises(ValueError) as error:
            workdir.begin(quickstart(), {**DATA, **change})
        assert message in str(error.value)


def test_one_process_at_a_time(tmp_path):
    with (
        Workdir(tmp_path).locked(),
        pytest.raises(ValueError, match="Another process is training in"),
        Workdir(tmp_path).locked(),
    ):
        pass
    with Workdir(tmp_path).locked():  # let go of
        pass


def test_folder_without_a_run_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        Workdir(tmp_path).config()
    assert Workdir(tmp_path).result() is None


def test_repeated_epochs_replace_their_rows(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.keep_epochs(0)  # nothing there yet
    for epoch in (1, 2, 3):
        workdir.add_epoch({"epoch": epoch, "loss": epoch / 2})
    workdir.keep_epochs(1)
    workdir.add_epoch({"epoch": 2, "loss": 9})
    assert (tmp_path / "epochs.csv").read_text().split() == ["epoch,loss", "1,0.5", "2,9"]


def test_empty_epochs_file_of_a_killed_run(tmp_path):
    workdir = Workdir(tmp_path)
    (tmp_path / "epochs.csv").write_text("")
    workdir.keep_epochs(1)
    workdir.add_epoch({"epoch": 2, "loss": 9})
    assert (tmp_path / "epochs.csv").read_text().split() == ["epoch,loss", "2,9"]


def test_write_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_text_atomically(path, "old")

    def full_disk(self, text):
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_text_atomically(path, "new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/noah", "runs/gap"], ["noah", "gap"]),
        (["runs/noah/seed0", "runs/gap/seed0"], ["noah/seed0", "gap/seed0"]),
        (["a/noah/seed0", "b/noah/seed0", "b/gap/seed1"], ["a/noah/seed0", "b/noah/seed0"]),
        (["runs/gap", "runs/noah/../gap/"], ["gap", "gap"]),
        (["runs/noah"], ["noah"]),
        ([], []),
    ],
)
def test_short_names_of_folders(paths, names):
    result = short_names(paths)
    assert len(result) == len(paths) and result[: len(names)] == names


def test_a_run_of_an_earlier_version_is_resumed(finished_run, tmp_path):
    workdir = Workdir(shutil.copytree(finished_run, tmp_path / "run"))
    config, data = workdir.config(), workdir.data().to_dict()
    # Options that an earlier version did not have.
    old = config.to_dict()
    for key in ("teacher", "distillation", "distillation_weight", "patience", "frozen_layers"):
        del old["train"][key]
    del old["optimizer"]["args"], old["ema"]
    (workdir.path / "config.json").write_text(json.dumps(old))
    workdir.begin(config, data)
    assert workdir.config().train.distillation == "soft"
    (workdir.path / "config.json").write_text(json.dumps(old))
    config.train.distillation = "hard"
    with pytest.raises(ValueError, match="train.distillation: 'soft' there, 'hard' here"):
        workdir.begin(config, data)
