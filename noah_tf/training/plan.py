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

from noah_tf.datasets.pipeline import train_batches, train_options
from noah_tf.datasets.source import Source
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.runs.model_config import ModelSpec
from noah_tf.runs.recipe import from_section
from noah_tf.training.losses import LossSettings
from noah_tf.training.optimizer import OptimizerSettings
from noah_tf.training.recipe_checks import combination_problems, raise_problems
from noah_tf.training.schedules import Schedule
from noah_tf.training.settings import DataSettings, TrainSettings
from noah_tf.utils import distribute
from noah_tf.utils.validation import check_rate


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """The parts of a recipe, which `train` and `dry_run` share.

    Attributes:
        config: the recipe.
        strategy: the distribution strategy.
        model: the model and its initial weights.
        preprocessing: the `Preprocessing` of training, evaluation and export.
        batch_options: the arguments of `train_batches` that the `augment` section describes.
        data: how training examples are read.
        train: length, batches and checkpoints of the run.
        loss: the loss.
        optimizer: the optimizer.
        schedule: the learning rate.
    """

    config: ml_collections.ConfigDict
    strategy: tf.distribute.Strategy
    model: ModelSpec
    preprocessing: Preprocessing
    batch_options: dict[str, Any]
    data: DataSettings
    train: TrainSettings
    loss: LossSettings
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
        data = build(from_section, DataSettings, config.data)
        train = build(from_section, TrainSettings, config.train)
        loss = build(from_section, LossSettings, config.train)
        optimizer = build(from_section, OptimizerSettings, config.optimizer)
        preprocessing = build(Preprocessing.from_dict, config.preprocess.to_dict())
        batch_options: Any = None
        schedule: Any = None
        if preprocessing:
            batch_options = build(train_options, config.augment.to_dict(), preprocessing)
        if train:
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
            preprocessing,
            batch_options,
            data,
            train,
            loss,
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
    def normalizes_on_device(self) -> bool:
        """Whether the train step normalizes the images; erasing needs them normalized before."""
        return not self.config.augment.erasing

    def steps_per_epoch(self, num_examples: int) -> int:
        """Returns the number of whole batches of the training examples."""
        return num_examples // self.train.batch_size

    def epoch_batches(self, source: Source, epoch: int, step: int) -> Callable:
        """Returns a function that makes the rest of an epoch's batches.

        `distribute.distribute_batches` takes the function.

        Args:
            source: the source of training examples.
            epoch: the epoch, from 0.
            step: steps of the run that are done.
        """
        return functools.partial(
            train_batches,
            source,
            self.preprocessing,
            self.train.batch_size,
            seed=self.seed,
            epoch=epoch,
            skip_batches=step - epoch * self.steps_per_epoch(source.num_examples),
            shuffle_buffer=self.data.shuffle_buffer,
            cache=self.data.cache,
            on_corrupt=self.data.on_corrupt,
            prefetch=self.data.prefetch,
            threads=self.data.threads,
            normalize=not self.normalizes_on_device,
            **self.batch_options,
        )


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be at least 0 and less than 2**32, got {seed}.")
