"""ShuffleNetV2 x0.5, x1.0, x1.5, x2.0 on ImageNet, as in the paper (arXiv 2402.02377).

    python trainers/train.py --config configs/shufflenet_v2.py:noah_shufflenetv2_100 \\
        --workdir runs/noah_shufflenetv2_100

Rows, with the ImageNet top-1 accuracy in percent that the paper reports:

    row               top-1  row with NOAH          top-1  billion multiply-adds per image
    shufflenetv2_050  -      noah_shufflenetv2_050  -      0.09
    shufflenetv2_100  69.43  noah_shufflenetv2_100  70.72  0.20
    shufflenetv2_150  -      noah_shufflenetv2_150  -      0.35
    shufflenetv2_200  -      noah_shufflenetv2_200  -      0.69

The authors' code has the rows with "-" too, but the paper does not report them.

Cost: 240 epochs of 1.28 million images. The head's dropout is printed for x1.0 only, 0. It is the
same for the others.
"""

import ml_collections

from noah_tf.models.backbones.shufflenet_v2 import VARIANTS
from noah_tf.runs import recipe


def get_config(row: str = "noah_shufflenetv2_100") -> ml_collections.ConfigDict:
    """Returns the recipe of one row."""
    config, _ = recipe.imagenet(row, VARIANTS)
    recipe.cnn(config)
    config.model.batch_norm_group = 128
    config.optimizer.learning_rate = 0.5
    config.optimizer.weight_decay = 4e-5
    config.schedule.name = "linear"
    config.train.epochs = 240
    config.train.batch_size = 1024
    return config
