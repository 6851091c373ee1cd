"""A small ResNet on digit_scenes: minutes on a laptop's CPU.

    python trainers/train.py --config configs/quickstart.py --workdir runs/noah
    python trainers/train.py --config configs/quickstart.py:gap --workdir runs/gap

The argument is the head: noah (the default) or gap. Any other TFDS data set works too:

    python trainers/train.py --config configs/quickstart.py --workdir runs/cifar \\
        --config.data.name=cifar10 --config.augment.flip

and so does any model of the paper, here from the authors' weights for ImageNet:

    python trainers/train.py --config configs/quickstart.py --workdir runs/resnet18 \\
        --config.model.architecture=resnet18 --config.model.weights=noah_resnet18.pth \\
        --config.model.weights_head=skip --config.preprocess.mean='(0.485, 0.456, 0.406)' \\
        --config.preprocess.std='(0.229, 0.224, 0.225)'
"""

import ml_collections
from ml_collections import config_dict


def get_config(head="noah"):
    """The recipe, with one of the two heads."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.precision = "float32"  # or mixed_bfloat16, mixed_float16
    config.strategy = "auto"  # or mirrored, single

    config.model = ml_collections.ConfigDict()
    # One of the paper's, such as resnet18; None for the backbone below.
    config.model.architecture = config_dict.placeholder(str)
    config.model.drop_path = 0.0  # these three are for an architecture of the paper
    config.model.mlp_dropout = 0.0
    config.model.pre_logits = config_dict.placeholder(bool)
    config.model.backbone = "keras_cv.models.ResNetBackbone"
    config.model.backbone_args = {
        "stackwise_filters": (64, 128),
        "stackwise_blocks": (1, 1),
        "stackwise_strides": (1, 2),
        "block_type": "basic_block",
        "include_rescaling": False,
    }
    config.model.head = head
    config.model.num_groups = config_dict.placeholder(int)  # None: the paper's choice
    config.model.key_ratio = config_dict.placeholder(float)
    config.model.dropout = config_dict.placeholder(float)  # None: the paper's, else 0
    # What a new run starts from (.pth, .safetensors, .weights.h5); a resumed one goes on from its
    # own checkpoint, and without either the weights are random.
    config.model.weights = config_dict.placeholder(str)
    config.model.weights_head = "load"  # or skip, for another number of classes
    config.model.weights_ema = False  # the averaged weights of the file

    config.data = ml_collections.ConfigDict()
    config.data.name = "digit_scenes"  # any TFDS name, or "folder" for data_dir/SPLIT/CLASS/*.jpg
    config.data.data_dir = config_dict.placeholder(str)  # None: TFDS's own
    config.data.train_split = "train"
    config.data.eval_split = "test"
    config.data.image_key = config_dict.placeholder(str)  # None: the only image there is
    config.data.label_key = config_dict.placeholder(str)
    config.data.cache = True  # keeps the encoded photos in memory

    config.preprocess = ml_collections.ConfigDict()
    config.preprocess.image_size = (64, 64)
    config.preprocess.resize_size = config_dict.placeholder(int)  # None: the smaller side
    config.preprocess.interpolation = "bilinear"
    config.preprocess.mean = (0.5, 0.5, 0.5)
    config.preprocess.std = (0.25, 0.25, 0.25)

    config.augment = ml_collections.ConfigDict()
    config.augment.crop_scale = config_dict.placeholder(tuple)  # share of the area, as (0.08, 1.0)
    config.augment.crop_ratio = (3 / 4, 4 / 3)
    config.augment.flip = False  # a mirrored digit is another digit
    config.augment.pad = 4  # pixels of translation

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-2
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 0.02
    config.optimizer.warmup_epochs = 0.5

    config.train = ml_collections.ConfigDict()
    config.train.epochs = 3
    config.train.batch_size = 64
    config.train.label_smoothing = 0.0
    config.train.checkpoint_every = 0  # steps between checkpoints; 0: one an epoch
    return config
