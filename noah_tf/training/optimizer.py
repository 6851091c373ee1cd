"""The optimizers of the recipes, on one device or on the replicas of any strategy.

Keras's own clip gradients before they are summed over the replicas, and their LossScaleOptimizer
takes no other class; `rules` says why the rules are not Keras's either.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from noah_tf.training.param_groups import backbone_variables, decay_mask, layer_factors
from noah_tf.training.schedules import make_schedule
from noah_tf.training.update_rules import LAMB, SGD, AdamW
from noah_tf.utils.keras_compat import raw_variable
from noah_tf.utils.validation import is_number

OPTIMIZERS = ("sgd", "adamw", "lamb")

# Loss scaling as PyTorch's GradScaler and Keras have it, from a start that rarely overflows.
_FIRST_SCALE, _LAST_SCALE, _STEPS_TO_DOUBLE = 2.0**15, 2.0**126, 2000


class _Weight(NamedTuple):
    """A weight to train; `phase` is its place among the different starts."""

    variable: tf.Variable
    is_decayed: bool
    factor: float
    phase: int


class Optimizer(tf.Module):
    """Applies a rule to weights, on one device or on the replicas of any strategy.

    Make it under the strategy's scope. All its state is in variables, so that
    `tf.train.Checkpoint(optimizer=...)` holds it; slots are filed by the weight's place in the
    list, for layers may get other names when a model is made again.

    Args:
        variables: the weights, `tf.Variable`s or Keras 3's.
        rule: `SGD`, `AdamW` or `LAMB`.
        schedule: the learning rate as a function of the step, as of `make_schedule`.
        weight_decay: how strongly the rule shrinks the weights.
        decayed: for each weight, whether it is shrunk.
        lr_factors: for each weight, what its learning rate is multiplied by. None: 1.
        start_steps: for each weight, the step from which it is trained; until then it stays as
            it is, and give `apply` None for it to save the time. None: 0.
        clip_norm: gradients whose norm, over all weights together, is greater are scaled down
            to it. None: never.
        loss_scale: whether `scale_loss` multiplies, for gradients to stay in float16's range.

    Attributes:
        iterations: int64 variable, the calls of `apply`: the step of the run, also where loss
            scaling left a step out.
        schedule: the learning rate as a function of the step.
        start_steps: list of int.
        slots: {name: list of variables, one a weight}.

    Raises:
        ValueError: a list is not as long as the weights'.

    Example:

    >>> with strategy.scope():
    ...     optimizer = Optimizer(
    ...         model.trainable_variables, SGD(0.9), lambda step: tf.constant(0.1), 1e-4,
    ...         decayed=[True] * len(model.trainable_variables))
    >>> def replica_step(images, labels):
    ...     with tf.GradientTape() as tape:
    ...         loss = tf.reduce_sum(losses(labels, model(images, training=True)))
    ...         scaled = optimizer.scale_loss(loss / global_batch_size)
    ...     return optimizer.apply(tape.gradient(scaled, model.trainable_variables))
    >>> strategy.run(replica_step, args=batch)
    """

    def __init__(
        self,
        variables: Sequence[Any],
        rule: Callable,
        schedule: Callable,
        weight_decay: float,
        decayed: Sequence[bool],
        lr_factors: Sequence[float] | None = None,
        start_steps: Sequence[int] | None = None,
        clip_norm: float | None = None,
        loss_scale: bool = False,
    ):
        super().__init__(name="optimizer")
        variables = [raw_variable(variable) for variable in variables]
        lr_factors = [1.0] * len(variables) if lr_factors is None else lr_factors
        start_steps = [0] * len(variables) if start_steps is None else start_steps
        lists = {"decayed": decayed, "lr_factors": lr_factors, "start_steps": start_steps}
        for name, values in lists.items():
            if len(values) != len(variables):
                raise ValueError(f"{name} has {len(values)} values for {len(variables)} weights.")
        self.start_steps = [int(step) for step in start_steps]
        self._starts = sorted(set(self.start_steps))
        weights = [
            _Weight(variable, bool(is_shrunk), float(factor), self._starts.index(start))
            for variable, is_shrunk, factor, start in zip(
                variables, decayed, lr_factors, self.start_steps, strict=True
            )
        ]
        # A function hides them: the model's checkpoint holds them, and this one need not.
        self._weights = lambda: weights
        self._rule, self.schedule = rule, schedule
        self._weight_decay, self._clip_norm = weight_decay, clip_norm
        self.iterations = _state(0, tf.int64, "iterations")
        # Steps applied since each start, without those that loss scaling left out.
        self.applied = _state([0] * len(self._starts), tf.int64, "applied")
        self.scale = self.finite_steps = None
        if loss_scale:
            self.scale = _state(_FIRST_SCALE, tf.float32, "scale")
            self.finite_steps = _state(0, tf.int64, "finite_steps")
        self.slots = {
            name: [_slot(variable, name) for variable in variables] for name in rule.slots
        }

    @property
    def learning_rate(self):
        """The rate of the next step, a float32 scalar, before the weights' own factors."""
        return self.schedule(self.iterations)

    def scale_loss(self, loss):
        """The loss to differentiate: multiplied by the scale where there is one."""
        return loss if self.scale is None else loss * tf.cast(self.scale, loss.dtype)

    def apply(self, gradients):
        """Makes one step. Call it in replica context, inside `strategy.run`.

        The gradients are summed over the replicas, divided by the scale, clipped, and applied. If
        the loss is scaled and their norm is not finite, nothing changes but the scale, which is
        halved; it doubles after 2000 finite steps in a row.

        Args:
            gradients: for each weight its gradient, of the scaled loss of this replica's part of
                the batch divided by the whole batch's size; or None: then neither the weight nor
                its slots change.

        Returns:
            The norm of all gradients together before clipping, a float32 scalar. It costs one
            pass over the gradients and is always computed.

        Raises:
            ValueError: there is not one gradient a weight, or all are None.
            RuntimeError: it is not called in replica context.
        """
        places, gradients = self._given(gradients)
        context = tf.distribute.get_replica_context()
        if context is None:
            raise RuntimeError("Optimizer.apply belongs into the function that strategy.run calls.")
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        inverse = 1.0 if self.scale is None else 1.0 / self.scale
        norm = inverse * tf.linalg.global_norm([tf.cast(g, tf.float32) for g in gradients])
        multiplier = inverse
        if self._clip_norm is not None:
            multiplier *= tf.minimum(self._clip_norm / (norm + 1e-6), 1.0)
        if self._clip_norm is not None or self.scale is not None:
            gradients = [gradient * tf.cast(multiplier, gradient.dtype) for gradient in gradients]

        is_finite = tf.math.is_finite(norm) if self.scale is not None else tf.constant(True)
        trains = is_finite & (self.iterations >= tf.constant(list(self._starts), tf.int64))
        applied = self.applied + tf.cast(trains, tf.int64)
        state = {"iterations": self.iterations + 1, "applied": applied}
        if self.scale is not None:
            state.update(self._next_scale(is_finite))
        values = (self.learning_rate, trains, applied)
        # In a tf.cond there may be no merge_call, so a step is left out by selection.
        context.merge_call(
            tf.autograph.experimental.do_not_convert(self._merge),
            args=(dict(zip(places, gradients, strict=True)), values, state),
        )
        return norm

    def _given(self, gradients):
        """Places and dense gradients, in their weights' precision, of the weights that have one."""
        gradients = list(gradients)
        if len(gradients) != len(self._weights()):
            raise ValueError(f"{len(gradients)} gradients for {len(self._weights())} weights.")
        places = [place for place, gradient in enumerate(gradients) if gradient is not None]
        if not places:
            raise ValueError("all gradients are None: the loss does not depend on the weights.")
        dtypes = [weight.variable.dtype for weight in self._weights()]
        dense = [tf.cast(tf.convert_to_tensor(gradients[place]), dtypes[place]) for place in places]
        return places, dense

    def _next_scale(self, is_finite):
        finite_steps = (self.finite_steps + 1) * tf.cast(is_finite, tf.int64)
        doubles = finite_steps >= _STEPS_TO_DOUBLE
        grown = tf.where(doubles, tf.minimum(2 * self.scale, _LAST_SCALE), self.scale)
        scale = tf.where(is_finite, grown, tf.maximum(self.scale / 2, 1.0))
        return {"scale": scale, "finite_steps": finite_steps * tf.cast(~doubles, tf.int64)}

    def _merge(self, strategy, gradients, values, state):
        """Updates all variables, each where it lies."""
        for place, gradient in gradients.items():
            weight = self._weights()[place]
            slots = [self.slots[name][place] for name in self._rule.slots]
            step = functools.partial(self._step, weight)
            args = (gradient, values, *slots)
            strategy.extended.update(weight.variable, step, args=args, group=False)
        for name, value in state.items():
            strategy.extended.update(
                getattr(self, name), lambda old, new: old.assign(new), args=(value,), group=False
            )

    def _step(self, weight, variable, gradient, values, *slots):
        """One step of one weight, on one device."""
        rate, trains, applied = values
        old = [tf.convert_to_tensor(value) for value in (variable, *slots)]
        new, new_slots = self._rule(
            old[0],
            gradient,
            old[1:],
            tf.maximum(applied[weight.phase], 1),
            tf.cast(rate * weight.factor, variable.dtype),
            self._weight_decay if weight.is_decayed else None,
        )
        may_stay = self.scale is not None or self._starts[weight.phase] > 0
        for target, before, after in zip((variable, *slots), old, (new, *new_slots), strict=True):
            target.assign(tf.where(trains[weight.phase], after, before) if may_stay else after)


