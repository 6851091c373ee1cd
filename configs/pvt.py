"""PVT-Tiny x1.0, x0.75, x0.5, and larger PVTs, on ImageNet, as in the paper (arXiv 2402.02377).

    python trainers/train.py --config configs/pvt.py:noah_pvt_tiny --workdir runs/noah_pvt_tiny

Rows, with the ImageNet top-1 accuracy in percent that the paper reports:

    row           top-1  row with NOAH      top-1  billion multiply-adds per image
    pvt_tiny      75.10  noah_pvt_tiny      76.51  1.98
    pvt_tiny_075  71.81  noah_pvt_tiny_075  74.22  1.14
    pvt_tiny_050  65.33  noah_pvt_tiny_050  68.50  0.53
    pvt_small     -      noah_pvt_small     -      3.88
    pvt_medium    -      noah_pvt_medium    -      6.74
    pvt_large     -      noah_pvt_large     -      9.92

The authors' code has the rows with "-" too, but the paper does not report them.

Cost: 300 epochs of 1.28 million images. The paper's batch is 128 on each of 8 GPUs, and its
learning rate is 5e-4 * batch / 512: if you change the batch size, change the learning rate, too.
The authors train in float16 (--config.precision=mixed_float16), this recipe trains in float32.
"""

import ml_collections

from noah_tf.models.backbones.pvt import VARIANTS
from noah_tf.runs import recipe


def get_config(row: str = "noah_pvt_tiny") -> ml_collections.ConfigDict:
    """Returns the recipe of one row."""
    config, _ = recipe.imagenet(row, VARIANTS)
    recipe.transformer(config)
    if config.model.head != "noah":
        config.optimizer.exempt = ("cls_token/*",)
    return config
