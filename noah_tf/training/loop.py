"""The training loop."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import ml_collections
import tensorflow as tf

from noah_tf.datasets import Source, naming_corrupt_examples, source_from_config
from noah_tf.evaluation import Evaluator, metrics
from noah_tf.runs import Checkpoints, Workdir, check_stack, model_config, recipe
from noah_tf.training import recipe_checks
from noah_tf.training.batch_statistics import RECOMPUTES, BatchStatistics, recomputes
from noah_tf.training.callbacks import Callbacks, OptimizerView
from noah_tf.training.initial_weights import (
    backbone_of_run,
    check_initial_weights,
    load_initial_weights,
)
from noah_tf.training.interrupt import (
    Interrupted,
    StopRequest,
    lost_workers_named,
    stop_requests,
)
from noah_tf.training.losses import training_loss
from noah_tf.training.plan import TrainingPlan
from noah_tf.training.progress import Progress, Timer, with_prefix
from noah_tf.training.run_length import changed_length, is_complete
from noah_tf.training.state import TrainState, build_state
from noah_tf.training.train_step import make_train_step
from noah_tf.utils import distribute
from noah_tf.utils.keras_compat import KERAS_NAME


def train(
    config: ml_collections.ConfigDict,
    workdir: Any,
    *,
    callbacks: Sequence[tf.keras.callbacks.Callback] | Callable[[], Sequence[Any]] = (),
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Trains the model of a recipe, or resumes a run that was killed or interrupted.

    The initial weights come from, in this order:

    1. the newest checkpoint in the folder;
    2. the file or run `config.model.weights`;
    3. random numbers by the seed.

    Every batch is a function of (seed, epoch, position), and the checkpoints hold all other state,
    so a run that was killed and resumed ends with the same weights as one that was not. A complete
    run is left as it is, unless the recipe has more epochs or more patience now: then it goes on.

    Args:
        config: a recipe, see `recipe.base`.
        workdir: the folder of the run, on this machine or elsewhere, such as gs://bucket/run; the
            same folder resumes it.
        callbacks: Keras callbacks that observe the run, see `Callbacks`, or a function that returns
            them, which is called once the run begins or resumes. A run in which one of them sets
            `model.stop_training` ends after that epoch.
        clock: a function that returns seconds, for tests.

    Returns:
        Dict with the last evaluation ("top1" or "mAP", "loss", ...; the prefix "ema_" marks that of
        the moving average), its best value ("best_top1" or "best_mAP") with its step,
        "epochs_since_best", "steps" and "parameters". The folder's result.json has the same values.

    Raises:
        ValueError: the recipe contradicts itself, the data or the run in the folder, or another
            process trains there.
        FloatingPointError: the loss or the weights are no longer finite.
        Interrupted: SIGTERM or SIGINT was received; the state is saved.
        ConnectionError: another worker is gone.
    """
    plan = TrainingPlan.from_config(config)
    workdir = Workdir(workdir, writer=distribute.is_chief(plan.strategy))
    if not workdir.has_progress():
        check_initial_weights(plan.model)
    train_source = source_from_config(config.data, config.data.train_split)
    eval_source = source_from_config(config.data, config.data.eval_split)
    recipe_checks.check_data(config, train_source, eval_source)
    saved_backbone = backbone_of_run(plan, workdir)
    steps_per_epoch = plan.steps_per_epoch(train_source.num_examples)
    state = build_state(
        plan,
        train_source.num_classes,
        steps_per_epoch,
        saved_backbone if workdir.has_progress() else None,
        train_source.multi_label,
    )
    recipe_checks.check_teacher(state.teacher, train_source)
    with workdir.locked(), stop_requests() as stop, lost_workers_named(plan.strategy, workdir.path):
        recompute = recomputes(plan, plan.train.epochs * steps_per_epoch, workdir)
        data = {
            "class_names": train_source.class_names,
            "multi_label": train_source.multi_label,
            "train_examples": train_source.num_examples,
            "stack": KERAS_NAME,
            RECOMPUTES: recompute,
        }
        if state.teacher is not None:
            data["teacher_sha256"] = state.teacher.sha256
        resumable = (*recipe.RESUMABLE_KEYS, *changed_length(plan, workdir))
        workdir.begin(model_config.with_head(config, state.model), data, resumable)
        if saved_backbone is not None and not workdir.has_progress():
            workdir.save_backbone(saved_backbone)
        result = workdir.result()
        if result is not None:
            if is_complete(plan, result, train_source.num_examples):
                print(f"{workdir.path} is already complete.", flush=True)
                return result
            workdir.reopen()
        # In a new run, the first worker may not have written the data yet.
        if workdir.has_progress():
            check_stack(workdir)
        made = callbacks() if callable(callbacks) else callbacks
        sources = train_source, eval_source
        return Trainer(plan, state, workdir, *sources, stop, recompute, made, clock).run()


