"""Corrupted copies of an evaluation set: noise, blur, contrast and JPEG at five strengths.

The kinds and their strengths are those of ImageNet-C and CIFAR-10-C (arXiv 1903.12261) that
TensorFlow has the operations for. What is done to a picture depends on the seed and on its place in
the set alone, so that all models see the same pictures.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from noah_tf.images.pil_ops import to_uint8

STRENGTHS = (1, 2, 3, 4, 5)
# What the benchmarks use for pictures whose short side has so many pixels.
_SIDES = (32, 224)
_VALUES = {
    # The standard deviation that is added, where white is 1.
    "noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    # The standard deviation of the Gaussian, in pixels.
    "blur": ((0.4, 0.6, 0.7, 0.8, 1.0), (1.0, 2.0, 3.0, 4.0, 6.0)),
    # How much is left of the difference from the picture's mean colour.
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    # The quality that it is saved with.
    "jpeg": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
KINDS = tuple(_VALUES)
_REACH = 4  # standard deviations of a blur; what lies beyond is less than 1e-4 of it


@dataclasses.dataclass(frozen=True)
class Corruption:
    """One kind of damage at one strength: a function of a picture and its place in the set.

    Args:
        kind: "noise" (Gaussian), "blur" (Gaussian), "contrast" (less of it) or "jpeg".
        strength: 1 to 5.
        seed: int; noise is a function of it and of the picture's place.

    Raises:
        ValueError: there is no such kind or strength.

    Example:

    >>> Corruption("blur", 3)(image, place=0)
    """

    kind: str
    strength: int
    seed: int = 0

    def __post_init__(self):
        """Refuses what there is not."""
        if self.kind not in KINDS:
            raise ValueError(f"A corruption is one of {', '.join(KINDS)}; received {self.kind!r}.")
        if self.strength not in STRENGTHS:
            raise ValueError(f"The strength must be 1 to 5; received {self.strength!r}.")

    def value(self, side):
        """The benchmarks' value for this strength, between them in proportion to the side.

        Args:
            side: the picture's short side in pixels; outside of 32..224 the nearer end counts.

        Returns:
            Float, see the table above.
        """
        ends = [row[self.strength - 1] for row in _VALUES[self.kind]]
        return float(np.interp(side, _SIDES, ends))

    def __call__(self, image, place):
        """Damages a picture.

        Args:
            image: uint8 (H, W, 3), of a known shape: what evaluation sees of a photo.
            place: int scalar, its place in the set.

        Returns:
            uint8 (H, W, 3).
        """
        value = self.value(min(image.shape[:2]))
        if self.kind == "jpeg":
            encoded = tf.io.encode_jpeg(image, quality=round(value))
            return tf.ensure_shape(tf.io.decode_jpeg(encoded, channels=3), image.shape)
        pixels = tf.cast(image, tf.float32)
        if self.kind == "noise":
            seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(place, tf.int64)])
            # The same draws at every strength.
            noise = tf.random.stateless_normal(image.shape, seed)
            return to_uint8(pixels + 255 * value * noise)
        if self.kind == "blur":
            return to_uint8(_blur(pixels, value))
        mean = tf.reduce_mean(pixels, axis=(0, 1))
        return to_uint8(mean + value * (pixels - mean))


def named_corruptions(names, seed=0):
    """All strengths of some kinds.

    Args:
        names: kinds, or "all" among them.
        seed: int, see `Corruption`.

    Returns:
        List of `Corruption`, kind by kind.

    Raises:
        ValueError: there is no such kind.
    """
    kinds = KINDS if "all" in names else tuple(dict.fromkeys(names))
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(
                f"There is no corruption {kind!r}: give some of {', '.join(KINDS)}, or all."
            )
    return [Corruption(kind, strength, seed) for kind in kinds for strength in STRENGTHS]


def _blur(pixels, sigma):
    """Gaussian blur of (H, W, 3), the border mirrored."""
    # Channels as a batch, so that one small kernel serves them.
    planes = tf.transpose(pixels, (2, 0, 1))[..., None]
    for axis in (1, 2):
        # More than the picture is wide cannot be mirrored.
        reach = min(int(np.ceil(_REACH * sigma)), planes.shape[axis])
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        shape = (-1, 1, 1, 1) if axis == 1 else (1, -1, 1, 1)
        kernel = tf.constant((weights / weights.sum()).reshape(shape), tf.float32)
        padding = [[reach, reach] if a == axis else [0, 0] for a in range(4)]
        planes = tf.nn.conv2d(tf.pad(planes, padding, "SYMMETRIC"), kernel, 1, "VALID")
    return tf.transpose(planes[..., 0], (1, 2, 0))
