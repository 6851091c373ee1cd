"""The figures of an evaluation's report."""

import functools
import io

import numpy as np

from noah_tf.evaluation.corruptions import STRENGTHS

# Of Okabe and Ito's colours, which colour-blind readers tell apart: one for each state of a run.
_COLOURS = {"last": "#0072B2", "ema": "#D55E00", "best": "#009E73"}
_GREY = "#888888"
MOST_CLASSES = 30  # that a matrix or a bar chart can name
_SHORT, _DPI = 18, 144
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


def _styled(draw):
    """Draws with the settings above, whatever the user's are."""

    @functools.wraps(draw)
    def styled(*arguments):
        import matplotlib

        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE}):
            return draw(*arguments)

    return styled


def short(name):
    """A class's name as a label of a figure."""
    text = name if len(name) <= _SHORT else f"{name[: _SHORT - 1]}…"
    return text.replace("$", r"\$")  # matplotlib takes what stands between two for mathematics


@_styled
def as_png(figure, dpi=_DPI):
    """Bytes of a PNG of a matplotlib figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


@_styled
def reliability(calibrations):
    """Reliability diagrams side by side, under each how many probabilities a bin holds.

    Args:
        calibrations: dict weights → `scores.Calibration`.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = _figure(3.6 * len(calibrations), 4.4)
    axes = figure.subplots(
        2, len(calibrations), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1)
    )
    for (weights, found), (upper, lower) in zip(calibrations.items(), axes.T, strict=True):
        bins = len(found.counts)
        centres, width = (np.arange(bins) + 0.5) / bins, 1 / bins
        filled = found.counts > 0
        upper.bar(
            centres[filled],
            found.accuracies[filled],
            0.92 * width,
            color=_COLOURS[weights],
            label="share that is right",
        )
        upper.plot(
            found.confidences[filled],
            found.confidences[filled],
            "o",
            color="black",
            markersize=3,
            label="mean probability",
        )
        upper.plot([0, 1], [0, 1], "--", color=_GREY, linewidth=1)
        upper.set_title(f"{weights}: ECE {found.error:.2%}")
        upper.set(xlim=(0, 1), ylim=(0, 1), xticks=(0.0, 0.5, 1.0))
        lower.bar(centres, found.counts / found.counts.sum(), 0.92 * width, color=_GREY)
        lower.set_xlabel("probability")
    axes[0, 0].set_ylabel("right")
    axes[1, 0].set_ylabel("share of all")
    _legend_above(figure, axes[0, 0])
    return figure


@_styled
def confusion_matrix(matrix, class_names):
    """A confusion matrix, each row in shares of its class; of many classes the most confused.

    Args:
        matrix: `scipy.sparse.csr_matrix` (M, M), see `scores.confusion`.
        class_names: M names.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    shown = np.arange(matrix.shape[0])
    if len(shown) > MOST_CLASSES:
        mistakes = np.asarray(matrix.sum(axis=1)).ravel() - matrix.diagonal()
        shown = np.sort(np.argsort(-mistakes, kind="stable")[:MOST_CLASSES])
    totals = np.asarray(matrix.sum(axis=1)).ravel()[shown, None]
    shares = matrix[shown][:, shown].toarray() / np.maximum(totals, 1)
    side = 2.4 + 0.27 * len(shown)
    figure = _figure(side + 0.8, side)
    axis = figure.subplots()
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [short(class_names[c]) for c in shown]
    axis.set_xticks(range(len(shown)), names, rotation=90)
    axis.set_yticks(range(len(shown)), names)
    axis.set(xlabel="predicted", ylabel="true")
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
    bar = figure.colorbar(picture, shrink=0.7, format=lambda share, _: f"{share:.0%}")
    bar.outline.set_visible(False)
    return figure


@_styled
def class_bars(values, class_names, what):
    """A score of every class: bars with names, of many classes curves from the worst to the best.

    Args:
        values: dict weights → float (M,), NaN for classes that do not occur.
        class_names: M names.
        what: the score's name.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    occurring = np.flatnonzero(np.isfinite(next(iter(values.values()))))
    if len(occurring) > MOST_CLASSES:
        figure = _figure(7.6, 3.4)
        axis = figure.subplots()
        for weights, scores in values.items():
            axis.plot(np.sort(scores[occurring]), color=_COLOURS[weights], label=weights)
        axis.set(xlabel="classes, the worst first", ylabel=what, ylim=(0, 1.02))
    else:
        figure = _figure(7.6, 1.2 + 0.22 * len(occurring) * (1 + 0.4 * (len(values) - 1)))
        axis = figure.subplots()
        height = 0.8 / len(values)
        for number, (weights, scores) in enumerate(values.items()):
            places = np.arange(len(occurring)) + (number - (len(values) - 1) / 2) * height
            colour = _COLOURS[weights]
            axis.barh(places, scores[occurring], 0.9 * height, color=colour, label=weights)
        axis.set_yticks(range(len(occurring)), [short(class_names[c]) for c in occurring])
        axis.invert_yaxis()
        axis.set(xlabel=what, xlim=(0, 1))
        axis.grid(False, axis="y")
    if len(values) > 1:
        _legend_above(figure, axis)
    return figure


@_styled
def by_strength(curves, what):
    """A score by the strength of each corruption, beginning with the set as it is.

    Args:
        curves: dict kind → dict weights → six floats, for the strengths 0 to 5.
        what: the score's name.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = _figure(max(2.2 * len(curves), 4.4), 2.9)
    axes = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
    for axis, (kind, by_weights) in zip(axes, curves.items(), strict=True):
        for weights, values in by_weights.items():
            axis.plot(
                (0, *STRENGTHS),
                values,
                "o-" if weights == "last" else "o--",  # the one below stays to be seen
                color=_COLOURS[weights],
                markersize=4,
                label=weights,
            )
        axis.set_title(kind)
        axis.set(ylim=(0, 1.02), xticks=(0, *STRENGTHS), xlabel="strength")
    axes[0].set_ylabel(what)
    if len(next(iter(curves.values()))) > 1:
        _legend_above(figure, axes[0])
    return figure


def _legend_above(figure, axis):
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)


def _figure(width, height):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
