"""The programs of trainers/, as a user runs them, in a folder of their own."""

import json

import numpy as np
import pages
import pytest
import tensorflow as tf
from forked_commands import error_lines, run_command, run_forked, run_trainers
from imagenet_tars import make_imagenet_tars
from recipes import SMALL, TEST_EXAMPLES, small_recipe
from shared_data import REPOSITORY, SCENES
from stacks import slow_on_one_stack

import noah_tf
from noah_tf.utils.keras_compat import IS_KERAS_3

QUICKSTART = str(REPOSITORY / "configs" / "quickstart.py")


def small_quickstart(*flags):
    """Returns the command that trains quickstart's stem and one block for one epoch."""
    return ("train", f"--config={QUICKSTART}", "--config.train.epochs=1", *SMALL, *flags)


def small_quickstart_on_folder(shapes, *flags):
    """Returns the command that trains `small_recipe` for one epoch."""
    assert small_recipe(shapes).data.name == "folder"
    return small_quickstart(
        "--config.data.name=folder",
        f"--config.data.data_dir={shapes}",
        "--config.preprocess.image_size=(32, 32)",
        "--config.train.batch_size=8",
        *flags,
    )


def failures(folder, name, given, cases):
    """Runs trainers/NAME.py once per case, and checks that it fails with the case's message.

    Args:
        folder: the folder to run it in, in which nothing may be written.
        name: the program's name.
        given: arguments that all cases have in common.
        cases: pairs of other arguments, and a part of the expected message.

    Yields:
        Pairs of a case's arguments and its `subprocess.CompletedProcess`.
    """
    processes = run_forked(
        [(folder, f"trainers/{name}.py", *given, *arguments) for arguments, _ in cases]
    )
    for (arguments, message), process in zip(cases, processes, strict=True):
        assert process.returncode == 1, (arguments, process)
        assert message in error_lines(process), arguments
        yield arguments, process
    assert not list(folder.iterdir())


# On Keras 3, test_docs.py and test_recipes_end_to_end.py run the same programs.
@pytest.mark.exhaustive if IS_KERAS_3 else pytest.mark.slow
def test_from_photos_in_folders_to_an_export(shapes, tmp_path):
    run = "--workdir=runs/shapes"
    maps = ("--classes=ring,0", "--per_group", "--maps=contribution", "--arrays=maps.npz")
    train, evaluate, *_ = run_trainers(
        tmp_path,
        small_quickstart_on_folder(shapes, run),
        ("evaluate", run, "--split=train"),
        ("explain", run, "--images=2"),
        ("explain", run, "--images=2", "--output=maps.png", *maps),
        ("export", run),
    )
    assert "top1" in train.stdout and "Epoch 1/1" in train.stdout
    workdir = tmp_path / "runs" / "shapes"
    assert (workdir / "model.keras").exists()

    report = workdir / "evaluations" / "train"
    written = json.loads((report / "result.json").read_text())
    (result,) = written["results"]
    assert result["examples"] == 24 and f"{result['top1']:.2%}" in evaluate.stdout
    assert written["command"].endswith("evaluate.py --workdir=runs/shapes --split=train")
    assert "Evaluation of runs/shapes" in (report / "report.html").read_text()

    assert tf.io.decode_png((workdir / "explain.png").read_bytes()).shape[2] >= 3
    assert np.load(tmp_path / "maps.npz")["contribution"].shape[3:] == (4, 2)

    loaded = tf.saved_model.load(str(tmp_path / "saved_models" / "shapes" / "1"))
    photo = next((shapes / "test" / "ring").iterdir()).read_bytes()
    answer = loaded.signatures["serving_default"](image_bytes=tf.constant([photo]))
    assert {label.decode() for label in answer["labels"][0].numpy()} == {"blob", "cross", "ring"}


