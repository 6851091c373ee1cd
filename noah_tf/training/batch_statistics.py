"""BatchNorm's statistics for an evaluation, computed anew from training batches.

The moving averages of Keras follow the weights slowly: with a momentum of 0.99, a tenth of the
initial values is left after 230 steps. In a short run they say little about the trained network,
and its evaluation can be far worse than its training.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from noah_tf.datasets import Source, naming_corrupt_examples, train_batches
from noah_tf.runs import Workdir
from noah_tf.training.batch_norm import batch_norm_layers, momentum_set_to
from noah_tf.training.plan import TrainingPlan
from noah_tf.training.state import TrainState
from noah_tf.utils import distribute
from noah_tf.utils.keras_compat import random_state_variables, raw_variable

# Runs with fewer steps compute the statistics anew unless the recipe says otherwise.
SHORT_RUN_STEPS = 1000
# The key of a run's data that says whether it does.
RECOMPUTES = "recomputes_batch_statistics"
# The largest number of training batches that the statistics are computed from.
MAX_BATCHES = 100


class BatchStatistics:
    """Computes the statistics of BatchNorm from training batches, with the weights as they are.

    The batches are the first ones of the first epoch, so the statistics are a function of the
    weights, the random state and the recipe. The layers normalize by the statistics of the batch
    meanwhile, as in training. The mean of a layer is the average over the batches. The variance is
    that of all their examples together, from the variances that Keras computes for the batches.
    Layers that are frozen keep their statistics.

    Args:
        plan: the plan of the run.
        state: the model and its statistics.
        source: the source of training examples.

    Source: "Precise BatchNorm" of Wu and Johnson (arXiv 2105.07576), section 3.
    """

    def __init__(self, plan: TrainingPlan, state: TrainState, source: Source) -> None:
        self._plan, self._state, self._source = plan, state, source
        # As many examples at once as a device has in training.
        options = dataclasses.replace(
            plan.batches, batch_size=plan.batches.batch_size // plan.train.accumulate
        )
        self.num_batches = min(MAX_BATCHES, source.num_examples // options.batch_size)

        def make_batches(shard: tuple[int, int], replicas: int) -> tf.data.Dataset:
            batches = train_batches(
                source,
                plan.transform,
                options,
                seed=plan.seed,
                epoch=0,
                num_epochs=1,
                balanced=plan.config.data.balanced_sampling,
                shard=shard,
                replicas=replicas,
            )
            # One element for each replica.
            return batches.take(self.num_batches * replicas).repeat()

        self._make_batches = make_batches
        self._moments: dict[tuple[int, ...], Callable] = {}

    @functools.cached_property
    def _batches(self) -> Iterator[Any]:
        """The batches, again and again. To start a pipeline with RandAugment takes seconds."""
        return iter(distribute.distribute_batches(self._plan.strategy, self._make_batches))

    @contextlib.contextmanager
    def recomputed(self) -> Iterator[None]:
        """Within it, the model has the new statistics. Afterwards it is as it was before."""
        model = self._state.model
        layers = [layer for layer in batch_norm_layers(model) if layer.trainable]
        if not layers:
            yield
            return
        saved = self._copies([*self._state.statistics, *random_state_variables(model)])
        try:
            means, variances = self._statistics(layers)
            for layer, mean, variance in zip(layers, means, variances, strict=True):
                for weight, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
                    for copy, _ in self._copies([raw_variable(weight)]):
                        copy.assign(tf.cast(value, copy.dtype))
            yield
        finally:
            for copy, value in saved:
                copy.assign(value)

    def _copies(self, variables: Sequence[Any]) -> list[tuple[tf.Variable, tf.Tensor]]:
        """Returns the copy of each variable on each device of this process, with its value."""
        local = self._plan.strategy.experimental_local_results
        return [(copy, copy.read_value()) for variable in variables for copy in local(variable)]

    def _statistics(self, layers: Sequence[Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns the mean and the variance of the inputs of each layer over all batches."""
        key = tuple(map(id, layers))
        if key not in self._moments:
            self._moments[key] = self._make_moments(layers)
            print(
                f"For each evaluation, the statistics of {len(layers)} BatchNorm layers are "
                f"computed from {self.num_batches} training batches "
                "(train.recompute_batch_statistics).",
                flush=True,
            )
        moments = []
        with naming_corrupt_examples(self._source, self._plan.preprocessing.decode):
            for batch in itertools.islice(self._batches, self.num_batches):
                moments.append([value.numpy() for value in self._moments[key](batch)])
        if not moments:
            raise ValueError(
                f"{self._source.name} has no whole batch to compute BatchNorm's statistics from: "
                "lower train.batch_size, or set train.recompute_batch_statistics to False."
            )
        averages = [
            np.asarray(np.mean(values, 0, np.float64)) for values in zip(*moments, strict=True)
        ]
        means, squares = averages[: len(layers)], averages[len(layers) :]
        variances = [
            np.maximum(square - mean**2, 0) for mean, square in zip(means, squares, strict=True)
        ]
        return means, variances

    def _make_moments(self, layers: Sequence[Any]) -> Callable:
        """Returns a function from a distributed batch to the first two moments of each layer."""
        strategy, model = self._plan.strategy, self._state.model

        def replica_moments(
            images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, _: tf.Tensor
        ) -> list[tf.Tensor]:
            num_classes = model.output_shape[-1]
            images, _ = self._plan.transform.on_device(images, labels, seeds, num_classes)
            with momentum_set_to(0.0, layers):
                model(images, training=True)
            # The squares of float32 means would swallow small variances.
            means = [_float64(layer.moving_mean) for layer in layers]
            variances = [_float64(layer.moving_variance) for layer in layers]
            squares = [variance + mean**2 for mean, variance in zip(means, variances, strict=True)]
            return [*means, *squares]

        @tf.function
        def moments(batch: Any) -> list[tf.Tensor]:
            per_replica = strategy.run(replica_moments, args=batch)
            mean = tf.distribute.ReduceOp.MEAN
            return [strategy.reduce(mean, value, axis=None) for value in per_replica]

        return moments


def recomputes(plan: TrainingPlan, total_steps: int, workdir: Workdir) -> bool:
    """Returns whether a run computes the statistics anew for its evaluations.

    A resumed run does as at its beginning, so that its evaluations can be compared.

    Args:
        plan: the plan of the run.
        total_steps: steps of the run.
        workdir: the folder of the run.
    """
    if workdir.has_progress():
        # Runs of earlier versions did not.
        return bool(workdir.data().get(RECOMPUTES, False))
    option = plan.train.recompute_batch_statistics
    return total_steps < SHORT_RUN_STEPS if option is None else option


def _float64(weight: Any) -> tf.Tensor:
    return tf.cast(tf.convert_to_tensor(raw_variable(weight)), tf.float64)
