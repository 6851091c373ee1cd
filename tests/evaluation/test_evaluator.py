"""The evaluator counts every example exactly once."""

import json

import numpy as np
import pytest
import tensorflow as tf

from noah_tf.datasets.registry import open_source
from noah_tf.evaluation.evaluator import Evaluator, evaluate_run
from noah_tf.images.preprocessing import decode
from noah_tf.runs.checkpoint import load_run


@pytest.mark.slow
def test_metrics_do_not_depend_on_the_batch_size(finished_run):
    run = load_run(finished_run)
    source = open_source("folder", "test", data_dir=run.config.data.data_dir)
    evaluator = Evaluator(run.model)
    results = [evaluator(source, run.preprocessing, size) for size in (1, 4, 10, 64)]
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-5)
    assert results[0]["examples"] == source.num_examples == 10


def test_metrics_equal_those_of_single_images(finished_run):
    run = load_run(finished_run)
    source = open_source("folder", "test", data_dir=run.config.data.data_dir)
    correct, losses = [], []
    for example in source.examples():
        image = run.preprocessing.evaluation(decode(example["image"]))
        logits = run.model(image[None], training=False)[0].numpy()
        label = int(example["label"])
        correct.append(logits.argmax() == label)
        losses.append(np.log(np.exp(logits).sum()) - logits[label])
    result, path = evaluate_run(finished_run, batch_size=4)
    assert result["top1"] == pytest.approx(np.mean(correct))
    assert result["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert json.loads(path.read_text())["top1"] == result["top1"]


def test_evaluation_equals_the_one_during_training(finished_run):
    during = json.loads((finished_run / "result.json").read_text())
    afterwards, _ = evaluate_run(finished_run)
    assert afterwards["loss"] == pytest.approx(during["loss"], rel=1e-5)


def test_unknown_split_raises_with_the_known_splits(finished_run):
    with pytest.raises((ValueError, FileNotFoundError), match="train"):
        evaluate_run(finished_run, split="validation")


def test_folder_without_a_run_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        evaluate_run(tmp_path)


def test_model_is_traced_once(finished_run):
    run = load_run(finished_run)
    traces = []

    class Counting(tf.keras.Model):
        def call(self, images, training=False):
            traces.append(1)
            return run.model(images, training=training)

    source = open_source("folder", "test", data_dir=run.config.data.data_dir)
    evaluator = Evaluator(Counting())
    for _ in range(3):
        evaluator(source, run.preprocessing, 4)
    assert len(traces) == 1