class Trainer:
    """Trains a model, evaluates it after each epoch, and saves checkpoints.

    Args:
        plan: the plan of the run.
        state: the model, its optimizer and its moving average.
        workdir: the folder of the run, which has begun.
        train_source: the source of training examples.
        eval_source: the source of evaluation examples.
        stop: True once the process was asked to stop.
        recompute_statistics: whether evaluations compute BatchNorm's statistics anew.
        callbacks: Keras callbacks that observe the run.
        clock: a function that returns seconds.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        state: TrainState,
        workdir: Workdir,
        train_source: Source,
        eval_source: Source,
        stop: StopRequest,
        recompute_statistics: bool = False,
        callbacks: Sequence[tf.keras.callbacks.Callback] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan, self.state, self.workdir = plan, state, workdir
        self.train_source, self.eval_source = train_source, eval_source
        self.step = 0
        self.steps_per_epoch = plan.steps_per_epoch(train_source.num_examples)
        self.total_steps = plan.train.epochs * self.steps_per_epoch
        writer = tf.summary.create_file_writer(str(workdir.output / "events"))
        self.progress = Progress(plan.train, self.steps_per_epoch, writer, clock)
        self.checkpoints = Checkpoints(
            workdir,
            state.model,
            plan.train.keep_checkpoints,
            optimizer=state.optimizer,
            average=state.average,
            progress=self.progress,
        )
        self.evaluator = Evaluator(state.model, plan.strategy, train_source.multi_label)
        class_weights = plan.loss.weights_of_classes(train_source, plan.batches.cache)
        self._loss = training_loss(plan.loss, train_source.multi_label, class_weights)
        self._statistics = None
        if recompute_statistics:
            self._statistics = BatchStatistics(plan, state, train_source)
        self.callbacks = Callbacks(
            callbacks,
            state.model,
            OptimizerView(state.optimizer, plan.config.optimizer.to_dict()),
            plan.train.epochs,
            self.steps_per_epoch,
        )
        self._train_steps: dict[tuple[int, ...], Callable] = {}
        self._batches: Iterator[Any] = iter(())
        self._stop, self._clock = stop, clock
        self._checkpoint_timer = Timer(plan.train.checkpoint_minutes, clock)
        self._any_worker = distribute.any_worker(plan.strategy)
        self._is_stopped_by_callback = False
        self._is_multi_worker = distribute.is_multi_worker(plan.strategy)

    def run(self) -> dict[str, Any]:
        """Trains from where the run is to its end, and returns its result."""
        self.restore()
        if self.step < self.total_steps:
            make_batches = self.plan.train_batches(self.train_source, self.step)
            self._batches = iter(distribute.distribute_batches(self.plan.strategy, make_batches))
        self.callbacks.begin()
        for epoch in range(self.progress.epochs_done, self.plan.train.epochs):
            self.train_epoch(epoch)
            # The checkpoint is older than the evaluation, so a run that is killed from here on
            # repeats the evaluation.
            evaluations = self.evaluate()
            self.end_epoch(evaluations)
            if reason := self._reason_to_end():
                print(f"{reason}, so the run ends.", flush=True)
                break
        return self.finish(evaluations)

    def restore(self) -> None:
        """Loads the newest checkpoint, or the initial weights of a new run."""
        model = self.state.model
        self.step = self.checkpoints.restore()
        if self.step == 0:
            with self.plan.strategy.scope():
                load_initial_weights(model, self.plan.model)
            if self.state.average is not None:
                self.state.average.reset()
        start = "its checkpoint" if self.step else self.plan.model.start
        print(
            f"{model.name}: {model.count_params():,} parameters, head on "
            f"{model.noah_feature_layer!r}; {self.step} of {self.total_steps} steps done, "
            f"starting from {start}",
            flush=True,
        )
        if self.plan.pixel_advice:
            print(self.plan.pixel_advice, flush=True)
        self.workdir.keep_epochs(self.progress.epochs_done)

    def train_epoch(self, epoch: int) -> None:
        """Does the steps of an epoch that are not done yet, and saves checkpoints."""
        first, end = epoch * self.steps_per_epoch, (epoch + 1) * self.steps_per_epoch
        train_step = self._train_step(first)
        self.progress.begin_epoch(epoch)
        self.callbacks.begin_epoch(epoch)
        while self.step < end:
            started = self._clock()
            with naming_corrupt_examples(self.train_source, self.plan.preprocessing.decode):
                batch = next(self._batches)
            wait_seconds = self._clock() - started
            self.callbacks.begin_batch(self.step - first)
            self.progress.add(train_step(batch), wait_seconds)
            self.callbacks.end_batch(self.step - first, self.progress.epoch_means)
            self.step += 1
            is_end = self.step == end
            is_log_step = is_end or self.step % self.plan.train.log_every == 0
            if is_log_step:
                self.log()
            self.save_or_stop(is_log_step, is_end)

    def log(self) -> None:
        """Shows the loss, and raises FloatingPointError if it is not finite."""
        loss = self.progress.log(self.step, self._learning_rate())
        if not math.isfinite(loss):
            self._raise_not_finite("The loss is not")

    def save_or_stop(self, is_log_step: bool, is_end: bool) -> None:
        """Saves a checkpoint if one is due, and leaves the run if it was asked to stop."""
        must_stop, is_due = bool(self._stop), self._checkpoint_timer.is_due
        if self._is_multi_worker and is_log_step:
            # All workers save and stop at the same step. They agree on it at the steps that log.
            must_stop, is_due = self._any_worker(must_stop, is_due)
        elif self._is_multi_worker:
            must_stop = is_due = False
        every = self.plan.train.checkpoint_every
        if must_stop or is_due or is_end or (every and self.step % every == 0):
            self.save()
        if must_stop:
            self.interrupt()

    def save(self) -> None:
        """Saves a checkpoint, or raises FloatingPointError if a weight is not finite."""
        started = self._clock()
        for weight in self.state.model.weights:
            # Such weights must not replace good checkpoints.
            if not _is_finite(weight):
                self._raise_not_finite(f"The weight {weight.name} is not")
        self.progress.save()
        self.checkpoints.save(self.step)
        self.progress.add_save_seconds(self._clock() - started)
        self._checkpoint_timer.restart()

    def evaluate(self) -> dict[str, dict[str, Any]]:
        """Evaluates the model and its moving average, and saves the weights of the best evaluation.

        Returns:
            Dict that maps the prefix "" of the model, or "ema_" of its moving average, to metrics.
        """
        self.callbacks.begin_test()
        evaluations = {}
        for prefix in ("", "ema_") if self.state.average is not None else ("",):
            with self._evaluated_weights(averaged=bool(prefix)):
                evaluations[prefix] = result = self._metrics()
                is_candidate = bool(prefix) == self.plan.average_chooses_best
                value = result[metrics.primary_metric(result)]
                if is_candidate and self.progress.update_best(value, self.step):
                    self.workdir.save_best(self.state.model, {**result, "step": self.step})
        self.callbacks.end_test(with_prefix(evaluations))
        return evaluations

    def end_epoch(self, evaluations: dict[str, dict[str, Any]]) -> None:
        """Writes the row of the epoch, and leaves the run if it was asked to stop."""
        logs = {**self.progress.epoch_means(), **with_prefix(evaluations, "val_")}
        row = self.progress.end_epoch(self.step, self._learning_rate(), evaluations)
        self.workdir.add_epoch(row)
        self.callbacks.end_epoch(row["epoch"] - 1, logs)
        (self._is_stopped_by_callback,) = self._any_worker(self.callbacks.stop_training)
        is_last = self.step == self.total_steps or self._reason_to_end()
        if self._any_worker(bool(self._stop))[0] and not is_last:
            self.interrupt()

    def _reason_to_end(self) -> str | None:
        """Returns why the run ends after this epoch although it could have more, or None."""
        if self._is_stopped_by_callback:
            return "A callback set model.stop_training"
        epochs, patience = self.progress.epochs_since_best, self.plan.train.patience
        if self.plan.train.is_out_of_patience(epochs):
            return f"The last {epochs} epochs had no better evaluation (train.patience={patience})"
        return None

    def finish(self, evaluations: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Writes the trained model and the result of the run, and returns the result."""
        model = self.state.model
        result = with_prefix(evaluations)
        if self._is_stopped_by_callback:
            result["stopped_before_epochs"] = self.plan.train.epochs
        self.callbacks.end(result)
        best_value, best_step = self.progress.best
        result[f"best_{metrics.primary_metric(result)}"] = best_value
        result.update(best_step=best_step, epochs_since_best=self.progress.epochs_since_best)
        result.update(steps=self.step, parameters=model.count_params())
        if self.state.average is not None:
            with self._evaluated_weights(averaged=True):
                self.workdir.save_weights(model, "ema")
        with self._evaluated_weights():
            self.workdir.finish(model, result)
        return result

    def interrupt(self) -> NoReturn:
        """Leaves the run, whose state is saved, by raising `Interrupted`."""
        raise Interrupted(
            f"Stopped after step {self.step} of {self.total_steps} and saved it in "
            f"{self.workdir.path}: the same command goes on from there.",
            self._stop.signum,
        )

    def _train_step(self, step: int) -> Callable:
        """Returns the function of a train step, traced once for each set of trained weights."""
        indices = self.state.freeze_until_start(step)
        if indices not in self._train_steps:
            self._train_steps[indices] = make_train_step(self.plan, self.state, self._loss, indices)
        return self._train_steps[indices]

    def _metrics(self) -> dict[str, Any]:
        # As many examples at once as fit into memory for training; this does not change the result.
        batch_size = self.plan.train.batch_size // self.plan.train.accumulate
        return self.evaluator(
            self.eval_source,
            self.plan.preprocessing,
            batch_size,
            self.plan.batches.on_corrupt,
            self._stop_evaluation,
        )

    def _stop_evaluation(self) -> None:
        # The state was saved before the evaluation. One of several workers must not leave alone.
        if self._stop and not self._is_multi_worker:
            self.interrupt()

    @contextlib.contextmanager
    def _evaluated_weights(self, averaged: bool = False) -> Iterator[None]:
        """Within it, the model has the weights and statistics that are evaluated and saved.

        Args:
            averaged: whether to take the averaged weights.
        """
        with contextlib.ExitStack() as stack:
            if averaged and self.state.average is not None:
                stack.enter_context(self.state.average.swapped())
            if self._statistics is not None:
                stack.enter_context(self._statistics.recomputed())
            yield

    def _learning_rate(self) -> float:
        """Returns the learning rate of the last step."""
        return float(self.state.optimizer.schedule(self.step - 1))

    def _raise_not_finite(self, subject: str) -> NoReturn:
        raise FloatingPointError(
            f"{subject} finite after step {self.step}, with the learning rate "
            f"{self._learning_rate():.3g}; {self.checkpoints.newest}. Lower "
            "optimizer.learning_rate, warm up for longer, or use another precision."
        )


def _is_finite(weight: Any) -> bool:
    values = tf.convert_to_tensor(weight)
    return not values.dtype.is_floating or bool(tf.reduce_all(tf.math.is_finite(values)))
