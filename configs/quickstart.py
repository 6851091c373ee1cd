"""A small ResNet on digit_scenes, which trains in minutes on a laptop's CPU.

    python trainers/train.py --config configs/quickstart.py --workdir runs/noah
    python trainers/train.py --config configs/quickstart.py:gap --workdir runs/gap

The argument is the head: noah (the default) or gap. Any other TFDS data set works too:

    python trainers/train.py --config configs/quickstart.py --workdir runs/cifar \\
        --config.data.name=cifar10 --config.augment.flip

and any model of the paper, here from the authors' weights for ImageNet:

    python trainers/train.py --config configs/quickstart.py --workdir runs/resnet18 \\
        --config.model.architecture=resnet18 --config.model.weights=noah_resnet18.pth \\
        --config.model.weights_head=skip --config.preprocess.mean='(0.485, 0.456, 0.406)' \\
        --config.preprocess.std='(0.229, 0.224, 0.225)'

`noah_tf.runs.recipe.base` lists all keys.
"""

import ml_collections

from noah_tf.runs import recipe


def get_config(head: str = "noah") -> ml_collections.ConfigDict:
    """Returns the recipe with one of the two heads."""
    config = recipe.base()
    config.model.head = head
    config.model.backbone = "keras_cv.models.ResNetBackbone"
    config.model.backbone_args = {
        "stackwise_filters": (64, 128),
        "stackwise_blocks": (1, 1),
        "stackwise_strides": (1, 2),
        "block_type": "basic_block",
        "include_rescaling": False,
    }
    config.data.name = "digit_scenes"
    config.data.eval_split = "test"
    config.data.cache = True
    config.preprocess.image_size = (64, 64)
    config.preprocess.mean = (0.5, 0.5, 0.5)
    config.preprocess.std = (0.25, 0.25, 0.25)
    config.augment.pad = 4  # no flip, because a mirrored digit is another digit
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-2
    config.optimizer.weight_decay = 0.02
    config.schedule.warmup_epochs = 0.5
    config.train.epochs = 3
    config.train.batch_size = 64
    return config