@pytest.mark.exhaustive
def test_import_official_writes_a_keras_file_and_a_saved_model(shapes, tmp_path):
    model = noah_tf.create_model("noah_mobilenetv2_035", 3, (64, 64, 3))
    noah_tf.save_official_weights(model, tmp_path / "shapes.safetensors")
    flags = ("--model=noah_mobilenetv2_035", "--checkpoint=shapes.safetensors", "--num_classes=3")
    data = ("--data=folder", f"--data_dir={shapes}", "--split=test")
    (process,) = run_trainers(
        tmp_path, ("import_official", *flags, "--output=imported", "--image_size=64", *data)
    )
    num_parameters = sum(int(tf.size(weight)) for weight in model.trainable_weights)
    assert f"noah_mobilenetv2_035: {num_parameters:,} parameters" in process.stdout
    assert "builds 1,692,128, and the paper prints 1.69 million" in process.stdout
    assert f"examples {TEST_EXAMPLES}, loss " in process.stdout
    assert "The paper reports" not in process.stdout  # The paper's model has other classes.
    assert (tmp_path / "imported" / "model.keras").exists()
    assert (tmp_path / "imported" / "saved_model" / "1" / "saved_model.pb").exists()

    cases = [
        (["--model=noah_mobilenet"], "name must be one of noah_tf.list_models(), such as noah_mo"),
        (["--checkpoint=none.safetensors"], "none.safetensors"),
        (["--num_classes=4"], "does not fit noah_mobilenetv2_035"),
        (["--class_names=none.txt"], "none.txt"),
    ]
    empty = tmp_path / "empty"
    empty.mkdir()
    given = [*flags, f"--checkpoint={tmp_path / 'shapes.safetensors'}", "--output=imported"]
    for _, process in failures(empty, "import_official", given, cases):
        assert "Traceback" not in process.stderr


@pytest.mark.exhaustive
def test_digit_scenes_single_and_multi_label(tfds_dir, tmp_path):
    commands = []
    for name in ("single", "multi"):
        run = f"--workdir={name}"
        data = (f"--config.data.name=digit_scenes/{name}", f"--config.data.data_dir={tfds_dir}")
        commands += [
            small_quickstart(*data, run),
            ("explain", run, "--images=2"),
            ("explain", run, "--measure=localization,faithfulness", "--images=16"),
        ]
    sets = ("--sets=test[:50]", "--sets=digit_scenes/single:test[:20]")
    commands.append(("evaluate", "--workdir=multi", *sets, "--mistakes=2"))
    *processes, evaluate = run_trainers(tmp_path, *commands)
    for name, (train, _, explain) in (("single", processes[:3]), ("multi", processes[3:])):
        assert f"examples {SCENES}" in train.stdout
        assert ("mAP" if name == "multi" else "top1") in train.stdout
        assert [line.split()[1] for line in explain.stdout.splitlines()[-6:-2]] == [
            "maps", "attention", "contribution", "chance",
        ]  # fmt: skip
        measures = json.loads((tmp_path / name / "maps_test.json").read_text())[name]
        assert measures["images"] == 16
        assert measures["boxes"] == SCENES if name == "single" else measures["boxes"] > SCENES
        # The maps of an untrained model are at chance, and one short epoch may not change that.
        assert 0 < measures["chance"] < 0.2 and 0 < measures["attention_energy"] < 1
    (folder,) = (tmp_path / "multi" / "evaluations").iterdir()
    assert folder.name == "test_50_digit_scenes_single_test_20"
    results = json.loads((folder / "result.json").read_text())["results"]
    assert [result["examples"] for result in results] == [50, 20]
    for result in results:
        assert f"{result['mAP']:.2%}" in evaluate.stdout
    (compare,) = run_forked([(tmp_path, "trainers/evaluate.py", "--compare", "single", "multi")])
    assert compare.returncode == 1
    assert "single is a single-label run and multi is a multi-label run" in error_lines(compare)


@slow_on_one_stack
def test_cifar10_by_its_tfds_name(shared, tmp_path):
    train, _ = run_trainers(
        tmp_path,
        small_quickstart(
            "--config.data.name=cifar10",
            f"--config.data.data_dir={shared / 'tfds'}",
            "--config.data.train_split=train[:512]",
            "--config.data.eval_split=test[:100]",
            "--config.preprocess.image_size=(32, 32)",
            "--config.augment.flip",
            "--workdir=cifar",
        ),
        (
            "explain",
            "--workdir=cifar",
            "--measure=faithfulness",
            "--images=16",
            "--maps=contribution",
        ),
    )
    assert "examples 100" in train.stdout and "8/8" in train.stdout
    assert "airplane" in (tmp_path / "cifar" / "data.json").read_text()
    path = tmp_path / "cifar" / "maps_test__100_.json"
    curves = json.loads(path.read_text())["cifar"]["curves"]
    assert len(curves["contribution_deletion"]) == len(curves["random_insertion"]) == 17


