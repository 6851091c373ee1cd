"""Paired differences: their bootstrap interval and McNemar's test."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score

from noah_tf.evaluation import paired, scores
from noah_tf.evaluation.options import EvaluationOptions

pytestmark = pytest.mark.one_stack


def single_label_predictions(correct, num_classes=3):
    """Returns predictions that are correct for the given examples."""
    correct = np.asarray(correct)
    logits = np.zeros((len(correct), num_classes), np.float32)
    logits[:, 1] = np.where(correct, -1, 1)
    return scores.collect([(np.arange(len(correct)), np.zeros(len(correct), int), logits)])


def test_accuracy_interval_equals_the_bootstrap_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.random(300) < 0.9, rng.random(300) < 0.8
    low, high = paired.accuracy_interval(a, b)
    expected = stats.bootstrap(
        (a.astype(float) - b,), np.mean, n_resamples=10_000, method="percentile", random_state=1
    ).confidence_interval
    assert low == pytest.approx(expected.low, abs=0.006)
    assert high == pytest.approx(expected.high, abs=0.006)
    assert paired.accuracy_interval(b, a) == pytest.approx((-high, -low), abs=0.006)
    assert paired.accuracy_interval(a, a) == (0, 0)
    assert paired.accuracy_interval(a, b) == (low, high)


def test_accuracy_interval_has_the_nominal_coverage():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        a, b = rng.random(400) < 0.8, rng.random(400) < 0.7
        low, high = paired.accuracy_interval(a, b, seed, resamples=2_000)
        covered += low <= 0.1 <= high
    assert 180 <= covered <= 198


def test_mcnemar_is_the_binomial_test():
    assert paired.mcnemar(0, 0) == 1.0
    assert paired.mcnemar(5, 0) == pytest.approx(2 * 0.5**5)
    assert paired.mcnemar(9, 3) == paired.mcnemar(3, 9) == pytest.approx(0.1459961)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.integers(2, 30), st.booleans())
def test_weighted_average_precision_equals_scikit_learn(seed, size, ties):
    rng = np.random.default_rng(seed)
    truth = rng.random(size) < 0.5
    logits = rng.integers(0, 4, size) if ties else rng.normal(size=size)
    weights = rng.integers(0, 3, (4, size)).astype(float)
    values = paired._Ranking(truth, logits).average_precisions(weights)
    for row, value in zip(weights, values, strict=True):
        if (row * truth).sum() == 0:
            assert np.isnan(value)
            continue
        expected = average_precision_score(truth, logits, sample_weight=row)
        assert value == pytest.approx(expected, abs=1e-9)


def test_mean_average_precision_interval_equals_a_plain_bootstrap(monkeypatch):
    rng = np.random.default_rng(0)
    truth = rng.random((60, 3)) < 0.4
    a, b = (truth * size + rng.normal(size=truth.shape) for size in (2.0, 0.5))
    monkeypatch.setattr(paired, "_BLOCK", 60 * 7)  # several blocks
    low, high = paired.mean_average_precision_interval(truth, a, b, resamples=2_000)
    plain = []
    for _ in range(400):
        rows = rng.integers(0, 60, 60)
        plain.append(
            np.mean(
                [
                    average_precision_score(truth[rows, c], a[rows, c])
                    - average_precision_score(truth[rows, c], b[rows, c])
                    for c in range(3)
                ]
            )
        )
    assert (low, high) == pytest.approx(np.percentile(plain, [2.5, 97.5]), abs=0.04)
    assert 0 < low < high


def test_differences_of_single_label_models():
    a, b = single_label_predictions([1, 1, 1, 0, 0]), single_label_predictions([1, 0, 0, 1, 0])
    (difference,) = paired.differences(a, b)
    assert (difference.metric, difference.a, difference.b) == ("top1", 0.6, 0.4)
    assert (difference.only_a, difference.only_b, difference.p_value) == (2, 1, 1.0)
    assert difference.low < 0.2 < difference.high


def test_differences_of_multi_label_models():
    rng = np.random.default_rng(0)
    truth = (rng.random((40, 4)) < 0.4).astype(np.float32)
    confident, uncertain = (
        scores.collect(
            [(np.arange(40), truth, (size * (truth - 0.5) + noise).astype(np.float32))], True
        )
        for size, noise in ((20.0, 0.0), (1.0, rng.normal(size=truth.shape)))
    )
    mean_ap, subset_accuracy = paired.differences(confident, uncertain, resamples=2_000)
    assert (mean_ap.metric, mean_ap.a, mean_ap.p_value) == ("mAP", 1.0, None)
    assert 0 < mean_ap.low < 1 - mean_ap.b < mean_ap.high
    assert (subset_accuracy.metric, subset_accuracy.a) == ("subset_accuracy", 1.0)
    assert subset_accuracy.only_b == 0
    assert subset_accuracy.only_a == 40 - round(40 * subset_accuracy.b)
    assert subset_accuracy.p_value < 1e-3


def test_different_examples_raise():
    with pytest.raises(ValueError, match=r"different images or labels \(3 and 2 examples\)"):
        paired.differences(single_label_predictions([1, 1, 1]), single_label_predictions([1, 1]))


@pytest.mark.slow
def test_compare_runs(finished_run, gap_run, tmp_path):
    runs, set_names = [finished_run, gap_run], ["test", "train"]
    table, folder = paired.compare_runs(runs, EvaluationOptions(set_names, output=tmp_path / "out"))
    result = json.loads((folder / "result.json").read_text())
    by_set = {row["set"]: row for row in result["results"]}
    for run, key in ((finished_run, "a"), (gap_run, "b")):
        own = json.loads((run / "result.json").read_text())
        assert by_set["test"][key] == pytest.approx(own["top1"])
    row = by_set["train"]
    assert row["a"] - row["b"] == pytest.approx((row["only_a"] - row["only_b"]) / 24)
    assert row["low"] <= row["a"] - row["b"] <= row["high"]
    assert "A - B" in table and f"{row['a']:.2%}" in table and str(gap_run) in table
    repeated, _ = paired.compare_runs(runs, EvaluationOptions(set_names, output=tmp_path))
    assert repeated == table


def test_runs_that_differ_in_classes_or_data_raise(finished_run, tmp_path):
    def changed_run(folder, file, **changes):
        other = tmp_path / folder
        other.mkdir()
        for path in finished_run.glob("*.json"):
            (other / path.name).write_bytes(path.read_bytes())
        values = json.loads((other / file).read_text())
        for key, value in changes.items():
            section = values if key in values else values["data"]
            section[key] = value
        (other / file).write_text(json.dumps(values))
        return other

    for other, message in (
        (
            changed_run("classes", "data.json", class_names=["a", "b"]),
            r"has 3 classes .* has 2 classes \(a, b\)",
        ),
        (
            changed_run("multi", "data.json", multi_label=True),
            "is a single-label run and .*multi is a multi-label run",
        ),
        (
            changed_run("data", "config.json", name="cifar10"),
            "on folder in .* on cifar10: choose the data",
        ),
        (
            changed_run("split", "config.json", eval_split="train"),
            "split test and .* on train: choose",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            paired.compare_runs([finished_run, other])
    with pytest.raises(ValueError, match="one or two --weights, got last, best, ema"):
        paired.compare_runs([finished_run] * 2, EvaluationOptions(weights=["last", "best", "ema"]))
    with pytest.raises(FileNotFoundError, match="holds no run"):
        paired.compare_runs([finished_run, tmp_path / "none"])
    assert not (finished_run / "evaluations").exists()
