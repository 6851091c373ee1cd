"""The command lines as a user types them, in a folder of their own."""

import json
import subprocess
import sys

import numpy as np
import pages
import pytest
import tensorflow as tf
from forked_commands import run_forked
from head_helpers import child_environment
from imagenet_tars import make_imagenet_tars
from recipes import SMALL, TEST_EXAMPLES, small_recipe
from shared_data import REPOSITORY, SCENES
from stacks import slow_on_one_stack

import noah_tf
from noah_tf.utils.keras_compat import IS_KERAS_3

QUICKSTART = str(REPOSITORY / "configs" / "quickstart.py")


def command(cwd, name, *arguments):
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "trainers" / f"{name}.py"), *map(str, arguments)],
        cwd=cwd,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )


def last_lines(process):
    """Standard error without what TensorFlow and absl log."""
    lines = process.stderr.strip().splitlines()
    return "\n".join(line for line in lines if line[:5] not in ("I0000", "W0000", "E0000", "WARNI"))


def folder_flags(shapes):
    """The flags that turn quickstart into `small_recipe`."""
    assert small_recipe(shapes).data.name == "folder"
    return (
        f"--config={QUICKSTART}",
        "--config.data.name=folder",
        f"--config.data.data_dir={shapes}",
        "--config.preprocess.image_size=(32, 32)",
        "--config.train.batch_size=8",
        "--config.train.epochs=1",
        *SMALL,
    )


# On Keras 3 test_docs.py and test_recipes_end_to_end.py run the same programs.
@pytest.mark.exhaustive if IS_KERAS_3 else pytest.mark.slow
def test_from_photos_in_folders_to_an_exported_model(shapes, tmp_path):
    train = command(tmp_path, "train", *folder_flags(shapes), "--workdir=runs/shapes")
    assert train.returncode == 0, train.stderr
    assert "top1" in train.stdout and "Epoch 1/1" in train.stdout
    assert (tmp_path / "runs" / "shapes" / "model.keras").exists()

    evaluate = command(tmp_path, "evaluate", "--workdir=runs/shapes", "--split=train")
    assert evaluate.returncode == 0, evaluate.stderr
    report = tmp_path / "runs" / "shapes" / "evaluations" / "train"
    written = json.loads((report / "result.json").read_text())
    (result,) = written["results"]
    assert result["examples"] == 24 and f"{result['top1']:.2%}" in evaluate.stdout
    assert written["command"].endswith("evaluate.py --workdir=runs/shapes --split=train")
    assert "Evaluation of runs/shapes" in (report / "report.html").read_text()

    explain = command(tmp_path, "explain", "--workdir=runs/shapes", "--images=2")
    assert explain.returncode == 0, explain.stderr
    picture = tmp_path / "runs" / "shapes" / "explain.png"
    assert tf.io.decode_png(picture.read_bytes()).shape[2] >= 3
    flags = ("--classes=ring,0", "--per_group", "--maps=contribution", "--arrays=maps.npz")
    explain = command(tmp_path, "explain", "--workdir=runs/shapes", "--images=2", *flags)
    assert explain.returncode == 0, explain.stderr
    assert np.load(tmp_path / "maps.npz")["contribution"].shape[3:] == (4, 2)

    export = command(tmp_path, "export", "--workdir=runs/shapes")
    assert export.returncode == 0, export.stderr
    loaded = tf.saved_model.load(str(tmp_path / "saved_models" / "shapes" / "1"))
    photo = next((shapes / "test" / "ring").iterdir()).read_bytes()
    answer = loaded.signatures["serving_default"](image_bytes=tf.constant([photo]))
    assert {label.decode() for label in answer["labels"][0].numpy()} == {"blob", "cross", "ring"}


