"""What cannot work in a recipe, all of it at once."""

import math
import pathlib

from noah_tf.datasets.folders import IMAGE_SUFFIXES
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.images.train_transform import TrainTransform
from noah_tf.runs.model_config import check_model_config
from noah_tf.runs.recipe import mixes
from noah_tf.training import optimizer, schedules
from noah_tf.training.losses import BINARY_LOSSES, LOSSES, MULTI_LABEL_LOSSES
from noah_tf.utils import distribute
from noah_tf.utils.validation import error_messages


def checked_strategy(config):
    """The distribution strategy that a recipe names, once all of the recipe is found to work.

    Args:
        config: the recipe.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: something in the recipe cannot work, see `validate`.
    """
    if config.strategy not in distribute.STRATEGIES:
        validate(config)
    strategy = distribute.make_strategy(config.strategy)
    validate(config, strategy.num_replicas_in_sync)
    return strategy


def validate(config, replicas=1):
    """Names everything in a recipe that cannot work, before any data is touched.

    Args:
        config: the recipe.
        replicas: how many devices share a batch.

    Raises:
        ValueError: something cannot work; the message has a line for each.
    """
    _raise_all(
        [
            *_sections_problems(config),
            *_range_problems(config),
            *_combination_problems(config, replicas),
        ]
    )


def validate_data(config, train_source, eval_source):
    """Names everything in which recipe and data contradict each other.

    Args:
        config: the recipe.
        train_source: its `Source` of training examples.
        eval_source: its `Source` of evaluation examples.

    Raises:
        ValueError: something does; the message has a line for each.
    """
    data, train, found = config.data, config.train, train_source
    problems = _size_problems(config, found.num_classes, found.num_examples, found.multi_label)
    if data.num_classes not in (None, found.num_classes):
        problems.append(
            f"data.num_classes={data.num_classes}, and {found.name} has {found.num_classes}"
        )
    if data.num_examples not in (None, found.num_examples):
        problems.append(
            f"data.num_examples={data.num_examples}, and {found.name} {found.split} has "
            f"{found.num_examples}: set it to that, or to None"
        )
    if eval_source.class_names != found.class_names:
        problems.append(_difference(found, eval_source))
    if found.multi_label and train.loss not in ("auto", *BINARY_LOSSES):
        problems.append(
            f"train.loss={train.loss!r}, and an image of {found.name} can have several labels: "
            f"use {', '.join(map(repr, BINARY_LOSSES[:-1]))} or {BINARY_LOSSES[-1]!r}"
        )
    if train.loss in MULTI_LABEL_LOSSES and not found.multi_label:
        problems.append(
            f"train.loss={train.loss!r} is for several labels an image, and one of {found.name} "
            "has one: use 'auto'"
        )
    for key, source in (("train_split", train_source), ("eval_split", eval_source)):
        if not source.has_labels():
            problems.append(
                f"no image of {source.name} {source.split} has a label: choose another data.{key}"
            )
    problems += _folder_problems(found)
    _raise_all(problems)


def validate_size(config, num_classes, num_examples):
    """Raises ValueError where a recipe does not go with so many classes and training examples."""
    _raise_all(_size_problems(config, num_classes, num_examples, multi_label=False))


def _size_problems(config, num_classes, num_examples, multi_label):
    data, problems = config.data, []
    if config.train.batch_size > num_examples:
        problems.append(
            f"train.batch_size={config.train.batch_size} is more than the {num_examples} examples "
            f"of {data.name} {data.train_split}: use a smaller one"
        )
    if num_classes < 2 and not multi_label:
        problems.append(
            f"{data.name} has {num_classes} class, and there is nothing to tell apart: check its "
            "folders, or data.label_key"
        )
    return problems


def _difference(train, evaluation):
    """In which classes two splits differ."""
    parts = [
        f"{', '.join(strangers[:3])}{' and others' if strangers[3:] else ''} only in {one.split}"
        for one, other in ((train, evaluation), (evaluation, train))
        if (strangers := [name for name in one.class_names if name not in other.class_names])
    ]
    return (
        f"the classes of {evaluation.split} are not those of {train.split} in {train.name} "
        f"({'; '.join(parts) or 'they have another order'})"
    )


def _folder_problems(source):
    """Classes of a folder of photos that nothing can be learnt of."""
    there = {pathlib.Path(path).parent.name for path in source.files}
    empty = [name for name in source.class_names if name not in there] if source.files else []
    if empty:
        yield (
            f"{source.name} {source.split} has no photo of the class {', '.join(empty[:5])}"
            f"{' and others' if empty[5:] else ''}: add some that end in "
            f"{', '.join(IMAGE_SUFFIXES)}, or remove the folder"
        )


