"""Whether a head's channels divide into keys, values and groups, and what would."""


def check_division(channels, parts, num_groups, key_ratio, split_key_value):
    """Refuses channels that a head cannot divide, and says what it could.

    Args:
        channels: C.
        parts: how many of them are keys, and how many values.
        num_groups: N.
        key_ratio: r.
        split_key_value: whether r has an effect.

    Raises:
        ValueError: N does not divide both parts, or one is 0.
    """
    if all(parts) and not any(part % num_groups for part in parts):
        return
    options = []
    if all(parts):
        groups = [n for n in range(1, channels + 1) if not any(part % n for part in parts)]
        groups.sort(key=lambda n: abs(n - num_groups))
        options.append("num_groups=" + " or ".join(str(n) for n in sorted(groups[:2])))
    if split_key_value and channels % num_groups == 0:
        ratios = [_ratio(keys, channels) for keys in range(num_groups, channels, num_groups)]
        ratios.sort(key=lambda ratio: abs(ratio - key_ratio))
        if ratios:
            options.append("key_ratio=" + " or ".join(str(r) for r in sorted(ratios[:2])))
    working = "use " + ", or ".join(options) if options else "use fewer groups or more channels"
    raise ValueError(
        f"num_groups={num_groups} must divide the {parts[0]} key and {parts[1]} value channels of "
        f"C={channels} with key_ratio={key_ratio}, and neither may be 0: {working}."
    )


def _ratio(keys, channels):
    """A short key_ratio of which int(channels * key_ratio) is `keys`: rounded up, not down."""
    millionths = -(-keys * 10**6 // channels)
    return next(m / 1e6 for m in (millionths, millionths + 1) if int(channels * (m / 1e6)) == keys)
