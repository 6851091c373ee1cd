"""Runs, data and exports in folders that are not on this machine.

`ram://`, a file system in the memory of the process, stands for `gs://` and others. A kill is
therefore an exception.
"""

import numpy as np
import pytest
import tensorflow as tf
from recipes import small_recipe
from stacks import slow_on_one_stack
from training_runs import train_and_kill

from noah_tf.datasets import open_source
from noah_tf.evaluation.prediction import ExportPredictor
from noah_tf.evaluation.report import report_run
from noah_tf.explain.run import explain_run
from noah_tf.export import export_run
from noah_tf.runs.checkpoint import load_run
from noah_tf.runs.workdir import Workdir
from noah_tf.training.loop import train
from noah_tf.utils.files import copy_folder
from noah_tf.utils.paths import as_path


@pytest.fixture(scope="module")
def remote_shapes(shapes):
    """The folder of drawn photos, in memory."""
    folder = as_path("ram://remote/shapes")
    copy_folder(shapes, folder, last="")
    return folder


def arrays(workdir):
    """Returns the arrays of the newest checkpoint."""
    newest = max((workdir / "checkpoints").glob("ckpt-?.index"))
    reader = tf.compat.v1.train.NewCheckpointReader(str(newest.with_suffix("")))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {name: reader.get_tensor(name) for name in names if "save_counter" not in name}


def without_times(text):
    """Returns the cells of epochs.csv, except the times."""
    header, *rows = [line.split(",") for line in text.split()]
    keep = [i for i, name in enumerate(header) if "second" not in name and name != "data_wait"]
    return [[row[i] for i in keep] for row in (header, *rows)]


@pytest.mark.slow
def test_a_killed_run_elsewhere_ends_as_a_whole_one_here(
    remote_shapes, shapes, tmp_path, monkeypatch, capsys
):
    config = small_recipe(shapes)
    config.ema.decay, config.train.checkpoint_every = 0.5, 2
    train(config, tmp_path / "whole")

    config.data.data_dir = str(remote_shapes)
    workdir = as_path("ram://remote/run")
    train_and_kill(monkeypatch, 2, config, workdir)
    # A kill during a save leaves these.
    (workdir / "checkpoints" / "ckpt-3_temp").mkdir()
    (workdir / "partial-best.weights.h5").write_text("half")
    train_and_kill(monkeypatch, 3, config, str(workdir))
    assert "2 of 6 steps done, starting from its checkpoint" in capsys.readouterr().out
    result = train(config, workdir)
    assert "4 of 6 steps done, starting from its checkpoint" in capsys.readouterr().out

    whole, remote = arrays(tmp_path / "whole"), arrays(workdir)
    assert whole.keys() == remote.keys() and len(whole) > 30
    assert not [name for name in whole if not np.array_equal(whole[name], remote[name])]
    assert result == Workdir(tmp_path / "whole").result() == Workdir(workdir).result()
    texts = [(folder / "epochs.csv").read_text() for folder in (tmp_path / "whole", workdir)]
    assert without_times(texts[0]) == without_times(texts[1]) and len(texts[1].split()) == 3
    names = {path.name for path in workdir.iterdir()}
    assert {"model.keras", "events", "best.json", "result.json", "data.json"} <= names
    assert ".lock" not in names
    names = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert {name.partition(".")[0] for name in names} == {"checkpoint", "ckpt-4", "ckpt-6"}
    for state in ("last", "ema", "best"):
        for one, other in zip(
            load_run(tmp_path / "whole", state).model.get_weights(),
            load_run(workdir, state).model.get_weights(),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="ram://remote/run holds another run"):
        config.seed = 7
        train(config, workdir)


@slow_on_one_stack
def test_a_run_elsewhere_is_evaluated_explained_and_exported(finished_run, remote_shapes, shapes):
    workdir = as_path("ram://remote/finished")
    copy_folder(finished_run, workdir, last="result.json")
    evaluation, folder = report_run(workdir)
    assert evaluation.results[0].scores["top1"] == Workdir(finished_run).result()["top1"]
    assert folder.parent == workdir / "evaluations"
    assert {"report.html", "result.json", "confusion.csv"} <= {p.name for p in folder.iterdir()}
    assert explain_run(workdir, count=2).read_bytes().startswith(b"\x89PNG")

    version = export_run(workdir, "ram://remote/served/shapes", warmup_batch_sizes=(1,))
    assert str(version) == "ram://remote/served/shapes/1"
    assert (version / "assets.extra" / "tf_serving_warmup_requests").is_file()
    files = open_source("folder", "test", data_dir=remote_shapes).files
    (remote, *_), (local, *_) = (
        list(ExportPredictor(str(version.parent))(names, 4))
        for names in (files, [name.replace(str(remote_shapes), str(shapes)) for name in files])
    )
    assert remote.error == local.error == ""
    np.testing.assert_array_equal(remote.logits, local.logits)

    config = small_recipe(remote_shapes)
    config.model.weights = config.train.teacher = str(workdir)
    config.train.epochs = 1
    assert train(config, "ram://remote/second")["steps"] == 3
