"""ResNet-50 on ImageNet with the training of "ResNet strikes back", A2 (arXiv 2110.00476).

    python trainers/train.py --config configs/resnet50_rsb.py --workdir runs/noah_resnet50_rsb
    python trainers/train.py --config configs/resnet50_rsb.py:resnet50 --workdir runs/resnet50_rsb

Rows: noah_resnet50 (the default) and resnet50. Table 2 of that paper reports 79.8 % top-1 accuracy
for the standard head. This is not a recipe of the NOAH paper, so there is no number for NOAH.

Cost: 300 epochs of 1.28 million images, and 4.2 billion multiply-adds per image. The batch of 2048
needs 8 GPUs with 32 GB, or --config.train.accumulate.
"""

import ml_collections

from noah_tf.runs import recipe


def get_config(row: str = "noah_resnet50") -> ml_collections.ConfigDict:
    """Returns the recipe with one of the two heads."""
    config, _ = recipe.imagenet(row, ("resnet50",))
    config.model.drop_path = 0.05
    config.preprocess.interpolation = "bicubic"
    config.preprocess.resize_size = 235  # 224 / 0.95
    config.augment.repeats = 3
    config.augment.rand_augment = "rand-m7-mstd0.5-inc1"
    config.augment.mixup = 0.1
    config.augment.cutmix = 1.0
    config.optimizer.name = "lamb"
    config.optimizer.learning_rate = 5e-3
    config.optimizer.weight_decay = 0.02
    config.optimizer.epsilon = 1e-6
    config.optimizer.clip_norm = 1.0  # as timm's LAMB does
    config.schedule.name = "cosine"
    config.schedule.by = "epoch"
    config.schedule.warmup_epochs = 5.0
    config.schedule.warmup_start = 1e-4
    config.schedule.end = 1e-6
    config.train.epochs = 300
    config.train.batch_size = 2048
    config.train.loss = "binary_crossentropy"
    return config
