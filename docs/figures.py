"""Draws the figures of docs/mathematics.md.

python docs/figures.py

`noah_tf.head.poca` computes the numbers in them.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from noah_tf.head import poca

SIDE = 4
# One class in one group. Keys are high at the object, and values are high where they are evidence.
KEYS = ((0, 0, 1, 0), (0, 2, 3, 1), (0, 1, 2, 0), (-1, 0, 0, 0))
VALUES = ((-1, 0, 1, -1), (0, 2, 4, 1), (-2, 1, 3, 0), (-1, -1, 0, -2))

_KEY, _VALUE, _PLAIN = "#c8d9f0", "#f6d9b8", "#e6e6e6"
_NUMBERS = {"fontsize": 10, "ha": "center", "va": "center"}


def example(scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns keys, attention, values, and attention times values, each of shape (L,)."""
    keys, values = (np.asarray(rows, np.float32).ravel() for rows in (KEYS, VALUES))
    attention = poca.attention(scale * keys[None, :, None]).numpy()[0, :, 0]
    return keys, attention, values, attention * values


def head_figure() -> Figure:
    """Draws the data flow of the head."""
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.set_xlim(0, 17.2)
    axis.set_ylim(0, 7.2)
    axis.set_axis_off()

    def box(x, y, width, height, color, text, size=9):
        axis.add_patch(Rectangle((x, y), width, height, facecolor=color, edgecolor="black", lw=0.8))
        axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)

    def arrow(start, end):
        axis.add_patch(
            FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, lw=0.8, color="black")
        )

    axis.text(1.1, 6.75, "feature map", ha="center", fontsize=9)
    rows = [(4.9, _KEY, "keys"), (1.5, _VALUE, "values")]
    for y, color, name in rows:
        for group in range(2):
            box(0.2, y + 0.9 * (1 - group), 1.8, 0.9, color, f"{name}, group {group + 1}", 8)
    axis.text(1.1, 0.75, "$C$ channels at\n$L$ positions", ha="center", fontsize=8)
    for y, color, name in rows:
        arrow((2.05, y + 0.9), (3.3, y + 0.9))
        box(3.35, y + 0.35, 2.9, 1.1, _PLAIN, "1x1 projection\nof each group")
        arrow((6.3, y + 0.9), (7.0, y + 0.9))
        letter = "k" if name == "keys" else "v"
        box(7.05, y + 0.35, 1.6, 1.1, color, f"${letter}_{{lnm}}$", 12)
    arrow((8.7, 5.8), (9.4, 5.8))
    box(9.45, 5.25, 2.3, 1.1, _PLAIN, "softmax over\nthe positions")
    arrow((10.6, 5.2), (10.6, 4.35))
    axis.text(10.8, 4.75, "attention $a_{lnm}$", fontsize=9, va="center")
    box(9.75, 3.25, 1.7, 1.05, _PLAIN, r"$a_{lnm} \, v_{lnm}$", 11)
    axis.plot([8.65, 10.6], [2.4, 2.4], color="black", lw=0.8)
    arrow((10.6, 2.4), (10.6, 3.2))
    arrow((11.5, 3.78), (12.3, 3.78))
    box(12.35, 3.25, 2.6, 1.05, _PLAIN, "sum over positions\nand groups")
    arrow((15.0, 3.78), (15.7, 3.78))
    box(15.75, 3.25, 1.2, 1.05, "white", "$z_m$", 12)
    axis.text(16.35, 2.85, "logits", ha="center", va="center", fontsize=9)
    return figure


def example_figure() -> Figure:
    """Draws the example's numbers on the feature map, from keys to evidence."""
    keys, attention, values, products = example()
    panels = [
        ("keys $k$", keys, "{:.0f}", None),
        ("attention $a$", attention, "{:.2f}", attention.sum()),
        ("values $v$", values, "{:.0f}", None),
        ("evidence $a \\cdot v$", products, "{:.2f}", products.sum()),
    ]
    figure = Figure(figsize=(8.6, 2.5), layout="constrained")
    for axis, (title, numbers, form, total) in zip(figure.subplots(1, 4), panels, strict=True):
        largest = np.abs(numbers).max()
        axis.imshow(
            numbers.reshape(SIDE, SIDE), cmap="RdBu_r", vmin=-1.6 * largest, vmax=1.6 * largest
        )
        for index, number in enumerate(numbers):
            text = form.format(number).replace("-0.00", "0.00").replace("-", "−")
            axis.text(index % SIDE, index // SIDE, text, **_NUMBERS)
        axis.set_title(title, fontsize=11)
        axis.set_xticks([])
        axis.set_yticks([])
        if total is not None:
            axis.set_xlabel(f"sum {total:.2f}", fontsize=10)
    return figure


def pooling_figure() -> Figure:
    """Draws the example's logit as a function of a factor on its keys."""
    keys, _, values, _ = example()
    scales = np.linspace(0, 4, 81)
    logits = [example(scale)[3].sum() for scale in scales]
    figure = Figure(figsize=(5.6, 2.9), layout="constrained")
    axis = figure.subplots()
    axis.plot(scales, logits, color="#1f4e9c", lw=2)
    for height, label, below in (
        (values.mean(), "average of the values: a pooled linear layer", False),
        (values[keys.argmax()], "value at the highest key", True),
    ):
        axis.axhline(height, color="gray", lw=0.8, ls="--")
        shift = (0, -4 if below else 4)
        axis.annotate(
            label, (4, height), shift, textcoords="offset points", fontsize=9, ha="right",
            va="top" if below else "bottom",
        )  # fmt: skip
    axis.set_xlabel("factor on the keys")
    axis.set_ylabel("logit")
    axis.set_xlim(0, 4)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


FIGURES = {"head": head_figure, "example": example_figure, "pooling": pooling_figure}


def draw(folder: pathlib.Path) -> None:
    """Writes the figures; one version of Matplotlib always writes the same bytes."""
    with matplotlib.rc_context({"svg.hashsalt": "noah_tf", "svg.fonttype": "path"}):
        for name, make_figure in FIGURES.items():
            make_figure().savefig(folder / f"mathematics_{name}.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument(
        "--output", type=pathlib.Path, default=here, help="folder; by default docs/"
    )
    draw(parser.parse_args().output)


if __name__ == "__main__":
    main()
