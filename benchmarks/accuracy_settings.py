"""The runs of the study in `accuracy.py`: settings, heads, ablations, and each run's recipe."""

import dataclasses
import pathlib
import runpy
from collections.abc import Iterable
from typing import Any, NamedTuple

import ml_collections

_CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"

# The values of the recipe's model section that select the head. "noah_reference" is the head of the
# paper, which also has the setting's `paper_options`. It is a head of its own only in the settings
# where it differs from the default.
HEADS: dict[str, dict[str, Any]] = {
    "gap": {"head": "gap"},
    "noah": {"head": "noah"},
    "noah_reference": {"head": "noah", "kernel_initializer": "reference"},
}
# The seed of the learning rate search, which the study does not use.
SEARCH_SEED = 1000


@dataclasses.dataclass(frozen=True)
class Setting:
    """A backbone on a data set.

    Attributes:
        title: the setting's name in the tables.
        recipe: the name of a file in configs/ and its argument, to which the head is added.
        overrides: keys of the recipe, as on the command line, and their values.
        search_splits: the training and the validation split of the learning rate search.
        searched_rates: the learning rates that the search tries with each head.
        learning_rates: each head of the setting → learning rate, the best of the searched ones.
        paper_options: N and r of the paper for the backbone's family, as values of the recipe's
            model section.
        seconds: the approximate time of a run with one thread on a core of its own.
    """

    title: str
    recipe: tuple[str, str]
    overrides: dict[str, Any]
    search_splits: tuple[str, str]
    searched_rates: tuple[float, ...]
    learning_rates: dict[str, float]
    paper_options: dict[str, Any]
    seconds: int

    @property
    def paper_head(self) -> str:
        """The name of the head that has the paper's options and the reference's start."""
        return "noah_reference" if "noah_reference" in self.learning_rates else "noah"

    @property
    def needs_data_dir(self) -> bool:
        """True if the data set is read from `--data_dir`."""
        return self.recipe[0] == "cifar"


_RESNET_OPTIONS = {"num_groups": 4, "key_ratio": 1 / 2}
# The quickstart's network with half of its last channels, which trains faster.
_SCENES = {"model.backbone_args.stackwise_filters": (64, 64)}
_CIFAR = {
    "data.train_split": "train[:48000]",  # 750 steps per epoch
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
        _RESNET_OPTIONS,
        110,
    ),
    "digit_scenes_multi": Setting(
        "digit_scenes, one to four digits; ResNet, map 8x8",
        ("quickstart", ""),
        {**_SCENES, "data.name": "digit_scenes/multi"},
        ("train", "validation"),
        (),  # This setting uses the learning rates of "digit_scenes".
        {"gap": 1e-2, "noah": 1e-2},
        _RESNET_OPTIONS,
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
        _RESNET_OPTIONS,
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
        {"gap": 0.03, "noah": 0.1, "noah_reference": 0.03},
        {"num_groups": 8, "key_ratio": 1 / 4},
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
        {"num_groups": 4, "key_ratio": 1 / 2},
        240,
    ),
}


class Variants(NamedTuple):
    """Variants of one setting's model with the head of the paper.

    Attributes:
        setting: a key of `SETTINGS`.
        default_options: the options of the unchanged model, for the tables.
        max_seeds: the largest number of seeds that each variant is trained with.
        changes: name → values of the recipe's model section.
    """

    setting: str
    default_options: str
    max_seeds: int
    changes: dict[str, dict[str, Any]]


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
            # With all channels as values, the head is then pooling and a linear layer.
            "uniform attention": {"uniform_attention": True, "split_key_value": False},
        },
    ),
    # Possible causes of NOAH's lower accuracy on this setting.
    "causes": Variants(
        "cifar10_mobilenet_v2",
        "N = 8, r = 1/4, map 4x4",
        3,
        {
            "kernels start as a dense layer's": {"kernel_initializer": "glorot_uniform"},
            "N = 4, r = 1/2": {"num_groups": 4, "key_ratio": 1 / 2},
            "r = 1/8": {"key_ratio": 1 / 8},
            "map 2x2": {"backbone_args.strides": (2, 2, 2, 2, 1)},
            "pooling, map 2x2": {"head": "gap", "backbone_args.strides": (2, 2, 2, 2, 1)},
        },
    ),
    # A start that is best for few photos on a pretrained backbone, here from scratch.
    "starts": Variants(
        "cifar10_vit",
        "N = 4, r = 1/2",
        2,
        {
            "kernels start at zero": {"kernel_initializer": "zeros"},
            "pooling, zero start": {"head": "gap", "kernel_initializer": "zeros"},
        },
    ),
}


