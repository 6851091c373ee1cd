"""The number of groups N and the key ratio r of a head that attach_noah makes."""

import math
import re
from collections.abc import Callable, Sequence

from noah_tf.head import REFERENCE_CLASSES, divides, key_value_channels

# N and r of the families that the paper trains (section 4 and its released code). The patterns
# match the names of models in Keras applications, KerasCV and KerasHub, in lower case without
# punctuation. ResNets with bottleneck blocks end in 2048 channels and have another ratio.
_PAPER_FAMILIES: tuple[tuple[re.Pattern[str], Callable[[int], tuple[int, float]]], ...] = (
    (re.compile(r"^resnet(?!rs)"), lambda channels: (4, 1 / 8 if channels >= 2048 else 1 / 2)),
    (re.compile(r"^(mobilenetv[23]|shufflenetv2)"), lambda channels: (8, 1 / 4)),
    (re.compile(r"^(vit|deit|pvt|pyramidvision|(mlp)?mixer|gmlp)"), lambda channels: (4, 1 / 2)),
)
# r of all other heads is the largest of these ratios that gives at most this many key channels.
_DEFAULT_RATIOS = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
_MAX_KEY_CHANNELS = 64
# N is the largest up to 8 that divides the channels, but more than 4 groups need at least 5 key
# channels each. Another ratio is used if it divides the channels into more groups, up to 4.
_MAX_GROUPS, _ENOUGH_GROUPS = 8, 4
_MIN_KEYS_PER_GROUP = 5


def groups_and_ratio(
    names: Sequence[str],
    channels: int,
    num_classes: int,
    num_groups: int | None = None,
    key_ratio: float | None = None,
) -> tuple[int, float]:
    """Returns the number of groups N and the key ratio r of a head.

    With at least 1,000 classes and a backbone of a family that the paper trains, they are the
    paper's, if these divide the channels. Otherwise r is the largest of 1/2, 1/4, 1/8, 1/16 and
    1/32 that gives at most 64 key channels, and N is the largest number up to 8 that divides the
    channels; more than 4 groups need at least 5 key channels each. If N would be less than 4, the
    nearest ratio that allows more groups is used.

    With few classes, keys overfit a few images: fewer key channels are more accurate on pretrained
    backbones (docs/study.md).

    Args:
        names: names and class names of the backbone and of the models in it.
        channels: C, the number of channels of the feature map.
        num_classes: M.
        num_groups: N if it is given.
        key_ratio: r if it is given.

    Raises:
        ValueError: there are too few channels for keys and values.

    Example:

    >>> groups_and_ratio(["resnet50"], channels=2048, num_classes=1000)
    (4, 0.125)
    >>> groups_and_ratio(["resnet50"], channels=2048, num_classes=10)
    (8, 0.03125)
    """
    if num_groups is not None and key_ratio is not None:
        return num_groups, key_ratio
    paper = _paper_choice(names, channels) if num_classes >= REFERENCE_CLASSES else None
    if paper is not None:
        groups = paper[0] if num_groups is None else num_groups
        ratio = paper[1] if key_ratio is None else key_ratio
        if divides(channels, groups, ratio):
            return groups, ratio
    ratios = _default_ratios(channels) if key_ratio is None else [key_ratio]
    if num_groups is not None:
        return num_groups, ratios[0]
    pairs = [(_default_groups(channels, ratio), ratio) for ratio in ratios]
    # The first ratio that divides the channels into enough groups, or the one with most groups.
    groups, ratio = max(pairs, key=lambda pair: min(pair[0], _ENOUGH_GROUPS))
    if not groups:
        raise ValueError(
            f"{channels} channels cannot be split into keys and values with key_ratio={ratio}: "
            "NOAH needs at least 1 / key_ratio channels, and a ratio between 0 and 1."
        )
    return groups, ratio


def _default_ratios(channels):
    """Returns the ratios, first the largest that gives few key channels, then the nearest to it."""
    fitting = [ratio for ratio in _DEFAULT_RATIOS if channels * ratio <= _MAX_KEY_CHANNELS]
    first = fitting[0] if fitting else _DEFAULT_RATIOS[-1]
    return sorted(_DEFAULT_RATIOS, key=lambda ratio: abs(math.log2(ratio / first)))


def _default_groups(channels, ratio):
    """Returns the largest number of groups that divides the channels and leaves enough keys."""
    key_channels, _ = key_value_channels(channels, ratio)
    most = max(_ENOUGH_GROUPS, min(_MAX_GROUPS, key_channels // _MIN_KEYS_PER_GROUP))
    return max((n for n in range(1, most + 1) if divides(channels, n, ratio)), default=0)


def _paper_choice(names, channels):
    """Returns the paper's N and r for the first name of a family that it trains, or None."""
    for name in names:
        normalized = re.sub(r"[^a-z0-9]", "", name.lower())
        for pattern, groups_and_ratio in _PAPER_FAMILIES:
            if pattern.search(normalized):
                return groups_and_ratio(channels)
    return None
