"""The report: its files, and its page."""

import base64
import csv
import html.parser
import json

import chromium
import ml_collections
import numpy as np
import pytest
import tensorflow as tf
from stacks import slow_on_one_stack

from noah_tf import attach_noah
from noah_tf.datasets.source import Source, read_by_index
from noah_tf.evaluation import mistakes, plots, report, scores, sets, tables
from noah_tf.evaluation.evaluator import Evaluator
from noah_tf.explain.run import Explainer
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.runs.checkpoint import Run, load_run


class Page(html.parser.HTMLParser):
    """What a page holds: its tags in order, its pictures and its text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.references, self.tags, self.words = [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action"):
                self.references.append(value)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def check_page(path):
    """Parses a report; it must need nothing else. Returns it, and its pictures as arrays."""
    text = path.read_text()
    found = Page(text)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert "@import" not in text and "url(" not in text
    assert all(value.startswith("data:image/png;base64,") for value in found.references)
    pictures = []
    for image in found.images:
        assert image["alt"]
        png = base64.b64decode(image["src"].partition(",")[2], validate=True)
        pictures.append(tf.io.decode_png(png, channels=3).numpy())
        assert pictures[-1].std() > 5
    return found, pictures


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(finished_run, tmp_path_factory):
    """The report of a run on two sets, one of them corrupted."""
    output = tmp_path_factory.mktemp("report")
    return report.report_run(
        finished_run,
        ["test", "train"],
        corruptions=["contrast"],
        output=output,
        mistakes=2,
        seed=7,
        command="python <evaluate> & more",
    )


def test_results_are_written_for_machines(written, finished_run):
    evaluation, folder = written
    result = json.loads((folder / "result.json").read_text())
    keys = [(r["set"], r["corruption"], r["strength"]) for r in result["results"]]
    contrasts = [("test", "contrast", strength) for strength in range(1, 6)]
    assert keys == [("test", "", 0), *contrasts, ("train", "", 0)]
    assert result["results"][0]["top1"] == pytest.approx(
        json.loads((finished_run / "result.json").read_text())["top1"]
    )
    assert result["seed"] == 7 and result["steps"] == {"last": 6}
    assert result["versions"]["tensorflow"] == tf.__version__
    assert result["config"] == json.loads((finished_run / "config.json").read_text())

    metrics = rows_of(folder / "metrics.csv")
    for row, entry in zip(metrics, result["results"], strict=True):
        assert {name: float(row[name]) for name in ("loss", "top1", "ece")} == {
            name: entry[name] for name in ("loss", "top1", "ece")
        }
    found = evaluation.entries[0].predictions
    classes = rows_of(folder / "classes.csv")
    assert [row["class"] for row in classes] == ["blob", "cross", "ring"] * 2
    assert sum(int(row["examples"]) for row in classes[:3]) == 10
    blobs = np.array([0 in found.true_classes(row) for row in range(10)])
    assert float(classes[0]["accuracy"]) == pytest.approx(found.right[blobs].mean())
    cells = rows_of(folder / "confusion.csv")
    right = sum(
        int(c["images"]) for c in cells if c["set"] == "test" and c["true"] == c["predicted"]
    )
    assert right == found.right.sum()
    bins = rows_of(folder / "calibration.csv")
    assert sum(int(row["count"]) for row in bins) == 10 + 24


def test_the_table_has_the_scores_of_all_sets(written):
    evaluation, _ = written
    lines = evaluation.table().splitlines()
    assert lines[0].split() == [
        "set",
        "weights",
        "examples",
        "loss",
        "top1",
        "class_accuracy",
        "ece",
    ]
    top1 = evaluation.entries[0].scores["top1"]
    assert lines[1].split()[:2] == ["test", "last"] and f"{top1:.2%}" in lines[1]
    assert lines[2].split()[:3] == ["train", "last", "24"]
    contrast = lines[-1].split()
    curve = [entry.scores["top1"] for entry in evaluation.entries[:6]]
    assert contrast[2:] == [f"{value:.2%}" for value in (*curve, np.mean(curve[1:]))]


def test_the_page_needs_nothing_else_and_holds_the_pictures(written):
    evaluation, folder = written
    found, pictures = check_page(folder / "report.html")
    shown = sum(len(of_set) for of_set in evaluation.mistakes.values())
    assert shown == sum(
        min(2, int((~e.predictions.right).sum())) for e in evaluation.entries if e.predictions
    )
    # Strengths once; of each set reliability, classes and confusion; the mistakes.
    assert len(pictures) == 1 + 2 * 3 + shown
    words = "".join(found.words)
    for text in ("python <evaluate> & more", "Seed of the evaluation: 7", "tensorflow", "ring"):
        assert text in words
    assert '"learning_rate"' in words and f"{evaluation.entries[0].scores['top1']:.2%}" in words


def test_nothing_is_left_half_written(written, monkeypatch):
    evaluation, folder = written
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(report.page, "page", killed)
    with pytest.raises(KeyboardInterrupt):
        report.write_report(evaluation, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
def test_raw_and_averaged_weights_side_by_side_and_a_pooled_head(gap_run, tmp_path):
    evaluation, folder = report.report_run(gap_run, output=tmp_path / "new" / "report")
    own = json.loads((gap_run / "result.json").read_text())
    assert [entry.weights for entry in evaluation.entries] == ["last", "ema"]
    losses = [entry.scores["loss"] for entry in evaluation.entries]
    assert losses == pytest.approx([own["loss"], own["ema_loss"]], rel=1e-5)
    assert {row["weights"] for row in rows_of(folder / "classes.csv")} == {"last", "ema"}
    check_page(folder / "report.html")
    (shown,) = evaluation.mistakes.values()
    wrong = ~evaluation.entries[1].predictions.right
    assert len(shown) == wrong.sum() > 0 and {mistake.panels for mistake in shown} == {3}


def test_the_worst_mistakes_come_first_and_show_where_both_classes_were_seen(written, finished_run):
    evaluation, _ = written
    entry, run = evaluation.entries[0], load_run(finished_run)
    found = mistakes.worst_mistakes(run, entry, 20)
    predictions = entry.predictions
    wrong = np.flatnonzero(~predictions.right)
    losses = sorted(predictions.loss[wrong], reverse=True)
    assert [mistake.loss for mistake in found] == pytest.approx(losses)
    assert wrong.size > 0, "the fixture's network is right about everything"
    row = wrong[predictions.loss[wrong].argmax()]
    first, names = found[0], run.class_names
    assert first.said.startswith(names[predictions.predicted[row]])
    assert first.truth.startswith(names[predictions.true_classes(row)[0]])
    assert f"example {predictions.places[row]} of" in first.where
    assert f"{np.exp(-losses[0]):.2%}" in first.truth
    assert first.panels == 3
    assert mistakes.worst_mistakes(run, entry, 0) == []


NAMES = ("a&b", "<i>", "$x$", "a very long name of a class indeed", "e")


@pytest.fixture(scope="module")
def several():
    """A run whose images have several classes, and its entry on twelve of them."""
    tf.keras.utils.set_random_seed(0)
    inputs = tf.keras.Input((16, 16, 3))
    features = tf.keras.layers.Conv2D(16, 5, strides=4, activation="relu")(inputs)
    model = attach_noah(tf.keras.Model(inputs, features), num_classes=5)
    rng = np.random.default_rng(0)
    labels = (rng.random((12, 5)) < 0.4).astype(np.float32)
    labels[0], labels[1] = 1, 0
    pixels = rng.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    photos = tf.constant([tf.io.encode_png(image).numpy() for image in pixels])

    def fetch(place):
        return {"image": photos[place], "label": tf.constant(labels)[place], "index": place}

    def read(*arguments):
        return read_by_index(fetch, 12, *arguments)

    source = Source("drawn", "test", 12, NAMES, True, read, fetch=fetch)
    config = ml_collections.ConfigDict({"data": {"on_corrupt": "error"}})
    run = Run(None, config, model, Preprocessing(16), NAMES, True, 5)
    evaluator = Evaluator(model, multi_label=True)
    named_set = sets.NamedSet("drawn:test", source)
    entry = sets.evaluate_set(run, evaluator, "last", named_set, batch_size=5, threshold=0.4)
    return run, entry, labels


def test_a_report_of_several_classes_an_image(several, tmp_path):
    run, entry, labels = several
    shown = {"drawn:test": mistakes.worst_mistakes(run, entry, 4, 0.4)}
    about = {
        "workdir": "runs/<b>",
        "command": "",
        "created": "2026-01-02T03:04:05+00:00",
        "seed": 0,
        "model": "m",
        "parameters": 1,
        "steps": {"last": 5},
        "versions": {},
        "config": {"seed": 0},
    }
    evaluation = report.Evaluation([entry], [entry.set], NAMES, True, 0.4, shown, about)
    report.write_report(evaluation, tmp_path)
    found, pictures = check_page(tmp_path / "report.html")
    assert len(pictures) == 2 + 4 and "2026-01-02, 03:04 UTC" in "".join(found.words)
    assert "runs/<b>" in "".join(found.words)
    assert "at a probability of 0.4" in "".join(found.words)
    assert not (tmp_path / "confusion.csv").exists()
    classes = rows_of(tmp_path / "classes.csv")
    assert [row["class"] for row in classes] == list(NAMES)
    told = scores.decisions(entry.predictions, 0.4)
    for number, row in enumerate(classes):
        assert int(row["TP"]) == (told[:, number] & (labels[:, number] > 0)).sum()
        assert int(row["FP"]) + int(row["TP"]) == told[:, number].sum()
    assert "mAP" in evaluation.table() and "CF1_top3" in evaluation.table()


def test_pictures_of_several_classes_show_the_worst_of_both_kinds(several):
    run, entry, labels = several
    predictions = entry.predictions
    seen = {}

    class Recorder(Explainer):
        def __call__(self, images, classes=None):
            seen["classes"] = np.array(classes)
            return super().__call__(images, classes)

    with pytest.MonkeyPatch.context() as context:
        context.setattr(mistakes, "Explainer", Recorder)
        found = mistakes.worst_mistakes(run, entry, 12, 0.4)
    rows = mistakes.worst_rows(predictions, 12, 0.4)
    assert len(found) == len(rows) == (1 - entry_exact(predictions, labels)) * 12
    for row, (wrong, missed) in zip(rows, seen["classes"], strict=True):
        logits = predictions.logits[row]
        if 0 < labels[row].sum() < 5:
            assert wrong == np.where(labels[row] > 0, -np.inf, logits).argmax()
        if labels[row].any():
            assert missed == np.where(labels[row] > 0, logits, np.inf).argmin()
    empty = rows.tolist().index(1) if 1 in rows else None
    if empty is not None:
        assert found[empty].truth == "nothing"


def entry_exact(predictions, labels):
    return ((predictions.logits >= np.log(0.4 / 0.6)) == (labels > 0)).all(axis=1).mean()


def test_many_classes_are_drawn_without_their_names():
    rng = np.random.default_rng(0)
    names = tuple(f"class {number}" for number in range(200))
    logits = rng.normal(size=(900, 200)).astype(np.float32)
    found = scores.collect([(np.arange(900), rng.integers(0, 200, 900), logits)])
    matrix = scores.confusion(found)
    figure = plots.confusion_matrix(matrix, names)
    assert len(figure.axes[0].get_xticks()) == plots.MOST_CLASSES
    figure = plots.class_bars({"last": scores.class_accuracies(matrix)}, names, "accuracy")
    assert len(figure.axes[0].lines) == 1
    header, rows = tables.most_confused(matrix, names)
    assert len(rows) == 15 and len(header) == 4
    counts = [float(row[2]) for row in rows]
    assert counts == sorted(counts, reverse=True)


def test_what_cannot_be_reported_is_said_before_anything_is_done(finished_run, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match="is a file: give the folder"):
        report.report_run(finished_run, output=file)
    assert file.read_text() == "mine"
    for options, message in (
        ({"weights": ["ema"]}, "keeps no moving average"),
        ({"corruptions": ["fog"]}, "no corruption 'fog'"),
        ({"set_names": ["test", "tset"]}, "tset"),
    ):
        with pytest.raises(ValueError, match=message):
            report.report_run(finished_run, output=tmp_path / "report", **options)


def test_names_of_folders():
    assert report.file_name("validation imagenet_v2:test[:10%]") == "validation_imagenet_v2_test_10"
    assert len(report.file_name("x" * 500)) == 80


def test_settings_of_a_user_do_not_change_the_figures():
    import matplotlib

    found = {"last": scores.binned_calibration(np.array([0.2, 0.9]), np.array([False, True]))}
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False}):
        changed = plots.as_png(plots.reliability(found))
    assert changed == plots.as_png(plots.reliability(found))


@slow_on_one_stack
@pytest.mark.skipif(bool(chromium.what_is_missing()), reason=chromium.what_is_missing())
@pytest.mark.parametrize("width", [500, 1100])
def test_the_page_in_a_browser(written, width):
    _, folder = written
    with chromium.browser((width, 900)) as driver:
        driver.get((folder / "report.html").as_uri())
        loaded = driver.execute_script(
            "return [...document.images].map(i => i.complete && i.naturalWidth > 0)"
        )
        assert loaded and all(loaded)
        overflow = (
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert driver.execute_script(overflow) <= 0
        assert not chromium.console_errors(driver)
        asked = chromium.requested(driver)
        assert asked == [(folder / "report.html").as_uri()]
