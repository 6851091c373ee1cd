"""The files of the report, and its page."""

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
from noah_tf.evaluation.mistakes import most_confident_mistakes
from noah_tf.evaluation.options import EvaluationOptions
from noah_tf.evaluation.results import Evaluation, NamedSet
from noah_tf.explain.explainer import Explainer
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.runs.checkpoint import Run, load_run

pytestmark = pytest.mark.one_stack


class Page(html.parser.HTMLParser):
    """Parses a page into its tags in order, its images and its text."""

    def __init__(self, text):
        super().__init__()
        self.open_tags, self.images, self.references, self.tags, self.texts = [], [], [], [], []
        self.feed(text)
        assert not self.open_tags

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open_tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action"):
                self.references.append(value)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def check_page(path):
    """Checks that a report is self-contained. Returns its text and its images as arrays."""
    text = path.read_text()
    parsed = Page(text)
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    assert "@import" not in text and "url(" not in text
    assert all(value.startswith("data:image/png;base64,") for value in parsed.references)
    images = []
    for image in parsed.images:
        assert image["alt"]
        png = base64.b64decode(image["src"].partition(",")[2], validate=True)
        images.append(tf.io.decode_png(png, channels=3).numpy())
        assert images[-1].std() > 5
    return "".join(parsed.texts), images


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(finished_run, tmp_path_factory):
    """The evaluation of a run on two sets, one of them corrupted, and the report's folder."""
    output = tmp_path_factory.mktemp("report")
    options = EvaluationOptions(
        ["test", "train"], output=output, seed=7, command="python <evaluate> & more"
    )
    return report.report_run(finished_run, options, corruptions=["contrast"], num_mistakes=2)


def test_json_and_csv_files_hold_the_scores(written, finished_run):
    evaluation, folder = written
    result = json.loads((folder / "result.json").read_text())
    keys = [(r["set"], r["corruption"], r["severity"]) for r in result["results"]]
    contrasts = [("test", "contrast", severity) for severity in range(1, 6)]
    assert keys == [("test", "", 0), *contrasts, ("train", "", 0)]
    assert result["results"][0]["top1"] == pytest.approx(
        json.loads((finished_run / "result.json").read_text())["top1"]
    )
    assert result["seed"] == 7 and result["steps"] == {"last": 6}
    assert result["versions"]["tensorflow"] == tf.__version__
    assert result["config"] == json.loads((finished_run / "config.json").read_text())

    metrics = read_csv(folder / "metrics.csv")
    for row, scores_of_row in zip(metrics, result["results"], strict=True):
        for name in ("loss", "top1", "ece"):
            assert float(row[name]) == scores_of_row[name]
    predictions = evaluation.results[0].predictions
    classes = read_csv(folder / "classes.csv")
    assert [row["class"] for row in classes] == ["blob", "cross", "ring"] * 2
    assert sum(int(row["examples"]) for row in classes[:3]) == 10
    is_blob = np.array([0 in predictions.true_classes(row) for row in range(10)])
    expected = predictions.correct[is_blob].mean()
    assert float(classes[0]["accuracy"]) == pytest.approx(expected)
    cells = read_csv(folder / "confusion.csv")
    diagonal = sum(
        int(cell["examples"])
        for cell in cells
        if cell["set"] == "test" and cell["true"] == cell["predicted"]
    )
    assert diagonal == predictions.correct.sum()
    bins = read_csv(folder / "calibration.csv")
    assert sum(int(row["count"]) for row in bins) == 10 + 24


def test_table_has_the_scores_of_all_sets(written):
    evaluation, _ = written
    lines = tables.scores_text(evaluation.results).splitlines()
    assert lines[0].split() == [
        "set",
        "weights",
        "examples",
        "loss",
        "top1",
        "mean_class_accuracy",
        "ece",
    ]
    top1 = evaluation.results[0].scores["top1"]
    assert lines[1].split()[:2] == ["test", "last"] and f"{top1:.2%}" in lines[1]
    assert lines[2].split()[:3] == ["train", "last", "24"]
    contrast = lines[-1].split()
    curve = [result.scores["top1"] for result in evaluation.results[:6]]
    assert contrast[2:] == [f"{value:.2%}" for value in (*curve, np.mean(curve[1:]))]