@slow_on_one_stack
def test_imagenet2012_from_its_archives(shared, tmp_path):
    archives = tmp_path / "archives"
    archives.mkdir()
    make_imagenet_tars(shared / "imagenet_sample", archives, 24, 10)
    config = REPOSITORY / "configs" / "mobilenet_v2.py"
    weights = [f"--weights={name}" for name in ("last", "ema", "best")]
    train, _ = run_trainers(
        tmp_path,
        (
            "train",
            f"--config={config}:noah_mobilenetv2_035",
            f"--config.data.data_dir={tmp_path / 'tfds'}",
            f"--config.data.manual_dir={archives}",
            "--config.data.num_examples=24",
            "--config.train.batch_size=8",
            "--config.train.epochs=2",
            "--config.model.batch_norm_group=4",
            "--config.ema.decay=0.5",
            "--workdir=imagenet",
        ),
        ("evaluate", "--workdir=imagenet", *weights, "--batch_size=4", "--output=report"),
    )
    assert "noah_mobilenetv2_035: 1,7" in train.stdout and "3/3" in train.stdout
    result = json.loads((tmp_path / "imagenet" / "result.json").read_text())
    assert (result["steps"], result["examples"], result["ema_examples"]) == (6, 10, 10)
    results = json.loads((tmp_path / "report" / "result.json").read_text())["results"]
    assert [evaluated["weights"] for evaluated in results] == ["last", "ema", "best"]
    assert {evaluated["examples"] for evaluated in results} == {10}
    losses = [evaluated["loss"] for evaluated in results[:2]]
    assert losses == pytest.approx([result["loss"], result["ema_loss"]], rel=1e-5)


@slow_on_one_stack
def test_imagenet2012_without_its_archives_says_how_to_get_them(tmp_path):
    flags = (
        f"--config={REPOSITORY / 'configs' / 'resnet.py'}:noah_resnet18",
        f"--config.data.data_dir={tmp_path}",
        "--workdir=run",
    )
    (train,) = run_forked([(tmp_path, "trainers/train.py", *flags)])
    assert train.returncode == 1
    message = error_lines(train)
    commands = [line.strip() for line in message.splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in commands] == ["mkdir", "mv", "tfds"]
    assert "https://image-net.org" in message


@slow_on_one_stack
def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    (process,) = run_trainers(
        tmp_path,
        (
            "train",
            f"--config={REPOSITORY / 'configs' / 'mobilenet_v2.py'}:noah_mobilenetv2_035",
            "--config.train.batch_size=4",
            "--config.model.batch_norm_group=None",
            "--config.preprocess.image_size=(64, 64)",
            "--dry_run",
        ),
    )
    for line in (
        "model       noah_mobilenetv2_035, head on",
        "parameters  1,692,128 trainable",
        "imagenet2012 train: 1,281,167 examples, 1,000 classes",
        "150 epochs of 320,292: 48,043,800 steps",
        "1 x CPU, OneDeviceStrategy, float32",
        "batch       4: 4 per device",
        "2 steps on fake photos, loss 7.",
        "images/s to keep the devices busy",
        "  0.05       ########################################",
    ):
        assert line in process.stdout, line
    assert not list(tmp_path.iterdir())


@pytest.mark.exhaustive
def test_value_none_unsets_a_key(shapes, tmp_path):
    given = ("--config.data.num_examples=7", "--config.data.num_examples=None", "--workdir=run")
    run_trainers(tmp_path, small_quickstart_on_folder(shapes, *given))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["num_examples"] is None
    name, *flags = small_quickstart_on_folder(shapes, "--config.data.exampels=None")
    (train,) = run_forked([(tmp_path, f"trainers/{name}.py", *flags)])
    assert "no data.exampels; the nearest is --config.data." in error_lines(train)


@slow_on_one_stack
def test_flags_of_a_cluster_need_a_dry_run(tmp_path):
    flags = ("--config", REPOSITORY / "configs" / "quickstart.py", "--workdir", "run")
    processes = run_forked(
        [
            (tmp_path, "trainers/train.py", *flags, "--step_seconds=0.1", "--workers=2"),
            (tmp_path, "trainers/train.py", *flags, "--bandwidth=0", "--dry_run"),
        ]
    )
    assert "--workers, --step_seconds plans a run: give --dry_run" in error_lines(processes[0])
    assert "bandwidth must be a positive number" in error_lines(processes[1])
    assert not list(tmp_path.iterdir())


def test_all_contradictions_are_reported_at_once(tmp_path):
    process = run_command(
        tmp_path,
        "train",
        f"--config={REPOSITORY / 'configs' / 'deit.py'}:noah_deit_tiny_050",
        "--config.train.loss=sparse_categorical_crossentropy",
        "--config.schedule.warmup_epochs=400",
        "--config.strategy=many",
        "--workdir=run",
    )
    assert process.returncode == 1
    assert "for 4 reasons:" in error_lines(process) and "Traceback" not in process.stderr
    assert not list(tmp_path.iterdir())


