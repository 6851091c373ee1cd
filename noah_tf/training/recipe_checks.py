"""Checks of a recipe that concern several of its parts, or the recipe and its data.

The values of one part are checked where the part is built, see `TrainingPlan.from_config`.
"""

import os
from collections.abc import Iterator

import ml_collections

from noah_tf.datasets import Source
from noah_tf.runs import describe_classes, from_section
from noah_tf.training.distillation import Teacher
from noah_tf.training.losses import BINARY_LOSSES, MULTI_LABEL_LOSSES, LossSettings
from noah_tf.utils import distribute
from noah_tf.utils.validation import error_messages


def raise_problems(problems: list[str]) -> None:
    """Raises one ValueError that names all problems of a recipe, if there are any."""
    if len(problems) == 1:
        raise ValueError(f"The recipe cannot work: {problems[0]}.")
    if problems:
        lines = "".join(f"\n  {number}. {text}." for number, text in enumerate(problems, 1))
        raise ValueError(f"The recipe cannot work, for {len(problems)} reasons:{lines}")


def combination_problems(config: ml_collections.ConfigDict, replicas: int) -> Iterator[str]:
    """Yields a message for each combination of values that cannot work.

    Args:
        config: a recipe whose `train` section is in order.
        replicas: number of devices that share a batch.
    """
    train = config.train
    share = train.batch_size // replicas
    problem = distribute.batch_size_problem(train.batch_size, replicas)
    if problem:
        yield problem
    elif share % train.accumulate:
        yield (
            f"train.accumulate={train.accumulate} does not divide the {share} examples of a "
            "replica's share of a batch"
        )
    others = {
        "augment.repeats": config.augment.repeats > 1,
        "augment.mixup": config.augment.mixup,
        "augment.cutmix": config.augment.cutmix,
        "data.on_corrupt": config.data.on_corrupt == "skip",
    }
    for key in others if config.data.keep_last_batch else ():
        if others[key]:
            yield f"data.keep_last_batch=True and {key} contradict each other: leave one out"
    group = config.model.batch_norm_group
    part = share // train.accumulate
    if group is not None and not problem and part % group:
        yield (
            f"model.batch_norm_group={group} does not divide the {part} examples that a replica "
            "normalizes at once: change train.batch_size, or set the group to None"
        )
    mix_group = config.augment.mix_group
    if mix_group is not None and not problem and share > mix_group and share % mix_group:
        yield (
            f"augment.mix_group={mix_group} does not divide the {share} examples of a replica's "
            "share of a batch: change train.batch_size, or set the group to None"
        )
    if train.loss == "sparse_categorical_crossentropy":
        if config.augment.mixup or config.augment.cutmix:
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


def check_data(
    config: ml_collections.ConfigDict, train_source: Source, eval_source: Source
) -> None:
    """Checks a recipe against its data.

    Args:
        config: the recipe.
        train_source: the source of training examples.
        eval_source: the source of evaluation examples.

    Raises:
        ValueError: the recipe and the data contradict each other; the message has a line for each
            reason.
    """
    data, train = config.data, config.train
    name, multi_label = train_source.name, train_source.multi_label
    problems = list(
        _size_problems(config, train_source.num_classes, train_source.num_examples, multi_label)
    )
    if data.num_classes not in (None, train_source.num_classes):
        problems.append(
            f"data.num_classes={data.num_classes}, and {name} has {train_source.num_classes}"
        )
    if data.num_examples not in (None, train_source.num_examples):
        problems.append(
            f"data.num_examples={data.num_examples}, and {name} {train_source.split} has "
            f"{train_source.num_examples}: set it to that, or to None"
        )
    if multi_label and train.loss not in ("auto", *BINARY_LOSSES):
        problems.append(
            f"train.loss={train.loss!r}, and an image of {name} can have several labels: "
            f"use {', '.join(map(repr, BINARY_LOSSES[:-1]))} or {BINARY_LOSSES[-1]!r}"
        )
    if train.loss in MULTI_LABEL_LOSSES and not multi_label:
        problems.append(
            f"train.loss={train.loss!r} is for several labels per image, and an image of {name} "
            "has one: use 'auto'"
        )
    for key, source in (("train_split", train_source), ("eval_split", eval_source)):
        if not source.has_labels():
            problems.append(
                f"no image of {source.name} {source.split} has a label: choose another data.{key}"
            )
    if multi_label != eval_source.multi_label:
        problems.append(
            f"data.train_split={train_source.split!r} and data.eval_split={eval_source.split!r} "
            "must both have one label per image, or both have several"
        )
    problems += _balance_problems(config, train_source)
    problems += _empty_class_problems(train_source)
    problems += _overlap_problems(train_source, eval_source)
    raise_problems(problems)


