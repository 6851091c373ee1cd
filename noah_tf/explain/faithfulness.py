"""Whether a model's decisions depend on the places that its maps show: deletion and insertion."""

import numpy as np
import tensorflow as tf

from noah_tf.datasets.corrupt import naming_corrupt_examples
from noah_tf.datasets.source import random_order
from noah_tf.explain.explainer import Explainer
from noah_tf.utils.validation import check_positive_int

CURVES = ("deletion", "insertion")
# The standard deviation of the blur that insertion begins with, as a share of the image's side:
# enough to leave no class to see.
_BLUR = 1 / 8


def faithfulness(
    model, source, preprocessing, methods=None, count=256, steps=16, seed=0, batch_size=64
):
    """The areas under the deletion and insertion curves of a model's maps.

    Args:
        model: a functional Keras model, images to logits.
        source: a `datasets.source.Source`.
        preprocessing: a `Preprocessing`. Deleted pixels get its mean colour.
        methods: which maps to measure, of `explainer.METHODS`; None for all that the model has.
        count: how many images, drawn by the seed; all, if there are fewer.
        steps: in how many steps the pixels go.
        seed: of the images, and of the noise.
        batch_size: images at once; it does not change the result.

    Returns:
        Dict of floats: "examples", and "METHOD_deletion" (less is better) and "METHOD_insertion"
        (more is better) of each method and of "random", a map of noise.

    Raises:
        ValueError: as `faithfulness_curves`.

    Example:

    >>> faithfulness(run.model, source, run.preprocessing)
    {'examples': 256, 'attention_deletion': 0.2, 'attention_insertion': 0.7, ...}
    """
    curves = faithfulness_curves(
        model, source, preprocessing, methods, count, steps, seed, batch_size
    )
    return {"examples": min(count, source.num_examples), **areas_under(curves)}


def faithfulness_curves(
    model, source, preprocessing, methods=None, count=256, steps=16, seed=0, batch_size=64
):
    """The predicted class's score while pixels are taken from an image, or given to a blurred one.

    Pixels go in the order of a map, the highest first. The random baseline is a map of noise of the
    same size, enlarged as the others are, so that what it deletes hangs together as much.

    Args:
        model, source, preprocessing, methods, count, steps, seed, batch_size: as of `faithfulness`.

    Returns:
        Dict "METHOD_deletion" and "METHOD_insertion", of each method and of "random", to the mean
        scores (steps + 1,): probabilities from softmax, or from sigmoid where the source has
        several labels.

    Raises:
        ValueError: `count` or `steps` is not positive, the model has no such maps, or a photo does
            not decode.

    Reference: arXiv 1806.07421, section 4.2.
    """
    check_positive_int("count", count)
    check_positive_int("steps", steps)
    explainer = Explainer(model)
    methods = methods or explainer.methods
    rng = np.random.default_rng(seed)
    to_scores = tf.sigmoid if source.multi_label else tf.nn.softmax

    @tf.function(reduce_retracing=True, autograph=False)
    def scores(images, classes):
        return tf.gather(to_scores(model(images, training=False)), classes, batch_dims=1)

    sums = {}
    images = _images(source, preprocessing, random_order(seed, size=source.num_examples)[:count])
    for first in range(0, len(images), batch_size):
        batch = images[first : first + batch_size]
        features, logits = explainer.forward(batch)
        classes = tf.argmax(logits, axis=-1)
        blurred = _blur(batch)
        maps = {
            method: explainer.traced_maps(
                features, classes[:, None], preprocessing.image_size, method
            )[..., 0]
            for method in methods
        }
        maps["random"] = rng.random(maps[methods[0]].shape, np.float32)
        for name, found in maps.items():
            ranks = _ranks(found, batch.shape[1:3])
            for curve in CURVES:
                values = [
                    scores(_mixed(batch, blurred, ranks < share, curve), classes).numpy().sum()
                    for share in np.linspace(0, 1, steps + 1)
                ]
                sums[f"{name}_{curve}"] = sums.get(f"{name}_{curve}", 0) + np.array(values)
    return {name: total / len(images) for name, total in sums.items()}


def areas_under(curves):
    """The area under each of some curves over the share of pixels, a dict of floats."""
    from sklearn.metrics import auc

    return {name: float(auc(np.linspace(0, 1, len(ys)), ys)) for name, ys in curves.items()}


def _images(source, preprocessing, places):
    """Images at some places of a source's natural order, (E, H, W, 3)."""
    with naming_corrupt_examples(source):
        return np.stack(
            [
                preprocessing.evaluation(preprocessing.decode(example["image"])).numpy()
                for example in source.examples_at(places)
            ]
        )


def _blur(images):
    from scipy.ndimage import gaussian_filter

    height, width = images.shape[1:3]
    return gaussian_filter(images, (0, height * _BLUR, width * _BLUR, 0), mode="nearest")


def _ranks(maps, image_size):
    """The place of each pixel in the order of its map, from 0 to below 1: (B, H, W, 1)."""
    enlarged = tf.image.resize(tf.cast(maps, tf.float32)[..., None], image_size).numpy()
    flat = -enlarged.reshape(len(enlarged), -1)
    ranks = np.argsort(np.argsort(flat, axis=1, kind="stable"), axis=1) / flat.shape[1]
    return ranks.reshape(enlarged.shape)


def _mixed(images, blurred, chosen, curve):
    """Images without the chosen pixels, or blurred images with them."""
    if curve == "deletion":
        return np.where(chosen, np.float32(0), images)
    return np.where(chosen, images, blurred)
