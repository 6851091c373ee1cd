"""The figures of an evaluation's report."""

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from noah_tf.evaluation.corruptions import SEVERITIES
from noah_tf.evaluation.scores import Calibration

# Colors of Okabe and Ito, which color-blind readers can distinguish: one for each of the weights.
_COLORS = {"last": "#0072B2", "ema": "#D55E00", "best": "#009E73"}
_GRAY = "#888888"
MAX_NAMED_CLASSES = 30  # a figure of more classes cannot show their names
_MAX_LABEL_LENGTH, _DPI = 18, 144
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
}


def _styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function draw with the settings above instead of the user's."""

    @functools.wraps(draw)
    def styled(*arguments):
        import matplotlib

        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE}):
            return draw(*arguments)

    return styled


def short_label(name: str) -> str:
    """Returns a class's name as a label of a figure, shortened if it is long."""
    is_short = len(name) <= _MAX_LABEL_LENGTH
    text = name if is_short else f"{name[: _MAX_LABEL_LENGTH - 1]}…"
    return text.replace("$", r"\$")  # matplotlib would typeset text between two $ as mathematics


@_styled
def as_png(figure: Any, dpi: int = _DPI) -> bytes:
    """Returns a matplotlib figure as the bytes of a PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


@_styled
def reliability_diagram(calibrations: Mapping[str, Calibration]) -> Any:
    """Draws reliability diagrams side by side, each above the histogram of its probabilities.

    Args:
        calibrations: dict from weights to `scores.Calibration`.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = _new_figure(3.6 * len(calibrations), 4.4)
    axes = figure.subplots(
        2, len(calibrations), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1)
    )
    for (weights, calibration), (upper, lower) in zip(calibrations.items(), axes.T, strict=True):
        bins = len(calibration.counts)
        centers, width = (np.arange(bins) + 0.5) / bins, 1 / bins
        is_filled = calibration.counts > 0
        upper.bar(
            centers[is_filled],
            calibration.accuracies[is_filled],
            0.92 * width,
            color=_COLORS[weights],
            label="accuracy",
        )
        upper.plot(
            calibration.confidences[is_filled],
            calibration.confidences[is_filled],
            "o",
            color="black",
            markersize=3,
            label="mean predicted probability",
        )
        upper.plot([0, 1], [0, 1], "--", color=_GRAY, linewidth=1)
        upper.set_title(f"{weights}: ECE {calibration.error:.2%}")
        upper.set(xlim=(0, 1), ylim=(0, 1), xticks=(0.0, 0.5, 1.0))
        shares = calibration.counts / calibration.counts.sum()
        lower.bar(centers, shares, 0.92 * width, color=_GRAY)
        lower.set_xlabel("predicted probability")
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("frequency")
    _add_legend(figure, axes[0, 0])
    return figure


@_styled
def confusion_matrix(matrix: sparse.csr_matrix, class_names: Sequence[str]) -> Any:
    """Draws a confusion matrix in percent of each true class.

    If there are more than `MAX_NAMED_CLASSES` classes, those with the most errors are shown.

    Args:
        matrix: `scipy.sparse.csr_matrix` (M, M), see `scores.confusion`.
        class_names: M names.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    classes = np.arange(matrix.shape[0])
    if len(classes) > MAX_NAMED_CLASSES:
        num_errors = np.asarray(matrix.sum(axis=1)).ravel() - matrix.diagonal()
        classes = np.sort(np.argsort(-num_errors, kind="stable")[:MAX_NAMED_CLASSES])
    totals = np.asarray(matrix.sum(axis=1)).ravel()[classes, None]
    shares = matrix[classes][:, classes].toarray() / np.maximum(totals, 1)
    side = 2.4 + 0.27 * len(classes)
    figure = _new_figure(side + 0.8, side)
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [short_label(class_names[c]) for c in classes]
    axis.set_xticks(range(len(classes)), labels, rotation=90)
    axis.set_yticks(range(len(classes)), labels)
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.grid(False)
    for row, column in zip(*np.nonzero(shares >= 0.01), strict=True):
        share = shares[row, column]
        axis.text(
            column,
            row,
            f"{100 * share:.0f}",
            ha="center",
            va="center",
            fontsize=6.5,
            color="white" if share > 0.5 else "black",
        )
    bar = figure.colorbar(image, shrink=0.7, format=lambda share, _: f"{share:.0%}")
    bar.outline.set_visible(False)
    return figure


@_styled
def class_scores(scores: Mapping[str, np.ndarray], class_names: Sequence[str], metric: str) -> Any:
    """Draws a score of every class as bars.

    If there are more than `MAX_NAMED_CLASSES` classes, the sorted scores are drawn as a curve.

    Args:
        scores: dict from weights to float (M,), NaN for classes that do not occur.
        class_names: M names.
        metric: the name of the score.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    occurring = np.flatnonzero(np.isfinite(next(iter(scores.values())))).tolist()
    if len(occurring) > MAX_NAMED_CLASSES:
        figure = _new_figure(7.6, 3.4)
        axis = figure.subplots()
        for weights, values in scores.items():
            axis.plot(np.sort(values[occurring]), color=_COLORS[weights], label=weights)
        axis.set(xlabel=f"classes, sorted by {metric}", ylabel=metric, ylim=(0, 1.02))
    else:
        figure = _new_figure(7.6, 1.2 + 0.22 * len(occurring) * (1 + 0.4 * (len(scores) - 1)))
        axis = figure.subplots()
        height = 0.8 / len(scores)
        for number, (weights, values) in enumerate(scores.items()):
            offsets = np.arange(len(occurring)) + (number - (len(scores) - 1) / 2) * height
            color = _COLORS[weights]
            axis.barh(offsets, values[occurring], 0.9 * height, color=color, label=weights)
        labels = [short_label(class_names[c]) for c in occurring]
        axis.set_yticks(range(len(occurring)), labels)
        axis.invert_yaxis()
        axis.set(xlabel=metric, xlim=(0, 1))
        axis.grid(False, axis="y")
    if len(scores) > 1:
        _add_legend(figure, axis)
    return figure


@_styled
def severity_curves(scores: Mapping[str, Mapping[str, Sequence[float]]], metric: str) -> Any:
    """Draws a score by the severity of each kind of corruption.

    Args:
        scores: dict from the kind of corruption to a dict from weights to six floats, for the
            severities 0 (no corruption) to 5.
        metric: the name of the score.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = _new_figure(max(2.2 * len(scores), 4.4), 2.9)
    axes = figure.subplots(1, len(scores), squeeze=False, sharey=True)[0]
    for axis, (kind, by_weights) in zip(axes, scores.items(), strict=True):
        for weights, values in by_weights.items():
            axis.plot(
                (0, *SEVERITIES),
                values,
                "o-" if weights == "last" else "o--",  # dashes leave the line below visible
                color=_COLORS[weights],
                markersize=4,
                label=weights,
            )
        axis.set_title(kind)
        axis.set(ylim=(0, 1.02), xticks=(0, *SEVERITIES), xlabel="severity")
    axes[0].set_ylabel(metric)
    if len(next(iter(scores.values()))) > 1:
        _add_legend(figure, axes[0])
    return figure


def _add_legend(figure: Any, axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)


def _new_figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
