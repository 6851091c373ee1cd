"""RandAugment as TensorFlow ops.

The result is a function of the image and a seed, so that a resumed run sees the same pixels again.
The layers of KerasCV cannot guarantee that, because they keep random state of their own. The
operations on pixels are those of `pil_ops`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import tensorflow as tf

from noah_tf.images import pil_ops
from noah_tf.images.pil_ops import to_uint8
from noah_tf.utils.seeds import uniform
from noah_tf.utils.validation import check_choice, is_int, is_number

INTERPOLATIONS = ("bilinear", "bicubic", "random")
# Other functions draw other random numbers from the same seed.
_PURPOSE = 0x52414E44
_FULL_MAGNITUDE = 10.0
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
    """Applies a few operations to a photo, drawn uniformly with replacement.

    RandAugment is arXiv 1909.13719. The operations, their strengths, the noise of the magnitude and
    the text form are those of timm (`timm.data.auto_augment`). The operations are AutoContrast,
    Equalize, Invert, Rotate, Posterize, Solarize, SolarizeAdd, Color, Contrast, Brightness,
    Sharpness, ShearX, ShearY, TranslateXRel and TranslateYRel.

    Args:
        magnitude: the strength of the operations. At 10 they rotate by 30 degrees, shear by 0.3 and
            translate by 0.45 of the side.
        num_ops: number of operations that are drawn.
        magnitude_std: standard deviation of the normal distribution from which the magnitude of
            each operation is drawn. Infinity draws it uniformly from 0 to `magnitude`.
        max_magnitude: the largest magnitude; drawn magnitudes are clipped to 0..max_magnitude.
        increasing: True makes all operations stronger with the magnitude. False makes Posterize and
            Solarize weaker, and the factor of Color, Contrast, Brightness and Sharpness rises from
            0.1 at magnitude 0 over 1 (no change) at 5 to 1.9 at 10.
        probability: probability of applying an operation that was drawn.

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

    def __post_init__(self) -> None:
        """Checks the arguments."""
        rules = {
            "magnitude": (0 <= _real(self.magnitude) < math.inf, "a number, 0 or more"),
            "num_ops": (is_int(self.num_ops) and self.num_ops > 0, "a positive integer"),
            "magnitude_std": (_real(self.magnitude_std) >= 0, "a number, 0 or more, or infinity"),
            "max_magnitude": (0 < _real(self.max_magnitude) < math.inf, "a number above 0"),
            "increasing": (isinstance(self.increasing, bool), "True or False"),
            "probability": (0 <= _real(self.probability) <= 1, "a number from 0 to 1"),
        }
        for name, (is_valid, rule) in rules.items():
            if not is_valid:
                raise ValueError(f"{name} must be {rule}, got {getattr(self, name)!r}.")

    @classmethod
    def parse(cls, text: str) -> RandAugment:
        """Builds the object from timm's text form, e.g. "rand-m6-n3-mstd1.0-inc1".

        Args:
            text: "rand", followed by options joined with "-": m (magnitude, int, default 10), n
                (number of operations, default 2), p (probability, default 0.5), mstd (standard
                deviation of the magnitude, default 0; above 100 or "inf" means infinity), mmax
                (largest magnitude, default 10), inc (1: increasing, 0: not; timm treats any number
                as 1).

        Raises:
            ValueError: an option is unknown, occurs twice or has an invalid value.

        Example:
            RandAugment.parse("rand-m6-n3-mstd1.0-inc1")
        """
        first, *rest = text.split("-") if isinstance(text, str) else ("",)
        if first != "rand":
            raise ValueError(
                "The text form of RandAugment starts with 'rand', like 'rand-m9-mstd0.5-inc1', "
                f"got {text!r}."
            )
        options: dict[str, Any] = {}
        for option in rest:
            name, value = _parse_option(text, option)
            if name in options:
                raise ValueError(f"{option!r} in {text!r} repeats an option.")
            options[name] = value
        try:
            return cls(**options)
        except ValueError as error:
            raise ValueError(f"In {text!r}, {error}") from error

    def __call__(
        self, image: tf.Tensor, seed: tf.Tensor, fill: Any, interpolation: str = "bilinear"
    ) -> tf.Tensor:
        """Applies the operations.

        Args:
            image: (H, W, 3), values 0..255; rounded to whole numbers first, as in PIL.
            seed: int (2,); the result is a function of it.
            fill: three numbers 0..255, the color outside the photo; usually the mean of the data
                set times 255.
            interpolation: "bilinear" or "bicubic" (a = -1, as in PIL) for rotation, shear and
                translation, or "random", which draws one of them for each operation.

        Returns:
            uint8 (H, W, 3).

        Raises:
            ValueError: the interpolation is unknown.
        """
        check_choice("interpolation", interpolation, INTERPOLATIONS)
        fill = to_uint8(fill)
        pixels = to_uint8(image)
        op_index, is_applied, magnitude, sign, bicubic = self._draw(seed)
        for i in range(self.num_ops):
            pixels = self._apply(
                pixels,
                tf.where(is_applied[i], op_index[i] + 1, 0),
                magnitude[i],
                sign[i],
                fill,
                bicubic[i] if interpolation == "random" else interpolation == "bicubic",
            )
        return pixels

    @property
    def op_names(self) -> tuple[str, ...]:
        """The names of the operations, in the order of their numbers."""
        return tuple(_STRENGTHS[self.increasing])

    def _draw(self, seed):
        """Draws the operations for one photo.

        Returns:
            Five vectors (num_ops,): the number of each operation (int32), whether it is applied
            (bool), its magnitude (float64), its sign (float64, 1 or -1), and whether it
            interpolates bicubically (bool).
        """
        draws = uniform(seed, _PURPOSE, [5, self.num_ops])
        op_index = tf.cast(draws[0] * len(self.op_names), tf.int32)
        if math.isinf(self.magnitude_std):
            magnitude = draws[2] * self.magnitude
        elif self.magnitude_std > 0:
            magnitude = self.magnitude + self.magnitude_std * tf.math.ndtri(draws[2])
        else:
            magnitude = tf.fill([self.num_ops], tf.constant(self.magnitude, tf.float64))
        magnitude = tf.clip_by_value(magnitude, 0.0, float(self.max_magnitude))
        sign = tf.where(draws[3] < 0.5, tf.constant(1.0, tf.float64), -1.0)
        return op_index, draws[1] < self.probability, magnitude, sign, draws[4] < 0.5

    def _apply(self, pixels, branch, magnitude, sign, fill, bicubic):
        """Applies operation number `branch` - 1 and no other; branch 0 changes nothing."""

        def make_branch(name, strength):
            operation = pil_ops.compiled(_OPERATIONS[name])

            def apply():
                share = magnitude / _FULL_MAGNITUDE
                arguments = () if strength is None else (strength(share, sign),)
                if _OPERATIONS[name] not in _GEOMETRIC:
                    return tf.ensure_shape(operation(pixels, *arguments), pixels.shape)

                def move(bicubic):
                    return tf.ensure_shape(
                        operation(pixels, *arguments, fill, bicubic), pixels.shape
                    )

                if isinstance(bicubic, bool):
                    return move(bicubic)
                return tf.cond(bicubic, lambda: move(True), lambda: move(False))

            return apply

        branches = [make_branch(name, s) for name, s in _STRENGTHS[self.increasing].items()]
        return tf.switch_case(branch, [lambda: pixels, *branches])