def test_page_is_self_contained_and_holds_all_figures(written):
    evaluation, folder = written
    text, images = check_page(folder / "report.html")
    num_mistakes = sum(len(mistakes) for mistakes in evaluation.mistakes.values())
    assert num_mistakes == sum(
        min(2, int((~result.predictions.correct).sum()))
        for result in evaluation.results
        if result.predictions
    )
    # One figure of severities; three figures for each set; the mistakes.
    assert len(images) == 1 + 2 * 3 + num_mistakes
    for expected in (
        "python <evaluate> & more",
        "Seed of the evaluation: 7",
        "tensorflow",
        "ring",
        '"learning_rate"',
        f"{evaluation.results[0].scores['top1']:.2%}",
        "Calibration (reliability diagram)",
        "Per-class accuracy",
        "Confusion matrix",
        "Most confident mistakes",
    ):
        assert expected in text


def test_interrupted_report_leaves_the_old_files(written, monkeypatch):
    evaluation, folder = written
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(report.page, "render", interrupt)
    with pytest.raises(KeyboardInterrupt):
        report.write_report(evaluation, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
def test_report_of_last_and_averaged_weights_of_a_pooled_head(gap_run, tmp_path):
    evaluation, folder = report.report_run(
        gap_run, EvaluationOptions(output=tmp_path / "new" / "report")
    )
    own = json.loads((gap_run / "result.json").read_text())
    assert [result.weights for result in evaluation.results] == ["last", "ema"]
    losses = [result.scores["loss"] for result in evaluation.results]
    assert losses == pytest.approx([own["loss"], own["ema_loss"]], rel=1e-5)
    assert {row["weights"] for row in read_csv(folder / "classes.csv")} == {"last", "ema"}
    check_page(folder / "report.html")
    (mistakes,) = evaluation.mistakes.values()
    is_wrong = ~evaluation.results[1].predictions.correct
    assert len(mistakes) == is_wrong.sum() > 0
    assert {mistake.num_panels for mistake in mistakes} == {3}


def test_mistakes_are_sorted_by_loss_and_show_two_maps(written, finished_run):
    evaluation, _ = written
    result, run = evaluation.results[0], load_run(finished_run)
    worst = most_confident_mistakes(run, result, 20)
    predictions = result.predictions
    wrong = np.flatnonzero(~predictions.correct)
    losses = sorted(predictions.loss[wrong], reverse=True)
    assert [mistake.loss for mistake in worst] == pytest.approx(losses)
    assert wrong.size > 0, "the network of the fixture makes no mistakes"
    row = wrong[predictions.loss[wrong].argmax()]
    first, names = worst[0], run.class_names
    assert first.predicted.startswith(names[predictions.predicted[row]])
    assert first.truth.startswith(names[predictions.true_classes(row)[0]])
    assert f"example {predictions.indices[row]} of" in first.description
    assert f"{np.exp(-losses[0]):.2%}" in first.truth
    assert first.num_panels == 3
    assert most_confident_mistakes(run, result, 0) == []


NAMES = ("a&b", "<i>", "$x$", "a very long name of a class indeed", "e")


@pytest.fixture(scope="module")
def multi_label():
    """A multi-label run, its result on twelve examples, and their labels."""
    tf.keras.utils.set_random_seed(0)
    inputs = tf.keras.Input((16, 16, 3))
    features = tf.keras.layers.Conv2D(16, 5, strides=4, activation="relu")(inputs)
    model = attach_noah(tf.keras.Model(inputs, features), num_classes=5)
    rng = np.random.default_rng(0)
    labels = (rng.random((12, 5)) < 0.4).astype(np.float32)
    labels[0], labels[1] = 1, 0
    pixels = rng.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    photos = tf.constant([tf.io.encode_png(image).numpy() for image in pixels])

    def fetch(index):
        return {"image": photos[index], "label": tf.constant(labels)[index], "index": index}

    def read(*arguments):
        return read_by_index(fetch, 12, *arguments)

    source = Source("drawn", "test", 12, NAMES, True, read, fetch=fetch)
    config = ml_collections.ConfigDict({"data": {"on_corrupt": "error"}})
    run = Run(None, config, model, Preprocessing(16), NAMES, True, 5)
    loaded = sets.LoadedWeights("last", run, Evaluator(model, multi_label=True))
    options = EvaluationOptions(batch_size=5, threshold=0.4)
    result = sets.evaluate_set(loaded, NamedSet("drawn:test", source), options)
    return run, result, labels


def test_report_of_a_multi_label_model(multi_label, tmp_path):
    run, result, labels = multi_label
    mistakes = {"drawn:test": most_confident_mistakes(run, result, 4, 0.4)}
    metadata = {
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
    evaluation = Evaluation([result], [result.set], NAMES, True, 0.4, mistakes, metadata)
    report.write_report(evaluation, tmp_path)
    text, images = check_page(tmp_path / "report.html")
    assert len(images) == 2 + 4
    for expected in ("2026-01-02, 03:04 UTC", "runs/<b>", "at a probability threshold of 0.4"):
        assert expected in text
    assert not (tmp_path / "confusion.csv").exists()
    classes = read_csv(tmp_path / "classes.csv")
    assert [row["class"] for row in classes] == list(NAMES)
    predicted = scores.predicted_labels(result.predictions, 0.4)
    for number, row in enumerate(classes):
        assert int(row["TP"]) == (predicted[:, number] & (labels[:, number] > 0)).sum()
        assert int(row["FP"]) + int(row["TP"]) == predicted[:, number].sum()
    table = tables.scores_text(evaluation.results)
    assert "mAP" in table and "CF1_top3" in table and "subset_accuracy" in table


def test_multi_label_mistakes_show_a_false_positive_and_a_false_negative(multi_label):
    run, result, labels = multi_label
    predictions = result.predictions
    mapped = {}

    class Recorder(Explainer):
        def __call__(self, images, classes=None):
            mapped["classes"] = np.array(classes)
            return super().__call__(images, classes)

    with pytest.MonkeyPatch.context() as context:
        context.setattr(mistakes, "Explainer", Recorder)
        worst = most_confident_mistakes(run, result, 12, 0.4)
    rows = mistakes.mistake_rows(predictions, 12, 0.4)
    is_exact = ((predictions.logits >= np.log(0.4 / 0.6)) == (labels > 0)).all(axis=1)
    assert len(worst) == len(rows) == 12 - is_exact.sum()
    for row, (wrong, missed) in zip(rows, mapped["classes"], strict=True):
        logits = predictions.logits[row]
        if 0 < labels[row].sum() < 5:
            assert wrong == np.where(labels[row] > 0, -np.inf, logits).argmax()
        if labels[row].any():
            assert missed == np.where(labels[row] > 0, logits, np.inf).argmin()
    if 1 in rows:  # the example without a label
        assert worst[rows.tolist().index(1)].truth == "no class"


def test_figures_of_many_classes():
    rng = np.random.default_rng(0)
    names = tuple(f"class {number}" for number in range(200))
    logits = rng.normal(size=(900, 200)).astype(np.float32)
    predictions = scores.collect([(np.arange(900), rng.integers(0, 200, 900), logits)])
    matrix = scores.confusion(predictions)
    figure = plots.confusion_matrix(matrix, names)
    assert len(figure.axes[0].get_xticks()) == plots.MAX_NAMED_CLASSES
    figure = plots.class_scores({"last": scores.class_accuracies(matrix)}, names, "accuracy")
    assert len(figure.axes[0].lines) == 1
    header, rows = tables.most_confused(matrix, names)
    assert len(rows) == 15 and len(header) == 4
    counts = [float(row[2]) for row in rows]
    assert counts == sorted(counts, reverse=True)


def test_invalid_options_raise_before_anything_is_done(finished_run, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match="needs a folder, but --output=.* is a file"):
        report.report_run(finished_run, EvaluationOptions(output=file))
    assert file.read_text() == "mine"
    for options, corruptions, message in (
        ({"weights": ["ema"]}, [], "keeps no moving average"),
        ({}, ["fog"], "corruptions must be among .*, got 'fog'"),
        ({"set_names": ["test", "tset"]}, [], "tset"),
    ):
        options = EvaluationOptions(output=tmp_path / "report", **options)
        with pytest.raises(ValueError, match=message):
            report.report_run(finished_run, options, corruptions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": ["newest"]}, "weights must be one of last, ema, best, got 'newest'"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"threshold": 1.5}, r"threshold must be a number in \[0, 1\], got 1.5"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"strategy": "tpu"}, "strategy must be one of auto, single, mirrored, got 'tpu'"),
    ],
)
def test_options_check_their_values(options, message):
    with pytest.raises(ValueError, match=message):
        EvaluationOptions(**options)


def test_file_name():
    assert report.file_name("validation imagenet_v2:test[:10%]") == "validation_imagenet_v2_test_10"
    assert len(report.file_name("x" * 500)) == 80


def test_figures_do_not_depend_on_the_users_settings():
    import matplotlib

    calibrations = {
        "last": scores.binned_calibration(np.array([0.2, 0.9]), np.array([False, True]))
    }
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False}):
        changed = plots.as_png(plots.reliability_diagram(calibrations))
    assert changed == plots.as_png(plots.reliability_diagram(calibrations))


@slow_on_one_stack
@pytest.mark.skipif(bool(chromium.missing_software()), reason=chromium.missing_software())
@pytest.mark.parametrize("width", [500, 1100])
def test_page_in_a_browser(written, width):
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
        assert chromium.requested_urls(driver) == [(folder / "report.html").as_uri()]
