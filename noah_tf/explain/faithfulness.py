"""Deletion and insertion curves: whether predictions depend on the positions that maps show."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from noah_tf.datasets import Source, naming_corrupt_examples, random_order
from noah_tf.explain.explainer import Explainer
from noah_tf.images import Preprocessing
from noah_tf.utils.validation import check_positive_int

CURVES = ("deletion", "insertion")
# Standard deviation of the blur that insertion starts with, as a share of the image's side. No
# class can be recognized under it.
_BLUR = 1 / 8


def faithfulness(
    model: tf.keras.Model,
    source: Source,
    preprocessing: Preprocessing,
    methods: Sequence[str] | None = None,
    count: int = 256,
    steps: int = 16,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, float]:
    """Computes the areas under the deletion and insertion curves of a model's maps.

    Args:
        model: a functional Keras model from images to logits.
        source: a `datasets.source.Source`.
        preprocessing: a `Preprocessing`. Deleted pixels get its mean color.
        methods: which maps to measure, of `explainer.METHODS`; None for all that the model has.
        count: number of images, which are drawn with the seed; all if there are fewer.
        steps: number of steps in which the pixels are deleted or inserted.
        seed: seed of the images and of the noise.
        batch_size: images per batch; it does not change the result.

    Returns:
        Dict with "examples", the number of images, and for each method and for "random", a map of
        noise, "METHOD_deletion" (lower is better) and "METHOD_insertion" (higher is better).

    Raises:
        ValueError: see `faithfulness_curves`.

    Example:

    >>> faithfulness(run.model, source, run.preprocessing)
    {'examples': 256, 'attention_deletion': 0.2, 'attention_insertion': 0.7, ...}
    """
    curves = faithfulness_curves(
        model, source, preprocessing, methods, count, steps, seed, batch_size
    )
    return {"examples": min(count, source.num_examples), **areas_under(curves)}


def faithfulness_curves(
    model: tf.keras.Model,
    source: Source,
    preprocessing: Preprocessing,
    methods: Sequence[str] | None = None,
    count: int = 256,
    steps: int = 16,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, np.ndarray]:
    """Computes the probability of the predicted class as pixels are deleted or inserted.

    Deletion replaces pixels of the image by the mean color. Insertion starts from a blurred copy
    and restores pixels of the image. Both begin with the pixels where the map is highest. The
    random baseline is a map of noise that has the same size as the other maps and is enlarged in
    the same way, so that the pixels it selects are equally contiguous.

    Args:
        model: see `faithfulness`.
        source: see `faithfulness`.
        preprocessing: see `faithfulness`.
        methods: see `faithfulness`.
        count: see `faithfulness`.
        steps: see `faithfulness`.
        seed: see `faithfulness`.
        batch_size: see `faithfulness`.

    Returns:
        Dict from "METHOD_deletion" and "METHOD_insertion", for each method and for "random", to the
        mean probabilities (steps + 1,): from a softmax, or from a sigmoid if the source is
        multi-label.

    Raises:
        ValueError: `count` or `steps` is not positive, the model does not have these maps, or an
            image cannot be decoded.

    Source: arXiv 1806.07421, section 4.2.
    """
    check_positive_int("count", count)
    check_positive_int("steps", steps)
    explainer = Explainer(model)
    methods = methods or explainer.methods
    rng = np.random.default_rng(seed)
    to_probabilities = tf.sigmoid if source.multi_label else tf.nn.softmax

    @tf.function(reduce_retracing=True, autograph=False)
    def class_probabilities(images, classes):
        probabilities = to_probabilities(model(images, training=False))
        return tf.gather(probabilities, classes, batch_dims=1)

    sums: dict[str, np.ndarray] = {}
    indices = random_order(seed, size=source.num_examples)[:count]
    images = _load_images(source, preprocessing, indices)
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
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
        for name, values in maps.items():
            ranks = _pixel_ranks(values, batch.shape[1:3])
            for curve in CURVES:
                totals = [
                    class_probabilities(_modified(batch, blurred, ranks < share, curve), classes)
                    .numpy()
                    .sum()
                    for share in np.linspace(0, 1, steps + 1)
                ]
                key = f"{name}_{curve}"
                sums[key] = sums.get(key, 0) + np.array(totals)
    return {name: total / len(images) for name, total in sums.items()}


def areas_under(curves: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Computes the area under each curve over the share of pixels, from 0 to 1."""
    from sklearn.metrics import auc

    return {
        name: float(auc(np.linspace(0, 1, len(values)), values)) for name, values in curves.items()
    }


def _load_images(source: Source, preprocessing: Preprocessing, indices: np.ndarray) -> np.ndarray:
    """Returns preprocessed images (E, H, W, 3) of the examples with these indices."""
    with naming_corrupt_examples(source, preprocessing.decode):
        return np.stack(
            [
                preprocessing.evaluation(preprocessing.decode(example["image"])).numpy()
                for example in source.examples_at(indices)
            ]
        )


def _blur(images: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    height, width = images.shape[1:3]
    return gaussian_filter(images, (0, height * _BLUR, width * _BLUR, 0), mode="nearest")


def _pixel_ranks(maps: tf.Tensor, image_size: Sequence[int]) -> np.ndarray:
    """Returns the rank of each pixel in the order of its map, in [0, 1): (B, H, W, 1)."""
    enlarged = tf.image.resize(tf.cast(maps, tf.float32)[..., None], image_size).numpy()
    descending = -enlarged.reshape(len(enlarged), -1)
    order = np.argsort(descending, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1) / descending.shape[1]
    return ranks.reshape(enlarged.shape)


def _modified(
    images: np.ndarray, blurred: np.ndarray, selected: np.ndarray, curve: str
) -> np.ndarray:
    """Returns images with 0 in the selected pixels, or blurred images with these restored."""
    if curve == "deletion":
        return np.where(selected, np.float32(0), images)
    return np.where(selected, images, blurred)
