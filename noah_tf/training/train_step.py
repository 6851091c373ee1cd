"""One step of training, from a batch on the replicas to new weights."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from noah_tf.evaluation import metrics
from noah_tf.training.plan import TrainingPlan
from noah_tf.training.state import TrainState
from noah_tf.utils import distribute

# The values that a step returns, in this order: sums over the batch.
SUMS = ("loss", "top1", "top5", "examples", "skipped")


def make_train_step(
    plan: TrainingPlan, state: TrainState, loss: Callable, trained_indices: Sequence[int]
) -> Callable:
    """Returns the function that does one step.

    Args:
        plan: the plan of the run.
        state: the model, its optimizer and its moving average, made under the plan's strategy.
        loss: a function of targets and logits, see `losses.training_loss`.
        trained_indices: indices of the `state.variables` to differentiate, see
            `TrainState.freeze_until_start`.

    Returns:
        A function of one distributed batch of `TrainingPlan.train_batches`. It returns `SUMS` as a
        float32 tensor (5,).
    """
    accumulate = plan.train.accumulate
    shares = plan.strategy.num_replicas_in_sync * accumulate
    model, optimizer, teacher = state.model, state.optimizer, state.teacher
    forward = state.forward or model
    trained = [state.variables[index] for index in trained_indices]
    top_k = min(5, model.output_shape[-1])

    def sums_and_gradients(
        images: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor
    ) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = forward(images, training=True)
            losses = loss(targets, logits)
            if teacher is not None:
                share = plan.distillation.distillation_weight
                taught = teacher.losses(teacher.logits(images), logits)
                losses = (1 - share) * losses + share * taught
            losses = weights * losses
            # The gradients are summed over the replicas and over the parts of their batches. So
            # the loss is divided by the size of the whole batch, and the penalties, which do not
            # depend on the batch, by the number of summands.
            examples = tf.cast(tf.shape(images)[0] * shares, tf.float32)
            mean = tf.reduce_sum(losses) / examples
            penalty = tf.add_n(model.losses) if model.losses else 0.0
            scaled = optimizer.scale_loss(mean + penalty / shares)
        gradients = tape.gradient(scaled, trained)
        accuracies = [metrics.top_k_accuracy(targets, logits, k) for k in (1, top_k)]
        sums = (losses, *(weights * value for value in accuracies), weights, 1 - weights)
        gradients = [
            tf.zeros_like(variable) if gradient is None else tf.convert_to_tensor(gradient)
            for variable, gradient in zip(trained, gradients, strict=True)
        ]
        return [tf.stack([tf.reduce_sum(x) for x in sums]), *gradients]

    if plan.config.jit_compile:
        sums_and_gradients = tf.function(sums_and_gradients, jit_compile=True)

    def replica_step(
        images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, weights: tf.Tensor
    ) -> tf.Tensor:
        batch = *plan.transform.on_device(images, labels, seeds, model.output_shape[-1]), weights
        sums, *gradients = _sum_over_parts(sums_and_gradients, batch, accumulate)
        distribute.synchronize_statistics(state.statistics)
        by_index = dict(zip(trained_indices, gradients, strict=True))
        optimizer.apply([by_index.get(index) for index in range(len(state.variables))])
        if state.average is not None:
            state.average.update()
        return sums

    @tf.function
    def train_step(batch: tuple) -> tf.Tensor:
        sums = plan.strategy.run(replica_step, args=batch)
        return plan.strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    return train_step


def _sum_over_parts(function: Callable, batch: tuple, num_parts: int) -> list[tf.Tensor]:
    """Returns the sum, over equal parts of a batch, of the tensors that a function returns."""
    if num_parts == 1:
        return function(*batch)
    parts = [tf.reshape(value, (num_parts, -1, *value.shape[1:])) for value in batch]

    def add_part(index: tf.Tensor, *totals: tf.Tensor) -> tuple:
        values = function(*(value[index] for value in parts))
        return index + 1, *(total + value for total, value in zip(totals, values, strict=True))

    first = function(*(value[0] for value in parts))
    # Parts are computed one after the other, so that only one of them is in memory.
    _, *totals = tf.while_loop(
        lambda index, *_: index < num_parts, add_part, (1, *first), parallel_iterations=1
    )
    return totals
