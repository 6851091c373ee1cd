"""gMLP-S/16 and gMLP-Ti/16 x1.0, x0.75, x0.5 on ImageNet, as in the paper (arXiv 2402.02377).

    python trainers/train.py --config configs/gmlp.py:noah_gmlp_ti16 --workdir runs/noah_gmlp_ti16

Rows, with the ImageNet top-1 accuracy in percent that the paper reports:

    row            top-1  row with NOAH       top-1  billion multiply-adds per image
    gmlp_s16       79.65  noah_gmlp_s16       79.95  4.50
    gmlp_ti16      72.05  noah_gmlp_ti16      73.39  1.38
    gmlp_ti16_075  65.95  noah_gmlp_ti16_075  67.71  0.88
    gmlp_ti16_050  54.99  noah_gmlp_ti16_050  56.89  0.48

Cost: 300 epochs of 1.28 million images. The paper's batch is 192 on each of 8 GPUs.
"""

import ml_collections

from noah_tf.models.backbones.gmlp import VARIANTS
from noah_tf.runs import recipe


def get_config(row: str = "noah_gmlp_ti16") -> ml_collections.ConfigDict:
    """Returns the recipe of one row."""
    config, _ = recipe.imagenet(row, VARIANTS)
    recipe.mlp(config)
    return config
