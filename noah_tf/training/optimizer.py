"""The optimizer of a run, on one device or on the replicas of any strategy.

Keras's own optimizers clip gradients before they are summed over the replicas, and Keras's
LossScaleOptimizer wraps no other class than its own. `update_rules` says how the update rules
differ from Keras's.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from noah_tf.training.param_groups import NEVER
from noah_tf.utils.keras_compat import raw_variable

# Loss scaling as in PyTorch's GradScaler and Keras. The first scale rarely overflows.
_FIRST_SCALE, _LARGEST_SCALE, _STEPS_TO_DOUBLE = 2.0**15, 2.0**126, 2000


class _Weight(NamedTuple):
    """A trainable weight; `start_index` is the index of its start in `Optimizer._starts`."""

    variable: tf.Variable
    is_decayed: bool
    factor: float
    start_index: int


class Optimizer(tf.Module):
    """Applies an update rule to weights, on one device or on the replicas of any strategy.

    Construct it under the strategy's scope. All its state is in variables, so
    `tf.train.Checkpoint(optimizer=...)` saves it. The checkpoint names slots by the index of their
    weight, because layers may get other names when a model is built again.

    Args:
        variables: the weights, `tf.Variable`s or Keras 3's.
        rule: `SGD`, `AdamW` or `LAMB`; `KerasOptimizer` has other ones.
        schedule: the learning rate as a function of the step, see `make_schedule`.
        weight_decay: strength of weight decay.
        decayed: for each weight, whether weight decay applies to it.
        lr_factors: for each weight, the factor of its learning rate. None for 1.
        start_steps: for each weight, the step from which it is trained. Before that step the weight
            and its slots do not change, and the bias corrections of Adam count from that step.
            None for 0.
        clip_norm: largest norm of all gradients together; larger ones are scaled down. None for no
            clipping.
        loss_scale: whether `scale_loss` scales, so that gradients stay in the range of float16.

    Attributes:
        iterations: int64 variable, the number of calls of `apply`. This is the step of the run,
            and includes steps that loss scaling skipped.
        schedule: the learning rate as a function of the step.
        start_steps: list of int.
        slots: {name: {index of a weight, as a string: variable}}, for the weights that are ever
            trained.

    Raises:
        ValueError: a list has another length than the list of weights.

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
        rule: Any,
        schedule: Callable,
        weight_decay: float,
        decayed: Sequence[bool],
        lr_factors: Sequence[float] | None = None,
        start_steps: Sequence[int] | None = None,
        clip_norm: float | None = None,
        loss_scale: bool = False,
    ) -> None:
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
        # A function, so that checkpoints of the optimizer do not save the model's weights.
        self._weights = lambda: weights
        self._rule, self.schedule = rule, schedule
        self._weight_decay, self._clip_norm = weight_decay, clip_norm
        self.iterations = _state(0, tf.int64, "iterations")
        # Steps applied since each start, without the steps that loss scaling skipped.
        self.applied = _state([0] * len(self._starts), tf.int64, "applied")
        self.scale: Any = None
        self.finite_steps: Any = None
        if loss_scale:
            self.scale = _state(_FIRST_SCALE, tf.float32, "scale")
            self.finite_steps = _state(0, tf.int64, "finite_steps")
        self.slots = {
            name: {
                str(index): _slot(variable, name)
                for index, variable in enumerate(variables)
                if self.start_steps[index] != NEVER
            }
            for name in rule.slots
        }

    @property
    def learning_rate(self) -> tf.Tensor:
        """Learning rate of the next step, a float32 scalar, without the factors of the weights."""
        return self.schedule(self.iterations)

    def trained_indices(self, step: int) -> tuple[int, ...]:
        """Returns the indices of the weights that are trained at a step: `start_steps` decide."""
        return tuple(index for index, start in enumerate(self.start_steps) if start <= step)

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """Returns the loss to differentiate, multiplied by the loss scale if there is one."""
        return loss if self.scale is None else loss * tf.cast(self.scale, loss.dtype)

    def apply(self, gradients: Sequence[Any]) -> tf.Tensor:
        """Makes one step. Call it in replica context, inside `strategy.run`.

        The gradients are summed over the replicas, divided by the loss scale, clipped, and
        applied. If the loss is scaled and the norm of the gradients is not finite, the step is
        skipped and the scale is halved. The scale doubles after 2000 finite steps in a row.

        Args:
            gradients: for each weight the gradient of this replica's part of the loss, which is
                divided by the size of the whole batch and scaled. None leaves the weight and its
                slots as they are.

        Returns:
            The norm of all gradients together before clipping, a float32 scalar.

        Raises:
            ValueError: the number of gradients is not that of the weights, or all are None.
            RuntimeError: it is not called in replica context.
        """
        indices, gradients = self._dense_gradients(gradients)
        context = tf.distribute.get_replica_context()
        if context is None:
            raise RuntimeError("Call Optimizer.apply inside the function that strategy.run calls.")
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
        self._update(context, dict(zip(indices, gradients, strict=True)), values, state)
        return norm

    def _update(self, context: Any, gradients: dict, values: tuple, state: dict) -> None:
        """Updates the weights, their slots and the optimizer's own state, in replica context.

        Args:
            context: the replica context.
            gradients: {index of a weight: its gradient, clipped and equal on all replicas}.
            values: the learning rate; for each start, whether its weights are trained in this step;
                and the number of steps applied since each start, this one included.
            state: {name of a variable of the optimizer: its next value}.
        """
        # tf.cond allows no merge_call inside, so `_step` selects the old values to skip a step.
        context.merge_call(
            tf.autograph.experimental.do_not_convert(self._merge), args=(gradients, values, state)
        )

    def _dense_gradients(self, gradients: Sequence[Any]) -> tuple[list[int], list[tf.Tensor]]:
        """Returns the indices of the weights with a gradient, and these in the weights' dtypes."""
        gradients = list(gradients)
        weights = self._weights()
        if len(gradients) != len(weights):
            raise ValueError(
                f"apply needs one gradient per weight, got {len(gradients)} gradients for "
                f"{len(weights)} weights."
            )
        indices = [index for index, gradient in enumerate(gradients) if gradient is not None]
        if not indices:
            raise ValueError("all gradients are None: the loss does not depend on the weights.")
        dtypes = [weight.variable.dtype for weight in weights]
        dense = [tf.cast(tf.convert_to_tensor(gradients[i]), dtypes[i]) for i in indices]
        return indices, dense

    def _next_scale(self, is_finite: tf.Tensor) -> dict[str, tf.Tensor]:
        finite_steps = (self.finite_steps + 1) * tf.cast(is_finite, tf.int64)
        doubles = finite_steps >= _STEPS_TO_DOUBLE
        next_scale = tf.where(doubles, tf.minimum(2 * self.scale, _LARGEST_SCALE), self.scale)
        scale = tf.where(is_finite, next_scale, tf.maximum(self.scale / 2, 1.0))
        return {"scale": scale, "finite_steps": finite_steps * tf.cast(~doubles, tf.int64)}

    def _merge(self, strategy: Any, gradients: dict, values: tuple, state: dict) -> None:
        """Updates all variables, in cross-replica context, on the devices that hold them."""
        for index, gradient in gradients.items():
            weight = self._weights()[index]
            slots = [self.slots[name][str(index)] for name in self._rule.slots]
            step = functools.partial(self._step, weight)
            args = (gradient, values, *slots)
            strategy.extended.update(weight.variable, step, args=args, group=False)
        self._set_state(strategy, state)

    def _set_state(self, strategy: Any, state: dict) -> None:
        """Sets the optimizer's own variables, in cross-replica context."""
        for name, value in state.items():
            strategy.extended.update(
                getattr(self, name), lambda old, new: old.assign(new), args=(value,), group=False
            )

    def _step(
        self,
        weight: _Weight,
        variable: tf.Variable,
        gradient: tf.Tensor,
        values: tuple,
        *slots: tf.Variable,
    ) -> None:
        """Makes one step of one weight on one device."""
        rate, trains, applied = values
        old = [tf.convert_to_tensor(value) for value in (variable, *slots)]
        new, new_slots = self._rule(
            old[0],
            gradient,
            old[1:],
            tf.maximum(applied[weight.start_index], 1),
            tf.cast(rate * weight.factor, variable.dtype),
            self._weight_decay if weight.is_decayed else None,
        )
        may_skip = self.scale is not None or self._starts[weight.start_index] > 0
        is_trained = trains[weight.start_index]
        for target, before, after in zip((variable, *slots), old, (new, *new_slots), strict=True):
            target.assign(tf.where(is_trained, after, before) if may_skip else after)


def _state(value: Any, dtype: tf.DType, name: str) -> tf.Variable:
    return tf.Variable(tf.constant(value, dtype), trainable=False, name=name)


def _slot(variable: tf.Variable, name: str) -> tf.Variable:
    with tf.distribute.get_strategy().extended.colocate_vars_with(variable):
        zeros = tf.zeros(variable.shape, variable.dtype)
        return tf.Variable(zeros, trainable=False, name=f"{name}/{variable.name.split(':')[0]}")
