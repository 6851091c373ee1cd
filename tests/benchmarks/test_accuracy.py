"""Tests of the study: its runs, their recipes, the tables and the command line."""

import functools
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_data import REPOSITORY
from study_programs import check_argument_error, run_program

from noah_tf.head.initializers import default_initializer
from noah_tf.runs.model_config import model_from_config
from noah_tf.training.plan import TrainingPlan

# At the end of the path, because other folders have modules of the same names.
sys.path.append(str(REPOSITORY / "benchmarks"))

import accuracy
import accuracy_runs
import accuracy_settings
import accuracy_tables
import page_sections
import records_csv
from accuracy_settings import SETTINGS, VARIANTS, Run, list_runs, make_recipe

pytestmark = pytest.mark.one_stack

values = st.floats(0, 1).map(lambda x: round(x, 4))


def record(run, value, **changes):
    config = {"metric": "top1", "loss": 0.5, "parameters": 1000, "steps": 10, "batch_size": 64}
    times = {"step_ms": 20.0, "seconds": 5.0, "cpu_seconds": 4.0, "threads": 1}
    versions = {"date": "2026-11-23", "tensorflow": "2.21.0"}
    return {**run._asdict(), "value": value, **config, **times, **versions, **changes}


def test_list_runs_of_the_whole_study():
    runs = list_runs(SETTINGS, 5, VARIANTS)
    assert len(set(runs)) == len(runs)
    assert len({run.name for run in runs}) == len(runs)
    heads = [run for run in runs if run.part == "heads"]
    pairs = [(name, seed) for name in SETTINGS for seed in range(5)]
    assert list(dict.fromkeys((run.setting, run.seed) for run in heads)) == pairs
    for name, seed in pairs:
        variants = [run.variant for run in heads if (run.setting, run.seed) == (name, seed)]
        assert variants == list(SETTINGS[name].learning_rates)
    changes = {name for variants in VARIANTS.values() for name in variants.changes}
    assert {run.variant for run in runs} == {*accuracy_settings.HEADS, *changes}
    assert all(run.seed < accuracy_settings.SEARCH_SEED for run in runs)


@pytest.mark.parametrize("name", SETTINGS)
def test_recipes_of_both_heads_differ_in_head_and_learning_rate_only(name):
    gap, noah = (
        make_recipe(Run(name, "heads", head, 3, 0.01), "data").to_dict() for head in ("gap", "noah")
    )
    assert (gap["model"].pop("head"), noah["model"].pop("head")) == ("gap", "noah")
    assert gap == noah
    assert gap["data"]["eval_split"] == "test" and gap["seed"] == 3


@pytest.mark.parametrize("name", [name for name in SETTINGS if SETTINGS[name].searched_rates])
def test_the_search_does_not_use_the_test_split(name):
    for run in list_runs([name], 5, search=True):
        config = make_recipe(run, "data")
        TrainingPlan.from_config(config)
        assert "test" not in config.data.train_split + config.data.eval_split
        assert config.data.train_split != config.data.eval_split
        assert run.rate == config.optimizer.learning_rate in SETTINGS[name].searched_rates
        assert SETTINGS[name].learning_rates[run.variant] in SETTINGS[name].searched_rates


@pytest.mark.parametrize("name", SETTINGS)
def test_the_last_map_has_at_least_4x4_positions(name):
    config = make_recipe(Run(name, "heads", "noah", 0, 0.01))
    model = model_from_config(config.model, (*config.preprocess.image_size, 3), 10)
    assert np.prod(model.get_layer("noah_head").input.shape[1:-1]) >= 16


@functools.cache
def head_config(run):
    model = model_from_config(make_recipe(run).model, (64, 64, 3), 10)
    return model.get_layer("noah_head").get_config()


