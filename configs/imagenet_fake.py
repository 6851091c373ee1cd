"""Two steps of the paper's training on fake photos: whether a machine can do it, without ImageNet.

    python trainers/train.py --config configs/imagenet_fake.py --workdir runs/fake
    python trainers/train.py --config configs/imagenet_fake.py:noah_resnet50 --workdir runs/fake50

The argument is any model of `noah_tf.list_models()`. Everything is done that a run does, with the
heaviest augmentation: train, evaluate, save, write the result. To see the plan of another recipe
and try two of its steps, give it the flag --dry_run in place of this file.

Cost: 16 images.
"""

from noah_tf.models.paper_table import ARCHITECTURES
from noah_tf.runs import recipe


def get_config(row="noah_deit_tiny_050"):
    """The recipe, with one of the paper's models."""
    config, _ = recipe.imagenet(row, ARCHITECTURES)
    recipe.transformer(config)
    config.model.drop_path = 0.0
    config.data.name = "fake"
    config.data.num_examples = 16
    config.schedule.warmup_epochs = 0.0
    config.ema.decay = 0.9
    config.train.epochs = 1
    config.train.batch_size = 8
    return config
