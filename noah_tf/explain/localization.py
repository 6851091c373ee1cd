"""Localization: whether a model's maps lie on the objects, on data sets whose boxes are known.

Maps are not enlarged. Each cell of a map stands for its part of the image, over which the value of
the cell is spread evenly.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from noah_tf.datasets import Source, naming_corrupt_examples
from noah_tf.explain.boxes import box_areas, boxes_in_view, has_boxes
from noah_tf.explain.explainer import Explainer
from noah_tf.images import Preprocessing


def localize(
    model: tf.keras.Model,
    source: Source,
    preprocessing: Preprocessing,
    methods: Sequence[str] | None = None,
    batch_size: int = 64,
) -> dict[str, float]:
    """Measures how well a model's maps of the true classes match the boxes of these classes.

    Args:
        model: a functional Keras model from images to logits.
        source: a `datasets.source.Source` whose examples have boxes, such as "digit_scenes" and
            "digit_scenes/multi".
        preprocessing: a `Preprocessing`.
        methods: which maps to measure, of `explainer.METHODS`; None for all that the model has.
        batch_size: images per batch; it does not change the result.

    Returns:
        Dict of floats: "examples", the number of boxes, without those outside the center crop;
        "chance", the mean share of the image that a box covers, which is the expected result of a
        uniform map; and for each method "METHOD_pointing", see `pointing_game`, and
        "METHOD_energy", see `energy_inside`.

    Raises:
        ValueError: the source has no boxes, the model does not have these maps, or an image cannot
            be decoded.

    Example:

    >>> localize(run.model, source, run.preprocessing)
    {'examples': 2000, 'chance': 0.1, 'attention_pointing': 0.95, 'attention_energy': 0.6, ...}
    """
    explainer = Explainer(model)
    methods = methods or explainer.methods
    names = [f"{method}_{measure}" for method in methods for measure in ("pointing", "energy")]
    sums, num_boxes = dict.fromkeys(["chance", *names], 0.0), 0
    with naming_corrupt_examples(source, preprocessing.decode):
        for images, boxes in _batches(source, preprocessing, batch_size):
            rows, classes = np.nonzero(box_areas(boxes) > 0)
            if not len(rows):
                continue
            features, _ = explainer.forward(images)
            features, boxes = tf.gather(features, rows), boxes[rows, classes]
            num_boxes += len(rows)
            sums["chance"] += box_areas(boxes).sum()
            for method in methods:
                maps = explainer.traced_maps(
                    features, tf.constant(classes[:, None]), preprocessing.image_size, method
                )[..., 0].numpy()
                sums[f"{method}_pointing"] += pointing_game(maps, boxes).sum()
                sums[f"{method}_energy"] += energy_inside(maps, boxes).sum()
    if not num_boxes:
        raise ValueError(
            f"No box of {source.name!r}, split {source.split!r}, lies within the model's center "
            "crop: choose another split."
        )
    means = {name: float(total / num_boxes) for name, total in sums.items()}
    return {"examples": num_boxes, **means}


def pointing_game(maps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Computes the pointing game: whether the center of the highest cell lies in the box.

    Args:
        maps: (E, H, W).
        boxes: (E, 4): top, left, bottom, right as shares of the image's sides.

    Returns:
        (E,): 1 for a hit and 0 for a miss. If several cells are highest, the share of them that
        hits.

    Source: arXiv 1608.00507, section 4.1, without its tolerance of 15 pixels.
    """
    maps, boxes = np.asarray(maps, np.float64), np.asarray(boxes, np.float64)
    is_inside = [
        (low[:, None] <= centers) & (centers < high[:, None])
        for low, high, centers in (
            (boxes[:, axis], boxes[:, axis + 2], (np.arange(cells) + 0.5) / cells)
            for axis, cells in enumerate(maps.shape[1:])
        )
    ]
    is_inside = is_inside[0][:, :, None] & is_inside[1][:, None, :]
    is_highest = maps == maps.max(axis=(1, 2), keepdims=True)
    return (is_highest & is_inside).sum(axis=(1, 2)) / is_highest.sum(axis=(1, 2))


def energy_inside(maps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Computes the energy-based pointing game: the share of positive values inside the box.

    Args:
        maps: (E, H, W).
        boxes: (E, 4): top, left, bottom, right as shares of the image's sides.

    Returns:
        (E,), from 0 to 1; 0 for a map without a positive value.

    Source: arXiv 1910.01279, section 4.3.
    """
    maps, boxes = np.asarray(maps, np.float64), np.asarray(boxes, np.float64)
    energy = np.maximum(maps, 0)
    covered_shares = []
    for axis, cells in enumerate(maps.shape[1:]):
        edges = np.arange(cells) / cells
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        overlap = np.minimum(high, edges + 1 / cells) - np.maximum(low, edges)
        covered_shares.append(np.maximum(overlap, 0) * cells)
    inside = np.einsum("ehw,eh,ew->e", energy, *covered_shares)
    total = energy.sum(axis=(1, 2))
    return np.divide(inside, total, out=np.zeros_like(total), where=total > 0)


def _batches(
    source: Source, preprocessing: Preprocessing, batch_size: int
) -> Iterator[tuple[tf.Tensor, np.ndarray]]:
    """Yields images (B, H, W, 3) and the box of each class (B, M, 4), see `boxes_in_view`."""

    def view(example):
        photo = preprocessing.decode(example["image"])
        boxes = boxes_in_view(example, tf.shape(photo)[:2], preprocessing, source.num_classes)
        return preprocessing.evaluation(photo), boxes

    examples = source.examples()
    if not has_boxes(examples.element_spec):
        raise ValueError(
            f"{source.name!r} has no boxes, which localization needs: use a run on data that has "
            "boxes, such as digit_scenes, or measure faithfulness."
        )
    batches = examples.map(view, tf.data.AUTOTUNE, deterministic=True).batch(batch_size)
    for images, boxes in batches.prefetch(tf.data.AUTOTUNE):
        yield images, boxes.numpy()
