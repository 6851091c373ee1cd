"""What `accuracy.py` trains: settings, heads, ablations, and the recipe of each run."""

import dataclasses
import pathlib
import runpy
from typing import NamedTuple

_CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"

# The head is all that differs: values of the recipe's model section.
HEADS = {"gap": {"head": "gap"}, "noah": {"head": "noah"}}
# Of the search for the learning rates, outside of those of the study.
SEARCH_SEED = 1000


@dataclasses.dataclass(frozen=True)
class Setting:
    """A backbone on a data set.

    Attributes:
        title: what the tables call it.
        recipe: file in configs/ and its argument, to which the head is added.
        overrides: keys of the recipe as on the command line, and their values.
        splits: the training part and the validation part of the search for the rates.
        rates: the learning rates that both heads were tried with, for a short training.
        best: head → the best of those, which it is trained with.
        seconds: about what a run takes in one thread that has a core to itself.
    """

    title: str
    recipe: tuple
    overrides: dict
    splits: tuple
    rates: tuple
    best: dict
    seconds: int

    @property
    def takes_data_dir(self):
        """Whether its data set is one that has to be given."""
        return self.recipe[0] == "cifar"


# The quickstart's network with half of the last channels, for the time it takes.
_SCENES = {"model.backbone_args.stackwise_filters": (64, 64)}
_CIFAR = {
    "data.train_split": "train[:48000]",  # 750 steps an epoch
    "train.epochs": 2,
    "train.batch_size": 64,
    "schedule.warmup_epochs": 0.25,
}
_CIFAR_SPLITS = ("train[:45%]", "train[90%:]")

SETTINGS = {
    "digit_scenes": Setting(
        "digit_scenes, one digit; ResNet, map 8x8",
        ("quickstart", ""),
        _SCENES,
        ("train", "validation"),
        (3e-3, 1e-2, 3e-2),
        {"gap": 1e-2, "noah": 1e-2},
        110,
    ),
    "digit_scenes_multi": Setting(
        "digit_scenes, one to four digits; ResNet, map 8x8",
        ("quickstart", ""),
        {**_SCENES, "data.name": "digit_scenes/multi"},
        ("train", "validation"),
        (),  # those of one digit
        {"gap": 1e-2, "noah": 1e-2},
        130,
    ),
    "cifar10_resnet": Setting(
        "CIFAR-10; ResNet 16-32-64, map 8x8",
        ("cifar", "resnet"),
        {
            **_CIFAR,
            "model.backbone_args.filters": (16, 32, 64),
            "model.backbone_args.blocks": (1, 1, 1),
        },
        _CIFAR_SPLITS,
        (0.03, 0.1, 0.3),
        {"gap": 0.3, "noah": 0.1},
        200,
    ),
    "cifar10_mobilenet_v2": Setting(
        "CIFAR-10; MobileNetV2 x0.35, map 4x4",
        ("cifar", "mobilenet_v2"),
        {
            **_CIFAR,
            "model.backbone_args.width": "035",
            "model.backbone_args.strides": (2, 2, 2, 1, 1),
        },
        _CIFAR_SPLITS,
        (0.01, 0.03, 0.1, 0.3),
        {"gap": 0.03, "noah": 0.03},
        260,
    ),
    "cifar10_vit": Setting(
        "CIFAR-10; ViT, patch 4, width 64, depth 3, map 8x8",
        ("cifar", "vit"),
        {
            **_CIFAR,
            "model.backbone_args.width": 64,
            "model.backbone_args.depth": 3,
            "model.backbone_args.num_heads": 2,
        },
        _CIFAR_SPLITS,
        (1e-3, 2e-3, 4e-3),
        {"gap": 4e-3, "noah": 2e-3},
        240,
    ),
}


class Variants(NamedTuple):
    """Changes of one setting's NOAH.

    Attributes:
        setting: key of `SETTINGS`.
        usual: what that NOAH has of what is changed.
        seeds: how many each is trained with, at most.
        changes: name → values of the recipe's model section.
    """

    setting: str
    usual: str
    seeds: int
    changes: dict


