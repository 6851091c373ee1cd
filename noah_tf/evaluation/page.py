"""The report of an evaluation as one self-contained HTML page."""

import base64
import datetime
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import sparse

from noah_tf.evaluation import plots, scores, tables
from noah_tf.evaluation.metrics import primary_metric
from noah_tf.evaluation.results import Evaluation, NamedSet

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.5rem 4rem; background: #fff;
  color: #1b1b1b; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
  Arial, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid #d9d9d9; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 1.75rem 0 .4rem; }
p { margin: .4rem 0; max-width: 46rem; }
.note { color: #555; font-size: .9rem; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #e4e4e4; text-align: right;
  white-space: nowrap; }
thead th { border-bottom: 2px solid #999; }
.left { text-align: left; }
td.left { max-width: 22rem; overflow: hidden; text-overflow: ellipsis; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; }
.mistakes { display: grid; gap: 1.25rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--card)), 1fr)); }
.mistakes figure { margin: 0; padding: .75rem; border: 1px solid #e0e0e0; border-radius: 6px;
  min-width: 0; }
figcaption { font-size: .88rem; margin-top: .5rem; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f5f5f5; padding: .75rem 1rem;
  border-radius: 6px; font-size: .82rem; line-height: 1.45; }
summary { cursor: pointer; margin: .75rem 0; }
"""


def render(evaluation: Evaluation) -> str:
    """Returns the report as HTML that contains its images and style, and loads nothing.

    Args:
        evaluation: a `results.Evaluation`.
    """
    title = f"Evaluation of {evaluation.metadata['workdir']}"
    parts = [
        f"<h1>{_escape(title)}</h1>",
        f'<p class="note">{_escape(_summary(evaluation))}</p>',
        "<h2>Scores</h2>",
        _table(*tables.score_rows(evaluation.results)),
        f'<p class="note">{_escape(_legend(evaluation))}</p>',
        *_corruption_section(evaluation),
    ]
    for named_set in evaluation.sets:
        parts += _set_section(evaluation, named_set)
    parts += _reproduction_section(evaluation.metadata)
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n"
        "</body>\n</html>\n"
    )


def _summary(evaluation: Evaluation) -> str:
    metadata = evaluation.metadata
    steps = ", ".join(
        f"{weights} after {step:,} steps" for weights, step in metadata["steps"].items()
    )
    created = datetime.datetime.fromisoformat(metadata["created"])
    return (
        f"Model {metadata['model']} with {metadata['parameters']:,} parameters and "
        f"{len(evaluation.class_names):,} classes. Weights: {steps}. Created on "
        f"{created:%Y-%m-%d, %H:%M} UTC."
    )


def _legend(evaluation: Evaluation) -> str:
    """Returns the definitions of the scores that the table has."""
    multi_label, threshold = evaluation.multi_label, evaluation.threshold
    definitions = {
        "loss": "mean binary cross-entropy" if multi_label else "mean softmax cross-entropy",
        "top1": "share of examples whose predicted class is correct",
        "top5": "share of examples with a correct class among the five most probable ones",
        "mean_class_accuracy": "accuracy of each class, averaged over the classes",
        "mAP": "average precision of each class, averaged over the classes",
        "CF1": "F1 of the mean precision and the mean recall over the classes, with a class "
        f"predicted at a probability threshold of {threshold:g}",
        "OF1": "F1 over all examples and classes together, with the same threshold",
        "CF1_top3": "CF1 with the three most probable classes of each example predicted",
        "OF1_top3": "OF1 with the same three classes",
        "subset_accuracy": "share of examples whose predicted classes are exactly the true ones",
        "ece": f"expected calibration error with {scores.BINS} bins",
        "unlabeled": "number of examples without a label, which are left out",
        "skipped": "number of images that cannot be decoded, which are left out",
    }
    names = {name for result in evaluation.results for name in result.scores}
    text = "; ".join(f"{name}: {text}" for name, text in definitions.items() if name in names)
    return f"{text}. Every example counts exactly once."


def _corruption_section(evaluation: Evaluation) -> list[str]:
    header, rows = tables.corruption_rows(evaluation.results)
    if not rows:
        return []
    corrupted = next(result for result in evaluation.results if result.corruption)
    metric = primary_metric(corrupted.scores)
    figure = plots.severity_curves(tables.corruption_scores(evaluation.results), metric)
    return [
        f"<h2>Robustness to corruptions: {_escape(corrupted.set.name)}</h2>",
        f'<p class="note">{metric} at each severity; severity 0 is the original set. Noise, blur, '
        "contrast and JPEG have the parameters of ImageNet-C and CIFAR-10-C (arXiv 1903.12261), "
        "interpolated for the image size.</p>",
        _figure(figure, f"{metric} by corruption and severity"),
        _table(header, rows),
    ]


def _set_section(evaluation: Evaluation, named_set: NamedSet) -> list[str]:
    predictions = {
        result.weights: result.predictions
        for result in evaluation.results
        if result.set == named_set and result.corruption is None
    }
    parts = [
        f"<h2>{_escape(named_set.name)}</h2>",
        *_calibration_part(evaluation, named_set, predictions),
    ]
    if evaluation.multi_label:
        precisions = {
            weights: scores.class_scores(values, evaluation.threshold).average_precision
            for weights, values in predictions.items()
        }
        parts += _class_part("average precision", precisions, evaluation.class_names)
    else:
        matrices = {weights: scores.confusion(values) for weights, values in predictions.items()}
        accuracies = {
            weights: scores.class_accuracies(matrix) for weights, matrix in matrices.items()
        }
        parts += _class_part("accuracy", accuracies, evaluation.class_names)
        parts += _confusion_part(matrices, evaluation.class_names)
    return parts + _mistakes_part(evaluation, named_set)


def _calibration_part(
    evaluation: Evaluation,
    named_set: NamedSet,
    predictions: Mapping[str, scores.Predictions],
) -> list[str]:
    calibrations = {weights: scores.calibration(values) for weights, values in predictions.items()}
    if evaluation.multi_label:
        definition = (
            "Each bin holds pairs of an image and a class with similar predicted probabilities; "
            "its accuracy is the share of these images that have the class."
        )
    else:
        definition = (
            "Each bin holds examples whose predicted class has a similar probability; its accuracy "
            "is the share of these examples that are classified correctly."
        )
    return [
        "<h3>Calibration (reliability diagram)</h3>",
        f'<p class="note">{definition} Below the dashed line, the model is overconfident; above '
        "it, the model is underconfident.</p>",
        _figure(
            plots.reliability_diagram(calibrations), f"Reliability diagram of {named_set.name}"
        ),
    ]


def _class_part(metric: str, values: Mapping[str, Any], class_names: Sequence[str]) -> list[str]:
    figure = plots.class_scores(values, class_names, metric)
    return [
        f"<h3>Per-class {metric}</h3>",
        '<p class="note">classes.csv has the values.</p>',
        _figure(figure, f"Per-class {metric}"),
    ]


def _confusion_part(
    matrices: Mapping[str, sparse.csr_matrix], class_names: Sequence[str]
) -> list[str]:
    weights, matrix = list(matrices.items())[-1]
    limit = plots.MAX_NAMED_CLASSES
    selection = f" The {limit} classes with the most errors are shown."
    parts = [
        f"<h3>Confusion matrix (weights: {_escape(weights)})</h3>",
        '<p class="note">Each row shows the predictions for one true class, in percent of its '
        f"examples.{selection if len(class_names) > limit else ''} confusion.csv has the whole "
        "matrix for all weights.</p>",
        _figure(plots.confusion_matrix(matrix, class_names), "Confusion matrix"),
    ]
    header, rows = tables.most_confused(matrix, class_names)
    return [*parts, "<h3>Most confused classes</h3>", _table(header, rows)] if rows else parts


def _mistakes_part(evaluation: Evaluation, named_set: NamedSet) -> list[str]:
    mistakes = evaluation.mistakes.get(named_set.name)
    if not mistakes:
        return []
    weights = evaluation.results[-1].weights
    cards = []
    for mistake in mistakes:
        caption = (
            f"predicted: <b>{_escape(mistake.predicted)}</b>; true: "
            f"<b>{_escape(mistake.truth)}</b>; loss: {mistake.loss:.2f}<br>"
            f'<span class="note">{_escape(mistake.description)}</span>'
        )
        image = _image(mistake.png, f"predicted: {mistake.predicted}; true: {mistake.truth}")
        cards.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    width = 4 + 7 * mistakes[0].num_panels
    maps = (
        " Beside each image are the maps of the model's head for the wrong class and for the true "
        "class."
    )
    return [
        f"<h3>Most confident mistakes (weights: {_escape(weights)})</h3>",
        '<p class="note">The misclassified examples with the highest loss, cropped as the model '
        f"sees them.{maps if mistakes[0].num_panels > 1 else ''}</p>",
        f'<div class="mistakes" style="--card: {width}rem">{"".join(cards)}</div>',
    ]


def _reproduction_section(metadata: Mapping[str, Any]) -> list[str]:
    versions = [[name, version] for name, version in metadata["versions"].items()]
    config = json.dumps(metadata["config"], indent=2, sort_keys=True)
    return [
        "<h2>How to reproduce this report</h2>",
        f"<pre>{_escape(metadata['command'])}</pre>" if metadata["command"] else "",
        f"<p>Seed of the evaluation: {metadata['seed']}. Seed of the run: "
        f"{metadata['config']['seed']}.</p>",
        _table(["package", "version"], versions),
        "<details><summary>Config of the run</summary>",
        f"<pre>{_escape(config)}</pre></details>",
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], num_text_columns: int = 2) -> str:
    left = ' class="left"'

    def cells(row, tag):
        return "".join(
            f"<{tag}{left if column < num_text_columns else ''}>{_escape(cell)}</{tag}>"
            for column, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    head = f"<thead><tr>{cells(header, 'th')}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _figure(figure: Any, alt: str) -> str:
    # The PNG has more pixels than CSS pixels, for screens of high resolution.
    width = round(figure.get_figwidth() * 96)
    return f"<figure>{_image(plots.as_png(figure), alt, width)}</figure>"


def _image(png: bytes, alt: str, width: int | None = None) -> str:
    data = base64.b64encode(png).decode()
    size = f' width="{width}"' if width else ""
    return f'<img alt="{_escape(alt)}"{size} src="data:image/png;base64,{data}">'


def _escape(text: Any) -> str:
    return html.escape(str(text))
