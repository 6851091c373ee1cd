"""Recipes: every key with its default, and the settings that the ImageNet recipes share.

The files in `configs/` start from `base` or `imagenet` and change the values that differ.
`noah_tf.training.plan` checks a recipe.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable
from typing import Any

import ml_collections
from ml_collections import config_dict

from noah_tf.models import preprocessing_for

# These keys do not change the result of a run, so a resumed run may have other values.
RESUMABLE_KEYS = (
    "data.data_dir",
    "data.manual_dir",
    "data.prefetch",
    "data.threads",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.keep_checkpoints",
    "train.log_every",
    "train.teacher",  # a teacher with the same weights may be elsewhere
)
_IMAGENET_TRAIN_EXAMPLES = 1_281_167


def base() -> ml_collections.ConfigDict:
    """Returns a recipe with every key at its default.

    Returns:
        A ConfigDict. Keys whose value is None are unset; their comment says what None stands for.
    """
    config = ml_collections.ConfigDict()
    config.seed = 0  # of the initial weights, the order, the augmentation and the dropout
    config.precision = "float32"  # or mixed_bfloat16, mixed_float16
    config.strategy = "auto"  # or single, mirrored, multi_worker, slurm, tpu
    config.jit_compile = False  # whether XLA compiles the forward and the backward pass
    config.model = _model()
    config.data = _data()
    config.preprocess = _preprocess()
    config.augment = _augment()
    config.optimizer = _optimizer()
    config.schedule = _schedule()
    config.ema = ml_collections.ConfigDict()
    config.ema.decay = 0.0  # of the moving average of all weights; 0: no moving average
    config.ema.chooses_best = True  # whether the best weights are those of the moving average
    config.train = _train()
    return config


def _model() -> ml_collections.ConfigDict:
    """Returns the defaults of the `model` section, see `model_config.ModelSpec`."""
    model = ml_collections.ConfigDict()
    # One of the paper's architectures, such as resnet18; None to use the backbone below.
    model.architecture = config_dict.placeholder(str)
    model.drop_path = 0.0  # this option and the next two are for an architecture of the paper
    model.mlp_dropout = 0.0
    model.pre_logits = config_dict.placeholder(bool)  # None: the paper's choice
    # A function of Keras applications, KerasCV or noah_tf.models.backbones.small, and arguments.
    model.backbone = config_dict.placeholder(str)
    model.backbone_args = ml_collections.ConfigDict()
    model.head = "noah"  # or gap, the standard head
    # None: random weights; pooled: those of the backbone's own classifier, see attach_noah.
    model.init = config_dict.placeholder(str)
    model.num_groups = config_dict.placeholder(int)  # None: the default, see attach_noah
    model.key_ratio = config_dict.placeholder(float)  # likewise
    model.dropout = config_dict.placeholder(float)  # None: the paper's for an architecture, else 0
    model.kernel_initializer = config_dict.placeholder(str)  # a Keras name, or reference
    # For ablations of the NOAH head. None: the default of NOAHHead.
    model.split_groups = config_dict.placeholder(bool)
    model.split_key_value = config_dict.placeholder(bool)
    model.uniform_attention = config_dict.placeholder(bool)
    # Examples whose statistics BatchNorm shares in training; None: those of a replica.
    model.batch_norm_group = config_dict.placeholder(int)
    model.synchronized_batch_norm = False  # or those of all replicas
    # Whether the backward pass computes blocks again; for an architecture of the paper.
    model.remat = False
    # A new run starts from these weights (.pth, .safetensors, .weights.h5, the folder of another
    # run, or official: the authors'), or from random ones. A resumed run has its own checkpoint.
    model.weights = config_dict.placeholder(str)
    model.weights_head = "load"  # or skip, for another number of classes
    model.weights_ema = False  # whether to take the averaged weights of the file
    return model


def _data() -> ml_collections.ConfigDict:
    """Returns the defaults of the `data` section."""
    data = ml_collections.ConfigDict()
    # Any TFDS name; folder, for photos in data_dir/SPLIT/CLASS/ or data_dir/CLASS/; files, for
    # label files in data_dir; tfrecord; or fake. `noah_tf.datasets.registry.DataSet` has details.
    data.name = "imagenet2012"
    data.data_dir = config_dict.placeholder(str)  # None: the folder of TFDS
    data.manual_dir = config_dict.placeholder(str)  # folder of archives downloaded by hand
    data.train_split = "train"
    data.eval_split = "validation"
    data.file_format = config_dict.placeholder(str)  # of TFDS: tfrecord or array_record
    data.image_key = config_dict.placeholder(str)  # None: the only image feature
    data.label_key = config_dict.placeholder(str)  # None: the only label feature
    data.class_names = config_dict.placeholder(str)  # text file, for files and tfrecord
    data.split_seed = 0  # divides the photos of a folder among slices such as all[:80%]
    data.num_classes = config_dict.placeholder(int)  # must agree with the data; None: not checked
    data.num_examples = config_dict.placeholder(int)  # of the training split, likewise
    data.balanced_sampling = False  # whether every class is drawn equally often in training
    data.cache = False  # whether to keep the encoded photos in memory
    data.shuffle_buffer = 10_000  # examples, used only if the photos are not in memory
    data.keep_last_batch = False  # whether an epoch ends with a smaller batch of the examples left
    data.prefetch = config_dict.placeholder(int)  # batches made ahead; None: tf.data decides
    data.threads = config_dict.placeholder(int)  # of the input pipeline; None: TensorFlow's own
    data.on_corrupt = "error"  # names the corrupt photo; or skip, which counts corrupt photos
    return data


def _preprocess() -> ml_collections.ConfigDict:
    """Returns the defaults of the `preprocess` section, see `Preprocessing`."""
    preprocess = ml_collections.ConfigDict()
    preprocess.image_size = (224, 224)  # height, width
    preprocess.resize_size = config_dict.placeholder(int)  # None: the smaller side
    preprocess.interpolation = "bilinear"  # or bicubic
    preprocess.stretch = False  # whether to squeeze the whole photo in instead of its center
    preprocess.mean = (0.485, 0.456, 0.406)
    preprocess.std = (0.229, 0.224, 0.225)
    preprocess.exif_rotation = False  # whether to turn JPEGs upright as their EXIF data say
    return preprocess


def _augment() -> ml_collections.ConfigDict:
    """Returns the defaults of the `augment` section, see `TrainTransform`."""
    augment = ml_collections.ConfigDict()
    augment.crop_scale = config_dict.placeholder(tuple)  # shares of the area, such as (0.08, 1.0)
    augment.crop_ratio = (3 / 4, 4 / 3)  # width / height
    augment.crop_interpolation = "same"  # or random: bilinear or bicubic
    augment.crop_antialias = True  # scales as PIL; False is faster: see Preprocessing.random_crop
    augment.flip = False
    augment.pad = 0  # largest translation in pixels
    augment.repeats = 1  # copies of an example in a batch (repeated augmentation)
    augment.color_jitter = config_dict.placeholder(tuple)  # brightness, contrast, saturation[, hue]
    augment.rand_augment = config_dict.placeholder(str)  # such as rand-m9-mstd0.5-inc1
    augment.erasing = 0.0  # probability
    augment.erasing_mode = "pixel"  # or const
    augment.mixup = 0.0  # alpha
    augment.cutmix = 0.0  # alpha
    augment.mix_probability = 1.0
    augment.mix_switch = 0.5  # probability of CutMix if both are on
    # Examples that are mixed with the same draws; None: a host's whole share of the batch.
    augment.mix_group = config_dict.placeholder(int)
    return augment


def _optimizer() -> ml_collections.ConfigDict:
    """Returns the defaults of the `optimizer` section, see `OptimizerSettings`."""
    optimizer = ml_collections.ConfigDict()
    optimizer.name = "sgd"  # or adamw, lamb, or such as keras.Lion, tfa.NovoGrad with args
    optimizer.args = ml_collections.ConfigDict()
    optimizer.learning_rate = 0.1  # the peak of the schedule
    optimizer.momentum = 0.9
    optimizer.nesterov = False
    optimizer.beta_1 = 0.9
    optimizer.beta_2 = 0.999
    optimizer.epsilon = 1e-8
    optimizer.weight_decay = 0.0  # in the gradient for SGD, decoupled for the others
    optimizer.exempt_1d = True  # no decay for biases and normalization
    optimizer.exempt = ()  # patterns of other weights without decay, such as ("pos_embed/*",)
    optimizer.clip_norm = config_dict.placeholder(float)  # largest norm of all gradients together
    # Factor of the learning rate from one layer group to the group before it.
    optimizer.layer_decay = config_dict.placeholder(float)
    optimizer.layer_decay_groups = 12  # layer groups of the backbone
    return optimizer


def _schedule() -> ml_collections.ConfigDict:
    """Returns the defaults of the `schedule` section, see `Schedule`."""
    schedule = ml_collections.ConfigDict()
    schedule.name = "cosine"  # or step, linear, constant
    schedule.by = "step"  # or epoch: the learning rate changes once per epoch
    schedule.end = 0.0  # final learning rate of cosine and linear
    schedule.lag_epochs = 0  # epochs by which a schedule by epoch lags behind
    schedule.boundaries = ()  # epochs at which step multiplies the learning rate by the factor
    schedule.factor = 0.1
    schedule.warmup_epochs = 0.0
    schedule.warmup_start = 0.0  # learning rate at the start of the warm-up
    return schedule


def _train() -> ml_collections.ConfigDict:
    """Returns the defaults of the `train` section."""
    train = ml_collections.ConfigDict()
    train.epochs = 1
    train.batch_size = 256  # over all replicas
    train.accumulate = 1  # parts in which each replica computes its share of a batch
    # One of `losses.LOSSES`; auto: binary for multi-label data, categorical for other data.
    train.loss = "auto"
    train.label_smoothing = 0.0
    # Share of a mixed image above which a class counts as present; None: the shares are targets.
    train.target_threshold = config_dict.placeholder(float)
    train.focal_gamma = 2.0  # of categorical_focal_crossentropy and binary_focal_crossentropy
    train.gamma_positive = 0.0  # like the next two, for `losses.asymmetric_losses`
    train.gamma_negative = 4.0
    train.probability_margin = 0.05
    # Weights of the classes in the loss: balanced, or numbers such as 1,2,0.5; None: equal.
    train.class_weights = config_dict.placeholder(str)
    # A trained model to learn from: a run, a .keras file, or such as resnet50:resnet50.pth.
    train.teacher = config_dict.placeholder(str)
    train.distillation = "soft"  # or hard: only the class that the teacher predicts
    train.distillation_weight = 0.5  # share of the teacher in the loss
    train.distillation_temperature = 2.0  # of soft
    train.teacher_mean = config_dict.placeholder(tuple)  # of a .keras file; None: preprocess.mean
    train.teacher_std = config_dict.placeholder(tuple)  # likewise
    train.frozen_epochs = 0  # first epochs, in which only the head is trained
    train.frozen_layers = ()  # patterns of layers that are never trained, such as block_[0-9]_*
    train.patience = 0  # epochs without a better evaluation after which the run ends; 0: never
    # Whether evaluations compute BatchNorm's statistics anew; None: in runs of under 1,000 steps.
    train.recompute_batch_statistics = config_dict.placeholder(bool)
    train.checkpoint_every = 0  # steps between checkpoints; 0: one per epoch
    train.checkpoint_minutes = 0.0  # minutes between checkpoints; 0: no checkpoints by time
    train.keep_checkpoints = 2
    train.log_every = 10  # steps between two logs of the loss; each log waits for the device
    return train


def from_section(cls: Any, section: ml_collections.ConfigDict) -> Any:
    """Returns a dataclass whose fields have the values of the same keys in a section of a recipe.

    Args:
        cls: a dataclass; constructing it checks the values.
        section: the section. A field whose key is missing keeps its default.
    """
    values = section.to_dict()
    names = [field.name for field in dataclasses.fields(cls)]
    return cls(**{name: values[name] for name in names if name in values})


def imagenet(row: str, architectures: Iterable[str]) -> tuple[ml_collections.ConfigDict, str]:
    """Returns the settings that the paper's ImageNet recipes share, for one row of its tables.

    Args:
        row: the model's name as in `noah_tf.list_models`, or without the end "_patch16_224" or
            "_224". A name that starts with "noah_" stands for the model with a NOAH head.
        architectures: names of the architectures of the recipe's family.

    Returns:
        A ConfigDict, and the name of the architecture.

    Raises:
        ValueError: there is no such row.

    Example:

    >>> config, architecture = imagenet("noah_deit_tiny_050", deit.VARIANTS)
    """
    short = {re.sub(r"(_patch16)?_224$", "", name): name for name in architectures}
    known = {prefix + key for key in {*short, *short.values()} for prefix in ("", "noah_")}
    if row not in known:
        nearest = difflib.get_close_matches(str(row), sorted(known), n=1, cutoff=0)
        rows = ", ".join(f"{name} and noah_{name}" for name in short)
        raise ValueError(f"There is no row {row!r}, perhaps {nearest[0]!r}; the rows are {rows}.")
    name = row.removeprefix("noah_")
    name = short.get(name, name)
    config = base()
    config.model.architecture = name
    config.model.head = "noah" if str(row).startswith("noah_") else "gap"
    config.data.num_classes = 1000
    config.data.num_examples = _IMAGENET_TRAIN_EXAMPLES
    for key, value in preprocessing_for(name).to_dict().items():
        config.preprocess[key] = tuple(value) if isinstance(value, list) else value
    config.augment.crop_scale = (0.08, 1.0)
    config.augment.flip = True
    return config, name


def cnn(config: ml_collections.ConfigDict) -> None:
    """Sets the values that the paper's recipes of convolutional networks share."""
    config.model.batch_norm_group = 32  # the share of one of the paper's eight GPUs
    config.data.keep_last_batch = True
    config.optimizer.name = "sgd"
    config.schedule.by = "epoch"


