"""Corrupts the images of an evaluation set: noise, blur, contrast and JPEG at five severities.

The kinds and severities are those of ImageNet-C and CIFAR-10-C (arXiv 1903.12261) for which
TensorFlow has the operations. The corruption of an image depends only on the seed and on the index
of the example in the set, so every model sees the same images.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from noah_tf.images import to_uint8
from noah_tf.utils.validation import check_choice

SEVERITIES = (1, 2, 3, 4, 5)
# The values of CIFAR-10-C and ImageNet-C belong to images whose shorter side has so many pixels.
_SIDES = (32, 224)
_VALUES = {
    # Standard deviation of the added noise, where white is 1.
    "noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    # Standard deviation of the Gaussian kernel, in pixels.
    "blur": ((0.4, 0.6, 0.7, 0.8, 1.0), (1.0, 2.0, 3.0, 4.0, 6.0)),
    # Factor of the difference from the mean color of the image.
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    # JPEG quality.
    "jpeg": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
KINDS = tuple(_VALUES)
_BLUR_RADIUS = 4  # standard deviations; the kernel's weight beyond them is less than 1e-4


@dataclasses.dataclass(frozen=True)
class Corruption:
    """One kind of corruption at one severity: a function of an image and its index in the set.

    Args:
        kind: "noise" (Gaussian), "blur" (Gaussian), "contrast" (which is reduced) or "jpeg".
        severity: 1 to 5.
        seed: the noise is a function of the seed and of the index of the example.

    Raises:
        ValueError: there is no such kind or severity.

    Example:

    >>> Corruption("blur", 3)(image, index=0)
    """

    kind: str
    severity: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the arguments."""
        check_choice("kind", self.kind, KINDS)
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity must be an integer from 1 to 5, got {self.severity!r}.")

    def value(self, side: int) -> float:
        """Returns the parameter of this severity, interpolated between the two benchmarks.

        Args:
            side: the shorter side of the image in pixels; clipped to the range from 32 to 224.

        Returns:
            The standard deviation, factor or quality, see the table above.
        """
        values = [row[self.severity - 1] for row in _VALUES[self.kind]]
        return float(np.interp(side, _SIDES, values))

    def __call__(self, image: tf.Tensor, index: tf.Tensor | int) -> tf.Tensor:
        """Corrupts an image.

        Args:
            image: uint8 (H, W, 3) with a static shape: the image that evaluation sees; or
                (H, W, 4), whose alpha channel is kept.
            index: int scalar, the index of the example in the set.

        Returns:
            uint8, of the shape of the image.
        """
        if image.shape[-1] == 4:
            return tf.concat([self(image[..., :3], index), image[..., 3:]], axis=-1)
        value = self.value(min(image.shape[:2]))
        if self.kind == "jpeg":
            encoded = tf.io.encode_jpeg(image, quality=round(value))
            return tf.ensure_shape(tf.io.decode_jpeg(encoded, channels=3), image.shape)
        pixels = tf.cast(image, tf.float32)
        if self.kind == "noise":
            # Every severity scales the same draws.
            seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(index, tf.int64)])
            noise = tf.random.stateless_normal(image.shape, seed)
            return to_uint8(pixels + 255 * value * noise)
        if self.kind == "blur":
            return to_uint8(_blur(pixels, value))
        mean = tf.reduce_mean(pixels, axis=(0, 1))
        return to_uint8(mean + value * (pixels - mean))


def named_corruptions(kinds: Sequence[str], seed: int = 0) -> list[Corruption]:
    """Returns all severities of some kinds of corruption.

    Args:
        kinds: any of `KINDS`; "all" stands for all of them.
        seed: see `Corruption`.

    Returns:
        List of `Corruption`, kind by kind.

    Raises:
        ValueError: there is no such kind.
    """
    kinds = KINDS if "all" in kinds else tuple(dict.fromkeys(kinds))
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"corruptions must be among {', '.join(KINDS)} and all, got {kind!r}.")
    return [Corruption(kind, severity, seed) for kind in kinds for severity in SEVERITIES]


def _blur(pixels: tf.Tensor, sigma: float) -> tf.Tensor:
    """Applies a Gaussian blur to (H, W, 3) with mirrored borders."""
    # The channels form the batch, so that one small kernel serves all of them.
    planes = tf.transpose(pixels, (2, 0, 1))[..., None]
    for axis in (1, 2):
        # Symmetric padding cannot be wider than the image.
        radius = min(int(np.ceil(_BLUR_RADIUS * sigma)), planes.shape[axis])
        weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        shape = (-1, 1, 1, 1) if axis == 1 else (1, -1, 1, 1)
        kernel = tf.constant((weights / weights.sum()).reshape(shape), tf.float32)
        padding = [[radius, radius] if a == axis else [0, 0] for a in range(4)]
        planes = tf.nn.conv2d(tf.pad(planes, padding, "SYMMETRIC"), kernel, 1, "VALID")
    return tf.transpose(planes[..., 0], (1, 2, 0))
