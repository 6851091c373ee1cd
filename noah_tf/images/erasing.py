"""Random Erasing of training images, as a function of a seed for each image."""

import math

import tensorflow as tf

from noah_tf.utils.seeds import normal_per_example, uniform_per_example
from noah_tf.utils.validation import check_bounded, check_choice, check_range

ERASING_MODES = ("pixel", "const")
_TRIES = 10
# The purposes of random numbers, see `seeds.fold_in`.
_ERASE, _NOISE = 0x45524153, 0x4E4F4953


def random_erasing(
    images: tf.Tensor,
    seeds: tf.Tensor,
    probability: float,
    mode: str = "pixel",
    area: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
) -> tf.Tensor:
    """Replaces a random rectangle of each normalized image.

    This is Random Erasing (arXiv 1708.04896) as in timm: it draws up to ten rectangles for each
    image, and uses the first that is smaller than the image in both directions. If none is, the
    image is unchanged. The function consists of ops on whole batches, for the device that trains.

    Args:
        images: float (B, H, W, C), normalized.
        seeds: int (B, 2); an image of the result is a function of its seed.
        probability: the probability of erasing.
        mode: "pixel" fills the rectangle with independent normal noise, "const" with 0.
        area: the rectangle's share of the image, (smallest, largest), drawn uniformly.
        ratio: its height / width, (smallest, largest), drawn log-uniformly.

    Returns:
        A tensor of the shape and type of `images`.

    Raises:
        ValueError: an option is out of its range.

    Example:
        images = random_erasing(preprocessing.normalize(images), seeds, 0.25)
    """
    check_bounded("probability", probability, 1)
    check_choice("mode", mode, ERASING_MODES)
    check_range("area", area, 1)
    check_range("ratio", ratio)
    images = tf.convert_to_tensor(images)
    _, height, width, channels = images.shape
    draws = uniform_per_example(seeds, _ERASE, 4 * _TRIES + 1)
    rectangle_draws = tf.unstack(tf.reshape(draws[:, 1:], [-1, 4, _TRIES]), axis=1)
    fits, (top, left), sides = _rectangles((height, width), rectangle_draws, area, ratio)
    is_row = _is_between(top, sides[0], height)[:, :, None]
    is_column = _is_between(left, sides[1], width)[:, None, :]
    is_erased = ((draws[:, 0] < probability) & fits)[:, None, None] & is_row & is_column
    if mode == "const":
        filling = tf.zeros([], images.dtype)
    else:
        noise = normal_per_example(seeds, _NOISE, height * width * channels)
        filling = tf.cast(tf.reshape(noise, [-1, height, width, channels]), images.dtype)
    return tf.where(is_erased[..., None], filling, images)


def _rectangles(size, draws, area, ratio):
    """Returns the first of several random rectangles that is smaller than the image.

    Args:
        size: the height and the width of the images.
        draws: four tensors (B, T), uniform numbers for area, ratio, top and left of T rectangles.
        area: smallest and largest share of the image.
        ratio: smallest and largest height / width.

    Returns:
        Whether there is one (bool), its (top, left), and its (height, width), float64; each (B,).
    """
    share = size[0] * size[1] * (area[0] + draws[0] * (area[1] - area[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = tf.exp(low + draws[1] * (high - low))
    heights, widths = tf.round(tf.sqrt(share * shape)), tf.round(tf.sqrt(share / shape))
    fits = (heights < size[0]) & (widths < size[1])
    first = tf.argmax(fits, 1)  # 0 if none fits
    chosen = [tf.gather(x, first, axis=1, batch_dims=1) for x in (heights, widths, *draws[2:])]
    sides, corner_draws = chosen[:2], chosen[2:]
    corner = [
        tf.floor(draw * (length - side + 1))
        for draw, length, side in zip(corner_draws, size, sides, strict=True)
    ]
    return tf.reduce_any(fits, 1), corner, sides


def _is_between(begin, length, size):
    """Returns which of the indices 0..size-1 lie in a range, for each range: bool (B, size)."""
    indices = tf.range(size, dtype=begin.dtype)
    return (indices >= begin[:, None]) & (indices < (begin + length)[:, None])
