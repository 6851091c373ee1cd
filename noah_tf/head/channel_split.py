"""How a head divides the channels: between keys and values, and among the groups."""


def key_value_channels(channels: int, key_ratio: float | None) -> tuple[int, int]:
    """Returns the number of key channels Ck and of value channels Cv.

    Args:
        channels: C.
        key_ratio: r, the share of key channels. None if keys and values both use all channels.
    """
    if key_ratio is None:
        return channels, channels
    key_channels = int(channels * key_ratio)
    return key_channels, channels - key_channels


def kernel_shapes(
    channels: int, num_classes: int, num_groups: int, key_ratio: float | None, split_groups: bool
) -> list[tuple[int, int, int]]:
    """Returns the shapes of the key kernel (G, Ck/G, N·M/G) and the value kernel (G, Cv/G, N·M/G).

    Args:
        channels: C.
        num_classes: M.
        num_groups: N.
        key_ratio: as for `key_value_channels`.
        split_groups: whether group n uses only the n-th range of channels. G = N if it is true, and
            G = 1 otherwise.

    Raises:
        ValueError: the groups do not divide the key channels and the value channels.
    """
    check_division(channels, num_groups, key_ratio)
    blocks = num_groups if split_groups else 1
    outputs = num_groups * num_classes // blocks
    return [(blocks, part // blocks, outputs) for part in key_value_channels(channels, key_ratio)]


def divides(channels: int, num_groups: int, key_ratio: float | None) -> bool:
    """Returns whether the groups divide the key channels and the value channels, and none is 0."""
    parts = key_value_channels(channels, key_ratio)
    return all(parts) and not any(part % num_groups for part in parts)


def check_division(channels: int, num_groups: int, key_ratio: float | None) -> None:
    """Checks that the groups divide the key channels and the value channels.

    Args:
        channels: C.
        num_groups: N.
        key_ratio: as for `key_value_channels`.

    Raises:
        ValueError: they do not, or there are none. The message names values that work.
    """
    if divides(channels, num_groups, key_ratio):
        return
    parts = key_value_channels(channels, key_ratio)
    split = "" if key_ratio is None else f" with key_ratio={key_ratio}"
    raise ValueError(
        f"num_groups={num_groups} must divide the {parts[0]} key and {parts[1]} value channels of "
        f"C={channels}{split}, and neither may be 0: "
        f"{_suggestion(channels, parts, num_groups, key_ratio)}."
    )


def _suggestion(channels, parts, num_groups, key_ratio):
    """Returns a phrase with the nearest num_groups and key_ratio that divide the channels."""
    options = []
    if all(parts):
        groups = [n for n in range(1, channels + 1) if not any(part % n for part in parts)]
        groups.sort(key=lambda n: abs(n - num_groups))
        options.append("num_groups=" + " or ".join(str(n) for n in sorted(groups[:2])))
    if key_ratio is not None and channels % num_groups == 0:
        ratios = [
            _short_ratio(key_channels, channels)
            for key_channels in range(num_groups, channels, num_groups)
        ]
        ratios.sort(key=lambda ratio: abs(ratio - key_ratio))
        if ratios:
            options.append("key_ratio=" + " or ".join(str(r) for r in sorted(ratios[:2])))
    return "use " + ", or ".join(options) if options else "use fewer groups or more channels"


def _short_ratio(key_channels, channels):
    """Returns a ratio with at most six digits that gives this number of key channels."""
    # Rounded up, because int(channels * ratio) rounds down.
    millionths = -(-key_channels * 10**6 // channels)
    candidates = millionths / 1e6, (millionths + 1) / 1e6
    return next(ratio for ratio in candidates if int(channels * ratio) == key_channels)
