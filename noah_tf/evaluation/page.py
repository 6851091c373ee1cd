"""The report of an evaluation as one HTML page that needs nothing else."""

import base64
import datetime
import html
import json

from noah_tf.evaluation import plots, scores, tables
from noah_tf.evaluation.metrics import primary_metric

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


def page(evaluation):
    """The report.

    Args:
        evaluation: a `report.Evaluation`.

    Returns:
        HTML; pictures and style are in it, and it refers to nothing outside.
    """
    about = evaluation.about
    title = f"Evaluation of {about['workdir']}"
    parts = [
        f"<h1>{_escape(title)}</h1>",
        f'<p class="note">{_escape(_summary(evaluation))}</p>',
        "<h2>Scores</h2>",
        _table(*tables.score_rows(evaluation.entries)),
        f'<p class="note">{_escape(_legend(evaluation))}</p>',
        *_corrupted(evaluation),
    ]
    for named_set in evaluation.sets:
        parts += _of_set(evaluation, named_set)
    parts += _how(about)
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n"
        "</body>\n</html>\n"
    )


def _summary(evaluation):
    about = evaluation.about
    steps = ", ".join(f"{weights} after {step:,} steps" for weights, step in about["steps"].items())
    created = datetime.datetime.fromisoformat(about["created"])
    return (
        f"{about['model']}, {about['parameters']:,} parameters, {len(evaluation.class_names):,} "
        f"classes. Weights: {steps}. Made on {created:%Y-%m-%d, %H:%M} UTC."
    )


def _legend(evaluation):
    several = evaluation.multi_label
    texts = {
        "loss": "the mean binary cross-entropy" if several else "the mean cross-entropy",
        "class_accuracy": "the mean over the classes of the share that is right",
        "mAP": "the mean over the classes of average precision",
        "CF1": f"and OF1: F1 of the classes' means and of all decisions, at a probability of "
        f"{evaluation.threshold:g}",
        "CF1_top3": "and OF1_top3: the same with the three most probable classes of each image",
        "exact": "the share of images whose classes are all right",
        "ece": f"expected calibration error, {scores.BINS} bins",
        "unlabelled": "images without a label, left out",
        "skipped": "photos that do not decode, left out",
    }
    found = {name for entry in evaluation.entries for name in entry.scores}
    text = "; ".join(f"{name}: {what}" for name, what in texts.items() if name in found)
    return f"{text}. Every example counts once."


def _corrupted(evaluation):
    header, rows = tables.corruption_rows(evaluation.entries)
    if not rows:
        return []
    corrupted = next(e for e in evaluation.entries if e.corruption)
    metric = primary_metric(corrupted.scores)
    figure = plots.by_strength(tables.corruption_curves(evaluation.entries), metric)
    return [
        f"<h2>{_escape(corrupted.set.name)}, corrupted</h2>",
        f'<p class="note">{metric} by strength; 0 is the set as it is. Noise, blur, contrast and '
        "JPEG as in ImageNet-C and CIFAR-10-C (arXiv 1903.12261), between their values by the "
        "picture's size.</p>",
        _figure(figure, f"{metric} by corruption and strength"),
        _table(header, rows),
    ]


def _of_set(evaluation, named_set):
    entries = {
        entry.weights: entry
        for entry in evaluation.entries
        if entry.set == named_set and entry.corruption is None
    }
    names, predictions = evaluation.class_names, {w: e.predictions for w, e in entries.items()}
    calibrations = {w: scores.calibration(found) for w, found in predictions.items()}
    what = "Every class's" if evaluation.multi_label else "The predicted class's"
    parts = [
        f"<h2>{_escape(named_set.name)}</h2>",
        "<h3>Is the probability to be trusted?</h3>",
        f'<p class="note">{what} probability, and the share that is right. Bars below the line: '
        "too sure; above it: not sure enough.</p>",
        _figure(plots.reliability(calibrations), f"Reliability diagram of {named_set.name}"),
        "<h3>Classes</h3>",
    ]
    if evaluation.multi_label:
        values = {
            w: scores.class_scores(found, evaluation.threshold).average_precision
            for w, found in predictions.items()
        }
        parts.append(
            _figure(
                plots.class_bars(values, names, "average precision"), "Average precision of classes"
            )
        )
    else:
        matrices = {w: scores.confusion(found) for w, found in predictions.items()}
        values = {w: scores.class_accuracies(matrix) for w, matrix in matrices.items()}
        parts.append(_figure(plots.class_bars(values, names, "accuracy"), "Accuracy of classes"))
        parts += _confusions(matrices, names)
    return parts + _mistakes(evaluation, named_set)


def _confusions(matrices, names):
    weights, matrix = list(matrices.items())[-1]
    some = f" of the {plots.MOST_CLASSES} classes with most mistakes"
    parts = [
        f"<h3>What was taken for what (weights: {_escape(weights)})</h3>",
        f'<p class="note">Percent of each class{some if len(names) > plots.MOST_CLASSES else ""}; '
        "all of it, of all weights, is in confusion.csv.</p>",
        _figure(plots.confusion_matrix(matrix, names), "Confusion matrix"),
    ]
    header, rows = tables.most_confused(matrix, names)
    return [*parts, _table(header, rows)] if rows else parts


def _mistakes(evaluation, named_set):
    found = evaluation.mistakes.get(named_set.name)
    if not found:
        return []
    weights = evaluation.entries[-1].weights
    cards = []
    for mistake in found:
        caption = (
            f"said <b>{_escape(mistake.said)}</b>, is <b>{_escape(mistake.truth)}</b>; loss "
            f'{mistake.loss:.2f}<br><span class="note">{_escape(mistake.where)}</span>'
        )
        image = _image(mistake.picture, f"said {mistake.said}, is {mistake.truth}")
        cards.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    width = 4 + 7 * found[0].panels
    maps = "; and where it saw the class that is wrong and the one that is true"
    return [
        f"<h3>The worst mistakes (weights: {_escape(weights)})</h3>",
        '<p class="note">Those of the highest loss, as the model saw them'
        f"{maps if found[0].panels > 1 else ''}.</p>",
        f'<div class="mistakes" style="--card: {width}rem">{"".join(cards)}</div>',
    ]


def _how(about):
    versions = [[name, version] for name, version in about["versions"].items()]
    config = json.dumps(about["config"], indent=2, sort_keys=True)
    return [
        "<h2>How it was made</h2>",
        f"<pre>{_escape(about['command'])}</pre>" if about["command"] else "",
        f"<p>Seed of the evaluation: {about['seed']}; of the run: {about['config']['seed']}.</p>",
        _table(["package", "version"], versions),
        "<details><summary>The run's config</summary>",
        f"<pre>{_escape(config)}</pre></details>",
    ]


def _table(header, rows, texts=2):
    left = ' class="left"'

    def cells(row, tag):
        return "".join(
            f"<{tag}{left if place < texts else ''}>{_escape(cell)}</{tag}>"
            for place, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    head = f"<thead><tr>{cells(header, 'th')}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _figure(figure, words):
    # Drawn finer than shown, for screens with small pixels.
    width = round(figure.get_figwidth() * 96)
    return f"<figure>{_image(plots.as_png(figure), words, width)}</figure>"


def _image(png, words, width=None):
    data = base64.b64encode(png).decode()
    size = f' width="{width}"' if width else ""
    return f'<img alt="{_escape(words)}"{size} src="data:image/png;base64,{data}">'


def _escape(text):
    return html.escape(str(text))
