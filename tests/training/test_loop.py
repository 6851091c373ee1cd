"""The training loop: its files, resuming, and errors."""

import collections
import csv
import itertools
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from recipes import TRAIN_EXAMPLES, small_recipe
from stacks import slow_on_one_stack
from training_runs import Killed, kill_after, train_and_kill, weights

import noah_tf
from noah_tf.evaluation.evaluator import evaluate_run
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.runs.checkpoint import Checkpoints, load_run
from noah_tf.runs.model_config import ModelSpec
from noah_tf.runs.moving_average import MovingAverage
from noah_tf.runs.workdir import Workdir
from noah_tf.training import loop, update_rules
from noah_tf.training import optimizer as optim
from noah_tf.training.loop import train
from noah_tf.training.optimizer_settings import OptimizerSettings
from noah_tf.training.plan import TrainingPlan
from noah_tf.training.schedules import Schedule
from noah_tf.training.settings import TrainSettings


def test_run_writes_its_files(finished_run):
    assert {path.name for path in finished_run.iterdir()} >= {
        "config.json",
        "data.json",
        "epochs.csv",
        "checkpoints",
        "events",
        "model.keras",
        "model.weights.h5",
        "result.json",
    }
    with (finished_run / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(int(row["examples"]) == TRAIN_EXAMPLES for row in rows)
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    result = json.loads((finished_run / "result.json").read_text())
    assert result["examples"] == 10 and result["steps"] == 2 * TRAIN_EXAMPLES // 8
    assert float(rows[-1]["eval_loss"]) == pytest.approx(result["loss"])


def test_tensorboard_has_the_metrics(finished_run):
    (path,) = (finished_run / "events").iterdir()
    tags = set()
    for record in tf.data.TFRecordDataset(str(path)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        tags |= {value.tag for value in event.summary.value}
    assert {"train/loss", "train/top1", "train/top5", "train/learning_rate"} <= tags
    assert {"speed/images_per_second", "speed/data_wait", "eval_loss", "eval_top1"} <= tags


def test_saved_model_is_the_trained_model(finished_run):
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    saved = tf.keras.models.load_model(finished_run / "model.keras", compile=False)
    run = load_run(finished_run)
    np.testing.assert_allclose(saved(images), run.model(images), atol=1e-6)


@pytest.mark.slow
def test_complete_run_is_not_trained_again(shapes, tmp_path, monkeypatch):
    config = small_recipe(shapes)
    config.train.epochs = 1
    first = train(config, tmp_path)
    kill_after(monkeypatch, steps=0)
    assert train(config, tmp_path) == first


@pytest.mark.parametrize(
    ("head", "killed_after", "checkpoint_every"),
    [
        ("gap", 2, 2),
        pytest.param("noah", 4, 0, marks=pytest.mark.slow),
    ],
)
def test_killed_run_ends_as_a_whole_one(
    shapes, tmp_path, monkeypatch, head, killed_after, checkpoint_every
):
    config = small_recipe(shapes, head)
    config.model.dropout = 0.3  # the checkpoint has its random state
    config.train.checkpoint_every = checkpoint_every
    train(config, tmp_path / "whole")

    train_and_kill(monkeypatch, killed_after, config, tmp_path / "killed")
    train(config, tmp_path / "killed")

    for one, other in zip(weights(tmp_path / "whole"), weights(tmp_path / "killed"), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    epochs = [
        (tmp_path / name / "epochs.csv").read_text().splitlines() for name in ("whole", "killed")
    ]
    assert [row.split(",")[0] for row in epochs[0]] == [row.split(",")[0] for row in epochs[1]]


@slow_on_one_stack
def test_killed_run_with_balanced_classes_ends_as_a_whole_one(shapes, tmp_path, monkeypatch):
    folder = shutil.copytree(shapes, tmp_path / "shapes")
    for photo in sorted((folder / "train" / "ring").iterdir())[2:]:
        photo.unlink()
    config = small_recipe(folder)
    config.data.balanced_sampling = True
    config.train.class_weights = "balanced"
    config.train.loss = "categorical_focal_crossentropy"
    train(config, tmp_path / "whole")
    train_and_kill(monkeypatch, 3, config, tmp_path / "killed")
    train(config, tmp_path / "killed")
    for one, other in zip(weights(tmp_path / "whole"), weights(tmp_path / "killed"), strict=True):
        np.testing.assert_array_equal(one, other)
    config.train.class_weights = None
    train(config, tmp_path / "equal")
    pairs = zip(weights(tmp_path / "whole"), weights(tmp_path / "equal"), strict=True)
    assert not all(np.array_equal(one, other) for one, other in pairs)


@slow_on_one_stack
def test_another_seed_gives_other_weights(shapes, tmp_path, finished_run):
    config = small_recipe(shapes)
    config.seed = 1
    train(config, tmp_path)
    assert any(
        (a != b).any() for a, b in zip(weights(tmp_path), weights(finished_run), strict=True)
    )


@pytest.mark.slow
def test_damaged_checkpoint_is_skipped(shapes, tmp_path, monkeypatch):
    config = small_recipe(shapes)
    config.train.checkpoint_every = 1
    train_and_kill(monkeypatch, 5, config, tmp_path)
    # If the machine fails, a file can be renamed before its data are written.
    newest = tmp_path / "checkpoints" / "ckpt-5.data-00000-of-00001"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert load_run(tmp_path).step == 4
    train_and_kill(monkeypatch, 1, config, tmp_path)
    assert load_run(tmp_path).step == 5  # written anew
    # TensorFlow's list of checkpoints may be missing.
    (tmp_path / "checkpoints" / "checkpoint").unlink()
    train(config, tmp_path)
    assert load_run(tmp_path).step == 6


@slow_on_one_stack
def test_checkpoint_of_another_run_is_skipped(shapes, tmp_path, monkeypatch, caplog):
    config = small_recipe(shapes)
    config.train.checkpoint_every = 1
    for name, blocks in (("run", 2), ("other", 1)):
        config.model.backbone_args.stackwise_blocks = (blocks,)
        train_and_kill(monkeypatch, 2, config, tmp_path / name)
    for path in (tmp_path / "other" / "checkpoints").glob("ckpt-2.*"):
        shutil.copy(path, tmp_path / "run" / "checkpoints" / path.name.replace("-2.", "-5."))
    assert load_run(tmp_path / "run").step == 2
    assert "ckpt-5 cannot be read" in caplog.text and "trying an older one" in caplog.text


@pytest.mark.slow
def test_no_readable_checkpoint_raises(shapes, tmp_path, monkeypatch):
    config = small_recipe(shapes)
    train_and_kill(monkeypatch, 4, config, tmp_path)
    for path in (tmp_path / "checkpoints").glob("*.data*"):
        path.write_bytes(b"")
    with pytest.raises(OSError, match="ckpt-3 can be read: restore"):
        train(config, tmp_path)


def test_run_without_checkpoint_cannot_be_loaded(shapes, tmp_path, monkeypatch):
    train_and_kill(monkeypatch, 1, small_recipe(shapes), tmp_path)
    with pytest.raises(FileNotFoundError, match="has no checkpoint yet"):
        load_run(tmp_path)


def test_checkpoints_save_all_state(tmp_path):
    def make_state():
        layer = tf.keras.layers.BatchNormalization()
        model = tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(3), layer])
        variables = model.trainable_variables
        optimizer = optim.Optimizer(
            variables,
            update_rules.AdamW(),
            lambda step: tf.constant(0.1),
            0.0,
            [True] * len(variables),
        )
        return model, optimizer, MovingAverage(model, 0.5)

    model, optimizer, average = make_state()
    for weight in model.weights:
        weight.assign(np.random.default_rng(0).random(weight.shape))
    optimizer.apply([tf.ones(v.shape) for v in model.trainable_variables])
    average.update()
    workdir = Workdir(tmp_path)
    Checkpoints(workdir, model, optimizer=optimizer, average=average).save(7)

    other, other_optimizer, other_average = make_state()
    again = Checkpoints(workdir, other, optimizer=other_optimizer, average=other_average)
    assert again.restore() == 7
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert int(other_optimizer.iterations) == 1
    assert len(optimizer.variables) >= 2 * len(model.trainable_variables)
    for one, two in (
        *zip(optimizer.variables, other_optimizer.variables, strict=True),
        *zip(average.averages, other_average.averages, strict=True),
    ):
        np.testing.assert_array_equal(one, two)


def test_loss_that_is_not_finite_raises(shapes, tmp_path):
    config = small_recipe(shapes)
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate, config.schedule.name = 1e30, "constant"
    message = (
        r"The loss is not finite after step 3, with the learning rate 1e\+30; there is no "
        r"checkpoint yet. Lower optimizer.learning_rate"
    )
    with pytest.raises(FloatingPointError, match=message):
        train(config, tmp_path)


def test_weights_that_overflow_do_not_replace_a_checkpoint(shapes, tmp_path):
    config = small_recipe(shapes)
    config.optimizer.name, config.train.checkpoint_every = "sgd", 1
    config.optimizer.learning_rate = 1e30
    message = r"is not finite after step 2, with .*; the last checkpoint is \S*ckpt-1\. Lower"
    with pytest.raises(FloatingPointError, match=message):
        train(config, tmp_path)
    assert all(np.isfinite(weight).all() for weight in weights(tmp_path))


@pytest.mark.slow
def test_unfinished_run_of_the_other_keras_raises(shapes, tmp_path, monkeypatch):
    config = small_recipe(shapes)
    train_and_kill(monkeypatch, 4, config, tmp_path)
    data = json.loads((tmp_path / "data.json").read_text())
    (tmp_path / "data.json").write_text(json.dumps({**data, "stack": "Keras 7"}))
    for use in (lambda: load_run(tmp_path), lambda: train(config, tmp_path)):
        with pytest.raises(ValueError, match="was begun with Keras 7 and this is Keras"):
            use()


@pytest.mark.slow
def test_a_run_records_its_head_and_one_that_did_not_raises(finished_run, tmp_path):
    head = load_run(finished_run).model.get_layer("noah_head")
    path = tmp_path / "run" / "config.json"
    shutil.copytree(finished_run, path.parent)
    config = json.loads(path.read_text())
    recorded = config["model"]["num_groups"], config["model"]["key_ratio"]
    assert recorded == (head.num_groups, head.key_ratio)
    config["model"]["num_groups"] = None
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="earlier version.* model.num_groups=None .* set both"):
        load_run(path.parent)


