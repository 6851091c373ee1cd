"""PVT-Tiny x1.0, x0.75, x0.5 on ImageNet, as in the paper (arXiv 2402.02377).

    python trainers/train.py --config configs/pvt.py:noah_pvt_tiny --workdir runs/noah_pvt_tiny

Rows, with the ImageNet top-1 in percent that the paper reports:

    row           top-1  row with NOAH      top-1  multiply-adds forward, billions
    pvt_tiny      75.10  noah_pvt_tiny      76.51  1.98
    pvt_tiny_075  71.81  noah_pvt_tiny_075  74.22  1.14
    pvt_tiny_050  65.33  noah_pvt_tiny_050  68.50  0.53

Cost: 300 epochs of 1.28 million images, and each image a forward and a backward pass. The paper's
batch is 128 on each of 8 GPUs, and the learning rate 5e-4 * batch / 512: for another batch, set
both.
"""

from noah_tf.models.backbones.pvt import VARIANTS
from noah_tf.runs import recipe


def get_config(row="noah_pvt_tiny"):
    """The recipe of one row."""
    config, _ = recipe.imagenet(row, VARIANTS)
    recipe.transformer(config)
    if config.model.head != "noah":
        config.optimizer.exempt = ("cls_token/*",)
    return config
