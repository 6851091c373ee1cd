"""The settings, heads and runs of the fine-tuning study in `finetuning.py`."""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

# The arguments of `attach_noah` that make each head.
HEADS: dict[str, dict[str, Any]] = {
    "gap": {"head": "gap"},
    "gap_zero": {"head": "gap", "kernel_initializer": "zeros"},
    "noah": {},
    "noah_uniform": {"uniform_attention": True},
    "noah_reference": {"kernel_initializer": "reference", "num_groups": 4, "key_ratio": 1 / 2},
}
TITLES = {
    "gap": "pooling, Keras's start",
    "gap_zero": "pooling, zero start",
    "noah": "NOAH",
    "noah_uniform": "NOAH, uniform attention",
    "noah_reference": "NOAH, N = 4, r = 1/2, reference's start",
}
# Ways to make NOAH overfit less, each with its own arguments of `attach_noah`. "key_rate" is no
# argument, but a factor of the learning rate of the keys.
TRIED: dict[str, dict[str, Any]] = {
    "r = 1/16": {"key_ratio": 1 / 16},
    "N = 4": {"num_groups": 4},
    "keys learn at 0.1 of the rate": {"key_rate": 0.1},
    "keys and values see all channels": {"split_key_value": False},
    "dropout 0.1": {"dropout": 0.1},
}
TRIED_SETTINGS, TRIED_SEEDS = ("trash6_20", "cifar10_20", "cifar10_100"), 8
# The heads that are also trained together with the backbone.
FULL_HEADS = ("gap", "gap_zero", "noah", "noah_reference")
# The learning rates that each run tries: of the head on cached features, and of all layers when the
# backbone is trained too.
PROBE_RATES = (1e-3, 3e-3, 1e-2)
FULL_RATES = (1e-4, 3e-4)


class Full(NamedTuple):
    """How all layers are trained.

    Attributes:
        size: side of the images in pixels.
        epochs: passes over the training photos.
        test_per_class: see `Setting`.
        num_seeds: number of seeds.
    """

    size: int
    epochs: int
    test_per_class: int | None
    num_seeds: int


@dataclasses.dataclass(frozen=True)
class Setting:
    """A data set and the number of its photos that are for training.

    Attributes:
        title: the name in the tables.
        data: "trash6" or "cifar10".
        per_class: training photos of each class.
        test_per_class: test photos of each class that are drawn anew for each seed. None for the
            data set's own test split.
        size: side of a probe's images in pixels.
        steps: training steps of a probe.
        num_seeds: seeds of the probes.
        full: how all layers are trained; None if this is not part of the study.
    """

    title: str
    data: str
    per_class: int
    test_per_class: int | None
    size: int
    steps: int
    num_seeds: int
    full: Full | None = None


SETTINGS = {
    "trash6_5": Setting("trash, 5 a class", "trash6", 5, 30, 224, 300, 16),
    "trash6_10": Setting("trash, 10 a class", "trash6", 10, 30, 224, 300, 16),
    "trash6_20": Setting(
        "trash, 20 a class", "trash6", 20, 30, 224, 300, 16, Full(160, 12, 60, 14)
    ),
    "trash6_all": Setting("trash, 80 a class", "trash6", 80, 30, 224, 500, 12),
    "cifar10_5": Setting("CIFAR-10, 5 a class", "cifar10", 5, None, 128, 300, 12),
    "cifar10_20": Setting(
        "CIFAR-10, 20 a class", "cifar10", 20, None, 128, 300, 12, Full(128, 12, None, 6)
    ),
    "cifar10_100": Setting("CIFAR-10, 100 a class", "cifar10", 100, None, 128, 500, 8),
    "cifar10_500": Setting("CIFAR-10, 500 a class", "cifar10", 500, None, 128, 1000, 8),
    "cifar10_2000": Setting("CIFAR-10, 2,000 a class", "cifar10", 2000, None, 128, 2000, 5),
}


PARTS = ("probe", "full", "tried")


class FinetuningRun(NamedTuple):
    """One head, trained once for each searched rate and once with the best of them.

    Attributes:
        setting: a key of `SETTINGS`.
        part: "probe" or "tried" for a frozen backbone, "full" if all layers are trained.
        head: a key of `HEADS`, or of `TRIED` for the part "tried".
        seed: the seed of the photos, of the weights and of the order.
    """

    setting: str
    part: str
    head: str
    seed: int


def list_runs(
    settings: Iterable[str], parts: Iterable[str], num_seeds: int | None = None
) -> list[FinetuningRun]:
    """Returns the runs of the study. The heads of a seed follow each other.

    Args:
        settings: keys of `SETTINGS`.
        parts: some of `PARTS`.
        num_seeds: the largest number of seeds. None for those of the settings and parts.
    """
    runs = []
    for name in settings:
        for part in parts:
            heads, seeds = _heads_and_seeds(name, part)
            for seed in range(seeds if num_seeds is None else min(seeds, num_seeds)):
                runs += [FinetuningRun(name, part, head, seed) for head in heads]
    return runs


def _heads_and_seeds(name: str, part: str) -> tuple[Iterable[str], int]:
    if part == "probe":
        return HEADS, SETTINGS[name].num_seeds
    if part == "tried":
        return TRIED, TRIED_SEEDS if name in TRIED_SETTINGS else 0
    full = SETTINGS[name].full
    return FULL_HEADS, full.num_seeds if full else 0
