"""The training loop."""

import contextlib
import functools
import math
import time
from typing import NamedTuple

import tensorflow as tf

from noah_tf.datasets.batch_options import BatchOptions
from noah_tf.datasets.corrupt import naming_corrupt_examples
from noah_tf.datasets.pipeline import train_batches
from noah_tf.datasets.registry import source_from_config
from noah_tf.evaluation import metrics
from noah_tf.evaluation.evaluator import Evaluator
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.images.train_transform import TrainTransform
from noah_tf.runs import model_config, recipe
from noah_tf.runs.checkpoint import Checkpoints, check_stack
from noah_tf.runs.moving_average import MovingAverage
from noah_tf.runs.workdir import Workdir
from noah_tf.training import optimizer as optim
from noah_tf.training import recipe_checks
from noah_tf.training.initial_weights import check_initial_weights, load_initial_weights
from noah_tf.training.interrupt import Interrupted, stop_requests
from noah_tf.training.losses import training_loss
from noah_tf.training.param_groups import backbone_layers
from noah_tf.training.progress import Progress
from noah_tf.training.train_step import make_train_step
from noah_tf.utils import distribute
from noah_tf.utils.keras_compat import KERAS_NAME, raw_variable, seed_layers

# What a worker meets when another one is gone.
_LOST_WORKER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


def train(config, workdir):
    """Trains the model of a recipe, or goes on where a run stopped that was killed or interrupted.

    The weights come from the newest checkpoint in the folder; in a new run from the file
    `config.model.weights`; without one they are random, by the seed.

    Every batch is a function of (seed, epoch, position) and the checkpoints hold everything else,
    so a run that was killed goes the same way as one that was not. A run that is complete is
    left as it is.

    Args:
        config: a recipe, see `recipe.base`.
        workdir: the folder of the run; the same folder resumes it.

    Returns:
        Dict with the last evaluation ("top1" or "mAP", "loss", ...; with "ema_" in front that of
        the moving average), "best_" of it with its step, "steps" and "parameters", which is also
        in the folder's result.json.

    Raises:
        ValueError: the recipe contradicts itself, the data or the run in the folder, or another
            process trains there.
        FloatingPointError: the loss or the weights are no longer finite.
        Interrupted: SIGTERM or SIGINT came; the state is saved.
        ConnectionError: another worker is gone.
    """
    strategy = recipe_checks.checked_strategy(config)
    workdir = Workdir(workdir, writer=distribute.is_chief(strategy))
    if not workdir.has_progress():
        check_initial_weights(config.model)
    train_source = source_from_config(config.data, config.data.train_split)
    eval_source = source_from_config(config.data, config.data.eval_split)
    recipe_checks.validate_data(config, train_source, eval_source)

    steps_per_epoch = train_source.num_examples // config.train.batch_size
    parts = build(config, strategy, train_source.num_classes, steps_per_epoch)
    with workdir.locked(), stop_requests() as stop, _naming_lost_workers(strategy, workdir):
        data = {
            "class_names": train_source.class_names,
            "multi_label": train_source.multi_label,
            "train_examples": train_source.num_examples,
            "stack": KERAS_NAME,
        }
        workdir.begin(config, data, recipe.RESUMABLE_KEYS)
        if workdir.result() is not None:
            print(f"{workdir.path} is complete already.", flush=True)
            return workdir.result()
        # The first worker may not have written that of a new run yet.
        if workdir.has_progress():
            check_stack(workdir)
        return _run(config, workdir, strategy, parts, train_source, eval_source, stop)


class Parts(NamedTuple):
    """What is trained.

    Attributes:
        model: the Keras model.
        variables: those that the optimizer has, in its order.
        statistics: the float weights that are not trained, BatchNorm's.
        optimizer: the `optim.Optimizer`.
        average: the `MovingAverage`, or None.
        backbone: the layers that `train.frozen_epochs` freezes.
    """

    model: tf.keras.Model
    variables: list
    statistics: list
    optimizer: optim.Optimizer
    average: MovingAverage | None
    backbone: list