@pytest.mark.parametrize("name", SETTINGS)
def test_the_papers_head_is_the_default_unless_the_setting_has_both(name):
    def head(options):
        config = make_recipe(Run(name, "heads", "noah", 0, 0.01), "data")
        config.model.update(options)
        size = (*config.preprocess.image_size, 3)
        return model_from_config(config.model, size, 10).get_layer("noah_head")

    papers = accuracy_settings.model_options(Run(name, "heads", "noah_reference", 0, 0.01))
    default, paper = head({}), head(papers)
    options = [(layer.num_groups, layer.key_ratio) for layer in (default, paper)]
    scales = [default_initializer(10, default.channels).scale, paper.kernel_initializer.scale]
    is_same = options[0] == options[1] and scales[0] == scales[1]
    assert is_same == (SETTINGS[name].paper_head == "noah")


@pytest.mark.parametrize("variant", VARIANTS["ablations"].changes)
def test_an_ablation_changes_only_its_own_options(variant):
    setting, _, _, changes = VARIANTS["ablations"]
    run = Run(setting, "ablations", variant, 0, 0.01)
    TrainingPlan.from_config(make_recipe(run))
    default = head_config(run._replace(part="heads", variant="noah_reference"))
    head = head_config(run)
    assert {key: head[key] for key in head if head[key] != default[key]} == changes[variant]
    assert (default["num_groups"], default["key_ratio"]) == (4, 1 / 2)


@pytest.mark.parametrize("variant", VARIANTS["causes"].changes)
def test_a_cause_changes_only_its_own_options(variant):
    setting, default_options, _, changes = VARIANTS["causes"]
    run = Run(setting, "causes", variant, 3, 0.01)
    config = make_recipe(run, "data")
    TrainingPlan.from_config(config)
    baseline = "gap" if "pooling" in variant else "noah_reference"
    expected = make_recipe(run._replace(part="heads", variant=baseline), "data")
    expected.update_from_flattened_dict({f"model.{k}": v for k, v in changes[variant].items()})
    assert config.to_dict() == expected.to_dict()
    model = model_from_config(config.model, (32, 32, 3), 10)
    size = 2 if "map 2x2" in variant else 4
    head = model.get_layer("gap_pool" if "pooling" in variant else "noah_head")
    if head.name == "noah_head":
        options = {"N = 4, r = 1/2": (4, 1 / 2), "r = 1/8": (8, 1 / 8)}.get(variant, (8, 1 / 4))
        assert (head.num_groups, head.key_ratio) == options
    assert tuple(head.input.shape[1:]) == (size, size, 1280)
    assert default_options == "N = 8, r = 1/4, map 4x4"


@given(st.lists(st.tuples(values, values), min_size=2, max_size=6))
@settings(max_examples=30, deadline=None)
def test_the_interval_is_students_t_of_the_differences(pairs):
    first, second = (dict(enumerate(side)) for side in zip(*pairs, strict=True))
    mean, (low, high), seeds = accuracy_tables.paired_difference(first, second)
    differences = np.array([a - b for a, b in pairs])
    assert seeds == len(pairs)
    assert mean == pytest.approx(differences.mean(), abs=1e-9)
    # 97.5 % quantiles of Student's t for 1 to 5 degrees of freedom, from a printed table.
    quantile = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058)[seeds - 2]
    half = quantile * differences.std(ddof=1) / np.sqrt(seeds)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=1e-4 * half + 1e-9)


def test_only_common_seeds_are_compared():
    assert accuracy_tables.paired_difference({0: 0.5, 1: 0.9}, {1: 0.8, 2: 0.1}) == (
        pytest.approx(0.1),
        None,
        1,
    )
    assert accuracy_tables.paired_difference({0: 0.5}, {}) == (None, None, 0)