@slow_on_one_stack
def test_run_is_loaded_in_its_own_precision(shapes, tmp_path):
    config = small_recipe(shapes)
    config.precision, config.train.epochs = "mixed_bfloat16", 1
    result = train(config, tmp_path)
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    assert load_run(tmp_path).model.get_layer("noah_head").compute_dtype == "bfloat16"
    assert evaluate_run(tmp_path)[0]["loss"] == pytest.approx(result["loss"], rel=1e-6)


def test_batch_larger_than_the_data_raises(shapes, tmp_path):
    config = small_recipe(shapes)
    config.train.batch_size = 1000
    with pytest.raises(ValueError, match="1000 is more than the 24 examples of folder train"):
        train(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_corrupt_photo_is_named(shapes, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(shapes, folder)
    (folder / "train" / "ring" / "002.png").write_bytes(b"no photo")
    config = small_recipe(folder)
    with pytest.raises(ValueError, match="002.png"):
        train(config, tmp_path / "run")


@pytest.mark.slow
def test_multi_label_data(tfds_dir, tmp_path):
    config = small_recipe(None)
    config.data.name, config.data.data_dir = "digit_scenes/multi", str(tfds_dir)
    config.train.epochs, config.train.batch_size = 1, 40
    result = train(config, tmp_path)
    assert 0 < result["mAP"] < 1
    assert load_run(tmp_path).multi_label


def test_parts_of_a_recipe_are_built_once(shapes, tmp_path, monkeypatch):
    counts = collections.Counter()
    for cls in (Preprocessing, ModelSpec, Schedule, OptimizerSettings, TrainSettings):
        check = cls.__post_init__

        def counted(self, check=check):
            counts[type(self)] += 1
            check(self)

        monkeypatch.setattr(cls, "__post_init__", counted)
    kill_after(monkeypatch, 0)
    with pytest.raises(Killed):
        train(small_recipe(shapes), tmp_path)
    assert set(counts.values()) == {1} and len(counts) == 5


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("epochs", 0), ("epochs", -1)])
def test_sizes_below_one_raise(shapes, tmp_path, name, value):
    config = small_recipe(shapes)
    config.train[name] = value
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
        train(config, tmp_path)


