"""Keras callbacks that observe a run."""

import json

import numpy as np
import pytest
import tensorflow as tf
from recipes import small_recipe
from stacks import slow_on_one_stack
from training_runs import train_and_kill, weights

from noah_tf.training.callbacks import callbacks_function
from noah_tf.training.loop import train


class Recorder(tf.keras.callbacks.Callback):
    """Records its calls, what it sees of the optimizer, and the parameters of the run."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.calls, self.stop_after = [], stop_after

    def on_train_begin(self, logs=None):
        self.calls.append(("begin", self.params["epochs"], self.params["steps"]))

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(("epoch", epoch, int(self.model.optimizer.iterations)))

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append(("batch", batch, logs["loss"]))
        self.rate = float(self.model.optimizer.learning_rate)

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(("end", epoch, logs))
        if epoch == self.stop_after:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self.calls.append(("train end", logs))
        self.config = self.model.optimizer.get_config()


@pytest.mark.slow
def test_callbacks_see_a_run_as_under_fit(shapes, tmp_path, finished_run, monkeypatch):
    config = small_recipe(shapes)
    recorder = Recorder()
    result = train(config, tmp_path / "run", callbacks=[recorder])
    kinds = [call[0] for call in recorder.calls]
    epoch = ["epoch", "batch", "batch", "batch", "end"]
    assert kinds == ["begin", *epoch, *epoch, "train end"]
    assert recorder.calls[0] == ("begin", 2, 3) and recorder.calls[6][1:] == (1, 3)
    logs = recorder.calls[-2][2]
    assert set(logs) >= {"loss", "top1", "val_loss", "val_top1"}
    assert logs["val_loss"] == result["loss"] and logs["loss"] == recorder.calls[-3][2]
    assert recorder.config["name"] == "adamw" and 0 <= recorder.rate < 1
    # They change nothing, and see the rest of a resumed run, which repeats an evaluation.
    for one, other in zip(weights(tmp_path / "run"), weights(finished_run), strict=True):
        np.testing.assert_array_equal(one, other)
    train_and_kill(monkeypatch, 4, config, tmp_path / "killed", callbacks=[Recorder()])
    recorder = Recorder()
    train(config, tmp_path / "killed", callbacks=[recorder])
    assert [call[0] for call in recorder.calls] == ["begin", "epoch", "end", *epoch, "train end"]


@slow_on_one_stack
def test_stop_training_ends_the_run_after_its_epoch(shapes, tmp_path, capsys):
    config = small_recipe(shapes)
    config.schedule.name = "constant"
    config.train.epochs = 3
    result = train(config, tmp_path, callbacks=[Recorder(stop_after=1)])
    assert result["steps"] == 6
    assert "A callback set model.stop_training, so the run ends." in capsys.readouterr().out
    assert train(config, tmp_path) == result
    config.train.epochs = 4
    assert train(config, tmp_path)["steps"] == 12


class Meddler(tf.keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        weight = self.model.weights[0]
        weight.assign(np.nextafter(np.asarray(weight), 1, dtype=np.float32))


class Freezer(tf.keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.layers[1].trainable = False


class RateAssigner(tf.keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.lr.assign(0.1)


class RateSetter(tf.keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.learning_rate = 0.1


@slow_on_one_stack
@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            Meddler(),
            "changed the weights of the model, or which layers are trained, in on_ep",
        ),
        (Freezer(), "or which layers are trained, in on_epoch_begin, but callbacks only observe"),
        (RateAssigner(), "sets optimizer.learning_rate=0.1, but callbacks only observe a run"),
        (RateSetter(), "sets optimizer.learning_rate=0.1, but callbacks only observe a run"),
    ],
)
def test_callbacks_that_change_something_raise(shapes, tmp_path, callback, message):
    with pytest.raises(ValueError, match=message):
        train(small_recipe(shapes), tmp_path, callbacks=[callback])


MODULE = """
import tensorflow as tf

def make():
    return [tf.keras.callbacks.CSVLogger("log.csv")]

def wrong():
    return tf.keras.callbacks.CSVLogger("log.csv")
"""


def test_functions_of_modules_make_callbacks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_callbacks.py").write_text(MODULE)
    (callback,) = callbacks_function("my_callbacks:make")()
    assert isinstance(callback, tf.keras.callbacks.CSVLogger)
    with pytest.raises(ValueError, match="my_callbacks:wrong must return a list of tf.keras.callb"):
        callbacks_function("my_callbacks:wrong")()
    for name in ("my_callbacks:no", "nothing_here:make", "my_callbacks", ":make"):
        with pytest.raises(ValueError, match=f"must be module:function, .* got '{name}'"):
            callbacks_function(name)


@pytest.mark.slow
@pytest.mark.one_stack
def test_weights_and_biases_logs_offline(shapes, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.integration.keras import WandbMetricsLogger

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(project="noah", dir=tmp_path) as run:
        train(small_recipe(shapes), tmp_path / "run", callbacks=[WandbMetricsLogger()])
        summary = dict(run.summary)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert summary["epoch/val_top1"] == pytest.approx(result["top1"])
    assert any((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