def transformer(config: ml_collections.ConfigDict) -> None:
    """Sets the values that the paper's recipes of DeiT and PVT share."""
    config.model.drop_path = 0.1
    augment, optimizer, train = config.augment, config.optimizer, config.train
    augment.repeats = 3
    augment.rand_augment = "rand-m9-mstd0.5-inc1"
    augment.erasing = 0.25
    augment.mixup = 0.8
    augment.cutmix = 1.0
    augment.mix_group = 128  # the share of one of the paper's eight GPUs
    train.epochs = 300
    train.batch_size = 1024
    train.label_smoothing = 0.1
    optimizer.name = "adamw"
    optimizer.learning_rate = 5e-4 * train.batch_size / 512
    optimizer.weight_decay = 0.05
    _cosine_with_warmup(config.schedule, epochs=5.0)
    # The reference steps its scheduler after each epoch, with the number of that epoch.
    config.schedule.lag_epochs = 1


def mlp(config: ml_collections.ConfigDict) -> None:
    """Sets the values that the paper's recipes of MLP-Mixer and gMLP share."""
    config.model.drop_path = 0.1
    config.model.mlp_dropout = 0.02333
    augment, optimizer, train = config.augment, config.optimizer, config.train
    augment.crop_ratio = (0.67, 1.5)
    augment.crop_interpolation = "random"
    augment.rand_augment = "rand-m6-n3-mstd1.0-inc1"
    augment.mixup = 0.5
    augment.cutmix = 1.0
    augment.mix_group = 192  # the share of one of the paper's eight GPUs
    train.epochs = 300
    train.batch_size = 1536
    train.label_smoothing = 0.1
    optimizer.name = "adamw"
    optimizer.learning_rate = 7e-4
    optimizer.epsilon = 1e-6
    optimizer.weight_decay = 0.067
    optimizer.clip_norm = 1.0
    config.ema.decay = 0.99992
    _cosine_with_warmup(config.schedule, epochs=20.0)


def _cosine_with_warmup(schedule: ml_collections.ConfigDict, epochs: float) -> None:
    schedule.name = "cosine"
    schedule.by = "epoch"
    schedule.end = 1e-5
    schedule.warmup_epochs = epochs
    schedule.warmup_start = 1e-6
