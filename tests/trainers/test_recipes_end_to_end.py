"""configs/coco.py and configs/finetune.py, from data to an export."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from coco_like import EVAL_EXAMPLES, TRAIN_EXAMPLES
from forked_commands import run_trainers
from recipes import recipe
from shared_data import REPOSITORY
from stacks import slow_on_one_stack

import noah_tf
from noah_tf.datasets.registry import source_from_config
from noah_tf.evaluation.evaluator import evaluate_run
from noah_tf.models.backbones import vit
from noah_tf.runs.checkpoint import load_run
from noah_tf.training.loop import train

pytestmark = slow_on_one_stack


def evaluations(folder):
    return json.loads((folder / "result.json").read_text())["results"]


def check_export(folder, run, photo):
    """Checks that the export computes the logits of evaluation from the bytes of a photo."""
    answer = tf.saved_model.load(str(folder)).signatures["serving_default"](
        image_bytes=tf.constant([photo])
    )
    image = run.preprocessing.evaluation(run.preprocessing.decode(photo))
    expected = run.model(image[None], training=False)
    np.testing.assert_allclose(answer["logits"], expected, rtol=1e-4, atol=1e-5)
    return answer


def test_coco_from_its_archives_to_an_export(coco_dir, tmp_path):
    run = "--workdir=runs/coco"
    _, evaluate, _, _ = run_trainers(
        tmp_path,
        (
            "train",
            f"--config={REPOSITORY / 'configs' / 'coco.py'}",
            f"--config.data.data_dir={coco_dir}",
            f"--config.data.num_examples={TRAIN_EXAMPLES}",
            "--config.model.architecture=resnet18",
            "--config.preprocess.image_size=(64, 64)",
            "--config.train.batch_size=8",
            "--config.train.epochs=2",
            "--config.schedule.warmup_epochs=0.0",
            "--config.ema.decay=0.5",
            run,
        ),
        ("evaluate", run, "--threshold=0.4"),
        ("explain", run, "--images=3", "--arrays=maps.npz"),
        ("export", run, "--threshold=0.4", "--warmup_batch_sizes=1"),
    )
    result = json.loads((tmp_path / "runs" / "coco" / "result.json").read_text())
    assert (result["steps"], result["examples"], result["ema_examples"]) == (6, 10, 10)
    assert result["loss"] != result["ema_loss"]
    assert result["best_mAP"] >= result["ema_mAP"]

    entries = evaluations(tmp_path / "runs" / "coco" / "evaluations" / "validation")
    assert [(entry["weights"], entry["examples"]) for entry in entries] == [
        ("last", EVAL_EXAMPLES),
        ("ema", EVAL_EXAMPLES),
    ]
    for entry, prefix in zip(entries, ("", "ema_"), strict=True):
        assert entry["mAP"] == pytest.approx(result[f"{prefix}mAP"], rel=1e-5)
        assert entry["loss"] == pytest.approx(result[f"{prefix}loss"], rel=1e-5)
        for name in ("mAP", "CF1", "OF1", "CF1_top3", "OF1_top3"):
            assert 0 <= entry[name] <= 1 and f"{entry[name]:.2%}" in evaluate.stdout

    picture = tmp_path / "runs" / "coco" / "explain.png"
    assert tf.io.decode_png(picture.read_bytes()).shape[2] >= 3
    arrays = np.load(tmp_path / "maps.npz")
    assert arrays["boxes"].shape == (3, 80, 4) and arrays["label"].shape == (3, 80)
    # The whole photo is visible, and so are all boxes.
    areas = np.prod(arrays["boxes"][..., 2:] - arrays["boxes"][..., :2], axis=-1)
    np.testing.assert_array_equal(areas > 0, arrays["label"] > 0)

    run = load_run(tmp_path / "runs" / "coco")
    assert run.multi_label and run.preprocessing.stretch
    source = source_from_config(run.config.data, "validation")
    photo = next(iter(source.examples()))["image"].numpy()
    answer = check_export(tmp_path / "saved_models" / "coco" / "1", run, photo)
    predicted = set(answer["classes"][0].numpy()) - {-1}
    assert predicted == set(np.flatnonzero(tf.sigmoid(answer["logits"][0]) >= 0.4))


@pytest.mark.parametrize(
    ("row", "loss"),
    [
        ("noah_vit_large", "asymmetric"),
        pytest.param("vit_large", "binary_focal_crossentropy", marks=pytest.mark.exhaustive),
    ],
)
def test_vit_rows_start_from_a_standard_checkpoint(coco_dir, tmp_path, monkeypatch, row, loss):
    monkeypatch.setitem(vit.VARIANTS, "vit_large_patch16_224", (48, 3, 2))
    start = noah_tf.create_model("vit_large_patch16_224", 10, (48, 48, 3))
    path = noah_tf.save_official_weights(start, tmp_path / "vit.safetensors")
    config = recipe("coco", row)
    config.data.data_dir, config.data.num_examples = str(coco_dir), TRAIN_EXAMPLES
    config.model.weights, config.model.weights_head = str(path), "skip"
    config.preprocess.image_size = (32, 32)
    config.train.batch_size, config.train.epochs, config.train.loss = 8, 1, loss
    config.schedule.warmup_epochs, config.optimizer.learning_rate = 0.0, 1e-9
    result = train(config, tmp_path / "run")
    assert result["steps"] == 3 and 0 < result["mAP"] <= 1
    ema, _ = evaluate_run(tmp_path / "run", weights="ema")
    assert ema["mAP"] == pytest.approx(result["ema_mAP"], rel=1e-5)
    model = load_run(tmp_path / "run").model
    for layer in ("blocks.1.mlp.fc2", "norm"):
        for weight, given in zip(
            model.get_layer(layer).weights, start.get_layer(layer).weights, strict=True
        ):
            np.testing.assert_allclose(weight, given, atol=1e-6)
    assert model.get_layer("pos_embed").embedding.shape[1] == 4 + (row == "vit_large")


# test_docs.py runs the same recipe on one folder. On Keras 2, test_command_lines.py does.
@pytest.mark.exhaustive
def test_finetune_on_class_folders(shapes, tmp_path):
    """The folders are train/CLASS and val/CLASS, as those of ImageNet."""
    shutil.copytree(shapes / "train", tmp_path / "photos" / "train")
    shutil.copytree(shapes / "test", tmp_path / "photos" / "val")
    run = "--workdir=runs/shapes"
    run_trainers(
        tmp_path,
        (
            "train",
            f"--config={REPOSITORY / 'configs' / 'finetune.py'}",
            "--config.data.data_dir=photos",
            "--config.data.train_split=train",
            "--config.data.eval_split=val",
            "--config.model.backbone_args.weights=None",
            "--config.preprocess.image_size=(64, 64)",
            "--config.preprocess.resize_size=72",
            "--config.train.batch_size=8",
            "--config.train.epochs=2",
            "--config.train.frozen_epochs=1",
            "--config.schedule.warmup_epochs=0.0",
            "--config.ema.decay=0.5",
            run,
        ),
        ("evaluate", run, "--mistakes=2"),
        ("explain", run, "--images=2"),
        ("export", run, "--warmup_batch_sizes=1"),
    )
    result = json.loads((tmp_path / "runs" / "shapes" / "result.json").read_text())
    assert (result["steps"], result["examples"], result["ema_examples"]) == (6, 10, 10)

    entries = evaluations(tmp_path / "runs" / "shapes" / "evaluations" / "val")
    assert [entry["weights"] for entry in entries] == ["last", "ema"]
    assert entries[0]["loss"] == pytest.approx(result["loss"], rel=1e-5)
    assert entries[1]["loss"] == pytest.approx(result["ema_loss"], rel=1e-5)

    assert (tmp_path / "runs" / "shapes" / "explain.png").exists()
    photo = next((shapes / "test" / "ring").iterdir()).read_bytes()
    run = load_run(tmp_path / "runs" / "shapes")
    answer = check_export(tmp_path / "saved_models" / "shapes" / "1", run, photo)
    assert {label.decode() for label in answer["labels"][0].numpy()} == {"blob", "cross", "ring"}