def build(config, strategy, num_classes, steps_per_epoch):
    """What a recipe trains, with random weights by its seed.

    Args:
        config: the recipe.
        strategy: the distribution strategy to make it under.
        num_classes: classes of the data.
        steps_per_epoch: steps of one epoch.

    Returns:
        `Parts`.
    """
    seed_layers(config.seed)
    image_size = Preprocessing.from_dict(config.preprocess.to_dict()).image_size
    with distribute.dtype_policy(config.precision), strategy.scope():
        model = model_config.model_from_config(config.model, image_size, num_classes)
        optimizer = optim.make_optimizer(
            config.optimizer,
            config.schedule,
            model,
            config.train.epochs,
            steps_per_epoch,
            config.train.frozen_epochs,
            loss_scale=config.precision == "mixed_float16",
        )
        average = MovingAverage(model, config.ema.decay) if config.ema.decay else None
    backbone = backbone_layers(model) if config.train.frozen_epochs else []
    weights = [raw_variable(weight) for weight in model.non_trainable_weights]
    statistics = [weight for weight in weights if weight.dtype.is_floating]
    return Parts(model, model.trainable_variables, statistics, optimizer, average, backbone)


def train_steps(config, strategy, parts, multi_label):
    """A function from an epoch to the function that does its steps, see `make_train_step`.

    Args:
        config: the recipe.
        strategy: the distribution strategy.
        parts: what `build` made.
        multi_label: whether an image can have several classes.
    """
    loss = training_loss(config.train, multi_label)
    frozen = [weight for layer in parts.backbone for weight in layer.weights]

    @functools.cache
    def step(is_frozen):
        return make_train_step(
            config, parts, strategy, loss=loss, frozen=frozen if is_frozen else ()
        )

    def of_epoch(epoch):
        is_frozen = epoch < config.train.frozen_epochs
        for layer in parts.backbone:
            # Which also has its normalization work as in evaluation.
            layer.trainable = not is_frozen
        return step(is_frozen)

    return of_epoch