def test_tables_of_a_few_records():
    heads = [Run("cifar10_vit", "heads", head, seed, 0.002) for seed in (0, 1) for head in ("gap",)]
    records = [record(run, 0.5 + 0.01 * run.seed) for run in heads]
    records += [record(r._replace(variant="noah"), 0.52 + 0.03 * r.seed) for r in heads]
    records.append(record(Run("cifar10_vit", "search", "gap", 1000, 0.002), None))
    ablated = Run("digit_scenes", "ablations", "N = 1", 0, 0.01)
    records += [record(ablated, 0.9), record(ablated._replace(part="heads", variant="noah"), 0.93)]
    tables = accuracy_tables.make_tables(records)
    assert list(tables) == ["study_summary", "study_heads", "study_ablations", "study_search"]
    text = "\n\n".join(tables.values())
    assert "| 50.50 ± 0.71 | 53.50 ± 2.12 | +3.00 (" in text
    assert "| N = 1 | 90.00 | -3.00 | 1,000 |" in text
    assert "0.002: diverged" in text
    assert "python benchmarks/accuracy.py" in text and "2026-11-23" in text
    for table in text.split("\n\n"):
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1
    lines = records_csv.csv_text(records, accuracy_tables.COLUMNS).splitlines()
    assert len(lines) == len(records) + 1 and lines[0].startswith("setting,part,variant,seed")


def test_the_csv_gives_the_same_tables_as_the_records(tmp_path):
    runs = [*list_runs(["cifar10_vit"], 2), *list_runs(["cifar10_vit"], 1, search=True)]
    for number, run in enumerate(runs):
        folder = accuracy_runs.run_folder(tmp_path, run)
        folder.mkdir(parents=True)
        value = None if run.rate == 4e-3 and run.part == "search" else (number + 1) / 17
        saved = record(run, value, step_ms=number / 7)
        (folder / accuracy_runs.RECORD).write_text(json.dumps(saved))
    records = accuracy_tables.read_records(tmp_path)
    records_csv.write_csv(records, tmp_path / "runs.csv", accuracy_tables.COLUMNS)
    known = accuracy_tables.read_csv(tmp_path / "runs.csv")
    assert known == records
    assert accuracy_runs.import_records(known, tmp_path / "elsewhere") == len(runs)
    assert all(accuracy_runs.is_done(tmp_path / "elsewhere", run) for run in runs)
    assert accuracy_tables.read_records(tmp_path / "elsewhere") == records
    assert accuracy_runs.import_records(known, tmp_path / "elsewhere") == 0
    tables = accuracy_tables.make_tables(records)
    assert list(tables) == ["study_summary", "study_heads", "study_search"]


@pytest.mark.parametrize(("text", "columns"), [("", "none"), ("seed,value\n1,2\n", "seed, value")])
def test_another_csv_raises(text, columns, tmp_path):
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(
        ValueError,
        match=f"runs.csv was not written by .* columns must be setting, .* got {columns}",
    ):
        accuracy_tables.read_csv(tmp_path / "runs.csv")


@pytest.mark.parametrize("page", ["README.md", "docs/study.md"])
def test_the_tables_of_the_pages_are_those_of_the_csv(page, tmp_path):
    runs = accuracy_tables.read_csv(REPOSITORY / "docs" / "study" / "runs.csv")
    expected = (REPOSITORY / page).read_text()
    copy = tmp_path / "page.md"
    copy.write_text(expected)
    written = page_sections.write_sections(copy, accuracy_tables.make_tables(runs))
    assert written
    assert copy.read_text() == expected


