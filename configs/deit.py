"""DeiT-Base, -Small, -Tiny, -Tiny x0.75 and x0.5 on ImageNet, as in the paper (arXiv 2402.02377).

    python trainers/train.py --config configs/deit.py:noah_deit_tiny_050 \\
        --workdir runs/noah_deit_tiny_050

Rows, with the ImageNet top-1 accuracy in percent that the paper reports:

    row            top-1  row with NOAH       top-1  billion multiply-adds per image
    deit_base      81.85  noah_deit_base      82.22  17.68
    deit_small     79.78  noah_deit_small     80.56  4.68
    deit_tiny      72.16  noah_deit_tiny      74.29  1.30
    deit_tiny_075  62.55  noah_deit_tiny_075  66.64  0.80
    deit_tiny_050  51.36  noah_deit_tiny_050  56.66  0.41

The rows of x0.75 and x0.5 have the `pre_logits` layer, as in the released code. The number of
parameters in the paper is without it: --config.model.pre_logits=False.

Cost: 300 epochs of 1.28 million images. The paper's batch is 128 on each of 8 GPUs, and its
learning rate is 5e-4 * batch / 512: if you change the batch size, change the learning rate, too.
The authors train in float16 (--config.precision=mixed_float16), this recipe trains in float32.
"""

import ml_collections

from noah_tf.models.backbones.deit import VARIANTS
from noah_tf.runs import recipe


def get_config(row: str = "noah_deit_tiny") -> ml_collections.ConfigDict:
    """Returns the recipe of one row."""
    config, _ = recipe.imagenet(row, VARIANTS)
    recipe.transformer(config)
    is_noah = config.model.head == "noah"
    config.optimizer.exempt = ("pos_embed/*",) if is_noah else ("pos_embed/*", "cls_token/*")
    config.ema.decay = 0.99996
    config.ema.chooses_best = False
    return config
