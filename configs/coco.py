"""ResNet-101 and ViT-Large on MS-COCO, to predict which of its 80 classes are in a photo.

    tfds build coco/2017        # 25 GB; otherwise training builds it
    python trainers/train.py --config configs/coco.py --workdir runs/coco \\
        --config.model.weights=noah_resnet101.pth.tar --config.model.weights_head=skip
    python trainers/evaluate.py --workdir runs/coco --threshold=0.5
    python trainers/explain.py --workdir runs/coco
    python trainers/export.py --workdir runs/coco --name coco
    python trainers/train.py --config configs/coco.py:noah_vit_large --workdir runs/coco_vit \\
        --config.model.weights=vit_large_patch16_224.safetensors --config.model.weights_head=skip

Rows: noah_resnet101 (the default), resnet101, noah_vit_large, vit_large.

These are the architectures of the NOAH paper (arXiv 2402.02377), whose abstract reports that NOAH
adds 3.6 points of mAP to ResNet-101 and 1.1 to ViT-Large on MS-COCO. This recipe is not the
paper's: the released code has no multi-label training, no ViT-Large, and no weights of them. The
recipe follows the authors of the asymmetric loss (arXiv 2009.14119) and their script: that loss,
Adam with a warm-up, a moving average, photos stretched to a square so that no object is cut off,
RandAugment, and erasing instead of their cutout. It was tested on data sets of COCO's format, not
on COCO, so it claims no mAP.

Start from pretrained weights with `model.weights`; random weights do not reach such a mAP. For
ResNet-101, take the authors' weights with either head; for ViT-Large, a file with DeiT's names,
such as timm's vit_large_patch16_224. With `weights_head=skip` a NOAH model ignores the file's class
token. ViT-Large accepts other sizes and interpolates its positions:
--config.preprocess.image_size='(448, 448)'.

The labels of a photo are the classes of its objects, including crowds. About 1 % of the photos have
no object and no label. The split "test" has no labels. Other multi-label data sets work with
--config.data.name=NAME --config.data.num_classes=None --config.data.num_examples=None. Other losses
are --config.train.loss=binary_focal_crossentropy, and auto for binary cross-entropy.

Cost: 40 epochs of 118,287 images. A ResNet-101 has 32 billion multiply-adds per image of 448
pixels, and a ViT-Large some 60 billion per image of 224 pixels. The moving average and Adam keep
three more copies of the weights.
"""

import ml_collections

from noah_tf.runs import recipe

ROWS = ("noah_resnet101", "resnet101", "noah_vit_large", "vit_large")


def get_config(row: str = "noah_resnet101") -> ml_collections.ConfigDict:
    """Returns the recipe of one row."""
    if row not in ROWS:
        raise ValueError(f"There is no row {row!r}; the rows are {', '.join(ROWS)}.")
    config = recipe.base()
    is_noah = row.startswith("noah_")
    config.model.head = "noah" if is_noah else "gap"
    if row.endswith("resnet101"):
        config.model.architecture = "resnet101"
        config.preprocess.image_size = (448, 448)
    else:
        config.model.architecture = "vit_large_patch16_224"
        config.preprocess.interpolation = "bicubic"
        config.preprocess.mean = config.preprocess.std = (0.5, 0.5, 0.5)
        config.optimizer.exempt = ("pos_embed/*",) if is_noah else ("pos_embed/*", "cls_token/*")
    config.data.name = "coco/2017"
    config.data.num_classes = 80
    config.data.num_examples = 118_287
    config.preprocess.stretch = True
    config.augment.flip = True
    config.augment.rand_augment = "rand-m9-mstd0.5-inc1"
    config.augment.erasing = 0.5
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 1e-4
    config.schedule.warmup_epochs = 8.0
    config.schedule.warmup_start = 4e-6
    config.ema.decay = 0.9997
    config.train.epochs = 40
    config.train.batch_size = 128
    config.train.loss = "asymmetric"
    return config