# A strength is a function from the share (magnitude / 10) and the sign to the argument of the
# operation. It computes in float64, so that whole numbers are rounded as in Python.


def _signed(full):
    return lambda share, sign: share * full * sign


def _floored(full, largest):
    return lambda share, _: tf.minimum(tf.floor(share * full), largest)


def _complement(total, strength):
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
_POSTERIZE = {False: _floored(4, 8.0), True: _complement(4.0, _floored(4, 4.0))}
_SOLARIZE = {False: _floored(256, 256.0), True: _complement(256.0, _floored(256, 256.0))}
_ENHANCE = {False: _from_low_to_high, True: _away_from_one}
# Maps `increasing` to a dict from the operation's name to its strength.
_STRENGTHS = {
    increasing: {
        "AutoContrast": None,
        "Equalize": None,
        "Invert": None,
        "Rotate": _signed(30.0),
        "Posterize": _POSTERIZE[increasing],
        "Solarize": _SOLARIZE[increasing],
        "SolarizeAdd": _floored(110, 128.0),
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


def _parse_option(text, option):
    """Returns (name of the argument, its value) for one option of the text form."""
    match = re.fullmatch(r"([a-z]+?)(\d.*|inf)", option)
    key, value = match.groups() if match else (option, "")
    if key == "w":
        raise ValueError(
            f"{option!r} in {text!r}: weights (w) for the choice of operations are not supported; "
            "leave the option out to draw all operations equally often."
        )
    if key not in _KEYS:
        raise ValueError(
            f"{option!r} in {text!r} is unknown; known are {', '.join(_KEYS)}, each followed by a "
            "number, as in 'rand-m9-mstd0.5-inc1'."
        )
    kind = float if key in ("mstd", "p") else int
    try:
        number = kind(value)
    except ValueError:
        raise ValueError(
            f"{option!r} in {text!r}: {key} must be "
            f"{'a number' if kind is float else 'an integer'}, got {value!r}."
        ) from None
    if key == "inc":
        if number not in (0, 1):
            raise ValueError(f"{option!r} in {text!r}: inc must be 0 or 1.")
        return _KEYS[key], bool(number)
    return _KEYS[key], math.inf if key == "mstd" and number > 100 else number


def _real(value):
    """Returns a number, or NaN for other values, so that every comparison with it is False."""
    return value if is_number(value) else math.nan