@slow_on_one_stack
def test_demo(tfds_dir, tmp_path):
    demo, compare = run_trainers(
        tmp_path,
        (
            "demo",
            f"--config={QUICKSTART}",
            f"--config.data.data_dir={tfds_dir}",
            "--config.train.epochs=1",
            "--learning_rates=0.001,0.01",
            *SMALL,
        ),
        (
            "evaluate",
            "--compare",
            "runs/demo/noah",
            "runs/demo/gap",
            "--sets=test",
            "--output=both",
        ),
    )
    runs = tmp_path / "runs" / "demo"
    outcome = json.loads((runs / "comparison.json").read_text())
    for head in ("gap", "noah"):
        trials = outcome[head]["trials"]
        assert set(trials) == {"0.001", "0.01"}
        assert trials[str(outcome[head]["learning_rate"])] == max(trials.values())
        assert f"{head:6} {outcome[head]['result']['top1']:7.2%}" in demo.stdout
    assert (runs / "explain.png").exists()
    (shown,) = pages.blocks("docs/study.md", "text")
    assert pages.shape(shown.code) <= pages.shape(demo.stdout)

    (result,) = json.loads((tmp_path / "both" / "result.json").read_text())["results"]
    top1 = [outcome[head]["result"]["top1"] for head in ("noah", "gap")]
    assert [result["a"], result["b"]] == pytest.approx(top1)
    assert f"{100 * (top1[0] - top1[1]):+.2f}" in compare.stdout


@slow_on_one_stack
def test_mistakes_in_a_recipe_are_one_sentence(tfds_dir, tmp_path):
    cases = [
        (["--config.train.epoch=3"], "no train.epoch; the nearest is --config.train.epochs."),
        (["--config.trian.epochs=3"], "no trian.epochs; the nearest is --config.train.epochs."),
        (["--config.model.backbone_args.block=3"], "is --config.model.backbone_args.block_type."),
        (["--config.train.epochs=many"], "--config.train.epochs=many: invalid literal for int()"),
        (["--config.data.name=no_such_set"], "There is no data set 'no_such_set'"),
        (["--config.data.train_split=trian"], "trian"),
        (["--config.model.backbone=torch.nn.Linear"], "must be of tf.keras.applications"),
        (["--config.model.num_groups=3"], "num_groups=3 must divide the 64 key"),
        (["--config.precision=float8"], "'float8'"),
        (["--config.model.backbone=tf.keras.applications.VGG16"], "set model.backbone_args in"),
        (["--config=nothing.py"], "There is no recipe nothing.py."),
        (["stray"], "stray"),
    ]
    given = [f"--config={QUICKSTART}", f"--config.data.data_dir={tfds_dir}", "--workdir=run"]
    for arguments, process in failures(tmp_path, "train", given, cases):
        if "config.train" not in arguments[0]:  # ml_collections reports those with a traceback.
            assert "Traceback" not in process.stderr


@slow_on_one_stack
def test_impossible_explanations_are_one_sentence(finished_run, tmp_path):
    cases = [
        (["--classes=rign"], "There is no class 'rign': the nearest of the 3 names are ring"),
        (["--measure=localization"], "'folder' has no boxes, which localization needs"),
        (["--maps=cam"], "methods must be one of attention, contribution, got 'cam'."),
        (["--compare_workdir=nowhere"], "nowhere holds no run"),
    ]
    given = [f"--workdir={finished_run}", "--output=a.png"]
    for _, process in failures(tmp_path, "explain", given, cases):
        assert "Traceback" not in process.stderr


@pytest.mark.slow
def test_folder_without_a_run_is_one_sentence(tmp_path):
    programs = ("evaluate", "explain", "export")
    commands = [(tmp_path, f"trainers/{name}.py", "--workdir=nowhere") for name in programs]
    for process in run_forked(commands):
        assert process.returncode == 1
        assert "nowhere holds no run" in error_lines(process)
        assert "Traceback" not in process.stderr


@slow_on_one_stack
def test_contradicting_evaluation_flags_are_one_sentence(tmp_path):
    cases = [
        ([], "--workdir is missing: name a run's folder, or give --compare RUN_A RUN_B."),
        (["stray"], "Unknown arguments: stray"),
        (["--compare", "one"], "--compare takes two runs, RUN_A RUN_B, without"),
        (["--compare", "a", "b", "--corruptions=all"], "without --workdir and --corruptions"),
        (["--sets=test", "--data=cifar10", "--workdir=run"], "give --sets=DATA:SPLIT for each."),
    ]
    for _, process in failures(tmp_path, "evaluate", [], cases):
        assert "Traceback" not in process.stderr
