"""One step of training, from a batch on the replicas to new weights."""

import tensorflow as tf

from noah_tf.evaluation import metrics
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.runs import recipe
from noah_tf.utils import distribute

# What a step returns, in this order: sums over the batch.
SUMS = ("loss", "top1", "top5", "examples", "skipped")


def make_train_step(config, parts, strategy, *, loss, frozen=()):
    """The function that does one step.

    Args:
        config: the recipe.
        parts: the model, its trainable variables, their optimizer and their moving average, a
            `training.Parts`.
        strategy: the distribution strategy that they were made under.
        loss: a function of targets and logits, as of `losses.training_loss`.
        frozen: variables that stay as they are.

    Returns:
        A function of one distributed batch (images, targets, weights), as `training.batches_of`
        makes them. It returns `SUMS` as a float32 tensor (5,).
    """
    batch_size, accumulate = config.train.batch_size, config.train.accumulate
    shares = strategy.num_replicas_in_sync * accumulate
    model, variables, statistics, optimizer, average, _ = parts
    still = {id(variable) for variable in frozen}
    trained = [place for place, v in enumerate(variables) if id(v) not in still]
    five = min(5, model.output_shape[-1])
    normalize = tf.identity
    if recipe.normalizes_on_device(config):
        normalize = Preprocessing.from_dict(config.preprocess.to_dict()).normalize

    def part_gradients(images, targets, weights):
        with tf.GradientTape() as tape:
            logits = model(normalize(images), training=True)
            losses = weights * loss(targets, logits)
            # Gradients are summed over replicas: divide by the global batch, and what every
            # replica adds in full, once in each part of its batch, by their number.
            mean = tf.reduce_sum(losses) / batch_size
            penalty = tf.add_n(model.losses) if model.losses else 0.0
            scaled = optimizer.scale_loss(mean + penalty / shares)
        gradients = tape.gradient(scaled, [variables[i] for i in trained])
        accuracies = (metrics.top_k_accuracy(targets, logits, k) for k in (1, five))
        sums = (losses, *(weights * accuracy for accuracy in accuracies), weights, 1 - weights)
        gradients = [
            tf.zeros_like(variables[i]) if gradient is None else tf.convert_to_tensor(gradient)
            for i, gradient in zip(trained, gradients, strict=True)
        ]
        return [tf.stack([tf.reduce_sum(x) for x in sums]), *gradients]

    if config.jit_compile:
        part_gradients = tf.function(part_gradients, jit_compile=True)

    def replica_step(*batch):
        sums, *gradients = _in_parts(part_gradients, batch, accumulate)
        distribute.synchronize_statistics(statistics)
        found = dict(zip(trained, gradients, strict=True))
        optimizer.apply([found.get(i) for i in range(len(variables))])
        if average is not None:
            average.update()
        return sums

    @tf.function
    def train_step(batch):
        sums = strategy.run(replica_step, args=batch)
        return strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    return train_step


def _in_parts(function, batch, parts):
    """The sum over equal parts of a batch of what a function of one returns: tensors in a list."""
    if parts == 1:
        return function(*batch)
    split = [tf.reshape(value, (parts, -1, *value.shape[1:])) for value in batch]

    def add_part(number, *totals):
        values = function(*(value[number] for value in split))
        return number + 1, *(total + value for total, value in zip(totals, values, strict=True))

    first = function(*(value[0] for value in split))
    # One after the other: memory for one part is the reason to have them.
    _, *totals = tf.while_loop(
        lambda number, *_: number < parts, add_part, (1, *first), parallel_iterations=1
    )
    return totals
