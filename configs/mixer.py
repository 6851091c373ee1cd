"""MLP-Mixer B/16 and S/16 x1.0, x0.75, x0.5 on ImageNet, as in the paper (arXiv 2402.02377).

    python trainers/train.py --config configs/mixer.py:noah_mixer_s16 --workdir runs/noah_mixer_s16

Rows, with the ImageNet top-1 accuracy in percent that the paper reports:

    row            top-1  row with NOAH       top-1  billion multiply-adds per image
    mixer_b16      77.14  noah_mixer_b16      77.49  12.80
    mixer_s16      74.18  noah_mixer_s16      75.09  3.90
    mixer_s16_075  71.13  noah_mixer_s16_075  72.32  2.23
    mixer_s16_050  65.22  noah_mixer_s16_050  66.81  1.02

Cost: 300 epochs of 1.28 million images. The paper's batch is 192 on each of 8 GPUs.
"""

import ml_collections

from noah_tf.models.backbones.mixer import VARIANTS
from noah_tf.runs import recipe


def get_config(row: str = "noah_mixer_s16") -> ml_collections.ConfigDict:
    """Returns the recipe of one row."""
    config, _ = recipe.imagenet(row, VARIANTS)
    recipe.mlp(config)
    return config
