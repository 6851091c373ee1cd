"""Recipes that cannot work raise before any data is touched."""

import math
import re
import shutil

import pytest
from recipes import devices, quickstart, small_recipe
from recipes import recipe as load

from noah_tf.datasets.registry import source_from_config
from noah_tf.training import recipe_checks
from noah_tf.training.losses import BINARY_LOSSES, MULTI_LABEL_LOSSES
from noah_tf.training.plan import TrainingPlan

pytestmark = pytest.mark.one_stack


def test_all_contradictions_are_named_at_once():
    config = load("deit", "noah_deit_tiny")
    config.train.epochs = 4
    config.train.batch_size = 30
    config.train.loss = "sparse_categorical_crossentropy"
    config.train.label_smoothing = 1.5
    config.precision = "float8"
    config.optimizer.beta_2 = 1.0
    config.augment.rand_augment = "rand-q9"
    config.model.architecture = "deit_tine"
    with pytest.raises(ValueError) as error:
        TrainingPlan.from_config(config, devices(8))
    text = str(error.value)
    for part in (
        "train.batch_size=30 is not divisible by the 8 replicas: use 32",
        "schedule.warmup_epochs must be at least 0 and less than the 4 epochs",
        "labels that train.loss='sparse_categorical_crossentropy' cannot take",
        "train.label_smoothing must be a number in [0, 1), got 1.5",
        "precision must be one of float32, mixed_bfloat16, mixed_float16, got 'float8'",
        "optimizer.beta_2 must be in [0, 1), got 1.0",
        "rand-q9",
        "model.architecture must be one of the paper's",
    ):
        assert part in text, part
    assert "cannot work, for " in text


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.epochs", 0, "train.epochs must be at least 1, got 0"),
        ("train.batch_size", -1, "train.batch_size must be at least 1, got -1"),
        ("train.accumulate", 5, "accumulate=5 does not divide the 64 examples"),
        (
            "augment.mix_group",
            48,
            "mix_group=48 does not divide the 64 examples of a replica's share",
        ),
        ("train.frozen_layers", "block_*", "frozen_layers must be a tuple of patterns, got 'bl"),
        ("train.patience", -1, "train.patience must be at least 0, got -1"),
        ("train.loss", "mse", "train.loss must be one of auto"),
        ("train.loss", "asymetric", "binary_focal_crossentropy, asymmetric, got 'asymetric'"),
        ("train.gamma_negative", -1.0, "train.gamma_negative must be at least 0, got -1.0"),
        ("train.gamma_positive", math.nan, "train.gamma_positive must be at least 0, got nan"),
        ("train.focal_gamma", -2.0, "train.focal_gamma must be at least 0, got -2.0"),
        (
            "train.probability_margin",
            1.0,
            "train.probability_margin must be a number in [0, 1), got 1.0",
        ),
        ("preprocess.stretch", 1, "stretch must be True or False, got 1"),
        ("data.on_corrupt", "ignore", "on_corrupt must be one of error, skip, got 'ignore'"),
        ("ema.decay", 1.0, "ema.decay must be a number in [0, 1), got 1.0"),
        ("strategy", "horovod", "strategy must be one of auto, single"),
        (
            "optimizer.name",
            "adam",
            "optimizer.name must be one of sgd, adamw, lamb, or one of",
        ),
        ("optimizer.learning_rate", -1.0, "learning_rate"),
        ("schedule.name", "poly", "schedule.name must be one of"),
        ("augment.mixup", -0.5, "augment.mixup"),
        ("augment.repeats", 0, "augment.repeats"),
        ("preprocess.image_size", (32, 32, 3), "image_size must be one or two positive ints"),
        ("model.num_groups", 0, "model.num_groups must be a positive integer, got 0"),
        ("model.drop_path", 3.0, "model.drop_path must be a number in [0, 1), got 3.0"),
        ("seed", 2**32, "seed must be at least 0 and less than 2**32"),
        ("model.head", "linear", "model.head must be 'noah' or 'gap'"),
        ("model.backbone", None, "model.architecture and model.backbone are both None"),
        ("model.weights_head", "skip", "need weights, got none"),
        ("augment.repeats", 65, "repeats=65 is more than the batch"),
    ],
)
def test_value_that_cannot_work_raises(key, value, message):
    config = quickstart()
    with config.ignore_type():
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainingPlan.from_config(config)


def test_noah_options_with_the_standard_head_raise():
    config = quickstart("gap")
    config.model.num_groups = 4
    with pytest.raises(ValueError, match="model.num_groups=4 and .* are for model.head='noah'"):
        TrainingPlan.from_config(config)