class Run(NamedTuple):
    """One training run.

    Attributes:
        setting: a key of `SETTINGS`.
        part: "heads", a key of `VARIANTS`, or "search" for the learning rate search.
        variant: a key of `HEADS`, or of the part's changes.
        seed: the seed of weights, order and augmentation.
        rate: the learning rate.
    """

    setting: str
    part: str
    variant: str
    seed: int
    rate: float

    @property
    def name(self) -> str:
        """The run's folder below the study's folder."""
        rate = f" rate {self.rate:g}" if self.part == "search" else ""
        variant = "".join(c if c.isalnum() or c == "." else "_" for c in self.variant + rate)
        return f"{self.setting}/{self.part}/{variant}/seed{self.seed}"


def list_runs(
    settings: Iterable[str], num_seeds: int, parts: Iterable[str] = (), search: bool = False
) -> list[Run]:
    """Returns the runs of a study.

    The heads of a seed follow each other, so that other load on the machine affects all alike.

    Args:
        settings: keys of `SETTINGS`.
        num_seeds: the number of seeds, 0 and up. Variants have at most their `max_seeds`.
        parts: keys of `VARIANTS` to include if their setting is in `settings`.
        search: whether to return the runs of the learning rate search instead.
    """
    runs = []
    for name in settings:
        setting = SETTINGS[name]
        if search:
            runs += [
                Run(name, "search", head, SEARCH_SEED, rate)
                for rate in setting.searched_rates
                for head in setting.learning_rates
            ]
            continue
        for seed in range(num_seeds):
            rates = setting.learning_rates
            runs += [Run(name, "heads", head, seed, rate) for head, rate in rates.items()]
    for part in () if search else parts:
        variants = VARIANTS[part]
        if variants.setting in settings:
            setting = SETTINGS[variants.setting]
            for seed in range(min(num_seeds, variants.max_seeds)):
                for name, change in variants.changes.items():
                    rate = setting.learning_rates[change.get("head", setting.paper_head)]
                    runs.append(Run(variants.setting, part, name, seed, rate))
    return runs


def estimate_seconds(run: Run) -> float:
    """Returns the approximate time of a run in seconds, on a core like those of the study."""
    seconds = SETTINGS[run.setting].seconds
    return seconds / 2 if run.part == "search" else seconds


def model_options(run: Run) -> dict[str, Any]:
    """Returns the values of the recipe's model section that select a run's head."""
    if run.variant in ("gap", "noah"):
        return HEADS[run.variant]
    change = VARIANTS[run.part].changes[run.variant] if run.part in VARIANTS else {}
    if change.get("head") == "gap":
        return change
    return {**HEADS["noah_reference"], **SETTINGS[run.setting].paper_options, **change}


def make_recipe(
    run: Run, data_dir: str | None = None, quick: bool = False
) -> ml_collections.ConfigDict:
    """Returns the recipe of a run.

    Args:
        run: the run.
        data_dir: TFDS's folder with CIFAR-10. None uses TFDS's default.
        quick: whether to train only a few steps on a few examples, as a test.
    """
    setting = SETTINGS[run.setting]
    file, argument = setting.recipe
    model = model_options(run)
    get_config = runpy.run_path(str(_CONFIGS / f"{file}.py"))["get_config"]
    config = get_config(",".join(filter(None, (argument, model["head"]))))
    values = {**setting.overrides, **{f"model.{key}": value for key, value in model.items()}}
    values.update({"seed": run.seed, "optimizer.learning_rate": run.rate})
    if setting.needs_data_dir:
        values["data.data_dir"] = data_dir
    if run.part == "search":
        values["data.train_split"], values["data.eval_split"] = setting.search_splits
        values["train.epochs"] = 1
    if quick:
        for split in ("train_split", "eval_split"):
            name = values.get(f"data.{split}", config.data[split]).partition("[")[0]
            values[f"data.{split}"] = f"{name}[:64]"
        values.update({"train.epochs": 1, "train.batch_size": 16, "train.log_every": 1})
    # The run reads its data in one thread, because other runs use the other cores.
    values["data.threads"] = 1
    config.update_from_flattened_dict(values)
    return config