VARIANTS = {
    "ablations": Variants(
        "digit_scenes",
        "N = 4, r = 1/2",
        2,
        {
            "N = 1": {"num_groups": 1},
            "N = 2": {"num_groups": 2},
            "N = 8": {"num_groups": 8},
            "r = 1/8": {"key_ratio": 1 / 8},
            "r = 1/4": {"key_ratio": 1 / 4},
            "r = 3/4": {"key_ratio": 3 / 4},
            "groups see all channels": {"split_groups": False},
            "keys and values see all channels": {"split_key_value": False},
            # A pooled linear layer, then: every channel is a value.
            "uniform attention": {"uniform_attention": True, "split_key_value": False},
        },
    ),
    # What may be why NOAH does not win there.
    "causes": Variants(
        "cifar10_mobilenet_v2",
        "N = 8, r = 1/4, map 4x4",
        3,
        {
            "kernels start as a dense layer's": {"kernel_initializer": "glorot_uniform"},
            "N = 4, r = 1/2": {"num_groups": 4, "key_ratio": 1 / 2},
            "r = 1/8": {"key_ratio": 1 / 8},
            "map 2x2": {"backbone_args.strides": (2, 2, 2, 2, 1)},
            "pooled head, map 2x2": {"head": "gap", "backbone_args.strides": (2, 2, 2, 2, 1)},
        },
    ),
}


class Run(NamedTuple):
    """One training.

    Attributes:
        setting: key of `SETTINGS`.
        part: "heads", a key of `VARIANTS`, or "search" for the learning rates.
        variant: key of `HEADS`, or of the part's changes.
        seed: seed of weights, order, augmentation.
        rate: the learning rate.
    """

    setting: str
    part: str
    variant: str
    seed: int
    rate: float

    @property
    def name(self):
        """A name for its folder."""
        words = [self.variant, f"rate {self.rate:g}" if self.part == "search" else ""]
        plain = "".join(c if c.isalnum() or c == "." else "_" for c in " ".join(words).strip())
        return f"{self.setting}/{self.part}/{plain}/seed{self.seed}"


def runs_of(settings, seeds, parts=(), search=False):
    """The runs of a study.

    The heads of a seed follow each other, so that what else the machine does meets both.

    Args:
        settings: keys of `SETTINGS`.
        seeds: how many seeds, 0 and up; of variants as many as they have at most.
        parts: keys of `VARIANTS` that are in it, where their setting is.
        search: whether it is the search for the learning rates and not the study.

    Returns:
        A list of `Run`.
    """
    runs = []
    for name in settings:
        setting = SETTINGS[name]
        if search:
            runs += [
                Run(name, "search", head, SEARCH_SEED, rate)
                for rate in setting.rates
                for head in HEADS
            ]
            continue
        for seed in range(seeds):
            runs += [Run(name, "heads", head, seed, setting.best[head]) for head in HEADS]
    for part in () if search else parts:
        variants = VARIANTS[part]
        if variants.setting in settings:
            rate = SETTINGS[variants.setting].best["noah"]
            for seed in range(min(seeds, variants.seeds)):
                runs += [Run(variants.setting, part, name, seed, rate) for name in variants.changes]
    return runs


def seconds_of(run):
    """About what a run takes, on a core like those of the study."""
    seconds = SETTINGS[run.setting].seconds
    return seconds / 2 if run.part == "search" else seconds


def recipe_of(run, data_dir=None, quick=False):
    """The recipe that a run trains.

    Args:
        run: a `Run`.
        data_dir: TFDS's folder with CIFAR-10; None for TFDS's own.
        quick: whether to train a few steps on a few images, to see that all of it works.

    Returns:
        A ConfigDict.
    """
    setting = SETTINGS[run.setting]
    file, argument = setting.recipe
    changes = VARIANTS[run.part].changes if run.part in VARIANTS else HEADS
    model = changes[run.variant]
    head = model.get("head", "noah")
    get_config = runpy.run_path(str(_CONFIGS / f"{file}.py"))["get_config"]
    config = get_config(",".join(filter(None, (argument, head))))
    values = {**setting.overrides, **{f"model.{key}": value for key, value in model.items()}}
    values.update({"seed": run.seed, "optimizer.learning_rate": run.rate})
    if setting.takes_data_dir:
        values["data.data_dir"] = data_dir
    if run.part == "search":
        values["data.train_split"], values["data.eval_split"] = setting.splits
        values["train.epochs"] = 1
    if quick:
        for split in ("train_split", "eval_split"):
            name = values.get(f"data.{split}", config.data[split]).partition("[")[0]
            values[f"data.{split}"] = f"{name}[:64]"
        values.update({"train.epochs": 1, "train.batch_size": 16, "train.log_every": 1})
    # One thread alone reads the photos: the others are the other runs'.
    values["data.threads"] = 1
    config.update_from_flattened_dict(values)
    return config