def make_optimizer(
    config, schedule_config, model, epochs, steps_per_epoch, frozen_epochs=0, loss_scale=False
):
    """The optimizer of a recipe.

    Args:
        config: the `optimizer` section: `name` ("sgd", "adamw" or "lamb"), `learning_rate` (the
            peak), `weight_decay`, `exempt_1d` and `exempt` (what is not decayed, see
            `decay_mask`), `clip_norm` (None or a number), `layer_decay` (None or a number in
            (0, 1], see `layer_factors`) and `layer_decay_groups`; for SGD `momentum` and
            `nesterov`, for the others `beta_1`, `beta_2` and `epsilon`.
        schedule_config: the `schedule` section, see `schedules.make_schedule`.
        model: the model, of `attach_noah` or `create_model`.
        epochs: epochs of the run.
        steps_per_epoch: steps of one epoch.
        frozen_epochs: epochs in which the head alone is trained; `apply` then wants None for the
            weights whose `start_steps` are above the step.
        loss_scale: whether to scale the loss, as under mixed_float16.

    Returns:
        An `Optimizer` of `model.trainable_variables`.

    Raises:
        ValueError: an unknown name or a value that makes no sense, with what would.

    Example:

    >>> optimizer = make_optimizer(config.optimizer, config.schedule, model, 300, 1251)
    """
    check_config(config)
    variables = model.trainable_variables
    lr_factors = None
    if config.layer_decay is not None:
        lr_factors = layer_factors(model, config.layer_decay, config.layer_decay_groups)
    if not is_number(frozen_epochs) or not 0 <= frozen_epochs <= epochs:
        raise ValueError(
            f"frozen_epochs must be from 0 to the {epochs} epochs, got {frozen_epochs!r}."
        )
    frozen = {id(v) for v in backbone_variables(model)} if frozen_epochs else set()
    start = round(frozen_epochs * steps_per_epoch)
    return Optimizer(
        variables,
        _rule(config),
        make_schedule(schedule_config, config.learning_rate, epochs, steps_per_epoch),
        config.weight_decay,
        decay_mask(variables, config.exempt_1d, config.exempt),
        lr_factors=lr_factors,
        start_steps=[start if id(variable) in frozen else 0 for variable in variables],
        clip_norm=config.clip_norm,
        loss_scale=loss_scale,
    )