def first_weights(config, workdir, monkeypatch):
    """Returns the weights that a run starts from, and kills it before its first step."""
    with monkeypatch.context() as patch:
        started = []
        make = loop.make_train_step

        def recording(plan, state, *arguments):
            started.append(state.model.get_weights())
            return make(plan, state, *arguments)

        patch.setattr(loop, "make_train_step", recording)
        kill_after(patch, 0)
        with pytest.raises(Killed):
            train(config, workdir)
    return started[0]


def paper_recipe(shapes):
    """Returns a recipe of a model of the paper on the shapes."""
    config = small_recipe(shapes)
    config.model.architecture = "mobilenetv2_035"
    config.train.epochs = 1
    return config


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_pixels_that_pretrained_weights_need_are_named(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(TrainingPlan, "pixel_advice", "Set preprocess.mean.")
    train_and_kill(monkeypatch, 0, small_recipe(shapes), tmp_path)
    assert "\nSet preprocess.mean.\n" in capsys.readouterr().out


@slow_on_one_stack
def test_weights_come_from_the_checkpoint_then_the_file_then_the_seed(
    shapes, tmp_path, monkeypatch, capsys
):
    config = paper_recipe(shapes)
    source = noah_tf.create_model("noah_mobilenetv2_035", 3, (32, 32, 3), dropout=0.0)
    path = noah_tf.save_official_weights(source, tmp_path / "start.safetensors")

    scratch = first_weights(config, tmp_path / "scratch", monkeypatch)
    assert "starting from random weights" in capsys.readouterr().out
    assert same(scratch, first_weights(config, tmp_path / "again", monkeypatch))
    assert not same(scratch, source.get_weights())

    config.model.weights = str(path)
    assert same(first_weights(config, tmp_path / "given", monkeypatch), source.get_weights())
    assert f"starting from {path}" in capsys.readouterr().out

    config.train.checkpoint_every = 1
    train_and_kill(monkeypatch, 2, config, tmp_path / "given")
    path.unlink()  # a resumed run does not need it
    resumed = first_weights(config, tmp_path / "given", monkeypatch)
    assert "starting from its checkpoint" in capsys.readouterr().out
    assert not same(resumed, source.get_weights())
    assert np.isfinite(train(config, tmp_path / "given")["loss"])


@pytest.mark.slow
def test_another_number_of_classes_starts_with_a_random_head(shapes, tmp_path, monkeypatch):
    config = paper_recipe(shapes)
    source = noah_tf.create_model("noah_mobilenetv2_035", 10, (32, 32, 3))
    config.model.weights = str(tmp_path / "start.safetensors")
    noah_tf.save_official_weights(source, config.model.weights)
    with pytest.raises(ValueError, match="skip"):
        train(config, tmp_path / "run")
    # Nothing was trained, so the folder accepts the corrected recipe.
    config.model.weights_head = "skip"
    started = first_weights(config, tmp_path / "run", monkeypatch)
    kernel = source.get_layer("features.0.0").get_weights()[0]
    assert any(np.array_equal(kernel, weight) for weight in started)


def test_missing_weights_are_named(shapes, tmp_path):
    config = paper_recipe(shapes)
    config.model.weights = "nowhere.weights.h5"
    with pytest.raises(FileNotFoundError, match="no weights at model.weights=nowhere.weights.h5"):
        train(config, tmp_path / "run")


@pytest.mark.slow
def test_frozen_backbone_does_not_change_until_its_epoch(shapes, tmp_path, monkeypatch):
    config = small_recipe(shapes)
    config.train.frozen_epochs = 1
    config.optimizer.layer_decay = 0.5
    started = first_weights(config, tmp_path / "start", monkeypatch)
    train_and_kill(monkeypatch, 3, config, tmp_path / "run")  # one epoch
    model = load_run(tmp_path / "run").model
    head_ids = {id(weight) for weight in model.get_layer("noah_head").weights}
    for weight, before in zip(model.weights, started, strict=True):
        moved = not np.array_equal(weight, before)
        # The key bias has no effect and no gradient. BatchNorm's statistics do not change either.
        assert moved == (id(weight) in head_ids and "key_bias" not in weight.name), weight.name
    train(config, tmp_path / "run")
    final = weights(tmp_path / "run")
    unchanged = [np.array_equal(one, other) for one, other in zip(final, started, strict=True)]
    assert sum(unchanged) <= 1


@pytest.mark.slow
def test_best_and_averaged_weights_are_saved(shapes, tmp_path):
    config = small_recipe(shapes)
    config.ema.decay = 0.5
    result = train(config, tmp_path)
    rows = read_rows(tmp_path)
    tops = [float(row["eval_ema_top1"]) for row in rows]
    assert result["best_top1"] == pytest.approx(max(tops))
    assert result["best_step"] == int(rows[tops.index(max(tops))]["step"])
    for which, expected in (("last", result["loss"]), ("ema", result["ema_loss"])):
        assert evaluate_run(tmp_path, weights=which)[0]["loss"] == pytest.approx(expected, rel=1e-5)
    best, path = evaluate_run(tmp_path, weights="best")
    assert best["top1"] == pytest.approx(max(tops)) and path.name == "eval_test_best.json"
    assert json.loads((tmp_path / "best.json").read_text())["step"] == result["best_step"]
    with pytest.raises(ValueError, match="weights must be one of last, ema, best, got 'first'"):
        load_run(tmp_path, "first")


def test_run_without_average_raises(finished_run):
    with pytest.raises(ValueError, match="keeps no moving average"):
        load_run(finished_run, "ema")


@pytest.mark.slow
@pytest.mark.parametrize(("averaged", "best"), [(True, "eval_ema_loss"), (False, "eval_loss")])
def test_unfinished_run_has_averaged_and_best_weights(
    shapes, tmp_path, monkeypatch, averaged, best
):
    config = small_recipe(shapes)
    config.ema.decay = 0.5
    config.ema.chooses_best = averaged
    train_and_kill(monkeypatch, 3, config, tmp_path)
    (row,) = read_rows(tmp_path)
    for which, column in (("ema", "eval_ema_loss"), ("best", best)):
        loss = evaluate_run(tmp_path, weights=which)[0]["loss"]
        assert loss == pytest.approx(float(row[column]), rel=1e-5)


def read_rows(workdir):
    with (workdir / "epochs.csv").open() as file:
        return list(csv.DictReader(file))


@slow_on_one_stack
def test_corrupt_photos_are_skipped_and_counted(shapes, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(shapes, folder)
    (folder / "train" / "ring" / "002.png").write_bytes(b"no photo")
    (folder / "test" / "blob" / "000.png").write_bytes(b"")
    config = small_recipe(folder)
    config.data.on_corrupt = "skip"
    result = train(config, tmp_path / "run")
    assert (result["examples"], result["skipped"]) == (9, 1)
    assert [row["skipped"] for row in read_rows(tmp_path / "run")] == ["1", "1"]
    assert [int(row["examples"]) for row in read_rows(tmp_path / "run")] == [TRAIN_EXAMPLES - 1] * 2


@pytest.mark.slow
def test_newest_checkpoints_are_kept(shapes, tmp_path, monkeypatch):
    config = small_recipe(shapes)
    config.train.checkpoint_every, config.train.keep_checkpoints = 1, 3
    train(config, tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("*.index"))
    assert names == ["ckpt-4.index", "ckpt-5.index", "ckpt-6.index"]


@slow_on_one_stack
def test_checkpoints_by_time(shapes, tmp_path, monkeypatch):
    config = small_recipe(shapes)
    config.train.checkpoint_minutes = 1.0
    minutes = itertools.count(step=0.5)  # every reading of the clock
    train_and_kill(monkeypatch, 2, config, tmp_path, clock=lambda: 60 * next(minutes))
    assert load_run(tmp_path).step == 2


@pytest.mark.slow
def test_resumed_run_may_have_other_threads_but_no_other_rate(shapes, tmp_path, monkeypatch):
    config = small_recipe(shapes)
    train_and_kill(monkeypatch, 4, config, tmp_path)
    config.data.threads, config.train.log_every = 2, 1
    config.optimizer.learning_rate = 0.5
    with pytest.raises(ValueError, match=r"holds another run \(optimizer.learning_rate: "):
        train(config, tmp_path)
    config.optimizer.learning_rate = small_recipe(shapes).optimizer.learning_rate
    assert train(config, tmp_path)["steps"] == 6
    assert json.loads((tmp_path / "config.json").read_text())["data"]["threads"] == 2


@pytest.mark.slow
def test_run_killed_before_its_result_finishes(shapes, tmp_path, monkeypatch):
    config = small_recipe(shapes)
    with monkeypatch.context() as context, pytest.raises(Killed):

        def killed(*_):
            raise Killed

        context.setattr(Workdir, "finish", killed)
        train(config, tmp_path)
    result = train(config, tmp_path)
    assert result["steps"] == 6 and len(read_rows(tmp_path)) == 2
    assert result["loss"] == pytest.approx(float(read_rows(tmp_path)[-1]["eval_loss"]))


@slow_on_one_stack
@pytest.mark.parametrize(
    "changes",
    [
        {"augment.mixup": 0.8, "augment.cutmix": 1.0, "train.label_smoothing": 0.1},
        {"train.loss": "binary_crossentropy", "augment.repeats": 2, "optimizer.name": "lamb"},
        {"train.accumulate": 2, "schedule.name": "step", "schedule.boundaries": (1,)},
    ],
)
def test_other_recipes_learn(shapes, tmp_path, changes):
    config = small_recipe(shapes)
    config.update_from_flattened_dict(changes)
    config.train.epochs = 8
    train(config, tmp_path)
    losses = [float(row["loss"]) for row in read_rows(tmp_path)]
    assert np.mean(losses[-2:]) < np.mean(losses[:2])


@slow_on_one_stack
def test_run_killed_in_its_evaluation_keeps_its_epoch(shapes, tmp_path, monkeypatch):
    config = small_recipe(shapes)
    with monkeypatch.context() as context, pytest.raises(Killed):

        def killed(*_, **__):
            raise Killed

        context.setattr(loop.Evaluator, "__call__", killed)
        train(config, tmp_path / "run")
    assert load_run(tmp_path / "run").step == 3
    result = train(config, tmp_path / "run")
    assert len(read_rows(tmp_path / "run")) == 2
    assert result == train(config, tmp_path / "whole")


@pytest.mark.slow
def test_run_that_begins_anew_replaces_the_rows(shapes, tmp_path, monkeypatch):
    config = small_recipe(shapes)
    train_and_kill(monkeypatch, 1, config, tmp_path)
    (tmp_path / "epochs.csv").write_text("epoch,step,lo")
    config.ema.decay = 0.5
    train(config, tmp_path)
    assert [row["epoch"] for row in read_rows(tmp_path)] == ["1", "2"]
    assert all(0 <= float(row["eval_ema_top1"]) <= 1 for row in read_rows(tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        pytest.param("data.json", marks=pytest.mark.slow),
        pytest.param("checkpoints/checkpoint", marks=pytest.mark.slow),
    ],
)
def test_damaged_small_files_are_named_or_ignored(shapes, tmp_path, monkeypatch, name):
    config = small_recipe(shapes)
    train_and_kill(monkeypatch, 4, config, tmp_path)
    (tmp_path / name).write_bytes(b"\x88{")
    if name.endswith("checkpoint"):
        assert load_run(tmp_path).step == 3
        assert train(config, tmp_path)["steps"] == 6
    else:
        with pytest.raises(ValueError, match=f"{name} is damaged .*: restore it from a copy"):
            train(config, tmp_path)


@pytest.mark.slow
def test_unfinished_checkpoint_of_a_killed_run_is_removed(shapes, tmp_path):
    (tmp_path / "checkpoints" / "ckpt-3_temp").mkdir(parents=True)
    train(small_recipe(shapes), tmp_path)
    assert not list((tmp_path / "checkpoints").glob("*_temp"))


@pytest.mark.parametrize("name", ["runs/r[1]", "runs/*", "gs://bucket/r?"])
def test_workdir_that_tensorflow_would_misread_raises(name):
    with pytest.raises(ValueError, match="The workdir must be a folder without"):
        Workdir(name)
