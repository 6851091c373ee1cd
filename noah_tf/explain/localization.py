"""Whether a model's maps lie on the objects: on data sets whose boxes are known.

Maps are not enlarged: a cell of a map stands for its part of the image, over which what it has is
spread evenly.
"""

import numpy as np
import tensorflow as tf

from noah_tf.datasets.corrupt import naming_corrupt_examples
from noah_tf.explain.boxes import areas, boxes_in_view, has_boxes
from noah_tf.explain.explainer import Explainer


def localize(model, source, preprocessing, methods=None, batch_size=64):
    """How well a model's maps of the true classes find these classes' boxes.

    Args:
        model: a functional Keras model, images to logits.
        source: a `datasets.source.Source` whose examples have boxes, such as "digit_scenes" and
            "digit_scenes/multi".
        preprocessing: a `Preprocessing`.
        methods: which maps to measure, of `explainer.METHODS`; None for all that the model has.
        batch_size: images at once; it does not change the result.

    Returns:
        Dict of floats: "examples", how many boxes there were, of which any that the centre crop
        leaves out are not measured; "chance", the mean share of the image that a box covers, which
        is what a map without a preference would get; and of each method "METHOD_pointing", see
        `pointing_game`, and "METHOD_energy", see `energy_inside`.

    Raises:
        ValueError: the source has no boxes, or the model no such maps; or a photo does not decode.

    Example:

    >>> localize(run.model, source, run.preprocessing)
    {'examples': 2000, 'chance': 0.1, 'attention_pointing': 0.95, 'attention_energy': 0.6, ...}
    """
    explainer = Explainer(model)
    methods = methods or explainer.methods
    sums, count = dict.fromkeys(_names(methods), 0.0), 0
    with naming_corrupt_examples(source):
        for images, boxes in _batches(source, preprocessing, batch_size):
            rows, classes = np.nonzero(areas(boxes) > 0)
            if not len(rows):
                continue
            features, _ = explainer.forward(images)
            features, boxes = tf.gather(features, rows), boxes[rows, classes]
            count += len(rows)
            sums["chance"] += areas(boxes).sum()
            for method in methods:
                maps = explainer.traced_maps(
                    features, tf.constant(classes[:, None]), preprocessing.image_size, method
                )[..., 0].numpy()
                sums[f"{method}_pointing"] += pointing_game(maps, boxes).sum()
                sums[f"{method}_energy"] += energy_inside(maps, boxes).sum()
    if not count:
        raise ValueError(
            f"No box of {source.name!r}, split {source.split!r}, lies within the model's centre "
            "crop: choose another split."
        )
    return {"examples": count, **{name: float(total / count) for name, total in sums.items()}}


def pointing_game(maps, boxes):
    """Whether the centre of a map's highest cell lies in the box (the pointing game).

    Args:
        maps: (E, H, W).
        boxes: (E, 4): top, left, bottom, right as shares of the image's sides.

    Returns:
        (E,): 1 for a hit and 0 for a miss; of several highest cells, the share that hits.

    Reference: arXiv 1608.00507, section 4.1, without its tolerance of 15 pixels.
    """
    maps, boxes = np.asarray(maps, np.float64), np.asarray(boxes, np.float64)
    inside = [
        (low[:, None] <= centres) & (centres < high[:, None])
        for low, high, centres in (
            (boxes[:, axis], boxes[:, axis + 2], (np.arange(cells) + 0.5) / cells)
            for axis, cells in enumerate(maps.shape[1:])
        )
    ]
    inside = inside[0][:, :, None] & inside[1][:, None, :]
    highest = maps == maps.max(axis=(1, 2), keepdims=True)
    return (highest & inside).sum(axis=(1, 2)) / highest.sum(axis=(1, 2))


def energy_inside(maps, boxes):
    """The share of a map's positive values that lies in the box (the energy-based pointing game).

    Args:
        maps: (E, H, W).
        boxes: (E, 4): top, left, bottom, right as shares of the image's sides.

    Returns:
        (E,), from 0 to 1; 0 for a map without a positive value.

    Reference: arXiv 1910.01279, section 4.3.
    """
    maps, boxes = np.asarray(maps, np.float64), np.asarray(boxes, np.float64)
    energy = np.maximum(maps, 0)
    covered = []
    for axis, cells in enumerate(maps.shape[1:]):
        edges = np.arange(cells) / cells
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        overlap = np.minimum(high, edges + 1 / cells) - np.maximum(low, edges)
        covered.append(np.maximum(overlap, 0) * cells)
    inside = np.einsum("ehw,eh,ew->e", energy, *covered)
    total = energy.sum(axis=(1, 2))
    return np.divide(inside, total, out=np.zeros_like(total), where=total > 0)


def _names(methods):
    return ["chance", *(f"{m}_{what}" for m in methods for what in ("pointing", "energy"))]


def _batches(source, preprocessing, batch_size):
    """Images (B, H, W, 3), and of each class its box (B, M, 4), zeros where it has none."""

    def view(example):
        photo = preprocessing.decode(example["image"])
        boxes = boxes_in_view(example, tf.shape(photo)[:2], preprocessing, source.num_classes)
        return preprocessing.evaluation(photo), boxes

    examples = source.examples()
    if not has_boxes(examples.element_spec):
        raise ValueError(
            f"{source.name!r} has no boxes to measure maps by: give a run on data that has, such "
            "as digit_scenes, or measure its deletion and insertion curves."
        )
    batches = examples.map(view, tf.data.AUTOTUNE, deterministic=True).batch(batch_size)
    for images, boxes in batches.prefetch(tf.data.AUTOTUNE):
        yield images, boxes.numpy()