def test_one_class_raises():
    config = quickstart()
    recipe_checks.check_data_size(config, num_classes=2, num_examples=64)
    with pytest.raises(ValueError, match="has 1 class, and a classifier needs at least 2"):
        recipe_checks.check_data_size(config, num_classes=1, num_examples=64)
    with pytest.raises(ValueError, match="batch_size=64 is more than the 63 examples"):
        recipe_checks.check_data_size(config, num_classes=2, num_examples=63)


def test_float16_with_xla_on_two_replicas_raises():
    config = quickstart()
    config.jit_compile, config.precision = True, "mixed_float16"
    TrainingPlan.from_config(config, devices(1))
    with pytest.raises(ValueError, match="use mixed_bfloat16"):
        TrainingPlan.from_config(config, devices(2))


def test_data_of_another_size_raise(shapes):
    config = small_recipe(shapes)
    config.data.num_classes = 7
    config.data.num_examples = 25
    config.train.batch_size = 1000
    config.train.loss = "categorical_crossentropy"
    train, test = (source_from_config(config.data, split) for split in ("train", "test"))
    with pytest.raises(ValueError) as error:
        recipe_checks.check_data(config, train, test)
    for part in (
        "data.num_classes=7, and folder has 3",
        "data.num_examples=25, and folder train has 24: set it to that",
        "train.batch_size=1000 is more than the 24 examples",
    ):
        assert part in str(error.value)


def check_coco(coco_dir, eval_split="validation", **train):
    """Checks configs/coco.py, with changes, against the small copy of its data."""
    config = load("coco")
    config.data.data_dir, config.data.num_examples = str(coco_dir), None
    config.data.eval_split, config.train.batch_size = eval_split, 8
    config.train.update(train)
    splits = (config.data.train_split, config.data.eval_split)
    sources = [source_from_config(config.data, split) for split in splits]
    recipe_checks.check_data(config, *sources)


@pytest.mark.parametrize("loss", ["auto", *BINARY_LOSSES])
def test_multi_label_losses_take_multi_label_data(coco_dir, loss):
    check_coco(coco_dir, loss=loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"loss": "categorical_crossentropy"},
            "train.loss='categorical_crossentropy', and an image of coco/2017 can have several "
            "labels: use 'binary_crossentropy', 'binary_focal_crossentropy' or 'asymmetric'.",
        ),
        (
            {"eval_split": "test"},
            "no image of coco/2017 test has a label: choose another data.eval_split.",
        ),
    ],
)
def test_option_that_does_not_fit_multi_label_data_raises(coco_dir, options, message):
    with pytest.raises(ValueError) as error:
        check_coco(coco_dir, **options)
    assert str(error.value) == f"The recipe cannot work: {message}"


@pytest.mark.parametrize("loss", MULTI_LABEL_LOSSES)
def test_multi_label_losses_with_one_label_raise(shapes, loss):
    config = small_recipe(shapes)
    train, test = (source_from_config(config.data, split) for split in ("train", "test"))
    config.train.loss = "binary_crossentropy"
    recipe_checks.check_data(config, train, test)
    config.train.loss = loss
    with pytest.raises(ValueError) as error:
        recipe_checks.check_data(config, train, test)
    assert str(error.value) == (
        f"The recipe cannot work: train.loss={loss!r} is for several labels per image, and an "
        "image of folder has one: use 'auto'."
    )


def folder_problem(folder, train="train", evaluation="test"):
    config = small_recipe(folder)
    config.train.batch_size = 1
    config.data.train_split, config.data.eval_split = train, evaluation
    sources = [source_from_config(config.data, split) for split in (train, evaluation)]
    with pytest.raises(ValueError) as error:
        recipe_checks.check_data(config, *sources)
    return str(error.value)


def test_folders_without_photos_or_classes_raise(shapes, tmp_path):
    photos = shutil.copytree(shapes, tmp_path / "photos")
    (photos / "train" / "wedge").mkdir()
    (photos / "train" / "wedge" / "1.tiff").write_bytes(b"")
    assert folder_problem(photos) == (
        "The recipe cannot work: folder train has no photo of the class wedge: add JPEG, PNG, BMP, "
        "GIF or WebP photos, or remove the class."
    )
    # The training split has all classes, whatever its name is.
    (photos / "train").rename(photos / "training")
    assert "folder training has no photo of the class wedge" in folder_problem(photos, "training")
    (photos / "test" / "wig").mkdir()
    config = small_recipe(photos)
    config.data.train_split = "training"
    with pytest.raises(ValueError, match="none of the 4 classes of .*training: wig;"):
        source_from_config(config.data, "test")
    one = tmp_path / "one"
    for split in ("train", "test"):
        shutil.copytree(shapes / split / "ring", one / split / "ring")
    assert folder_problem(one) == (
        "The recipe cannot work: folder has 1 class, and a classifier needs at least 2: check "
        "its folders, or data.label_key."
    )
