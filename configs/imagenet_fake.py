"""Two steps of the paper's training on fake photos, to test a machine without ImageNet.

    python trainers/train.py --config configs/imagenet_fake.py --workdir runs/fake
    python trainers/train.py --config configs/imagenet_fake.py:noah_resnet50 --workdir runs/fake50

The argument is any model of `noah_tf.list_models()`. The run trains with the heaviest augmentation,
evaluates, saves, and writes its result, as a run on ImageNet does. To try two steps of another
recipe, run that recipe with --dry_run.

Cost: 16 images.
"""

import ml_collections

from noah_tf.models import ARCHITECTURES
from noah_tf.runs import recipe


def get_config(row: str = "noah_deit_tiny_050") -> ml_collections.ConfigDict:
    """Returns the recipe with one of the paper's models."""
    config, _ = recipe.imagenet(row, ARCHITECTURES)
    recipe.transformer(config)
    config.model.drop_path = 0.0
    config.augment.mix_group = None
    config.data.name = "fake"
    config.data.num_examples = 16
    config.schedule.warmup_epochs = 0.0
    config.ema.decay = 0.9
    config.train.epochs = 1
    config.train.batch_size = 8
    return config
