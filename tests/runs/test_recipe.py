"""The recipes in configs/."""

import importlib
import re

import pytest
from recipes import devices
from recipes import recipe as load
from shared_data import REPOSITORY

import noah_tf
from noah_tf.models.paper_table import ARCHITECTURES
from noah_tf.runs import recipe
from noah_tf.training import recipe_checks
from noah_tf.training.plan import TrainingPlan

pytestmark = pytest.mark.one_stack

FAMILIES = (
    "resnet",
    "mobilenet_v2",
    "mobilenet_v3",
    "shufflenet_v2",
    "deit",
    "pvt",
    "mixer",
    "gmlp",
)
OTHERS = ("quickstart", "cifar", "coco", "finetune", "imagenet_fake", "resnet50_rsb")


def variants(family):
    return importlib.import_module(f"noah_tf.models.backbones.{family}").VARIANTS


ROWS = [
    (family, prefix + name)
    for family in FAMILIES
    for name in variants(family)
    for prefix in ("", "noah_")
]


def test_every_config_is_tested_here():
    names = {path.stem for path in (REPOSITORY / "configs").glob("*.py")}
    assert names == {*FAMILIES, *OTHERS}


def test_every_model_has_a_row():
    of_coco = ["vit_large_patch16_224", "noah_vit_large_patch16_224"]  # test_rows_of_coco
    assert sorted([*of_coco, *(row for _, row in ROWS)]) == sorted(noah_tf.list_models())


@pytest.mark.parametrize(("family", "row"), ROWS)
def test_every_row_is_a_valid_recipe_of_its_model(family, row):
    config = load(family, row)
    TrainingPlan.from_config(config, devices(8))
    assert config.model.architecture == row.removeprefix("noah_")
    assert config.model.head == ("noah" if row.startswith("noah_") else "gap")
    short = re.sub(r"(_patch16)?_224$", "", row)
    assert load(family, short).to_dict() == config.to_dict()


@pytest.mark.parametrize("name", OTHERS)
def test_other_recipes_are_valid(name):
    TrainingPlan.from_config(load(name))


@pytest.mark.parametrize(
    ("row", "architecture", "head", "size"),
    [
        ("noah_resnet101", "resnet101", "noah", (448, 448)),
        ("resnet101", "resnet101", "gap", (448, 448)),
        ("noah_vit_large", "vit_large_patch16_224", "noah", (224, 224)),
        ("vit_large", "vit_large_patch16_224", "gap", (224, 224)),
    ],
)
def test_rows_of_coco(row, architecture, head, size):
    config = load("coco", row)
    TrainingPlan.from_config(config, devices(8))
    recipe_checks.check_data_size(config, config.data.num_classes, config.data.num_examples)
    assert (config.model.architecture, config.model.head) == (architecture, head)
    assert config.preprocess.image_size == size and config.preprocess.stretch
    assert config.train.loss == "asymmetric" and config.ema.decay == 0.9997
    assert row in (REPOSITORY / "configs" / "coco.py").read_text().split('"""')[1]


def test_coco_has_no_other_rows():
    with pytest.raises(ValueError, match="no row 'resnet50'; the rows are noah_resnet101, resnet"):
        load("coco", "resnet50")


@pytest.mark.parametrize("family", FAMILIES)
def test_docstrings_have_the_papers_numbers_and_a_command_that_works(family):
    text = (REPOSITORY / "configs" / f"{family}.py").read_text()
    for name in variants(family):
        short = re.sub(r"(_patch16)?_224$", "", name)
        row = ARCHITECTURES[name]
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [short]]
        top1, noah_top1 = (f"{x:.2f}" if x else "-" for x in (row.top1, row.noah_top1))
        assert line.split()[:4] == [short, top1, f"noah_{short}", noah_top1]
    (command,) = re.findall(rf"--config configs/{family}\.py:(\S+)", text)
    assert load(family, command).model.architecture in variants(family)


# The reference: epochs, batch, learning rate, weight decay, exempt_1d.
CNNS = {
    "resnet": (100, 256, 0.1, 1e-4, False),
    "mobilenet_v2": (150, 256, 0.05, 4e-5, False),
    "mobilenet_v3": (150, 256, 0.05, 4e-5, True),
    "shufflenet_v2": (240, 1024, 0.5, 4e-5, True),
}


