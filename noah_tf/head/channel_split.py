"""How the channels are shared out: between keys and values, and among the groups."""


def key_value_channels(channels, key_ratio):
    """How many channels are keys, and how many are values.

    Args:
        channels: C.
        key_ratio: r, the share of keys; None where keys and values both see all channels.

    Returns:
        Two integers.
    """
    if key_ratio is None:
        return channels, channels
    keys = int(channels * key_ratio)
    return keys, channels - keys


def kernel_shapes(channels, num_classes, num_groups, key_ratio, split_groups):
    """Returns the shapes of a head's key kernel (G, Ck/G, N·M/G) and value kernel (G, Cv/G, N·M/G).

    Args:
        channels: C.
        num_classes: M.
        num_groups: N.
        key_ratio: as for `key_value_channels`.
        split_groups: whether group n sees the n-th run of channels only, so that G = N; else G = 1.

    Raises:
        ValueError: the groups do not divide the keys and the values.
    """
    check_division(channels, num_groups, key_ratio)
    blocks = num_groups if split_groups else 1
    outputs = num_groups * num_classes // blocks
    return tuple(
        (blocks, part // blocks, outputs) for part in key_value_channels(channels, key_ratio)
    )


def check_division(channels, num_groups, key_ratio):
    """Raises a ValueError, with values that work, where the groups do not divide keys and values.

    Args:
        channels: C.
        num_groups: N.
        key_ratio: as of `key_value_channels`.
    """
    parts = key_value_channels(channels, key_ratio)
    if all(parts) and not any(part % num_groups for part in parts):
        return
    split = "" if key_ratio is None else f" with key_ratio={key_ratio}"
    raise ValueError(
        f"num_groups={num_groups} must divide the {parts[0]} key and {parts[1]} value channels of "
        f"C={channels}{split}, and neither may be 0: "
        f"{_working_values(channels, parts, num_groups, key_ratio)}."
    )


def _working_values(channels, parts, num_groups, key_ratio):
    """The nearest num_groups and key_ratio that divide `channels`, as a phrase."""
    options = []
    if all(parts):
        groups = [n for n in range(1, channels + 1) if not any(part % n for part in parts)]
        groups.sort(key=lambda n: abs(n - num_groups))
        options.append("num_groups=" + " or ".join(str(n) for n in sorted(groups[:2])))
    if key_ratio is not None and channels % num_groups == 0:
        ratios = [_ratio(keys, channels) for keys in range(num_groups, channels, num_groups)]
        ratios.sort(key=lambda ratio: abs(ratio - key_ratio))
        if ratios:
            options.append("key_ratio=" + " or ".join(str(r) for r in sorted(ratios[:2])))
    return "use " + ", or ".join(options) if options else "use fewer groups or more channels"


def _ratio(keys, channels):
    """A short key_ratio of which int(channels * key_ratio) is `keys`: rounded up, not down."""
    millionths = -(-keys * 10**6 // channels)
    return next(m / 1e6 for m in (millionths, millionths + 1) if int(channels * (m / 1e6)) == keys)
