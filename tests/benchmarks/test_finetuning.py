"""Tests of the fine-tuning study: its draws, its training, the tables and the command line."""

import json
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_data import REPOSITORY
from study_programs import check_argument_error, run_program

# At the end of the path, because other folders have modules of the same names.
sys.path.append(str(REPOSITORY / "benchmarks"))

import finetuning
import finetuning_data
import finetuning_runs
import finetuning_tables
import page_sections
import records_csv
from finetuning_data import Examples
from finetuning_full import FullTraining
from finetuning_probe import Probe, make_head
from finetuning_settings import (
    FULL_HEADS,
    HEADS,
    PARTS,
    SETTINGS,
    TRIED,
    TRIED_SEEDS,
    TRIED_SETTINGS,
    FinetuningRun,
    list_runs,
)

pytestmark = pytest.mark.one_stack


def record(run, top1, **changes):
    values = {"rate": 0.003, "full_rate": None, "searched": "0.001: 60.0, 0.003: 70.0"}
    sizes = {"parameters": 100, "seconds": 2.5, "date": "2026-11-29", "tensorflow": "2.21.0"}
    return {**run._asdict(), **values, "top1": top1, **sizes, **changes}


def test_list_runs_of_the_whole_study():
    runs = list_runs(SETTINGS, PARTS)
    assert len(set(runs)) == len(runs)
    tried = [run for run in runs if run.part == "tried"]
    assert len(tried) == len(TRIED) * len(TRIED_SETTINGS) * TRIED_SEEDS
    for name, setting in SETTINGS.items():
        probes = [run for run in runs if (run.setting, run.part) == (name, "probe")]
        assert len(probes) == len(HEADS) * setting.num_seeds >= 5 * len(HEADS)
        assert [run.head for run in probes[: len(HEADS)]] == list(HEADS)
        full = [run for run in runs if (run.setting, run.part) == (name, "full")]
        assert len(full) == (setting.full.num_seeds if setting.full else 0) * len(FULL_HEADS)
    assert len(list_runs(["trash6_5"], ["probe"], num_seeds=2)) == 2 * len(HEADS)


def test_the_pooled_heads_and_noah_differ_in_their_start_only():
    def config(head):
        model = make_head((2, 2, 1280), 10, HEADS[head])
        return model.get_layer("gap_logits" if head.startswith("gap") else "noah_head").get_config()

    keras, zero = config("gap"), config("gap_zero")
    assert [name for name in keras if keras[name] != zero[name]] == ["kernel_initializer"]
    noah, uniform = config("noah"), config("noah_uniform")
    assert [name for name in noah if noah[name] != uniform[name]] == ["uniform_attention"]
    assert config("noah_reference")["num_groups"] == 4


@given(
    st.integers(2, 4), st.integers(1, 6), st.integers(0, 5), st.integers(0, 200), st.integers(0, 9)
)
@settings(max_examples=40, deadline=None)
def test_the_photos_of_a_seed_are_disjoint_and_balanced(
    classes, per_class, test_per_class, spare, seed
):
    labels = np.random.default_rng(0).permutation(
        np.repeat(np.arange(classes), per_class + test_per_class + spare)
    )
    parts = finetuning_data.draw(labels, per_class, test_per_class, seed)
    train, test, others = parts
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert list(np.bincount(labels[train], minlength=classes)) == [per_class] * classes
    assert list(np.bincount(labels[test], minlength=classes)) == [test_per_class] * classes
    again = finetuning_data.draw(labels, per_class, test_per_class, seed)
    assert all(np.array_equal(*pair) for pair in zip(parts, again, strict=True))
    if len(others) < finetuning_data.MIN_SEARCH_PHOTOS and per_class < 4:
        return  # A quarter of so few training photos is none.
    searched = finetuning_data.search_split(labels, train, others, seed)
    assert not set(np.concatenate(searched)) & set(test)
    assert not set(searched[0]) & set(searched[1])
    assert set(searched[0]) <= set(train) and len(searched[1]) > 0


def test_too_few_photos_raise():
    with pytest.raises(ValueError, match="class 1 has 2 photos, and the setting needs 3"):
        finetuning_data.draw(np.array([0, 0, 0, 1, 1]), 2, 1, seed=0)