@pytest.mark.parametrize("family", CNNS)
def test_recipes_of_the_cnns(family):
    config = load(family)
    optimizer, train = config.optimizer, config.train
    assert CNNS[family] == (
        train.epochs,
        train.batch_size,
        optimizer.learning_rate,
        optimizer.weight_decay,
        optimizer.exempt_1d,
    )
    assert (optimizer.name, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.9, False)
    assert config.schedule.by == "epoch" and config.schedule.warmup_epochs == 0
    assert config.preprocess.resize_size == 256 and config.preprocess.interpolation == "bilinear"
    assert not config.augment.mixup and not config.augment.cutmix
    assert config.augment.crop_antialias  # as PIL
    assert config.augment.rand_augment is None


@pytest.mark.parametrize("family", ["deit", "pvt"])
@pytest.mark.parametrize("prefix", ["", "noah_"])
def test_recipes_of_the_transformers(family, prefix):
    config = load(family, prefix + ("deit_tiny" if family == "deit" else "pvt_tiny"))
    assert config.optimizer.learning_rate == pytest.approx(1e-3)
    assert config.optimizer.name == "adamw" and config.optimizer.epsilon == 1e-8
    assert config.schedule.to_dict() == {
        **recipe.base().schedule.to_dict(),
        "by": "epoch",
        "end": 1e-5,
        "lag_epochs": 1,
        "warmup_epochs": 5.0,
        "warmup_start": 1e-6,
    }
    exempt = {
        ("deit", ""): ("pos_embed/*", "cls_token/*"),
        ("deit", "noah_"): ("pos_embed/*",),
        ("pvt", ""): ("cls_token/*",),
        ("pvt", "noah_"): (),
    }
    assert config.optimizer.exempt == exempt[family, prefix]
    assert config.ema.decay == (0.99996 if family == "deit" else 0)
    augment = config.augment
    assert (augment.mixup, augment.cutmix, augment.mix_switch, augment.erasing) == (
        0.8,
        1,
        0.5,
        0.25,
    )
    assert augment.rand_augment == "rand-m9-mstd0.5-inc1" and augment.repeats == 3
    assert augment.mix_group == 128
    assert config.preprocess.interpolation == "bicubic" and config.preprocess.resize_size == 256


@pytest.mark.parametrize("family", ["mixer", "gmlp"])
def test_recipes_of_the_mlps(family):
    config = load(family)
    optimizer, augment = config.optimizer, config.augment
    assert (optimizer.learning_rate, optimizer.epsilon, optimizer.weight_decay) == (
        7e-4,
        1e-6,
        0.067,
    )
    assert optimizer.clip_norm == 1 and config.train.batch_size == 1536
    assert (augment.mixup, augment.cutmix, augment.erasing, augment.repeats) == (0.5, 1, 0, 1)
    assert augment.mix_group == 192
    assert augment.crop_ratio == (0.67, 1.5) and augment.crop_interpolation == "random"
    assert config.model.drop_path == 0.1 and config.model.mlp_dropout == 0.02333
    assert config.ema.decay == 0.99992 and config.schedule.warmup_epochs == 20
    assert tuple(config.preprocess.mean) == (0.5, 0.5, 0.5)


def test_recipe_of_resnet_strikes_back():
    config = load("resnet50_rsb")
    optimizer, augment, train = config.optimizer, config.augment, config.train
    assert (optimizer.name, optimizer.learning_rate, optimizer.weight_decay) == ("lamb", 5e-3, 0.02)
    assert (train.epochs, train.batch_size, train.label_smoothing) == (300, 2048, 0)
    assert (train.loss, train.target_threshold) == ("binary_crossentropy", 0.2)
    assert (augment.mixup, augment.cutmix, augment.erasing, augment.repeats) == (0.1, 1, 0, 3)
    assert augment.crop_interpolation == "random" and augment.mix_group == 512
    assert config.schedule.lag_epochs == 0 and config.ema.decay == 0


def test_unknown_row_names_the_nearest():
    with pytest.raises(ValueError, match="no row 'noah_deit_tinny', perhaps 'noah_deit_tiny'; the"):
        load("deit", "noah_deit_tinny")
