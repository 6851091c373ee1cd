"""MobileNetV3-Small and -Large on ImageNet, as in the paper (arXiv 2402.02377).

    python trainers/train.py --config configs/mobilenet_v3.py:noah_mobilenetv3_small \\
        --workdir runs/noah_mobilenetv3_small

Rows, with the ImageNet top-1 accuracy in percent that the paper reports:

    row                top-1  row with NOAH           top-1  billion multiply-adds per image
    mobilenetv3_small  67.11  noah_mobilenetv3_small  68.92  0.16
    mobilenetv3_large  -      noah_mobilenetv3_large  -      0.35

The authors' code has the rows with "-" too, but the paper does not report them.

Cost: 150 epochs of 1.28 million images. The head's dropout is printed for Small only, 0.2. For
Large, 0 is a guess: the default of the authors' script.
"""

import ml_collections

from noah_tf.models.backbones.mobilenet_v3 import VARIANTS
from noah_tf.runs import recipe


def get_config(row: str = "noah_mobilenetv3_small") -> ml_collections.ConfigDict:
    """Returns the recipe of one row."""
    config, _ = recipe.imagenet(row, VARIANTS)
    recipe.cnn(config)
    config.optimizer.learning_rate = 0.05
    config.optimizer.weight_decay = 4e-5
    config.schedule.name = "cosine"
    config.train.epochs = 150
    config.train.batch_size = 256
    return config
