"""RandAugment as TensorFlow ops, and how random numbers are drawn from a seed.

Everything is a function of its arguments and a seed. KerasCV has layers for this, but they keep
random state of their own, so a resumed run could not draw the same pixels again: hence tf ops. The
operations on pixels are those of `pil_ops`.
"""

import dataclasses
import math
import re

import tensorflow as tf

from noah_tf.images import pil_ops
from noah_tf.images.pil_ops import to_uint8
from noah_tf.utils.seeds import uniform
from noah_tf.utils.validation import is_number

INTERPOLATIONS = ("bilinear", "bicubic", "random")
# Distinguishes the random numbers of RandAugment from those that others draw from the same seed.
_PURPOSE = 0x52414E44
_LEVELS = 10.0  # the magnitude at which an operation has its full strength
_KEYS = {
    "m": "magnitude",
    "n": "num_ops",
    "p": "probability",
    "mstd": "magnitude_std",
    "mmax": "max_magnitude",
    "inc": "increasing",
}


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Changes a photo by a few operations, drawn uniformly with replacement.

    The paper is RandAugment (arXiv 1909.13719); operations, strengths and noise are timm's
    (`timm.data.auto_augment`), whose strings the recipes use. The operations: AutoContrast,
    Equalize, Invert, Rotate, Posterize, Solarize, SolarizeAdd, Color, Contrast, Brightness,
    Sharpness, ShearX, ShearY, TranslateXRel, TranslateYRel.

    Args:
        magnitude: the strength of each operation; at 10 they rotate by 30 degrees, shear by 0.3 and
            translate by 0.45 of the side.
        num_ops: how many operations are drawn.
        magnitude_std: the magnitude of each operation is drawn from a normal distribution with this
            standard deviation; infinity draws it uniformly from 0 to `magnitude`.
        max_magnitude: drawn magnitudes are clipped to 0..this.
        increasing: all operations get stronger with the magnitude. Else Posterize and Solarize get
            weaker, and Color, Contrast, Brightness and Sharpness go from nearly nothing of it, over
            no change at 5, to nearly twice as much.
        probability: of applying an operation that was drawn.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        augment = RandAugment.parse("rand-m9-mstd0.5-inc1")
        image = augment(image, seed=(0, 1), fill=(124, 116, 104), interpolation="bicubic")
    """

    magnitude: float = 10
    num_ops: int = 2
    magnitude_std: float = 0.0
    max_magnitude: float = 10
    increasing: bool = False
    probability: float = 0.5

    def __post_init__(self):
        """Refuses what cannot work."""
        rules = {
            "magnitude": (0 <= _real(self.magnitude) < math.inf, "a number, 0 or more"),
            "num_ops": (_is_int(self.num_ops) and self.num_ops > 0, "a positive int"),
            "magnitude_std": (_real(self.magnitude_std) >= 0, "a number, 0 or more, or infinity"),
            "max_magnitude": (0 < _real(self.max_magnitude) < math.inf, "a number above 0"),
            "increasing": (isinstance(self.increasing, bool), "True or False"),
            "probability": (0 <= _real(self.probability) <= 1, "a number from 0 to 1"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"{name} must be {rule}; received {getattr(self, name)!r}.")

    @classmethod
    def parse(cls, text):
        """Reads timm's string form.

        Args:
            text: "rand", then parts joined by "-": m (magnitude, int, default 10), n (operations,
                default 2), p (probability, default 0.5), mstd (standard deviation of the magnitude,
                default 0; above 100 or "inf": uniform), mmax (largest magnitude, default 10), inc
                (1: increasing; 0 is False, where timm takes any number for True).

        Returns:
            A `RandAugment`.

        Raises:
            ValueError: a part is unknown, occurs twice or has no proper value.

        Example:
            RandAugment.parse("rand-m6-n3-mstd1.0-inc1")
        """
        head, *parts = text.split("-") if isinstance(text, str) else ("",)
        if head != "rand":
            raise ValueError(
                f"A RandAugment string starts with 'rand', as 'rand-m9-mstd0.5-inc1'; "
                f"received {text!r}."
            )
        options = {}
        for part in parts:
            name, value = _parse_part(text, part)
            if name in options:
                raise ValueError(f"{part!r} in {text!r} gives a value that was given before.")
            options[name] = value
        try:
            return cls(**options)
        except ValueError as error:
            raise ValueError(f"In {text!r}, {error}") from error

    def __call__(self, image, seed, fill, interpolation="bilinear"):
        """Applies the operations.

        Args:
            image: (H, W, 3), values 0..255; rounded to whole numbers first, as PIL would have it.
            seed: int (2,); the result is a function of it.
            fill: three numbers 0..255, the colour that moves in from outside the photo; usually the
                data set's mean times 255.
            interpolation: of rotation, shear and translation: "bilinear", "bicubic" (a = -1, as
                PIL's), or "random", which draws one of the two for each operation.

        Returns:
            float32 (H, W, 3), whole numbers 0..255.

        Raises:
            ValueError: the interpolation is unknown.
        """
        if interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation must be one of {', '.join(INTERPOLATIONS)}; "
                f"received {interpolation!r}."
            )
        fill = to_uint8(fill)
        pixels = to_uint8(image)
        drawn, applied, magnitude, sign, bicubic = self._draw(seed)
        for i in range(self.num_ops):
            pixels = self._apply(
                pixels,
                tf.where(applied[i], drawn[i] + 1, 0),
                magnitude[i],
                sign[i],
                fill,
                bicubic[i] if interpolation == "random" else interpolation == "bicubic",
            )
        return tf.cast(pixels, tf.float32)

    @property
    def op_names(self):
        """The names of the operations, in the order in which they are numbered."""
        return tuple(_STRENGTHS[self.increasing])

    def _draw(self, seed):
        """What happens to one photo; each a tensor (num_ops,).

        Returns:
            The operations' numbers (int32), whether they are applied (bool), magnitudes (float64),
            signs (float64, 1 or -1), whether they interpolate bicubically (bool).
        """
        draws = uniform(seed, _PURPOSE, [5, self.num_ops])
        drawn = tf.cast(draws[0] * len(self.op_names), tf.int32)
        if math.isinf(self.magnitude_std):
            magnitude = draws[2] * self.magnitude
        elif self.magnitude_std > 0:
            magnitude = self.magnitude + self.magnitude_std * tf.math.ndtri(draws[2])
        else:
            magnitude = tf.fill([self.num_ops], tf.constant(self.magnitude, tf.float64))
        magnitude = tf.clip_by_value(magnitude, 0.0, float(self.max_magnitude))
        sign = tf.where(draws[3] < 0.5, tf.constant(1.0, tf.float64), -1.0)
        return drawn, draws[1] < self.probability, magnitude, sign, draws[4] < 0.5

    def _apply(self, pixels, branch, magnitude, sign, fill, bicubic):
        """Applies operation number `branch` - 1; 0 changes nothing. Only the chosen one costs."""

        def branch_of(name, strength):
            operation = _OPERATIONS[name]

            def apply():
                arguments = () if strength is None else (strength(magnitude / _LEVELS, sign),)
                if operation in _GEOMETRIC:
                    arguments += (fill, bicubic)
                return tf.ensure_shape(operation(pixels, *arguments), pixels.shape)

            return apply

        branches = [branch_of(name, s) for name, s in _STRENGTHS[self.increasing].items()]
        return tf.switch_case(branch, [lambda: pixels, *branches])


# Strengths: from share (magnitude / 10) and sign to the operation's argument, in float64, so that
# whole numbers come out as in Python.


def _signed(full):
    return lambda share, sign: share * full * sign


def _whole(full, largest):
    return lambda share, _: tf.minimum(tf.floor(share * full), largest)


def _rest(total, strength):
    return lambda share, sign: total - strength(share, sign)


def _away_from_one(share, sign):
    return tf.maximum(1.0 + share * 0.9 * sign, 0.1)


def _from_low_to_high(share, _):
    return share * 1.8 + 0.1


_OPERATIONS = {
    "AutoContrast": pil_ops.auto_contrast,
    "Equalize": pil_ops.equalize,
    "Invert": pil_ops.invert,
    "Rotate": pil_ops.rotate,
    "Posterize": pil_ops.posterize,
    "Solarize": pil_ops.solarize,
    "SolarizeAdd": pil_ops.solarize_add,
    "Color": pil_ops.color,
    "Contrast": pil_ops.contrast,
    "Brightness": pil_ops.brightness,
    "Sharpness": pil_ops.sharpness,
    "ShearX": pil_ops.shear_x,
    "ShearY": pil_ops.shear_y,
    "TranslateXRel": pil_ops.translate_x,
    "TranslateYRel": pil_ops.translate_y,
}
_GEOMETRIC = (
    pil_ops.rotate,
    pil_ops.shear_x,
    pil_ops.shear_y,
    pil_ops.translate_x,
    pil_ops.translate_y,
)
_POSTERIZE = {False: _whole(4, 8.0), True: _rest(4.0, _whole(4, 4.0))}
_SOLARIZE = {False: _whole(256, 256.0), True: _rest(256.0, _whole(256, 256.0))}
_ENHANCE = {False: _from_low_to_high, True: _away_from_one}
# increasing → the operation's name → its strength.
_STRENGTHS = {
    increasing: {
        "AutoContrast": None,
        "Equalize": None,
        "Invert": None,
        "Rotate": _signed(30.0),
        "Posterize": _POSTERIZE[increasing],
        "Solarize": _SOLARIZE[increasing],
        "SolarizeAdd": _whole(110, 128.0),
        "Color": _ENHANCE[increasing],
        "Contrast": _ENHANCE[increasing],
        "Brightness": _ENHANCE[increasing],
        "Sharpness": _ENHANCE[increasing],
        "ShearX": _signed(0.3),
        "ShearY": _signed(0.3),
        "TranslateXRel": _signed(0.45),
        "TranslateYRel": _signed(0.45),
    }
    for increasing in (False, True)
}


def _parse_part(text, part):
    """One part of a RandAugment string: (name of the argument, its value)."""
    match = re.fullmatch(r"([a-z]+?)(\d.*|inf)", part)
    key, value = match.groups() if match else (part, "")
    if key == "w":
        raise ValueError(
            f"{part!r} in {text!r}: weights (w) for the choice of operations are not supported; "
            f"leave it out to draw all operations equally often."
        )
    if key not in _KEYS:
        raise ValueError(
            f"{part!r} in {text!r} is unknown; known are {', '.join(_KEYS)}, each followed by a "
            f"number, as in 'rand-m9-mstd0.5-inc1'."
        )
    kind = float if key in ("mstd", "p") else int
    try:
        number = kind(value)
    except ValueError:
        raise ValueError(
            f"{part!r} in {text!r}: {key} takes {'a number' if kind is float else 'an int'}, "
            f"received {value!r}."
        ) from None
    if key == "inc":
        if number not in (0, 1):
            raise ValueError(f"{part!r} in {text!r}: inc is 0 or 1.")
        return _KEYS[key], bool(number)
    return _KEYS[key], math.inf if key == "mstd" and number > 100 else number


def _real(value):
    """A number to compare with, or one that no comparison holds for."""
    return value if is_number(value) else math.nan


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)