def _run(config, workdir, strategy, parts, train_source, eval_source, stop):
    model, optimizer, average = parts.model, parts.optimizer, parts.average
    batch_size, epochs = config.train.batch_size, config.train.epochs
    steps_per_epoch = train_source.num_examples // batch_size
    preprocessing = Preprocessing.from_dict(config.preprocess.to_dict())
    writer = tf.summary.create_file_writer(str(workdir.output / "events"))
    progress = Progress(config.train, steps_per_epoch, writer)
    state = {"optimizer": optimizer, "average": average, "progress": progress}
    checkpoints = Checkpoints(workdir, model, config.train.keep_checkpoints, **state)

    # 1. The state: of the newest checkpoint, else of the weights file, else as it was made.
    step = checkpoints.restore()
    if step == 0:
        with strategy.scope():
            load_initial_weights(model, config.model)
        if average is not None:
            average.reset()
    start = "its checkpoint" if step else config.model.weights or "random weights"
    print(
        f"{model.name}: {model.count_params():,} parameters, head on "
        f"{model.noah_feature_layer!r}; {step} of {epochs * steps_per_epoch} steps done, "
        f"starting from {start}",
        flush=True,
    )
    workdir.keep_epochs(progress.epochs_done)

    # 2. What is done with it now and then.
    evaluator = Evaluator(model, strategy, train_source.multi_label)
    on_any_worker, several = distribute.any_worker(strategy), distribute.is_multi_worker(strategy)
    timer = _Timer(config.train.checkpoint_minutes)

    def averaged():
        return contextlib.nullcontext() if average is None else average.swapped()

    def save():
        started = time.monotonic()
        for weight in model.weights:
            # Out of checkpoints, where they would replace good ones.
            if not _is_finite(weight):
                _raise_not_finite(f"The weight {weight.name} is not", step, optimizer, checkpoints)
        progress.save()
        checkpoints.save(step)
        progress.add_save(time.monotonic() - started)
        timer.restart()

    def evaluate():
        # As many images at once as fit for training; it does not change the result.
        arguments = (eval_source, preprocessing, batch_size // config.train.accumulate)
        arguments += (config.data.on_corrupt, stop_evaluation)
        found = {"": evaluator(*arguments)}
        if average is not None:
            with averaged():
                found["ema_"] = evaluator(*arguments)
        judged = found.get("ema_", found[""])
        if progress.is_best(judged[metrics.primary_metric(judged)], step):
            with averaged():
                workdir.save_best(model, {**judged, "step": step})
        return found

    def interrupt():
        raise Interrupted(
            f"Stopped after step {step} of {epochs * steps_per_epoch} and saved it in "
            f"{workdir.path}: the same command goes on from there.",
            stop.signum,
        )

    def stop_evaluation():
        # The state is saved before. Of several workers none may leave alone.
        if stop and not several:
            interrupt()

    # 3. The epochs, the first of them from where the run is.
    steps_of = train_steps(config, strategy, parts, train_source.multi_label)
    for epoch in range(progress.epochs_done, epochs):
        train_step, end = steps_of(epoch), (epoch + 1) * steps_per_epoch
        progress.begin_epoch(epoch)
        make_batches = batches_of(config, train_source, preprocessing, epoch, step)
        batches = (
            iter(distribute.distribute_batches(strategy, make_batches)) if step < end else None
        )
        while step < end:
            asked = time.monotonic()
            with naming_corrupt_examples(train_source):
                batch = next(batches)
            waited = time.monotonic() - asked
            progress.add(train_step(batch), waited)
            step += 1
            looks = step % config.train.log_every == 0 or step == end
            if looks and not math.isfinite(progress.look(step, optimizer.schedule(step - 1))):
                _raise_not_finite("The loss is not", step, optimizer, checkpoints)
            stops, saves = bool(stop), timer.is_due
            if several:
                # Workers save and stop together, which they agree on when they look.
                stops, saves = on_any_worker(stops, saves) if looks else (False, False)
            every = config.train.checkpoint_every
            if stops or saves or step == end or (every and step % every == 0):
                save()
            if stops:
                interrupt()
        # Saved before, not after: a kill in the evaluation, or later, has it done again.
        found = evaluate()
        workdir.add_epoch(progress.end_epoch(step, optimizer.schedule(step - 1), found))
        if on_any_worker(bool(stop))[0] and epoch + 1 < epochs:
            interrupt()

    # 4. The result.
    result = {}
    for prefix, evaluation in found.items():
        result.update({f"{prefix}{name}": value for name, value in evaluation.items()})
    result[f"best_{metrics.primary_metric(result)}"], result["best_step"] = progress.best
    result.update(steps=step, parameters=model.count_params())
    if average is not None:
        with averaged():
            workdir.save_weights(model, "ema")
    workdir.finish(model, result)
    return result


def batches_of(config, source, preprocessing, epoch, step):
    """The rest of an epoch's batches, as a function for `distribute.distributed`.

    Args:
        config: the recipe.
        source: the `Source` of training examples.
        preprocessing: the recipe's `Preprocessing`.
        epoch: the epoch, from 0.
        step: steps of the run that are done.
    """
    steps_per_epoch = source.num_examples // config.train.batch_size
    transform = TrainTransform.from_config(
        config.augment.to_dict(), preprocessing, normalize=not recipe.normalizes_on_device(config)
    )
    options = BatchOptions(
        config.train.batch_size,
        shuffle_buffer=config.data.shuffle_buffer,
        cache=config.data.cache,
        on_corrupt=config.data.on_corrupt,
        prefetch=config.data.prefetch,
        threads=config.data.threads,
    )
    return functools.partial(
        train_batches,
        source,
        transform,
        options,
        seed=config.seed,
        epoch=epoch,
        skip_batches=step - epoch * steps_per_epoch,
    )


def _is_finite(weight):
    values = tf.convert_to_tensor(weight)
    return not values.dtype.is_floating or bool(tf.reduce_all(tf.math.is_finite(values)))


def _raise_not_finite(what, step, optimizer, checkpoints):
    raise FloatingPointError(
        f"{what} finite after step {step}, with the learning rate "
        f"{float(optimizer.schedule(step - 1)):.3g}; {checkpoints.newest}. Lower "
        "optimizer.learning_rate, warm up for longer, or use another precision."
    )


class _Timer:
    """Whether so many minutes have passed; 0 of them never do."""

    def __init__(self, minutes):
        self._seconds = 60 * minutes or math.inf
        self.restart()

    def restart(self):
        self._started = time.monotonic()

    @property
    def is_due(self):
        return time.monotonic() - self._started >= self._seconds


@contextlib.contextmanager
def _naming_lost_workers(strategy, workdir):
    try:
        yield
    except tf.errors.OpError as error:
        if not distribute.is_multi_worker(strategy) or not isinstance(error, _LOST_WORKER):
            raise
        raise ConnectionError(
            f"Another worker is gone ({str(error).splitlines()[0][:200]}): start all workers "
            f"again with the same command; they go on from the last checkpoint in {workdir.path}."
        ) from error