def test_a_page_without_markers_raises_and_is_unchanged(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- study_heads: begin -->\nno end\n")
    with pytest.raises(ValueError, match="page.md has no lines <!-- NAME: .* study_heads"):
        page_sections.write_sections(page, {"study_heads": "| a |"})
    assert page.read_text() == "<!-- study_heads: begin -->\nno end\n"


def test_no_runs_give_no_table():
    assert accuracy_tables.make_tables([]) == {}


def test_finished_runs_are_not_trained_again(tmp_path, monkeypatch):
    runs = list_runs(["digit_scenes"], 2)
    trained = []

    def train_run(run, folder, data_dir, quick):
        trained.append(run)
        (folder / accuracy_runs.RECORD).write_text(json.dumps(record(run, 0.5)))
        return record(run, 0.5)

    monkeypatch.setattr(accuracy_runs, "train_run", train_run)
    accuracy_runs.train_runs(runs[:3], tmp_path)
    assert "4 runs, 3 of them done" in accuracy_runs.describe_plan(runs, tmp_path, 2)
    accuracy_runs.train_runs(runs, tmp_path)
    assert trained == runs
    assert "The others take about 0 minutes" in accuracy_runs.describe_plan(runs, tmp_path, 2)


def test_a_run_that_another_process_trains_is_skipped(tmp_path, monkeypatch):
    import filelock

    first, second = list_runs(["digit_scenes"], 1)
    trained = []

    def train_run(run, *_):
        trained.append(run)
        return record(run, 0.5)

    monkeypatch.setattr(accuracy_runs, "train_run", train_run)
    folder = accuracy_runs.run_folder(tmp_path, first)
    folder.mkdir(parents=True)
    with filelock.FileLock(folder / ".study.lock", thread_local=False):
        accuracy_runs.train_runs([first, second], tmp_path)
    assert trained == [second]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tables"], "--output must be the folder of a study, got"),
        (["--seeds=0"], "--seeds must be at least 1, got 0"),
        (["--processes=-1"], "--processes must be at least 1, got -1"),
        (["--setting=imagenet"], "invalid choice: 'imagenet'"),
    ],
)
def test_invalid_arguments_exit_with_a_message(arguments, message, tmp_path, monkeypatch, capsys):
    check_argument_error(accuracy, arguments, message, tmp_path / "none", monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "settings", "parts"),
    [
        ([], list(SETTINGS), ["ablations", "causes", "starts"]),
        (["--ablations"], ["digit_scenes"], ["ablations"]),
        (["--causes"], ["cifar10_mobilenet_v2"], ["causes"]),
        (["--starts"], ["cifar10_vit"], ["starts"]),
        (["--setting=cifar10_vit"], ["cifar10_vit"], []),
        (["--setting=cifar10_vit", "--ablations"], ["cifar10_vit", "digit_scenes"], ["ablations"]),
    ],
)
def test_settings_and_parts_of_the_arguments(arguments, settings, parts, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["accuracy.py", "--output=study", *arguments])
    parsed = accuracy.parse_arguments()
    assert (parsed.setting, parsed.parts) == (settings, parts)


def test_missing_cifar10_raises_before_training(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("tensorflow_datasets.core.DatasetBuilder.download_and_prepare", no_network)
    with pytest.raises(FileNotFoundError, match="cifar10.* could not be prepared .no network"):
        accuracy_runs.prepare_data(list_runs(["cifar10_vit"], 1), str(tmp_path))


@pytest.mark.exhaustive
def test_the_command_line_trains_a_quick_study(tmp_path, tfds_dir):
    arguments = ["--output", tmp_path / "study", "--setting", "digit_scenes", "--seeds", 1]
    arguments += ["--quick", "--processes", 2]
    done = run_program("accuracy", *arguments, TFDS_DATA_DIR=str(tfds_dir))
    assert done.returncode == 0, done.stderr
    assert "2 runs, 0 of them done" in done.stdout
    assert "digit_scenes, one digit" in done.stdout
    records = [json.loads(p.read_text()) for p in (tmp_path / "study").glob("*/*/*/*/study.json")]
    assert {r["variant"] for r in records} == {"gap", "noah"}
    for saved in records:
        assert saved["steps"] == 4 and saved["threads"] == 1
        assert saved["step_ms"] > 0 < saved["cpu_seconds"] and 0 <= saved["value"] <= 1
    table = tmp_path / "docs" / "runs.csv"
    again = run_program("accuracy", *arguments, "--csv", table, TFDS_DATA_DIR=str(tfds_dir))
    assert "2 runs, 2 of them done" in again.stdout
    assert len(table.read_text().splitlines()) == 3