@pytest.mark.exhaustive
def test_an_authors_checkpoint_becomes_a_keras_file_and_a_saved_model(shapes, tmp_path):
    model = noah_tf.create_model("noah_mobilenetv2_035", 3, (64, 64, 3))
    noah_tf.save_official_weights(model, tmp_path / "shapes.safetensors")
    flags = ("--model=noah_mobilenetv2_035", "--checkpoint=shapes.safetensors", "--output=made")
    data = ("--data=folder", f"--data_dir={shapes}", "--split=test")
    process = command(
        tmp_path, "import_official", *flags, "--num_classes=3", "--image_size=64", *data
    )
    assert process.returncode == 0, process.stderr
    parameters = sum(int(tf.size(weight)) for weight in model.trainable_weights)
    assert f"noah_mobilenetv2_035: {parameters:,} parameters" in process.stdout
    assert "builds 1,692,128, and the paper prints 1.69 million" in process.stdout
    assert f"examples {TEST_EXAMPLES}, loss " in process.stdout
    assert "The paper reports" not in process.stdout  # its top-1 is of other classes
    assert (tmp_path / "made" / "model.keras").exists()
    assert (tmp_path / "made" / "saved_model" / "1" / "saved_model.pb").exists()

    for wrong, message in (
        ("--model=noah_mobilenet", "name must be one of noah_tf.list_models(), such as noah_mo"),
        ("--checkpoint=none.safetensors", "none.safetensors"),
        ("--num_classes=4", "does not fit noah_mobilenetv2_035"),
        ("--class_names=none.txt", "none.txt"),
    ):
        process = command(tmp_path, "import_official", *flags, "--num_classes=3", wrong)
        assert process.returncode == 1
        assert message in last_lines(process)
        assert "Traceback" not in process.stderr


@pytest.mark.exhaustive
def test_digit_scenes_of_both_kinds(tfds_dir, tmp_path):
    for name in ("single", "multi"):
        train = command(
            tmp_path,
            "train",
            f"--config={QUICKSTART}",
            f"--config.data.name=digit_scenes/{name}",
            f"--config.data.data_dir={tfds_dir}",
            "--config.train.epochs=1",
            f"--workdir={name}",
            *SMALL,
        )
        assert train.returncode == 0, train.stderr
        assert f"examples {SCENES}" in train.stdout
        assert ("mAP" if name == "multi" else "top1") in train.stdout
        explain = command(tmp_path, "explain", f"--workdir={name}", "--images=2")
        assert explain.returncode == 0, explain.stderr
        measure = ("--measure=localization,faithfulness", "--images=16")
        explain = command(tmp_path, "explain", f"--workdir={name}", *measure)
        assert explain.returncode == 0, explain.stderr
        assert [line.split()[1] for line in explain.stdout.splitlines()[-6:-2]] == [
            "maps", "attention", "contribution", "chance",
        ]  # fmt: skip
        found = json.loads((tmp_path / name / "maps_test.json").read_text())[name]
        assert found["images"] == 16
        assert found["boxes"] == SCENES if name == "single" else found["boxes"] > SCENES
        # An untrained map is at chance; one epoch of 200 scenes need not leave it.
        assert 0 < found["chance"] < 0.2 and 0 < found["attention_energy"] < 1
    sets = ("--sets=test[:50]", "--sets=digit_scenes/single:test[:20]")
    evaluate = command(tmp_path, "evaluate", "--workdir=multi", *sets, "--mistakes=2")
    assert evaluate.returncode == 0, evaluate.stderr
    (folder,) = (tmp_path / "multi" / "evaluations").iterdir()
    assert folder.name == "test_50_digit_scenes_single_test_20"
    found = json.loads((folder / "result.json").read_text())["results"]
    assert [entry["examples"] for entry in found] == [50, 20]
    for entry in found:
        assert f"{entry['mAP']:.2%}" in evaluate.stdout
    refused = command(tmp_path, "evaluate", "--compare", "single", "multi")
    assert refused.returncode == 1
    assert "single is a single-label run and multi is a multi-label run" in last_lines(refused)


@slow_on_one_stack
def test_cifar10_by_its_tfds_name(shared, tmp_path):
    train = command(
        tmp_path,
        "train",
        f"--config={QUICKSTART}",
        "--config.data.name=cifar10",
        f"--config.data.data_dir={shared / 'tfds'}",
        "--config.data.train_split=train[:512]",
        "--config.data.eval_split=test[:100]",
        "--config.preprocess.image_size=(32, 32)",
        "--config.augment.flip",
        "--config.train.epochs=1",
        "--workdir=cifar",
        *SMALL,
    )
    assert train.returncode == 0, train.stderr
    assert "examples 100" in train.stdout and "8/8" in train.stdout
    assert "airplane" in (tmp_path / "cifar" / "data.json").read_text()
    measure = ("--measure=faithfulness", "--images=16", "--maps=contribution")
    explain = command(tmp_path, "explain", "--workdir=cifar", *measure)
    assert explain.returncode == 0, explain.stderr
    path = tmp_path / "cifar" / "maps_test__100_.json"
    curves = json.loads(path.read_text())["cifar"]["curves"]
    assert len(curves["contribution_deletion"]) == len(curves["random_insertion"]) == 17