def _sections_problems(config):
    """What the parts of the package that take a section say of it."""

    def check_preprocess():
        preprocessing = Preprocessing.from_dict(config.preprocess.to_dict())
        TrainTransform.from_config(config.augment.to_dict(), preprocessing)

    return error_messages(
        lambda: distribute.check_precision(config.precision),
        lambda: distribute.check_strategy(config.strategy),
        lambda: check_model_config(config.model),
        check_preprocess,
        lambda: optimizer.check_config(config.optimizer),
        # The peak and the epochs are checked elsewhere.
        lambda: schedules.make_schedule(config.schedule, 1.0, max(config.train.epochs, 1), 1),
    )


def _range_problems(config):
    train, data = config.train, config.data
    at_least = {
        "seed": (config.seed, 0),
        "train.epochs": (train.epochs, 1),
        "train.batch_size": (train.batch_size, 1),
        "train.accumulate": (train.accumulate, 1),
        "train.frozen_epochs": (train.frozen_epochs, 0),
        "train.checkpoint_every": (train.checkpoint_every, 0),
        "train.checkpoint_minutes": (train.checkpoint_minutes, 0),
        "train.keep_checkpoints": (train.keep_checkpoints, 1),
        "train.log_every": (train.log_every, 1),
        "train.focal_gamma": (train.focal_gamma, 0),
        "train.gamma_positive": (train.gamma_positive, 0),
        "train.gamma_negative": (train.gamma_negative, 0),
        "data.shuffle_buffer": (data.shuffle_buffer, 1),
        "data.num_classes": (data.num_classes, 1),
        "data.num_examples": (data.num_examples, 1),
        "data.prefetch": (data.prefetch, 1),
        "data.threads": (data.threads, 1),
    }
    for key, (value, smallest) in at_least.items():
        if value is not None and not smallest <= value < math.inf:
            yield f"{key} must be at least {smallest}, got {value}"
    if config.seed >= 2**32:
        yield f"seed must be less than 2**32, got {config.seed}"
    for key, value in (
        ("train.label_smoothing", train.label_smoothing),
        ("train.probability_margin", train.probability_margin),
        ("ema.decay", config.ema.decay),
    ):
        if not 0 <= value < 1:
            yield f"{key} must be in [0, 1), got {value}"
    for key, value, known in (
        ("train.loss", train.loss, LOSSES),
        ("data.on_corrupt", data.on_corrupt, ("error", "skip")),
    ):
        if value not in known:
            yield f"{key} must be one of {', '.join(known)}, got {value!r}"


def _combination_problems(config, replicas):
    train, schedule = config.train, config.schedule
    problem = distribute.batch_size_problem(train.batch_size, replicas)
    if problem:
        yield problem
    elif train.accumulate > 1 and train.batch_size // replicas % train.accumulate:
        yield (
            f"train.accumulate={train.accumulate} does not divide the "
            f"{train.batch_size // replicas} images of a replica's share of a batch"
        )
    if schedule.name == "step" and schedule.boundaries and schedule.boundaries[-1] >= train.epochs:
        yield (
            f"schedule.boundaries={tuple(schedule.boundaries)} end after the training, "
            f"train.epochs={train.epochs}"
        )
    if train.frozen_epochs and train.frozen_epochs >= train.epochs:
        yield (
            f"train.frozen_epochs={train.frozen_epochs} is not shorter than the training, "
            f"train.epochs={train.epochs}"
        )
    if train.loss == "sparse_categorical_crossentropy":
        if mixes(config):
            yield (
                f"augment.mixup={config.augment.mixup} and augment.cutmix={config.augment.cutmix} "
                f"make labels that train.loss={train.loss!r} cannot take: use "
                "'categorical_crossentropy' or 'auto'"
            )
        if train.label_smoothing:
            yield (
                f"train.label_smoothing={train.label_smoothing} is not for "
                f"train.loss={train.loss!r}: use 'categorical_crossentropy' or 'auto'"
            )
    if config.augment.repeats > train.batch_size:
        yield (
            f"augment.repeats={config.augment.repeats} is more than the batch has examples, "
            f"train.batch_size={train.batch_size}"
        )
    if config.jit_compile and config.precision == "mixed_float16" and replicas > 1:
        yield (
            f"jit_compile with mixed_float16 fails on several replicas (here {replicas}): use "
            "mixed_bfloat16, or leave jit_compile off"
        )


def _raise_all(problems):
    if len(problems) == 1:
        raise ValueError(f"The recipe cannot work: {problems[0]}.")
    if problems:
        lines = "".join(f"\n  {number}. {text}." for number, text in enumerate(problems, 1))
        raise ValueError(f"The recipe cannot work, for {len(problems)} reasons:{lines}")