@given(st.integers(1, 50), st.integers(1, 8), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_batches_are_permutations(count, batch_size, steps):
    batches = finetuning_data.draw_batches(count, batch_size, steps, seed=1)
    assert batches.shape == (steps, min(batch_size, count)) and batches.dtype == np.int32
    per_epoch = count // min(batch_size, count)
    for start in range(0, steps, per_epoch):
        epoch = batches[start : start + per_epoch].ravel()
        assert len(set(epoch)) == len(epoch) and 0 <= epoch.min() <= epoch.max() < count


def test_the_learning_rate_follows_half_a_cosine():
    rates = finetuning_data.cosine_rates(0.1, 4)
    np.testing.assert_allclose(rates, [0.1, 0.0853553, 0.05, 0.0146447], rtol=1e-5)


def separable_maps(count, seed):
    """Returns maps in which every third channel is larger, from the one with the label's number."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 3
    maps = generator.normal(size=(count, 2, 2, 16))
    maps += 4 * (np.arange(16) % 3 == labels[:, None, None, None])
    return Examples(maps.astype(np.float16), labels)


def test_slow_keys_move_less():
    train = separable_maps(48, 0)
    spreads = []
    for factor in (1.0, 0.1):
        options = {"kernel_initializer": "zeros", "key_rate": factor}
        probe = Probe((2, 2, 16), 3, options, steps=20)
        head = probe.trained_head(train, 0.1, seed=5).get_layer("noah_head")
        spreads.append((np.std(head.key_kernel), np.std(head.value_kernel)))
    assert spreads[1][0] < 0.5 * spreads[0][0]
    assert spreads[1][1] == pytest.approx(spreads[0][1], rel=0.5)


@pytest.mark.parametrize("head", HEADS)
def test_a_probe_learns_and_repeats(head):
    options = {**HEADS[head]}
    if "key_ratio" in options:
        options["key_ratio"] = 1 / 4
    probe = Probe((2, 2, 16), 3, options, steps=100)
    train, test = separable_maps(48, 0), separable_maps(30, 1)
    first = probe.accuracy(train, test, 0.1, seed=5)
    weights = probe.trained_head(train, 0.1, seed=5).get_weights()
    assert first > 0.9
    probe.accuracy(train, test, 1e-9, seed=6)  # leaves no trace
    assert probe.accuracy(train, test, 0.1, seed=5) == first
    again = probe.trained_head(train, 0.1, seed=5).get_weights()
    assert all(np.array_equal(*pair) for pair in zip(weights, again, strict=True))


def tiny_backbone(size=16):
    tf.keras.utils.set_random_seed(0)
    layers = tf.keras.layers
    images = tf.keras.Input((size, size, 3))
    x = layers.Conv2D(16, 3, strides=4, padding="same", name="stem")(images)
    x = layers.BatchNormalization(name="norm")(x)
    return tf.keras.Model(images, layers.ReLU(name="map")(x))


def colored_photos(count, size, seed):
    """Returns photos that are red, green or blue."""
    labels = np.arange(count, dtype=np.int32) % 3
    noise = np.random.default_rng(seed).integers(0, 30, (count, size, size, 3))
    color = np.arange(3) == labels[:, None, None, None]
    return Examples((noise + 200 * color).astype(np.uint8), labels)


def test_training_all_layers_changes_the_backbone_but_not_its_normalization():
    backbone = tiny_backbone()
    head = make_head((4, 4, 16), 3, HEADS["gap_zero"])
    before = {layer.name: layer.get_weights() for layer in backbone.layers}
    photos = colored_photos(24, 18, seed=0)
    training, head_weights = FullTraining(backbone, head), head.get_weights()
    training.train(head_weights, photos, 0.03, epochs=20, seed=0)
    assert training.top1(photos) > 0.9
    after = {layer.name: layer.get_weights() for layer in backbone.layers}
    assert not np.array_equal(before["stem"][0], after["stem"][0])
    for old, new in zip(before["norm"], after["norm"], strict=True):
        np.testing.assert_array_equal(old, new)
    # Each training starts anew.
    training.train(head_weights, photos, 1e-3, epochs=1, seed=1)
    training.train(head_weights, photos, 0.03, epochs=20, seed=0)
    np.testing.assert_allclose(
        backbone.get_layer("stem").get_weights()[0], after["stem"][0], rtol=1e-3, atol=1e-4
    )


def test_photos_and_maps_come_from_the_same_crops(tmp_path):
    backbone = tiny_backbone()
    photos = colored_photos(5, 18, seed=0)
    features = finetuning_data.compute_features(backbone, photos)
    crops = photos.inputs[:, 1:17, 1:17]
    expected = backbone((crops.astype(np.float32) - 127) / 128, training=False)
    np.testing.assert_allclose(features.inputs, expected, rtol=2e-3, atol=2e-3)
    finetuning_data.write_examples(tmp_path / "a" / "maps.npz", features)
    read = finetuning_data.read_examples(tmp_path / "a" / "maps.npz")
    assert all(np.array_equal(*pair) for pair in zip(read, features, strict=True))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["maps.npz"]


def test_tables_and_csv_of_a_few_records(tmp_path):
    runs = list_runs(["cifar10_20", "trash6_20"], PARTS, num_seeds=2)
    values = {"gap": 0.5, "gap_zero": 0.51, "noah": 0.53, "noah_uniform": 0.52}
    records = [record(run, values.get(run.head, 0.3) + 0.01 * run.seed) for run in runs]
    tables = finetuning_tables.make_tables(records)
    names = ["probe", "full", "attention", "tried"]
    assert list(tables) == [f"finetuning_{name}" for name in names]
    probe = tables["finetuning_probe"]
    assert "| CIFAR-10, 20 a class | 2 | 50.5 | +1.0 ± 0.0 | +3.0 ± 0.0 | -20.0 ± 0.0 |" in probe
    assert "| mean of the settings |  |  | +1.0 | +3.0 | -20.0 |" in probe
    assert "--part full`, 2026-11-29, TensorFlow 2.21.0" in tables["finetuning_full"]
    attention = tables["finetuning_attention"]
    assert "| trash, 20 a class | +1.0 ± 0.0 | +2.0 ± 0.0 |" in attention
    tried = tables["finetuning_tried"]
    assert "| pooling, zero start | -2.0 ± 0.0 | -2.0 ± 0.0 |  |" in tried
    assert "| N = 4 | -23.0 ± 0.0 | -23.0 ± 0.0 |  |" in tried
    records_csv.write_csv(records, tmp_path / "runs.csv", finetuning_tables.COLUMNS)
    known = finetuning_tables.read_csv(tmp_path / "runs.csv")
    assert known == records
    assert finetuning_runs.import_records(known, tmp_path / "study") == len(records)
    assert finetuning_runs.import_records(known, tmp_path / "study") == 0
    assert finetuning_tables.make_tables(
        finetuning_tables.read_records(tmp_path / "study")
    ) == finetuning_tables.make_tables(records)
    finetuning_tables.draw_curve(records, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_no_runs_give_no_table():
    assert finetuning_tables.make_tables([]) == {}


def test_the_tables_of_the_page_are_those_of_the_csv(tmp_path):
    records = finetuning_tables.read_csv(REPOSITORY / "docs" / "study" / "finetuning.csv")
    expected = (REPOSITORY / "docs" / "study.md").read_text()
    copy = tmp_path / "page.md"
    copy.write_text(expected)
    tables = finetuning_tables.make_tables(records)
    assert set(page_sections.write_sections(copy, tables)) == set(tables)
    assert copy.read_text() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tables"], "--output must be the folder of a study, got"),
        (["--seeds=0"], "--seeds must be at least 1, got 0"),
        (["--processes=-1"], "--processes must be at least 1, got -1"),
        (["--setting=imagenet"], "invalid choice: 'imagenet'"),
        ([], "--backbone must be the file that efficientnet_lite0.py writes, got None"),
        (["--backbone=none.keras"], "efficientnet_lite0.py writes, got none.keras"),
    ],
)
def test_invalid_arguments_exit_with_a_message(arguments, message, tmp_path, monkeypatch, capsys):
    check_argument_error(finetuning, arguments, message, tmp_path / "no", monkeypatch, capsys)


def write_photos(folder: pathlib.Path) -> None:
    for split, count in (("train", 20), ("val", 25)):
        photos = colored_photos(3 * count, 24, seed=len(split))
        for index, (pixels, label) in enumerate(zip(*photos, strict=True)):
            path = folder / split / f"class{label}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tf.io.encode_png(pixels).numpy())


@pytest.mark.exhaustive
def test_the_command_line_trains_and_resumes(tmp_path):
    write_photos(tmp_path / "photos")
    tiny_backbone(32).save(tmp_path / "backbone.keras")
    study = ["--output", tmp_path / "study", "--setting", "trash6_5", "--seeds", 1]
    study += ["--part", "probe", "--processes", 2, "--backbone", tmp_path / "backbone.keras"]

    def run(*arguments):
        return run_program("finetuning", *study, *arguments)

    missing = run()
    assert missing.returncode == 1
    assert "--photos must be the folder with the splits train/ and val/." in missing.stderr
    done = run("--photos", tmp_path / "photos", "--csv", tmp_path / "runs.csv")
    assert done.returncode == 0, done.stderr
    assert "5 runs, 0 of them done." in done.stdout and "trash, 5 a class" in done.stdout
    saved = json.loads(
        finetuning_runs.record_path(
            tmp_path / "study", FinetuningRun("trash6_5", "probe", "noah", 0)
        ).read_text()
    )
    assert saved["top1"] > 0.6 and saved["rate"] in (1e-3, 3e-3, 1e-2)
    again = run("--known", tmp_path / "runs.csv", "--output", tmp_path / "elsewhere")
    assert again.returncode == 0, again.stderr
    assert "5 runs, 5 of them done." in again.stdout
