"""A recipe small enough to train in seconds, on photos that are drawn for it."""

import runpy
import types

import numpy as np
import tensorflow as tf
from shared_data import REPOSITORY

CLASSES = ("blob", "cross", "ring")
TRAIN_EXAMPLES, TEST_EXAMPLES = 24, 10
# Flags that reduce quickstart's network to a stem and one block.
SMALL = (
    "--config.model.backbone_args.stackwise_filters=(64,)",
    "--config.model.backbone_args.stackwise_blocks=(1,)",
    "--config.model.backbone_args.stackwise_strides=(1,)",
)


def recipe(name, *argument):
    """Returns the config of configs/NAME.py."""
    return runpy.run_path(str(REPOSITORY / "configs" / f"{name}.py"))["get_config"](*argument)


def quickstart(head="noah"):
    """Returns the config of configs/quickstart.py."""
    return recipe("quickstart", head)


def devices(count):
    """Returns a stand-in for a strategy with so many replicas, for checks of a recipe."""
    return types.SimpleNamespace(num_replicas_in_sync=count)


def draw_shapes(folder, train_examples=TRAIN_EXAMPLES):
    """Writes folder/SPLIT/CLASS/N.png: one bright shape of its class on a dark 32x32 square."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    for split, count in (("train", train_examples), ("test", TEST_EXAMPLES)):
        for index in range(count):
            name = CLASSES[index % len(CLASSES)]
            y, x = rng.integers(8, 24, 2)
            distance = np.hypot(rows - y, columns - x)
            shape = {
                "blob": distance < 5,
                "cross": ((abs(rows - y) < 2) | (abs(columns - x) < 2)) & (distance < 7),
                "ring": (distance > 4) & (distance < 7),
            }[name]
            image = rng.integers(0, 60, (32, 32, 3)) + 180 * shape[..., None]
            path = folder / split / name / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tf.io.encode_png(image.astype(np.uint8)).numpy())
    return folder


def small_recipe(shapes, head="noah"):
    """Returns quickstart on the shapes: a stem and one block, two epochs of three steps."""
    config = quickstart(head)
    config.data.name = "folder"
    config.data.data_dir = str(shapes)
    config.preprocess.image_size = (32, 32)
    config.model.backbone_args.stackwise_filters = (64,)
    config.model.backbone_args.stackwise_blocks = (1,)
    config.model.backbone_args.stackwise_strides = (1,)
    config.train.batch_size = 8
    config.train.epochs = 2
    config.schedule.warmup_epochs = 0.0
    config.train.recompute_batch_statistics = False
    return config
