"""What training does to photos beyond the random crop: functions of (image, seed), and of batches.

Everything is TensorFlow ops on a seed that is passed in, so the same code runs eagerly and inside
`tf.data`, and a resumed run draws the same pixels again. KerasCV's layers keep random state of
their own and cannot promise that. From one seed, each function here and the random crop draw
numbers of their own, so all of them can be given the same seed.
"""

import dataclasses
import math

import tensorflow as tf

from noah_tf.images import pil_ops
from noah_tf.images.pil_ops import to_uint8
from noah_tf.images.rand_augment import INTERPOLATIONS, RandAugment
from noah_tf.utils.seeds import fold_in, uniform
from noah_tf.utils.validation import is_number

__all__ = ["Augmentation", "RandAugment", "color_jitter", "mix_batch", "random_erasing"]

ERASING_MODES = ("pixel", "const")
_ERASING_TRIES = 10
# Each function's own random numbers.
_JITTER, _ERASE, _NOISE, _MIX = 0x4A495454, 0x45524153, 0x4E4F4953, 0x4D495831


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The augmentations of a recipe; its `augment` section, but for the crop.

    Args:
        color_jitter: None, one number x (brightness, contrast and saturation change by a factor
            from 1 - x to 1 + x), or three numbers for the three, or four, the last for the hue (0
            to 0.5 of its circle); see `color_jitter`.
        rand_augment: None or timm's string, as "rand-m9-mstd0.5-inc1"; see `RandAugment`.
        interpolation: "bilinear", "bicubic" or "random", for RandAugment's rotations and the like.
        erasing: the probability of `random_erasing`.
        erasing_mode: "pixel" (noise) or "const" (zeros, the mean colour).
        mixup: alpha of mixup; 0 is off.
        cutmix: alpha of CutMix; 0 is off.
        mix_probability: the share of batches that are mixed.
        mix_switch: the share of these that take CutMix, where both are on.

    Raises:
        ValueError: an option is out of its range.

    Example:
        augmentation = Augmentation(rand_augment="rand-m9-mstd0.5-inc1", erasing=0.25, mixup=0.8)
        image = augmentation.image(crop, seed, fill=(124, 116, 104))
        image = augmentation.erase(preprocessing.normalize(image), seed)
        images, targets = augmentation.mix(images, targets, batch_seed)
    """

    color_jitter: tuple | float | None = None
    rand_augment: str | None = None
    interpolation: str = "bilinear"
    erasing: float = 0.0
    erasing_mode: str = "pixel"
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0
    mix_switch: float = 0.5

    def __post_init__(self):
        """Brings the options to one form and refuses what cannot work."""
        # object.__setattr__ is how a frozen dataclass sets its own fields.
        object.__setattr__(self, "color_jitter", _jitter_amounts(self.color_jitter))
        if self.rand_augment is not None:
            try:
                RandAugment.parse(self.rand_augment)
            except ValueError as error:
                raise ValueError(f"rand_augment: {error}") from error
        _check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        _check_choice("erasing_mode", self.erasing_mode, ERASING_MODES)
        for name in ("erasing", "mix_probability", "mix_switch"):
            _check_number(name, getattr(self, name), 1)
        for name in ("mixup", "cutmix"):
            _check_number(name, getattr(self, name))

    def image(self, image, seed, fill):
        """Colour jitter, then RandAugment: between the crop and `normalize`.

        Args:
            image: (H, W, 3), values 0..255.
            seed: int (2,); the result is a function of it.
            fill: three numbers 0..255, the colour outside the photo: the mean times 255.

        Returns:
            float32 (H, W, 3), whole numbers 0..255; `image` itself where both are off.
        """
        if self.color_jitter is not None:
            image = color_jitter(image, seed, *self.color_jitter)
        if self.rand_augment is not None:
            image = RandAugment.parse(self.rand_augment)(image, seed, fill, self.interpolation)
        return image

    def erase(self, image, seed):
        """`random_erasing` of a normalised image (H, W, C); the image itself where it is off."""
        if not self.erasing:
            return image
        return random_erasing(image, seed, self.erasing, self.erasing_mode)

    @property
    def mixes(self):
        """Whether `mix` changes anything."""
        return self.mix_probability > 0 and (self.mixup > 0 or self.cutmix > 0)

    def mix(self, images, targets, seed):
        """`mix_batch` with these options; the batch itself where both are off."""
        if not self.mixes:
            return images, targets
        return mix_batch(
            images,
            targets,
            seed,
            mixup=self.mixup,
            cutmix=self.cutmix,
            probability=self.mix_probability,
            switch_probability=self.mix_switch,
        )


def color_jitter(image, seed, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0):
    """Changes brightness, contrast, saturation and hue, in random order.

    As torchvision's ColorJitter on PIL images, rounding included; but the hue is turned exactly,
    where PIL knows only 256 hues.

    Args:
        image: (H, W, 3), values 0..255; rounded to whole numbers first.
        seed: int (2,); the result is a function of it.
        brightness: x draws a factor uniformly from max(0, 1 - x) to 1 + x; 0 is off.
        contrast: see `brightness`.
        saturation: see `brightness`.
        hue: h draws a turn uniformly from -h to h, in circles; at most 0.5.

    Returns:
        float32 (H, W, 3), whole numbers 0..255; `image` itself where all are 0.

    Raises:
        ValueError: an amount is out of its range.

    Example:
        image = color_jitter(image, (0, 1), 0.4, 0.4, 0.4)
    """
    options = {
        "brightness": (brightness, pil_ops.brightness),
        "contrast": (contrast, pil_ops.contrast),
        "saturation": (saturation, pil_ops.color),
        "hue": (hue, _turn_hue),
    }
    for name, (amount, _) in options.items():
        _check_number(name, amount, 0.5 if name == "hue" else None)
    if not any(amount for amount, _ in options.values()):
        return image
    draws = uniform(seed, _JITTER, [2, len(options)])

    def change_of(operation, low, high, draw):
        return lambda pixels: operation(pixels, low + draw * (high - low))

    changes = []
    for draw, (name, (amount, operation)) in zip(
        tf.unstack(draws[0]), options.items(), strict=True
    ):
        low, high = (-amount, amount) if name == "hue" else (max(0.0, 1.0 - amount), 1.0 + amount)
        if amount:
            changes.append(change_of(operation, low, high, draw))
    order = tf.argsort(draws[1, : len(changes)])
    pixels = to_uint8(image)
    for i in range(len(changes)):
        pixels = _one_of(changes, order[i], pixels)
    return tf.cast(pixels, tf.float32)


def random_erasing(
    image, seed, probability, mode="pixel", area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3)
):
    """Replaces a random rectangle of a normalised image.

    Random Erasing (arXiv 1708.04896), as timm does it: up to ten tries for a rectangle that is
    smaller than the image in both directions; where none is, the image stays as it is.

    Args:
        image: float (H, W, C), normalised.
        seed: int (2,); the result is a function of it.
        probability: of erasing at all.
        mode: "pixel" fills with normal noise for each pixel and channel, "const" with 0.
        area: the rectangle's share of the image, (smallest, largest), drawn uniformly.
        ratio: its height / width, (smallest, largest), drawn log-uniformly.

    Returns:
        What `image` is.

    Raises:
        ValueError: an option is out of its range.

    Example:
        image = random_erasing(preprocessing.normalize(image), (0, 1), 0.25)
    """
    _check_number("probability", probability, 1)
    _check_choice("mode", mode, ERASING_MODES)
    _check_range("area", area, 1)
    _check_range("ratio", ratio, math.inf)
    image = tf.convert_to_tensor(image)
    draws = uniform(seed, _ERASE, [4 * _ERASING_TRIES + 1])
    size = tf.shape(image)[:2]
    fits, top_left, sides = _rectangle(size, tf.reshape(draws[1:], [4, -1]), area, ratio)

    def erased():
        top, left = top_left[0], top_left[1]
        bottom, right = top + sides[0], left + sides[1]
        shape = tf.concat([sides, tf.shape(image)[2:]], 0)
        if mode == "pixel":
            # Only as much noise as is needed: it is what costs here.
            noise_seed = fold_in(seed, _NOISE)
            patch = tf.random.stateless_normal(shape, noise_seed, dtype=image.dtype, alg="philox")
        else:
            patch = tf.zeros(shape, image.dtype)
        band = tf.concat([image[top:bottom, :left], patch, image[top:bottom, right:]], 1)
        return tf.concat([image[:top], band, image[bottom:]], 0)

    result = tf.cond((draws[0] < probability) & fits, erased, lambda: image)
    return tf.ensure_shape(result, image.shape)


def mix_batch(
    images,
    targets,
    seed,
    mixup=0.0,
    cutmix=0.0,
    probability=1.0,
    switch_probability=0.5,
):
    """Mixes each image of a batch, and its targets, with the image at the mirrored place.

    mixup (arXiv 1710.09412) adds lambda of the image and 1 - lambda of its partner; CutMix (arXiv
    1905.04899) replaces a rectangle by the partner's, and lambda is the share that stays. lambda is
    drawn from Beta(alpha, alpha). A batch has one lambda and one rectangle, as in timm's Mixup in
    the mode "batch".

    Args:
        images: float (B, H, W, C).
        targets: float (B, M), for instance one-hot.
        seed: int (2,); the result is a function of it.
        mixup: alpha of mixup; 0 is off.
        cutmix: alpha of CutMix; 0 is off.
        probability: of mixing this batch at all.
        switch_probability: of CutMix, where both are on.

    Returns:
        (images, targets) of the same shapes and types.

    Raises:
        ValueError: an option is out of its range.
        TypeError: images or targets are not floating.

    Example:
        images, targets = mix_batch(images, tf.one_hot(labels, 1000), (0, step), 0.8, 1.0)
    """
    for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
        _check_number(name, alpha)
    for name, chance in (("probability", probability), ("switch_probability", switch_probability)):
        _check_number(name, chance, 1)
    if not (mixup or cutmix):
        return images, targets
    images, targets = tf.convert_to_tensor(images), tf.convert_to_tensor(targets)
    for name, tensor in (("images", images), ("targets", targets)):
        if not tensor.dtype.is_floating:
            raise TypeError(f"{name} must be floating; received {tensor.dtype.name}.")
    draws = uniform(seed, _MIX, [6])

    def cut():
        return _mix_by_box(images, _symmetric_beta(cutmix, draws[2:4]), draws[4:6])

    def mixed():
        share = _symmetric_beta(mixup, draws[2:4])
        return _weighted(images, share), share

    def either():
        if mixup and cutmix:
            return tf.cond(draws[1] < switch_probability, cut, mixed)
        return cut() if cutmix else mixed()

    def with_targets():
        result, share = either()
        return result, _weighted(targets, share)

    if probability == 1:
        return with_targets()
    return tf.cond(draws[0] < probability, with_targets, lambda: (images, targets))


def _turn_hue(image, turn):
    # Hue does not depend on the scale of the values.
    return to_uint8(tf.image.adjust_hue(tf.cast(image, tf.float32), tf.cast(turn, tf.float32)))


def _one_of(functions, index, value):
    """functions[index](value), of the same shape as `value`."""
    branches = [lambda f=f: tf.ensure_shape(f(value), value.shape) for f in functions]
    return tf.switch_case(index, branches) if len(branches) > 1 else branches[0]()


def _rectangle(size, draws, area, ratio):
    """The first of several random rectangles that is smaller than the image.

    Args:
        size: int (2,), the image's height and width.
        draws: float64 (4, T), uniform: T tries at area, ratio, top and left.
        area: smallest and largest share of the image.
        ratio: smallest and largest height / width.

    Returns:
        Whether there is one (bool), its top and left, its height and width (int32 (2,) both).
    """
    whole = tf.cast(size, tf.float64)
    share = whole[0] * whole[1] * (area[0] + draws[0] * (area[1] - area[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = tf.exp(low + draws[1] * (high - low))
    sides = tf.round(tf.sqrt(tf.stack([share * shape, share / shape])))  # (2, T)
    fits = tf.reduce_all(sides < whole[:, None], 0)
    first = tf.argmax(fits)  # position 0 where none fits
    chosen = sides[:, first]
    top_left = tf.floor(draws[2:, first] * (whole - chosen + 1))
    return fits[first], tf.cast(top_left, tf.int32), tf.cast(chosen, tf.int32)


def _symmetric_beta(alpha, draws):
    """A number from Beta(alpha, alpha), from two uniform ones: float64.

    Bailey's polar method for Student's t (1994), with 2 alpha degrees of freedom, turned into the
    beta distribution as in Devroye's "Random variate generation in one line of code" (1996). It
    needs no rejection and no gamma, which underflow at small alpha.
    """
    direction = tf.cos(2 * math.pi * draws[1])
    # Infinity at draws[0] = 0 gives 0 or 1, as it should.
    radius = tf.pow(draws[0], -1.0 / alpha) - 1.0
    distance = 1.0 / tf.sqrt(1.0 + 1.0 / (radius * direction**2))
    return 0.5 + 0.5 * tf.sign(direction) * distance


def _mix_by_box(images, share, draws):
    """CutMix: (images, the share that stays)."""
    size = tf.shape(images)[1:3]
    whole = tf.cast(size, tf.float64)
    half = tf.cast(whole * tf.sqrt(1.0 - share), tf.int32) // 2
    centre = tf.cast(draws * whole, tf.int32)
    begin, end = tf.maximum(centre - half, 0), tf.minimum(centre + half, size)
    rows, columns = tf.range(size[0])[:, None, None], tf.range(size[1])[:, None]
    inside = (rows >= begin[0]) & (rows < end[0]) & (columns >= begin[1]) & (columns < end[1])
    cut = tf.cast(tf.reduce_prod(end - begin), tf.float64) / (whole[0] * whole[1])
    return tf.where(inside, tf.reverse(images, [0]), images), 1.0 - cut


def _weighted(values, share):
    """`share` of the values and the rest of their mirrored partners."""
    share = tf.cast(share, values.dtype)
    return values * share + tf.reverse(values, [0]) * (1 - share)


def _jitter_amounts(value):
    """The option `color_jitter` as (brightness, contrast, saturation, hue), or None."""
    if value is None:
        return None
    amounts = tuple(value) if isinstance(value, (tuple, list)) else (value,) * 3
    amounts += (0.0,) * (len(amounts) == 3)
    if (
        len(amounts) != 4
        or any(not is_number(x) or not 0 <= x < math.inf for x in amounts)
        or amounts[3] > 0.5
    ):
        raise ValueError(
            "color_jitter must be None, a number, or three or four numbers (brightness, "
            f"contrast, saturation, hue), 0 or more, the hue at most 0.5; received {value!r}."
        )
    return amounts if any(amounts) else None


def _check_number(name, value, largest=None):
    limit = math.inf if largest is None else largest
    if not is_number(value) or not 0 <= value <= limit or value == math.inf:
        rule = "0 or more" if largest is None else f"from 0 to {largest}"
        raise ValueError(f"{name} must be a number, {rule}; received {value!r}.")


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; received {value!r}.")


def _check_range(name, value, largest):
    if (
        not isinstance(value, (tuple, list))
        or len(value) != 2
        or not 0 < value[0] <= value[1] <= largest
    ):
        rule = "0 < smallest <= largest" + (f" <= {largest}" if largest != math.inf else "")
        raise ValueError(f"{name} must be two numbers, {rule}; received {value!r}.")
