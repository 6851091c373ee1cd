"""Small networks for small images, on CIFAR-10 or another data set.

    python trainers/train.py --config configs/cifar.py --workdir runs/cifar10
    python trainers/train.py --config configs/cifar.py:gap --workdir runs/cifar10_gap
    python trainers/train.py --config configs/cifar.py:vit --workdir runs/cifar10_vit
    python trainers/train.py --config configs/cifar.py --workdir runs/cifar100 \\
        --config.data.name=cifar100 --config.data.label_key=label

The argument is the head, noah (the default) or gap, or the backbone, resnet (the default),
mobilenet_v2 or vit, or both: `configs/cifar.py:vit,gap`. This is not a recipe of the paper, which
has no results on CIFAR. It uses SGD as in the ResNet paper, AdamW for the transformer, and the
usual crops and flips.

Cost: 200 epochs of 50,000 images of 32x32 pixels, about an hour on a GPU. On two CPU cores, train a
narrow ResNet for a few epochs, which takes some minutes:

    python trainers/train.py --config configs/cifar.py --workdir runs/cifar10_short \\
        --config.model.backbone_args.filters='(16, 32, 64)' \\
        --config.model.backbone_args.blocks='(1, 1, 1)' --config.train.epochs=3
"""

import ml_collections

from noah_tf.runs import recipe

# Their feature maps have 8x8, 4x4 and 8x8 positions. On a map of one position NOAH is linear.
_BACKBONES = {
    "resnet": {"filters": (64, 128, 256), "blocks": (2, 2, 2)},
    "mobilenet_v2": {"width": "100", "strides": (1, 2, 2, 2, 1)},
    "vit": {"patch_size": 4, "width": 192, "depth": 9, "num_heads": 3},
}


def get_config(argument: str = "noah") -> ml_collections.ConfigDict:
    """Returns the recipe with a head and a backbone."""
    words = argument.split(",")
    heads = [word for word in words if word in ("noah", "gap")]
    backbones = [word for word in words if word in _BACKBONES]
    if len(heads) > 1 or len(backbones) > 1 or len(heads) + len(backbones) < len(words):
        raise ValueError(
            f"configs/cifar.py takes noah or gap and one of {', '.join(_BACKBONES)}, "
            f"such as vit,gap; got {argument!r}."
        )
    (backbone,) = backbones or ["resnet"]
    config = recipe.base()
    (config.model.head,) = heads or ["noah"]
    config.model.backbone = f"noah_tf.models.backbones.small.small_{backbone}"
    config.model.backbone_args = _BACKBONES[backbone]
    config.data.name = "cifar10"
    config.data.eval_split = "test"
    config.data.cache = True
    config.preprocess.image_size = (32, 32)
    config.preprocess.mean = (0.491, 0.482, 0.447)
    config.preprocess.std = (0.247, 0.243, 0.262)
    config.augment.flip = True
    config.augment.pad = 4
    if backbone == "vit":
        config.optimizer.name = "adamw"
        config.optimizer.learning_rate = 1e-3
        config.optimizer.weight_decay = 0.05
        config.schedule.warmup_epochs = 5.0
    else:
        config.optimizer.learning_rate = 0.1
        config.optimizer.weight_decay = 5e-4
        config.optimizer.exempt_1d = False
    config.train.epochs = 200
    config.train.batch_size = 128
    return config
