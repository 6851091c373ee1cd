"""A pretrained Keras backbone with a NOAH head, on your own photos or any other data set.

    python trainers/train.py --config configs/finetune.py --workdir runs/pets \\
        --config.data.data_dir=pets
    python trainers/evaluate.py --workdir runs/pets

The first command reads the photos pets/CLASS/*.jpg, trains on 80 % of each class, and evaluates on
the others. If the photos are split already, into pets/train/CLASS/ and pets/val/CLASS/, name the
two folders. Other data sets, and the pooled head to compare with:

    python trainers/train.py --config configs/finetune.py --workdir runs/pets \\
        --config.data.data_dir=pets --config.data.train_split=train --config.data.eval_split=val
    python trainers/train.py --config configs/finetune.py:gap --workdir runs/flowers \\
        --config.data.name=oxford_flowers102 \\
        --config.data.train_split=train --config.data.eval_split=test

In the first epochs the backbone is frozen and only the head is trained. Then all layers are
trained, with learning rates that decrease from the head to the stem (BEiT, arXiv 2106.08254): from
1e-3 in the head to 3e-5 in the stem, and 2e-4 on average over the backbone. docs/study.md measures
fine-tuning: all layers learn best at 1e-4 to 3e-4, and the head has its default there, small
initial kernels and few key channels. The argument is the head: noah (the default) or gap. The
backbone can be any of Keras applications or KerasCV, or a model in a .keras file of your own; set
the preprocessing that its weights need. docs/photos.md shows the whole way from photos to answers.
This command starts from the authors' weights, a file or official to download them:

    python trainers/train.py --config configs/finetune.py --workdir runs/pets18 \\
        --config.data.data_dir=pets \\
        --config.model.architecture=resnet18 --config.model.weights=noah_resnet18.pth \\
        --config.model.weights_head=skip --config.preprocess.mean='(0.485, 0.456, 0.406)' \\
        --config.preprocess.std='(0.229, 0.224, 0.225)'

Cost: 20 epochs. For a data set of 5,000 images that is 100,000 images, minutes on a GPU.
"""

import ml_collections

from noah_tf.runs import recipe


def get_config(head: str = "noah") -> ml_collections.ConfigDict:
    """Returns the recipe with one of the two heads."""
    config = recipe.base()
    config.model.head = head
    config.model.dropout = 0.1
    config.model.backbone = "tf.keras.applications.MobileNetV2"
    config.model.backbone_args = {"weights": "imagenet", "include_top": False}
    config.data.name = "folder"
    config.data.train_split, config.data.eval_split = "all[:80%]", "all[80%:]"
    config.preprocess.resize_size = 256
    config.preprocess.exif_rotation = True  # phones store photos unrotated
    config.preprocess.mean = (0.5, 0.5, 0.5)  # as MobileNetV2's weights need it
    config.preprocess.std = (0.5, 0.5, 0.5)
    config.augment.crop_scale = (0.25, 1.0)
    config.augment.flip = True
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0
    config.optimizer.layer_decay = 0.75
    config.schedule.warmup_epochs = 1.0
    config.train.epochs = 20
    config.train.batch_size = 64
    config.train.label_smoothing = 0.1
    config.train.frozen_epochs = 3
    return config
