"""ResNet-50 on ImageNet with the training of "ResNet strikes back", A2 (arXiv 2110.00476).

    python trainers/train.py --config configs/resnet50_rsb.py --workdir runs/noah_resnet50_rsb
    python trainers/train.py --config configs/resnet50_rsb.py:resnet50 --workdir runs/resnet50_rsb

Rows: noah_resnet50 (the default) and resnet50. Table 2 of that paper reports 79.8 % top-1 accuracy
for the standard head. This is not a recipe of the NOAH paper, so there is no number for NOAH.

The values and their sources. "Table" is Table 2 of that paper, "timm" are the defaults of timm's
train.py and models when the weights were published (October 2021). timm prints no command for A2;
"commands" are those that three projects print for it (ML-Decoder, NEXcepTion, SpatialBias).

    epochs 300, batch 2048                          Table
    LAMB, learning rate 5e-3, weight decay 0.02     Table
    epsilon 1e-6, gradients clipped to a norm of 1  timm's Lamb
    no decay of biases and BatchNorm                timm
    cosine, 5 epochs of warm-up                     Table
    warm-up from 1e-4, end at 1e-6                  timm, and the commands
    rate set once an epoch                          timm
    binary cross-entropy, no label smoothing        Table
    target of a mixed image: 1 for both classes     text of that paper (section on the loss)
    ... if the share is above 0.2                   commands (--bce-target-thresh 0.2)
    crop: 0.08 to 1 of the area, ratio 3/4 to 4/3   timm
    crop interpolation: bilinear or bicubic         timm; ML-Decoder's command has bicubic only
    3 copies of an image in a batch                 Table (repeated augmentation)
    RandAugment 7, standard deviation 0.5, rising   Table, commands (rand-m7-mstd0.5-inc1)
    mixup 0.1, CutMix 1.0, switch 0.5               Table; the switch is timm's
    mixed 512 images at a time                      timm, on the four GPUs of that paper
    no erasing, no moving average of weights        Table
    drop path 0.05, linear                          Table; linear as in timm's ResNet
    evaluation: 224 / 0.95, bicubic                 Table; bicubic as in timm's ResNet

This recipe differs from timm in three points. timm starts the last BatchNorm of each block at 0,
and this ResNet at 1, as the NOAH paper's does. timm normalizes the share of a GPU, 512 images, and
this recipe the share of a device: --config.model.batch_norm_group=512, if the share is a multiple.
timm adds 10 epochs at the final learning rate by default (--cooldown-epochs), and the table has
300 epochs.

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
    config.augment.crop_interpolation = "random"
    config.augment.repeats = 3
    config.augment.rand_augment = "rand-m7-mstd0.5-inc1"
    config.augment.mixup = 0.1
    config.augment.cutmix = 1.0
    config.augment.mix_group = 512
    config.optimizer.name = "lamb"
    config.optimizer.learning_rate = 5e-3
    config.optimizer.weight_decay = 0.02
    config.optimizer.epsilon = 1e-6
    config.optimizer.clip_norm = 1.0
    config.schedule.name = "cosine"
    config.schedule.by = "epoch"
    config.schedule.warmup_epochs = 5.0
    config.schedule.warmup_start = 1e-4
    config.schedule.end = 1e-6
    config.train.epochs = 300
    config.train.batch_size = 2048
    config.train.loss = "binary_crossentropy"
    config.train.target_threshold = 0.2
    return config
