"""MobileNetV2 x1.0, x0.75, x0.5, x0.35 on ImageNet, as in the paper (arXiv 2402.02377).

    python trainers/train.py --config configs/mobilenet_v2.py:noah_mobilenetv2_050 \\
        --workdir runs/noah_mobilenetv2_050

Rows, with the ImageNet top-1 accuracy in percent that the paper reports:

    row              top-1  row with NOAH         top-1  billion multiply-adds per image
    mobilenetv2_100  72.02  noah_mobilenetv2_100  73.35  0.37
    mobilenetv2_075  69.65  noah_mobilenetv2_075  71.44  0.28
    mobilenetv2_050  64.30  noah_mobilenetv2_050  67.44  0.16
    mobilenetv2_035  59.62  noah_mobilenetv2_035  63.40  0.12

Cost: 150 epochs of 1.28 million images. The head's dropout is printed for x1.0 only, 0.2. For the
others, 0 is a guess: the default of the authors' script.
"""

import ml_collections

from noah_tf.models.backbones.mobilenet_v2 import VARIANTS
from noah_tf.runs import recipe


def get_config(row: str = "noah_mobilenetv2_100") -> ml_collections.ConfigDict:
    """Returns the recipe of one row."""
    config, _ = recipe.imagenet(row, VARIANTS)
    recipe.cnn(config)
    config.optimizer.learning_rate = 0.05
    config.optimizer.weight_decay = 4e-5
    config.optimizer.exempt_1d = False
    config.schedule.name = "cosine"
    config.train.epochs = 150
    config.train.batch_size = 256
    return config
