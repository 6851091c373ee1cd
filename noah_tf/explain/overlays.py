"""Draws maps over the photos that they belong to."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

_OPACITY = 0.65
_POSITIVE_COLOR, _NEGATIVE_COLOR = (0.9, 0.1, 0.1), (0.2, 0.4, 1.0)
_LUMA_WEIGHTS = (0.299, 0.587, 0.114)
_MAX_TITLE_LENGTH = 27  # characters that fit over an image


def attention_grid(
    photos: np.ndarray,
    maps: Any,
    titles: Sequence[Sequence[str]],
    boxes: Sequence[np.ndarray] | None = None,
    signed: Sequence[bool] | None = None,
) -> Any:
    """Draws a grid with one row per image: the photo, and the photo under each of its maps.

    Every map is scaled by its own largest absolute value. Unsigned maps are dark where they are
    zero. Signed maps lie over a gray photo, red where they are positive and blue where they are
    negative.

    Args:
        photos: uint8 (B, height, width, 3), or with a fourth channel, which is not shown.
        maps: (B, H, W, K), or a list of K maps (B, H, W) whose sizes may differ.
        titles: for each image, K + 1 strings over the photo and its maps. Lines that are too long
            are cut.
        boxes: for each image, a box (4,) or boxes (n, 4) as ymin, xmin, ymax, xmax in shares of
            the image's sides, which are drawn on the photo; or None.
        signed: for each of the K maps, whether it may be negative; None if no map may be.

    Returns:
        A `matplotlib.figure.Figure`; `figure.savefig("grid.png")` writes it.
    """
    from matplotlib.figure import Figure

    maps = maps if isinstance(maps, (list, tuple)) else np.moveaxis(maps, -1, 0)
    signed = signed or [False] * len(maps)
    photos = np.asarray(photos)[..., :3]
    rows, columns = len(photos), len(maps) + 1
    figure = Figure(figsize=(2.1 * columns, 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, photo in enumerate(photos):
        gray = np.repeat((photo @ _LUMA_WEIGHTS / 255)[..., None], 3, axis=-1)
        for column, (axis, title) in enumerate(zip(axes[row], titles[row], strict=True)):
            axis.imshow(gray if column and signed[column - 1] else photo)
            axis.set_title(_shorten_lines(title), fontsize=9)
            axis.set_axis_off()
        for box in [] if boxes is None else np.reshape(boxes[row], (-1, 4)):
            axes[row, 0].add_patch(_rectangle(box, photo.shape))
        for axis, values, is_signed in zip(axes[row, 1:], maps, signed, strict=True):
            _draw_map(axis, values[row], photo.shape, is_signed)
    if any(signed):
        figure.supxlabel("red: evidence for the class, blue: evidence against it", fontsize=9)
    return figure


def _draw_map(axis: Any, values: np.ndarray, photo_shape: Sequence[int], is_signed: bool) -> None:
    height, width = photo_shape[:2]
    options = {
        "interpolation": "bilinear",
        "extent": (-0.5, width - 0.5, height - 0.5, -0.5),
    }
    scale = np.abs(values).max() or 1.0
    if not is_signed:
        axis.imshow(values, cmap="inferno", alpha=_OPACITY, vmin=0, vmax=scale, **options)
        return
    colors = np.where(values[..., None] > 0, _POSITIVE_COLOR, _NEGATIVE_COLOR)
    opacity = np.abs(values)[..., None] / scale
    axis.imshow(np.concatenate([colors, opacity], axis=-1), **options)


def _rectangle(box: np.ndarray, photo_shape: Sequence[int]) -> Any:
    from matplotlib.patches import Rectangle

    height, width = photo_shape[:2]
    top, left, bottom, right = box * (height, width, height, width)
    return Rectangle((left, top), right - left, bottom - top, fill=False, color="white", lw=1.5)


def _shorten_lines(title: str) -> str:
    return "\n".join(
        textwrap.shorten(line, _MAX_TITLE_LENGTH, placeholder="…")
        if len(line) > _MAX_TITLE_LENGTH
        else line
        for line in title.split("\n")
    )
