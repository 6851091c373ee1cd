"""ResNet-101 and ViT-Large on MS-COCO: which of its 80 classes are in a photo.

    tfds build coco/2017        # 25 GB; or training does it
    python trainers/train.py --config configs/coco.py --workdir runs/coco \\
        --config.model.weights=noah_resnet101.pth.tar --config.model.weights_head=skip
    python trainers/evaluate.py --workdir runs/coco --threshold=0.5
    python trainers/explain.py --workdir runs/coco
    python trainers/export.py --workdir runs/coco --name coco
    python trainers/train.py --config configs/coco.py:noah_vit_large --workdir runs/coco_vit \\
        --config.model.weights=vit_large_patch16_224.safetensors --config.model.weights_head=skip

Rows: noah_resnet101 (the default), resnet101, noah_vit_large, vit_large.

These are the architectures of the NOAH paper (arXiv 2402.02377), whose abstract reports that NOAH
adds 3.6 points of mAP to ResNet-101 and 1.1 to ViT-Large on MS-COCO. The recipe is not the paper's:
the released code has no training on several labels, no ViT-Large and no such weights. It follows
the authors of the asymmetric loss (arXiv 2009.14119) and their script: that loss, Adam with a
warm-up, a moving average, photos stretched to a square so that no object is cut off, RandAugment,
and erasing for their cutout. It has been tried on sets of COCO's shape, not on COCO: no mAP is
claimed.

A run starts from the weights that `model.weights` names, else from random ones, which is no way to
reach such figures. Those of ResNet-101 may be the authors' with either head; those of ViT-Large a
file with DeiT's names, as timm's vit_large_patch16_224 has them. With `weights_head=skip` a NOAH
model leaves the file's class token out. ViT-Large takes other sizes, too, with positions that are
interpolated: --config.preprocess.image_size='(448, 448)'.

A photo has the classes of its objects, also those of crowds; photos without any, some 1 % of them,
have none. The split "test" has no labels. Sets of other objects or tags work, too, with
--config.data.name=NAME --config.data.num_classes=None --config.data.num_examples=None. Other losses
are --config.train.loss=binary_focal_crossentropy and auto, plain binary cross-entropy.

Cost: 40 epochs of 118,287 images, each a forward and a backward pass; with 448 pixels a ResNet-101
has four times the 7.9 billion multiply-adds that it has with 224, ViT-Large with 224 some 60
billion. The moving average and Adam keep three more copies of the weights.
"""

from noah_tf.runs import recipe

ROWS = ("noah_resnet101", "resnet101", "noah_vit_large", "vit_large")


def get_config(row="noah_resnet101"):
    """The recipe of one row."""
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