def check_teacher(teacher: Teacher | None, source: Source) -> None:
    """Raises ValueError if a teacher's classes are known and are not those of the data."""
    names = teacher.class_names if teacher is not None else None
    if names is not None and names != source.class_names:
        raise ValueError(
            f"The teacher has {describe_classes(names)}, and {source.name} has "
            f"{describe_classes(source.class_names)}: use a teacher with the same classes in the "
            "same order."
        )


def check_data_size(config: ml_collections.ConfigDict, num_classes: int, num_examples: int) -> None:
    """Checks a recipe against the size of its data, whose classes may not be known yet.

    Raises:
        ValueError: there are too few classes or training examples.
    """
    raise_problems(list(_size_problems(config, num_classes, num_examples, multi_label=False)))


def _size_problems(
    config: ml_collections.ConfigDict, num_classes: int, num_examples: int, multi_label: bool
) -> Iterator[str]:
    data = config.data
    if config.train.batch_size > num_examples:
        yield (
            f"train.batch_size={config.train.batch_size} is more than the {num_examples} examples "
            f"of {data.name} {data.train_split}: use a smaller one"
        )
    if num_classes < 2 and not multi_label:
        yield (
            f"{data.name} has {num_classes} class, and a classifier needs at least 2: check its "
            "folders, or data.label_key"
        )


def _empty_class_problems(source: Source) -> Iterator[str]:
    """Yields a message if classes of a folder or a label file have no photo."""
    if source.labels is None or source.multi_label or not source.files:
        return
    present = set(source.labels.tolist())
    empty = [name for number, name in enumerate(source.class_names) if number not in present]
    if empty:
        yield (
            f"{source.name} {source.split} has no photo of the class {', '.join(empty[:5])}"
            f"{' and others' if empty[5:] else ''}: add JPEG, PNG, "
            "BMP, GIF or WebP photos, or remove the class"
        )


def _balance_problems(config: ml_collections.ConfigDict, source: Source) -> Iterator[str]:
    """Yields a message if class weights or balanced sampling do not fit the data."""
    loss, data = from_section(LossSettings, config.train), config.data
    yield from error_messages(lambda: loss.weights_of_classes(source, data.cache))
    if data.balanced_sampling and source.multi_label:
        yield (
            f"data.balanced_sampling is for one label per example, and {source.name} is "
            "multi-label: leave it out"
        )
    elif data.balanced_sampling:
        yield from error_messages(lambda: source.known_labels(data.cache, "data.balanced_sampling"))


def _overlap_problems(train: Source, evaluation: Source) -> Iterator[str]:
    """Yields a message if photos are in both splits."""
    shared = sorted(
        set(map(os.path.abspath, train.files)) & set(map(os.path.abspath, evaluation.files))
    )
    if shared:
        yield (
            f"data.train_split={train.split!r} and data.eval_split={evaluation.split!r} share "
            f"{len(shared)} photos, such as {shared[0]}: choose splits that do not overlap, such "
            "as 'all[:80%]' and 'all[80%:]' for folders"
        )
