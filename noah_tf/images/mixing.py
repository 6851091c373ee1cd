"""Mixup and CutMix of a batch, as functions of a seed."""

import math

import tensorflow as tf

from noah_tf.utils.seeds import uniform
from noah_tf.utils.validation import check_bounded

_PURPOSE = 0x4D495831  # of the random numbers, see `seeds.fold_in`


def mix_batch(
    images: tf.Tensor,
    targets: tf.Tensor,
    seed: tf.Tensor,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    probability: float = 1.0,
    switch_probability: float = 0.5,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes the images of a batch, and their targets, with the same batch in reverse order.

    Mixup (arXiv 1710.09412) computes lambda * image + (1 - lambda) * partner. CutMix (arXiv
    1905.04899) copies a rectangle of the partner into the image, and lambda is the share of the
    image that remains. lambda is drawn from Beta(alpha, alpha). All examples of a batch share one
    lambda and one rectangle, as in timm's Mixup in the mode "batch".

    Args:
        images: float (B, H, W, C).
        targets: float (B, M), for instance one-hot.
        seed: int (2,); the result is a function of it.
        mixup: alpha of mixup; 0 turns it off.
        cutmix: alpha of CutMix; 0 turns it off.
        probability: the probability of mixing the batch.
        switch_probability: the probability of CutMix, if both are on.

    Returns:
        (images, targets) of the same shapes and types.

    Raises:
        ValueError: an option is out of its range.
        TypeError: images or targets are not floating.

    Example:
        images, targets = mix_batch(images, tf.one_hot(labels, 1000), (0, step), 0.8, 1.0)
    """
    for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
        check_bounded(name, alpha)
    for name, chance in (("probability", probability), ("switch_probability", switch_probability)):
        check_bounded(name, chance, 1)
    if not (mixup or cutmix):
        return images, targets
    images, targets = tf.convert_to_tensor(images), tf.convert_to_tensor(targets)
    for name, tensor in (("images", images), ("targets", targets)):
        if not tensor.dtype.is_floating:
            raise TypeError(f"{name} must be of a floating type, got {tensor.dtype.name}.")
    draws = uniform(seed, _PURPOSE, [6])

    def apply_cutmix():
        return _replace_box(images, _symmetric_beta(cutmix, draws[2:4]), draws[4:6])

    def apply_mixup():
        share = _symmetric_beta(mixup, draws[2:4])
        return _average_with_partners(images, share), share

    def mix_images():
        if mixup and cutmix:
            return tf.cond(draws[1] < switch_probability, apply_cutmix, apply_mixup)
        return apply_cutmix() if cutmix else apply_mixup()

    def mix():
        mixed_images, share = mix_images()
        return mixed_images, _average_with_partners(targets, share)

    if probability == 1:
        return mix()
    return tf.cond(draws[0] < probability, mix, lambda: (images, targets))


def _symmetric_beta(alpha, draws):
    """Returns a number from Beta(alpha, alpha), float64, computed from two uniform numbers.

    It draws Student's t with 2 alpha degrees of freedom by Bailey's polar method (1994), and turns
    it into the beta distribution as in Devroye, "Random variate generation in one line of code"
    (1996). The method needs no rejection, and no gamma function, which underflows at small alpha.
    """
    direction = tf.cos(2 * math.pi * draws[1])
    # For draws[0] = 0 the radius is infinite, and the result is 0 or 1, as it should be.
    radius = tf.pow(draws[0], -1.0 / alpha) - 1.0
    distance = 1.0 / tf.sqrt(1.0 + 1.0 / (radius * direction**2))
    return 0.5 + 0.5 * tf.sign(direction) * distance


def _replace_box(images, share, draws):
    """Applies CutMix; returns the images and the share of each that remains."""
    size = tf.shape(images)[1:3]
    image_size = tf.cast(size, tf.float64)
    half = tf.cast(image_size * tf.sqrt(1.0 - share), tf.int32) // 2
    center = tf.cast(draws * image_size, tf.int32)
    begin, end = tf.maximum(center - half, 0), tf.minimum(center + half, size)
    rows, columns = tf.range(size[0])[:, None, None], tf.range(size[1])[:, None]
    is_inside = (rows >= begin[0]) & (rows < end[0]) & (columns >= begin[1]) & (columns < end[1])
    box_share = tf.cast(tf.reduce_prod(end - begin), tf.float64) / (image_size[0] * image_size[1])
    return tf.where(is_inside, tf.reverse(images, [0]), images), 1.0 - box_share


def _average_with_partners(values, share):
    """Returns `share` * values + (1 - `share`) * the values in reverse order."""
    share = tf.cast(share, values.dtype)
    return values * share + tf.reverse(values, [0]) * (1 - share)