@slow_on_one_stack
def test_imagenet2012_from_its_archives(shared, tmp_path):
    archives = tmp_path / "archives"
    archives.mkdir()
    make_imagenet_tars(shared / "imagenet_sample", archives, 24, 10)
    config = REPOSITORY / "configs" / "mobilenet_v2.py"
    flags = (
        f"--config={config}:noah_mobilenetv2_035",
        f"--config.data.data_dir={tmp_path / 'tfds'}",
        f"--config.data.manual_dir={archives}",
        "--config.data.num_examples=24",
        "--config.train.batch_size=8",
        "--config.train.epochs=2",
        "--config.ema.decay=0.5",
        "--workdir=imagenet",
    )
    train = command(tmp_path, "train", *flags)
    assert train.returncode == 0, train.stderr
    assert "noah_mobilenetv2_035: 1,7" in train.stdout and "3/3" in train.stdout
    result = json.loads((tmp_path / "imagenet" / "result.json").read_text())
    assert (result["steps"], result["examples"], result["ema_examples"]) == (6, 10, 10)
    weights = [f"--weights={name}" for name in ("last", "ema", "best")]
    evaluate = command(
        tmp_path, "evaluate", "--workdir=imagenet", *weights, "--batch_size=4", "--output=report"
    )
    assert evaluate.returncode == 0, evaluate.stderr
    found = json.loads((tmp_path / "report" / "result.json").read_text())["results"]
    assert [entry["weights"] for entry in found] == ["last", "ema", "best"]
    assert {entry["examples"] for entry in found} == {10}
    losses = [entry["loss"] for entry in found[:2]]
    assert losses == pytest.approx([result["loss"], result["ema_loss"]], rel=1e-5)


@slow_on_one_stack
def test_imagenet2012_without_its_archives_says_how_to_get_them(tmp_path):
    train = command(
        tmp_path,
        "train",
        f"--config={REPOSITORY / 'configs' / 'resnet.py'}:noah_resnet18",
        f"--config.data.data_dir={tmp_path}",
        "--workdir=run",
    )
    assert train.returncode == 1
    message = last_lines(train)
    commands = [line.strip() for line in message.splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in commands] == ["mkdir", "mv", "tfds"]
    assert "https://image-net.org" in message


@slow_on_one_stack
def test_a_dry_run_prints_the_plan_and_touches_nothing(tmp_path):
    process = command(
        tmp_path,
        "train",
        f"--config={REPOSITORY / 'configs' / 'mobilenet_v2.py'}:noah_mobilenetv2_035",
        "--config.train.batch_size=4",
        "--config.preprocess.image_size=(64, 64)",
        "--dry_run",
    )
    assert process.returncode == 0, process.stderr
    for part in (
        "model       noah_mobilenetv2_035, head on",
        "parameters  1,692,128 trainable",
        "imagenet2012 train: 1,281,167 examples, 1,000 classes",
        "150 epochs of 320,291: 48,043,650 steps",
        "1 x CPU, OneDeviceStrategy, float32",
        "batch       4: 4 a device",
        "2 steps on fake photos, loss 6.",
        "images/s to keep the devices busy",
        "  0.05       ########################################",
    ):
        assert part in process.stdout, part
    assert not list(tmp_path.iterdir())


@pytest.mark.exhaustive
def test_none_unsets_a_key(shapes, tmp_path):
    train = command(
        tmp_path,
        "train",
        *folder_flags(shapes),
        "--config.data.num_examples=7",
        "--config.data.num_examples=None",
        "--workdir=run",
    )
    assert train.returncode == 0, train.stderr
    assert (
        json.loads((tmp_path / "run" / "config.json").read_text())["data"]["num_examples"] is None
    )
    train = command(tmp_path, "train", *folder_flags(shapes), "--config.data.exampels=None")
    assert "no data.exampels; the nearest is --config.data." in last_lines(train)


