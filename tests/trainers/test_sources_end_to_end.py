"""The programs of trainers/ on a user's own photos: folders, label files and TFRecords."""

import csv
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from forked_commands import run_trainers
from recipes import CLASSES, SMALL
from shared_data import REPOSITORY
from stacks import slow_on_one_stack

from noah_tf.datasets import find_files

pytestmark = pytest.mark.slow
TRAIN = (
    "train",
    f"--config={REPOSITORY / 'configs' / 'quickstart.py'}",
    *SMALL,
    "--config.train.epochs=1",
    "--config.preprocess.image_size=(32, 32)",
    "--config.train.batch_size=8",
    "--config.data.cache=False",
)


def result_of(report):
    (result,) = json.loads((report / "result.json").read_text())["results"]
    return result


@slow_on_one_stack
def test_multi_label_tsv_with_80_classes(shapes, tmp_path):
    rng = np.random.default_rng(0)
    names = [f"thing {number:02}" for number in range(80)]
    for split in ("train", "test"):
        with (tmp_path / f"{split}.tsv").open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t")
            writer.writerow(["file", "labels"])
            for number, path in enumerate(find_files([shapes / split])):
                some = set(rng.choice(names, rng.integers(0, 4), replace=False))
                # The training file names all classes.
                extra = names[number * 4 : number * 4 + 4] if split == "train" else []
                writer.writerow([path, "|".join(sorted(some | set(extra)))])
    train, evaluate, predict, _ = run_trainers(
        tmp_path,
        (*TRAIN, "--workdir=run", "--config.data.name=files", f"--config.data.data_dir={tmp_path}",
         "--config.data.train_split=train.tsv", "--config.data.eval_split=test.tsv"),
        ("evaluate", "--workdir=run", "--output=report"),
        ("predict", "--workdir=run", shapes / "test", "--threshold=0.001", "--output=a.csv"),
        ("export", "--workdir=run", "--name=things", "--warmup_batch_sizes=1"),
    )  # fmt: skip
    assert "mAP" in train.stdout and "mAP" in evaluate.stdout
    trained = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result_of(tmp_path / "report")["mAP"] == pytest.approx(trained["mAP"], abs=1e-5)
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert len(rows) == 10 and set(rows[0]["classes"].split("|")) <= set(names)
    served = tf.saved_model.load(str(tmp_path / "saved_models" / "things" / "1"))
    photo = pathlib.Path(rows[0]["file"]).read_bytes()
    answer = served.signatures["serving_default"](image_bytes=tf.constant([photo]))
    assert answer["logits"].shape == (1, 80)


@slow_on_one_stack
def test_a_run_is_evaluated_on_every_kind_of_data(shapes, tmp_path):
    records = tmp_path / "records"
    records.mkdir()
    for split in ("train", "test"):
        with tf.io.TFRecordWriter(str(records / f"{split}-00000-of-00001")) as writer:
            for file in find_files([shapes / split]):
                label = CLASSES.index(pathlib.Path(file).parent.name)
                feature = {
                    "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(
                        value=[pathlib.Path(file).read_bytes()])),
                    "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(
                        value=[label])),
                }  # fmt: skip
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{name}\n" for name in CLASSES))
    with (tmp_path / "test.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label"])
        writer.writerows(
            [path, pathlib.Path(path).parent.name] for path in find_files([shapes / "test"])
        )
    flags = ("--workdir=run", "--batch_size=4")
    train, *evaluations = run_trainers(
        tmp_path,
        (*TRAIN, "--workdir=run", "--config.data.name=tfrecord",
         f"--config.data.data_dir={records}", "--config.data.train_split=train-*",
         "--config.data.eval_split=test-*", f"--config.data.class_names={names}"),
        ("evaluate", *flags, "--output=records_report"),
        ("evaluate", *flags, "--output=folder_report", "--data=folder", f"--data_dir={shapes}",
         "--split=test"),
        ("evaluate", *flags, "--output=files_report", "--data=files", f"--data_dir={tmp_path}",
         "--split=test.csv"),
        ("evaluate", *flags, "--output=one_class", "--data=folder",
         f"--data_dir={shapes / 'test'}", "--split=all[:50%]"),
    )  # fmt: skip
    assert "examples 10" in train.stdout
    results = [result_of(tmp_path / f"{name}_report") for name in ("records", "folder", "files")]
    assert results[0]["examples"] == 10
    for result in results[1:]:
        assert result["loss"] == pytest.approx(results[0]["loss"], rel=1e-5)
        assert result["top1"] == results[0]["top1"]
    assert 0 < result_of(tmp_path / "one_class")["examples"] < 10
