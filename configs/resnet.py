"""ResNet-18, -34, -50, -101, -152 on ImageNet, as in the paper (arXiv 2402.02377).

    python trainers/train.py --config configs/resnet.py:noah_resnet18 --workdir runs/noah_resnet18

Rows, with the ImageNet top-1 accuracy in percent that the paper reports:

    row        top-1  row with NOAH   top-1  billion multiply-adds per image
    resnet18   70.25  noah_resnet18   71.81  1.84
    resnet34   -      noah_resnet34   -      3.69
    resnet50   76.23  noah_resnet50   77.25  4.20
    resnet101  77.41  noah_resnet101  78.22  7.92
    resnet152  78.16  noah_resnet152  78.57  11.64

The authors' code has the rows with "-" too, but the paper does not report them.

Cost: 100 epochs of 1.28 million images. The paper's batch is 256 on all GPUs together, and the
learning rate does not depend on it. The head's dropout is printed for ResNet-18 only, 0.1. For the
others, 0 is a guess: the default of the authors' script.
"""

import ml_collections

from noah_tf.models.backbones.resnet import VARIANTS
from noah_tf.runs import recipe


def get_config(row: str = "noah_resnet18") -> ml_collections.ConfigDict:
    """Returns the recipe of one row."""
    config, _ = recipe.imagenet(row, VARIANTS)
    recipe.cnn(config)
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.optimizer.exempt_1d = False
    config.schedule.name = "step"
    config.schedule.boundaries = (30, 60, 90)
    config.train.epochs = 100
    config.train.batch_size = 256
    return config
