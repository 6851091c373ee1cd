"""Pictures of maps over the photos that they are of."""

import textwrap

import numpy as np

_OPACITY = 0.65
_FOR, _AGAINST = (0.9, 0.1, 0.1), (0.2, 0.4, 1.0)
_GREY = (0.299, 0.587, 0.114)
_TITLE_WIDTH = 27  # letters that fit over a picture


def attention_grid(photos, maps, titles, boxes=None, signed=None):
    """Draws a grid: a row an image, first the photo, then the photo under each map.

    Every map has its own scale. Maps that may be negative lie over a grey photo, red where they are
    positive and blue where they are negative; of the others, dark is zero.

    Args:
        photos: (B, height, width, 3), uint8.
        maps: (B, H, W, K), or a list of K maps (B, H, W) whose sizes may differ.
        titles: B rows of K + 1 strings, over the photo and over each map; a line that is too long
            is cut.
        boxes: of each image (4,) or (n, 4) as ymin, xmin, ymax, xmax in shares of the image, drawn
            on the photos; or None.
        signed: for each of the K maps whether it may be negative; None for no map.

    Returns:
        A `matplotlib.figure.Figure`; `figure.savefig("grid.png")` writes it.
    """
    from matplotlib.figure import Figure

    maps = maps if isinstance(maps, (list, tuple)) else np.moveaxis(maps, -1, 0)
    signed = signed or [False] * len(maps)
    rows, columns = len(photos), len(maps) + 1
    figure = Figure(figsize=(2.1 * columns, 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, photo in enumerate(photos):
        grey = np.repeat((photo @ _GREY / 255)[..., None], 3, axis=-1)
        for column, (axis, title) in enumerate(zip(axes[row], titles[row], strict=True)):
            axis.imshow(grey if column and signed[column - 1] else photo)
            axis.set_title(_cut(title), fontsize=9)
            axis.set_axis_off()
        for box in [] if boxes is None else np.reshape(boxes[row], (-1, 4)):
            axes[row, 0].add_patch(_rectangle(box, photo.shape))
        for axis, column, negative in zip(axes[row, 1:], maps, signed, strict=True):
            _draw_map(axis, column[row], photo.shape, negative)
    if any(signed):
        figure.supxlabel("red: evidence for the class, blue: against it", fontsize=9)
    return figure


def _draw_map(axis, values, shape, negative):
    height, width = shape[:2]
    place = {
        "interpolation": "bilinear",
        "extent": (-0.5, width - 0.5, height - 0.5, -0.5),
    }
    scale = np.abs(values).max() or 1.0
    if not negative:
        axis.imshow(values, cmap="inferno", alpha=_OPACITY, vmin=0, vmax=scale, **place)
        return
    colours = np.where(values[..., None] > 0, _FOR, _AGAINST)
    axis.imshow(np.concatenate([colours, np.abs(values)[..., None] / scale], axis=-1), **place)


def _rectangle(box, shape):
    from matplotlib.patches import Rectangle

    height, width = shape[:2]
    top, left, bottom, right = box * (height, width, height, width)
    return Rectangle((left, top), right - left, bottom - top, fill=False, color="white", lw=1.5)


def _cut(title):
    return "\n".join(
        textwrap.shorten(line, _TITLE_WIDTH, placeholder="…") if len(line) > _TITLE_WIDTH else line
        for line in title.split("\n")
    )