def test_all_that_cannot_work_is_said_at_once(tmp_path):
    process = command(
        tmp_path,
        "train",
        f"--config={REPOSITORY / 'configs' / 'deit.py'}:noah_deit_tiny_050",
        "--config.train.loss=sparse_categorical_crossentropy",
        "--config.schedule.warmup_epochs=400",
        "--config.strategy=many",
        "--workdir=run",
    )
    assert process.returncode == 1
    assert "for 4 reasons:" in last_lines(process) and "Traceback" not in process.stderr
    assert not list(tmp_path.iterdir())


@slow_on_one_stack
def test_the_demo(tfds_dir, tmp_path):
    demo = command(
        tmp_path,
        "demo",
        f"--config={QUICKSTART}",
        f"--config.data.data_dir={tfds_dir}",
        "--config.train.epochs=1",
        "--learning_rates=0.001,0.01",
        *SMALL,
    )
    assert demo.returncode == 0, demo.stderr
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

    compare = command(runs, "evaluate", "--compare", "noah", "gap", "--sets=test", "--output=both")
    assert compare.returncode == 0, compare.stderr
    (found,) = json.loads((runs / "both" / "result.json").read_text())["results"]
    tops = [outcome[head]["result"]["top1"] for head in ("noah", "gap")]
    assert [found["a"], found["b"]] == pytest.approx(tops)
    assert f"{100 * (tops[0] - tops[1]):+.2f}" in compare.stdout


def refusals(tmp_path, name, given, cases):
    """What a program that gets arguments of a user's answers; cases are of them and a message."""
    commands = [(tmp_path, f"trainers/{name}.py", *given, *arguments) for arguments, _ in cases]
    ends = run_forked(commands)
    for (arguments, message), end in zip(cases, ends, strict=True):
        assert end.returncode == 1, (arguments, end)
        assert message in last_lines(end), arguments
        yield arguments, end
    assert not list(tmp_path.iterdir())


@slow_on_one_stack
def test_what_a_user_can_get_wrong_is_one_sentence(tfds_dir, tmp_path):
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
    for arguments, end in refusals(tmp_path, "train", given, cases):
        if "config.train" not in arguments[0]:  # those are refused by ml_collections
            assert "Traceback" not in end.stderr


@slow_on_one_stack
def test_what_cannot_be_explained_is_one_sentence(finished_run, tmp_path):
    cases = [
        (["--classes=rign"], "There is no class 'rign': the nearest of the 3 names are ring"),
        (["--measure=localization"], "'folder' has no boxes, which localization needs"),
        (["--maps=cam"], "methods must be one of attention, contribution, got 'cam'."),
        (["--compare_workdir=nowhere"], "nowhere holds no run"),
    ]
    given = [f"--workdir={finished_run}", "--output=a.png"]
    for _, end in refusals(tmp_path, "explain", given, cases):
        assert "Traceback" not in end.stderr


def test_a_folder_without_a_run_is_refused(tmp_path):
    programs = ("evaluate", "explain", "export")
    commands = [(tmp_path, f"trainers/{name}.py", "--workdir=nowhere") for name in programs]
    for end in run_forked(commands):
        assert end.returncode == 1
        assert "nowhere holds no run" in last_lines(end)
        assert "Traceback" not in end.stderr


@slow_on_one_stack
def test_what_evaluation_does_not_take_is_one_sentence(tmp_path):
    cases = [
        ([], "--workdir is missing: name a run's folder, or give --compare RUN_A RUN_B."),
        (["stray"], "Unknown arguments: stray"),
        (["--compare", "one"], "--compare takes two runs, RUN_A RUN_B, without"),
        (["--compare", "a", "b", "--corruptions=all"], "without --workdir and --corruptions"),
        (["--sets=test", "--data=cifar10", "--workdir=run"], "give --sets=DATA:SPLIT for each."),
    ]
    for _, end in refusals(tmp_path, "evaluate", [], cases):
        assert "Traceback" not in end.stderr
