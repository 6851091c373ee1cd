"""The plan of a training run: every part of a recipe, built once.

Building a part checks its values. `recipe_checks` has the checks that concern several parts, and
those of a recipe against its data.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import ml_collections
import tensorflow as tf

from noah_tf.datasets import BatchOptions, Source, train_batches
from noah_tf.images import Preprocessing, TrainTransform
from noah_tf.runs import ModelSpec, from_section, pixel_advice
from noah_tf.training.distillation import DistillationSettings
from noah_tf.training.losses import LossSettings
from noah_tf.training.optimizer_settings import OptimizerSettings
from noah_tf.training.recipe_checks import combination_problems, raise_problems
from noah_tf.training.schedules import Schedule
from noah_tf.training.settings import TrainSettings
from noah_tf.utils import distribute
from noah_tf.utils.validation import check_rate


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """The parts of a recipe, which `train` and `dry_run` share.

    Attributes:
        config: the recipe.
        strategy: the distribution strategy.
        model: the model and its initial weights.
        transform: preprocessing and augmentation of training photos.
        batches: how training examples become batches.
        train: length, batches and checkpoints of the run.
        loss: the loss.
        distillation: what is learned from a teacher.
        optimizer: the optimizer.
        schedule: the learning rate.
    """

    config: ml_collections.ConfigDict
    strategy: tf.distribute.Strategy
    model: ModelSpec
    transform: TrainTransform
    batches: BatchOptions
    train: TrainSettings
    loss: LossSettings
    distillation: DistillationSettings
    optimizer: OptimizerSettings
    schedule: Schedule

    @classmethod
    def from_config(
        cls, config: ml_collections.ConfigDict, strategy: tf.distribute.Strategy | None = None
    ) -> "TrainingPlan":
        """Builds the parts of a recipe, before any data is touched.

        Args:
            config: a recipe, see `recipe.base`.
            strategy: the distribution strategy; None for the one that the recipe names.

        Returns:
            The plan.

        Raises:
            ValueError: the recipe contradicts itself; the message has a line for each reason.
        """
        problems: list[str] = []

        def build(make: Callable, *arguments: Any) -> Any:
            try:
                return make(*arguments)
            except ValueError as error:
                problems.append(str(error).rstrip("."))
                return None

        # First, because MultiWorkerMirroredStrategy has to exist before TensorFlow runs anything.
        strategy = strategy or build(distribute.make_strategy, config.strategy)
        build(distribute.check_precision, config.precision)
        build(_check_seed, config.seed)
        build(check_rate, "ema.decay", config.ema.decay)
        model = build(ModelSpec.from_config, config.model)
        train = build(from_section, TrainSettings, config.train)
        loss = build(from_section, LossSettings, config.train)
        distillation = build(from_section, DistillationSettings, config.train)
        optimizer = build(from_section, OptimizerSettings, config.optimizer)
        transform = build(_transform, config)
        batches: Any = None
        schedule: Any = None
        if train:
            batches = build(_batch_options, config, strategy, model)
            schedule = build(
                Schedule.from_config,
                config.schedule,
                config.optimizer.learning_rate,
                train.epochs,
            )
            replicas = strategy.num_replicas_in_sync if strategy else 1
            problems += combination_problems(config, replicas)
        raise_problems(problems)
        return cls(
            config,
            strategy,
            model,
            transform,
            batches,
            train,
            loss,
            distillation,
            optimizer,
            schedule,
        )

    @property
    def seed(self) -> int:
        """Seed of the initial weights, the order, the augmentation and the dropout."""
        return self.config.seed

    @property
    def precision(self) -> str:
        """Name of the Keras dtype policy."""
        return self.config.precision

    @property
    def ema_decay(self) -> float:
        """Decay of the moving average of the weights; 0 for no moving average."""
        return self.config.ema.decay

    @property
    def average_chooses_best(self) -> bool:
        """Whether the best evaluation and its weights are those of the moving average."""
        return bool(self.ema_decay) and self.config.ema.get("chooses_best", True)

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of training, evaluation and export."""
        return self.transform.preprocessing

    @functools.cached_property
    def pixel_advice(self) -> str | None:
        """`runs.pixel_advice` says which pixels the pretrained weights need, or returns None."""
        return pixel_advice(self.model, self.preprocessing)

    @property
    def num_batch_norm_groups(self) -> int:
        """Number of groups in which a replica normalizes its share of a batch."""
        group = self.model.batch_norm_group
        replicas = self.strategy.num_replicas_in_sync
        part = self.train.batch_size // replicas // self.train.accumulate
        return part // group if group else 1

    def steps_per_epoch(self, num_examples: int) -> int:
        """Returns the number of batches of an epoch."""
        return self.batches.steps_per_epoch(num_examples)

    def train_batches(self, source: Source, step: int, num_epochs: int | None = None) -> Callable:
        """Returns a function that makes the batches of the rest of the run.

        `distribute.distribute_batches` takes the function.

        Args:
            source: the source of training examples.
            step: steps of the run that are done. At least one must be left.
            num_epochs: number of epochs. None means the rest of the run.
        """
        epoch, skip_batches = divmod(step, self.steps_per_epoch(source.num_examples))
        return functools.partial(
            train_batches,
            source,
            self.transform,
            self.batches,
            seed=self.seed,
            epoch=epoch,
            num_epochs=num_epochs or self.train.epochs - epoch,
            skip_batches=skip_batches,
            balanced=self.config.data.balanced_sampling,
        )


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be at least 0 and less than 2**32, got {seed}.")


def _transform(config: ml_collections.ConfigDict) -> TrainTransform:
    preprocessing = Preprocessing.from_dict(config.preprocess.to_dict())
    return TrainTransform.from_config(config.augment.to_dict(), preprocessing)


def _batch_options(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy | None,
    model: ModelSpec | None,
) -> BatchOptions:
    names = ("shuffle_buffer", "cache", "on_corrupt", "prefetch", "threads")
    values = {name: config.data[name] for name in names}
    if config.data.keep_last_batch and strategy and model:
        # The last batch is divided like the others: among replicas, parts and BatchNorm's groups.
        values["last_batch_multiple"] = (
            max(1, config.train.batch_size // model.batch_norm_group)
            if model.batch_norm_group
            else strategy.num_replicas_in_sync * config.train.accumulate
        )
    try:
        return BatchOptions(config.train.batch_size, **values)
    except ValueError as error:
        raise ValueError(f"data.{error}") from error
