"""The worst mistakes of a model, as pictures with what it looked at."""

import dataclasses

import numpy as np
import tensorflow as tf
from scipy import special

from noah_tf.evaluation import plots, scores
from noah_tf.explain.explainer import SIGNED, Explainer
from noah_tf.explain.overlays import attention_grid

_DPI = 90


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class.

    Attributes:
        where: words that help to find it.
        said: the classes that the model told, with their probability, as text.
        truth: those that it has, as text.
        loss: its loss.
        picture: bytes of a PNG: the photo, and the photo under the maps of the wrong class and of
            the true one: the attention of a NOAH head, or the class activation of a pooled one.
        panels: how many pictures that is.
    """

    where: str
    said: str
    truth: str
    loss: float
    picture: bytes
    panels: int


def worst_rows(predictions, count, threshold=0.5):
    """Which examples are wrong, those of the highest loss first.

    Args:
        predictions: `scores.Predictions`.
        count: at most so many.
        threshold: see `scores.decisions`; of an image with several classes each decision counts.

    Returns:
        int array of rows of the predictions.
    """
    if predictions.logits is None:
        wrong = ~predictions.right
    else:
        told = scores.decisions(predictions, threshold)
        wrong = (told != predictions.truth.toarray()).any(axis=1)
    rows = np.flatnonzero(wrong)
    return rows[np.argsort(-predictions.loss[rows], kind="stable")][:count]


def worst_mistakes(run, entry, count, threshold=0.5):
    """The wrong examples of the highest loss.

    Args:
        run: the `checkpoint.Run` that the entry is of.
        entry: a `sets.Entry` with predictions.
        count: at most so many.
        threshold: see `worst_rows`.

    Returns:
        List of `Mistake`, the worst first.
    """
    predictions, source = entry.predictions, entry.set.source
    rows = worst_rows(predictions, count, threshold)
    if not rows.size:
        return []
    places = [int(predictions.places[row]) for row in rows]
    found = {int(example["index"]): example["image"] for example in source.examples_at(places)}
    seen = run.preprocessing
    images = tf.stack([seen.evaluation(seen.decode(found[place])) for place in places])
    classes = np.array([_classes(predictions, row) for row in rows])
    maps, signed = _maps(run.model, images, classes)
    photos = seen.denormalize(images).numpy()
    names, mistakes = run.class_names, []
    for number, (row, place) in enumerate(zip(rows, places, strict=True)):
        wrong, true = (plots.short(names[c]) for c in classes[number])
        titles = ["photo", f"seen for {wrong}", f"seen for {true}"][: maps.shape[-1] + 1]
        figure = attention_grid(
            photos[[number]], maps[[number]], [titles], signed=[signed] * maps.shape[-1]
        )
        said, truth = _words(predictions, row, names, threshold)
        loss, picture = float(predictions.loss[row]), plots.as_png(figure, _DPI)
        mistakes.append(Mistake(source.describe(place), said, truth, loss, picture, len(titles)))
    return mistakes


def _classes(predictions, row):
    """The class that the example was most wrongly given, and the true one least seen in it."""
    true = predictions.true_classes(row)
    if predictions.logits is None:
        return predictions.predicted[row], true[0]
    logits = predictions.logits[row]
    others = np.delete(np.arange(len(logits)), true)
    wrong = others[logits[others].argmax()] if others.size else predictions.predicted[row]
    return wrong, true[logits[true].argmin()] if true.size else wrong


def _maps(model, images, classes):
    """The head's usual maps (B, H, W, 2), or (B, 1, 1, 0) of a model that has none to show.

    Also whether they can be negative.
    """
    try:
        explainer = Explainer(model)
    except ValueError:  # Neither head: the mistakes are shown without maps.
        explainer = None
    if explainer is None or not explainer.has_maps(images.shape[1:3]):
        return np.zeros((len(images), 1, 1, 0), np.float32), False
    return explainer(images, classes)[1], explainer.methods[0] in SIGNED


def _words(predictions, row, names, threshold):
    """What was said of an example, and what is so."""
    true = predictions.true_classes(row)
    if predictions.logits is None:
        said = f"{names[predictions.predicted[row]]} ({predictions.confidence[row]:.1%})"
        truth = ", ".join(names[c] for c in true)
        # Of a single true class the loss says its probability.
        return said, f"{truth} ({np.exp(-predictions.loss[row]):.2%})" if len(true) == 1 else truth
    chances = special.expit(predictions.logits[row].astype(np.float64))
    told = np.flatnonzero(chances >= threshold)
    said, truth = (
        ", ".join(f"{names[c]} ({chances[c]:.1%})" for c in classes) or "nothing"
        for classes in (told, true)
    )
    return said, truth