def check_config(config):
    """Raises ValueError where the `optimizer` section of a recipe has values without sense."""
    problems = list(_problems(config))
    if problems:
        raise ValueError("; ".join(problems))


def _problems(config):
    def refused(name, is_allowed, allowed):
        value = config[name]
        if not is_number(value) or not is_allowed(value):
            yield f"optimizer.{name} must be {allowed}, got {value!r}"

    if config.name not in OPTIMIZERS:
        yield f"optimizer.name must be one of {', '.join(OPTIMIZERS)}, got {config.name!r}"
    if config.name == "sgd":
        yield from refused("momentum", lambda x: 0 <= x < 1, "in [0, 1)")
        if config.nesterov and not config.momentum:
            yield "optimizer.nesterov needs optimizer.momentum above 0, got 0"
    else:
        yield from refused("beta_1", lambda x: 0 <= x < 1, "in [0, 1)")
        yield from refused("beta_2", lambda x: 0 <= x < 1, "in [0, 1)")
        yield from refused("epsilon", lambda x: 0 < x < math.inf, "above 0")
    yield from refused("learning_rate", lambda x: 0 < x < math.inf, "above 0")
    yield from refused("weight_decay", lambda x: 0 <= x < math.inf, "at least 0")
    if config.clip_norm is not None:
        yield from refused("clip_norm", lambda x: x > 0, "None or above 0")
    if config.layer_decay is not None:
        yield from refused("layer_decay", lambda x: 0 < x <= 1, "None or in (0, 1]")
    yield from refused("layer_decay_groups", lambda x: x >= 1, "at least 1")


def _state(value, dtype, name):
    return tf.Variable(tf.constant(value, dtype), trainable=False, name=name)


def _slot(variable, name):
    with tf.distribute.get_strategy().extended.colocate_vars_with(variable):
        zeros = tf.zeros(variable.shape, variable.dtype)
        return tf.Variable(zeros, trainable=False, name=f"{name}/{variable.name.split(':')[0]}")


def _rule(config):
    """The rule that the `optimizer` section names."""
    if config.name == "sgd":
        return SGD(config.momentum, config.nesterov)
    adam = AdamW if config.name == "adamw" else LAMB
    return adam(config.beta_1, config.beta_2, config.epsilon)
