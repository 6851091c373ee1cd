"""The most confident mistakes of a model, as images with the maps of its head."""

import numpy as np
import tensorflow as tf
from scipy import special

from noah_tf.evaluation import plots, scores
from noah_tf.evaluation.results import Mistake, SetResult
from noah_tf.explain import METHOD_TITLES, SIGNED, Explainer, attention_grid
from noah_tf.runs import Run

_DPI = 90


def mistake_rows(predictions: scores.Predictions, count: int, threshold: float = 0.5) -> np.ndarray:
    """Returns the misclassified examples with the highest loss.

    Args:
        predictions: `scores.Predictions`.
        count: the maximum number of examples.
        threshold: the lowest probability at which a multi-label model predicts a class. An example
            is misclassified if any of its classes is.

    Returns:
        int array of rows of the predictions, the highest loss first.
    """
    if predictions.logits is None:
        is_wrong = ~predictions.correct
    else:
        predicted = scores.predicted_labels(predictions, threshold)
        is_wrong = (predicted != predictions.truth.toarray()).any(axis=1)
    rows = np.flatnonzero(is_wrong)
    return rows[np.argsort(-predictions.loss[rows], kind="stable")][:count]


def most_confident_mistakes(
    run: Run, result: SetResult, count: int, threshold: float = 0.5
) -> list[Mistake]:
    """Returns the misclassified examples with the highest loss, with their images.

    Args:
        run: the `checkpoint.Run` that was evaluated.
        result: its `results.SetResult` with predictions.
        count: the maximum number of examples.
        threshold: see `mistake_rows`.

    Returns:
        List of `Mistake`, the highest loss first.
    """
    predictions, source = result.predictions, result.set.source
    rows = mistake_rows(predictions, count, threshold)
    if not rows.size:
        return []
    indices = [int(predictions.indices[row]) for row in rows]
    encoded = {int(example["index"]): example["image"] for example in source.examples_at(indices)}
    preprocessing, class_names = run.preprocessing, run.class_names
    images = tf.stack(
        [preprocessing.evaluation(preprocessing.decode(encoded[index])) for index in indices]
    )
    classes = np.array([_wrong_and_true_class(predictions, row) for row in rows])
    maps, method = _maps(run.model, images, classes)
    photos = preprocessing.denormalize(images).numpy()
    mistakes = []
    for i, (row, index) in enumerate(zip(rows, indices, strict=True)):
        titles = ["image"]
        if method:
            labels = [plots.short_label(class_names[c]) for c in classes[i]]
            titles += [f"{METHOD_TITLES[method]}: {label}" for label in labels]
        signed = [method in SIGNED] * maps.shape[-1]
        figure = attention_grid(photos[[i]], maps[[i]], [titles], signed=signed)
        predicted, truth = _class_texts(predictions, row, class_names, threshold)
        mistakes.append(
            Mistake(
                description=source.describe(index),
                predicted=predicted,
                truth=truth,
                loss=float(predictions.loss[row]),
                png=plots.as_png(figure, _DPI),
                num_panels=len(titles),
            )
        )
    return mistakes


def _wrong_and_true_class(predictions: scores.Predictions, row: int) -> tuple[int, int]:
    """Returns the wrong class with the highest logit and the true class with the lowest.

    If the example has no true class, or no wrong one, the other is returned twice.
    """
    true = predictions.true_classes(row)
    if predictions.logits is None:
        return predictions.predicted[row], true[0]
    logits = predictions.logits[row]
    others = np.delete(np.arange(len(logits)), true)
    wrong = others[logits[others].argmax()] if others.size else predictions.predicted[row]
    return wrong, true[logits[true].argmin()] if true.size else wrong


def _maps(
    model: tf.keras.Model, images: tf.Tensor, classes: np.ndarray
) -> tuple[np.ndarray, str | None]:
    """Returns the maps (B, H, W, 2) of the head's default method, and the name of the method.

    A model whose head has no maps gets an array (B, 1, 1, 0) and None.
    """
    try:
        explainer = Explainer(model)
    except ValueError:  # The model has neither head.
        explainer = None
    if explainer is None or not explainer.has_maps(images.shape[1:3]):
        return np.zeros((len(images), 1, 1, 0), np.float32), None
    return explainer(images, classes)[1], explainer.methods[0]


def _class_texts(
    predictions: scores.Predictions, row: int, class_names: tuple[str, ...], threshold: float
) -> tuple[str, str]:
    """Returns the predicted and the true classes of an example as text, with probabilities."""
    true = predictions.true_classes(row)
    if predictions.logits is None:
        predicted = class_names[predictions.predicted[row]]
        predicted_text = f"{predicted} ({predictions.confidence[row]:.1%})"
        truth_text = ", ".join(class_names[c] for c in true)
        if len(true) == 1:  # The loss is then -log(probability of the true class).
            truth_text += f" ({np.exp(-predictions.loss[row]):.2%})"
        return predicted_text, truth_text
    probabilities = special.expit(predictions.logits[row].astype(np.float64))
    predicted_text, truth_text = (
        ", ".join(f"{class_names[c]} ({probabilities[c]:.1%})" for c in classes) or "no class"
        for classes in (np.flatnonzero(probabilities >= threshold), true)
    )
    return predicted_text, truth_text
