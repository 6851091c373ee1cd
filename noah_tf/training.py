"""The training loop."""

import sys
import time

import numpy as np
import tensorflow as tf

from noah_tf import distribute, metrics, model_config, optim
from noah_tf.checkpoint import STACK, Checkpoints, check_stack
from noah_tf.datasets.pipeline import naming_corrupt_examples, train_batches
from noah_tf.datasets.sources import source_from_config
from noah_tf.evaluate import Evaluator
from noah_tf.preprocess import Preprocessing
from noah_tf.workdir import Workdir

# Steps between two looks at the running loss: each look waits for the device.
_STEPS_PER_LOOK = 10


def train(config, workdir):
    """Trains the model of a recipe, or goes on where a killed run stopped.

    The weights come from the newest checkpoint in the folder; in a new run from the file
    `config.model.weights`; without one they are random, by the seed.

    Every batch is a function of (seed, epoch, position) and the checkpoints hold everything else,
    so a run that was killed goes the same way as one that was not. A run that is complete is
    left as it is.

    Args:
        config: a recipe, see `configs/quickstart.py`.
        workdir: the folder of the run; the same folder resumes it.

    Returns:
        Dict with the last evaluation ("top1" or "mAP", "loss", ...), "steps" and "parameters",
        which is also in the folder's result.json.

    Raises:
        ValueError: the recipe contradicts itself or the run in the folder, or another process
            trains there.
        FloatingPointError: the loss or the weights are no longer finite.
    """
    workdir = Workdir(workdir)
    strategy = distribute.make_strategy(config.strategy)
    distribute.check_batch_size(config.train.batch_size, strategy)
    preprocessing = Preprocessing.from_dict(config.preprocess.to_dict())
    train_source = source_from_config(config.data, config.data.train_split)
    eval_source = source_from_config(config.data, config.data.eval_split)
    steps_per_epoch = _steps_per_epoch(train_source, config.train)

    distribute.seed_everything(config.seed)
    with distribute.precision(config.precision), strategy.scope():
        model = model_config.model_from_config(
            config.model, preprocessing.image_size, train_source.num_classes
        )
        optimizer = optim.make_optimizer(
            config.optimizer,
            model.trainable_variables,
            config.train.epochs * steps_per_epoch,
            steps_per_epoch,
        )
        checkpoints = Checkpoints(workdir.checkpoints, model, optimizer)

    with workdir.locked():
        data = {
            "class_names": train_source.class_names,
            "multi_label": train_source.multi_label,
            "train_examples": train_source.num_examples,
            "stack": STACK,
        }
        workdir.begin(config, data)
        if workdir.result() is not None:
            print(f"{workdir.path} is complete already.", flush=True)
            return workdir.result()
        check_stack(workdir)
        step = checkpoints.restore()
        if step == 0:
            with strategy.scope():
                model_config.load_initial_weights(model, config.model)
        start = "checkpoint" if step else config.model.get("weights") or "random weights"
        print(
            f"{model.name}: {model.count_params():,} parameters, head on "
            f"{model.noah_feature_layer!r}; {step} of {config.train.epochs * steps_per_epoch} "
            f"steps done, starting from {start}",
            flush=True,
        )

        evaluator = Evaluator(model, strategy)

        def evaluate():
            distribute.synchronize(model, strategy)
            return evaluator(eval_source, preprocessing, config.train.batch_size)

        def save():
            distribute.synchronize(model, strategy)
            _require_finite(model, step)
            checkpoints.save(step)

        train_step = make_train_step(config, model, optimizer, strategy)
        summaries = tf.summary.create_file_writer(str(workdir.events))
        workdir.keep_epochs(step // steps_per_epoch)
        every = config.train.checkpoint_every
        evaluation = None
        for epoch in range(step // steps_per_epoch, config.train.epochs):
            progress = _Progress(epoch, steps_per_epoch, config.train)
            batches = train_batches(
                train_source,
                preprocessing,
                config.train.batch_size,
                seed=config.seed,
                epoch=epoch,
                skip_batches=step % steps_per_epoch,
                cache=config.data.cache,
                **config.augment.to_dict(),
            )
            with naming_corrupt_examples(train_source):
                for batch in strategy.experimental_distribute_dataset(batches):
                    progress.add(step % steps_per_epoch, train_step(batch))
                    step += 1
                    if every and step % every == 0 and step % steps_per_epoch:
                        save()
            evaluation = evaluate()
            row = {"epoch": epoch + 1, **progress.result()}
            row.update({f"eval_{name}": value for name, value in evaluation.items()})
            # Row before checkpoint: a kill between them repeats the epoch, and drops its row.
            workdir.add_epoch(row)
            save()
            _summarize(summaries, row, step)

        # Without an epoch here, the run was killed between its last checkpoint and its end.
        result = {**(evaluation or evaluate()), "steps": step, "parameters": model.count_params()}
        workdir.finish(model, result)
        return result


def make_train_step(config, model, optimizer, strategy):
    """The function that does one step.

    Args:
        config: the recipe.
        model: maps images to logits.
        optimizer: of `optim.make_optimizer`.
        strategy: the distribution strategy they were made under.

    Returns:
        A function of one distributed batch (images, labels). It returns the sums over the batch
        of the losses, of the hits, and of ones, as a float32 tensor (3,).
    """
    variables = model.trainable_variables
    replicas = strategy.num_replicas_in_sync

    def replica_step(images, labels):
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            losses = metrics.example_losses(labels, logits, config.train.label_smoothing)
            # Gradients are summed over replicas: divide by the global batch, and the parts that
            # every replica adds in full by the number of replicas.
            loss = tf.reduce_sum(losses) / config.train.batch_size
            penalty = tf.add_n(model.losses) if model.losses else 0.0
            penalty += optim.l2_loss(config.optimizer, variables)
            scaled = optim.scale_loss(optimizer, loss + penalty / replicas)
        gradients = optim.unscale_gradients(optimizer, tape.gradient(scaled, variables))
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        hits = metrics.hits(labels, logits)
        return tf.stack([tf.reduce_sum(x) for x in (losses, hits, tf.ones_like(hits))])

    @tf.function
    def train_step(batch):
        sums = strategy.run(replica_step, args=batch)
        return strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    return train_step


def _steps_per_epoch(source, config):
    if config.epochs < 1:
        raise ValueError(f"train.epochs must be at least 1, got {config.epochs}.")
    if config.batch_size > source.num_examples:
        raise ValueError(
            f"train.batch_size={config.batch_size} is more than the {source.num_examples} examples "
            f"of {source.name} {source.split}: use a smaller one."
        )
    return source.num_examples // config.batch_size


def _require_finite(model, step):
    """Keeps weights that have overflowed out of checkpoints, where they would replace good ones."""
    for weight in model.weights:
        values = tf.convert_to_tensor(weight)
        if values.dtype.is_floating and not tf.reduce_all(tf.math.is_finite(values)):
            raise FloatingPointError(
                f"The weight {weight.name} is not finite after step {step}: lower "
                "optimizer.learning_rate, warm up for longer, or use another precision."
            )


class _Progress:
    """Sums the figures of an epoch and shows them in a progress bar."""

    def __init__(self, epoch, steps, config):
        print(f"Epoch {epoch + 1}/{config.epochs}", flush=True)
        # Not a terminal: one line an epoch.
        self._bar = tf.keras.utils.Progbar(
            steps, verbose=1 if sys.stdout.isatty() else 2, stateful_metrics=["loss", "accuracy"]
        )
        self._steps, self._batch_size = steps, config.batch_size
        self._sums = np.zeros(3)
        self._pending = tf.zeros(3)
        self._first = self._start = None

    def add(self, position, sums):
        """Adds the sums of the step at a position of the epoch."""
        self._pending += sums
        if self._start is None:
            # The first step of a run is traced and compiled: time from its end.
            self._pending.numpy()
            self._first, self._start = position, time.monotonic()
        if position + 1 == self._steps or position % _STEPS_PER_LOOK == 0:
            self._look(position)

    def _look(self, position):
        self._sums += self._pending.numpy()
        self._pending = tf.zeros(3)
        loss, accuracy, _ = self._sums / self._sums[2]
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"The loss is {loss} by step {position + 1} of the epoch: lower "
                "optimizer.learning_rate, warm up for longer, or use another precision."
            )
        self._bar.update(position + 1, [("loss", loss), ("accuracy", accuracy)])
        self._last = position

    def result(self):
        """Figures of the epoch, or of the part of it since the run was resumed."""
        loss, accuracy, examples = self._sums / np.array([self._sums[2], self._sums[2], 1])
        seconds = time.monotonic() - self._start
        steps = self._last - self._first
        return {
            "loss": round(float(loss), 6),
            "accuracy": round(float(accuracy), 6),
            "examples": int(examples),
            "images_per_second": round(steps * self._batch_size / max(seconds, 1e-9), 1),
        }


def _summarize(writer, row, step):
    with writer.as_default(step=step):
        for name, value in row.items():
            if name != "epoch":
                tf.summary.scalar(name, value)
    writer.flush()
