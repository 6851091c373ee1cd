"""Optimizers of Keras and TensorFlow Addons in place of an update rule of this package."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from noah_tf.training.optimizer import Optimizer
from noah_tf.training.param_groups import NEVER
from noah_tf.utils.keras_compat import (
    apply_summed_gradients,
    build_optimizer,
    optimizer_classes,
    raw_variable,
)

_PREFIXES = ("keras.", "tfa.")
# What the training loop does itself, for every optimizer, or what it cannot keep.
_OUR_ARGUMENTS = {
    "learning_rate": "optimizer.learning_rate",
    "weight_decay": "optimizer.weight_decay",
    "exclude_from_weight_decay": "optimizer.exempt",
    "clipnorm": "optimizer.clip_norm",
    "global_clipnorm": "optimizer.clip_norm",
    "clipvalue": "optimizer.clip_norm",
    "use_ema": "ema.decay",
    "gradient_accumulation_steps": "train.accumulate",
    "loss_scale_factor": "precision=mixed_float16",
    "jit_compile": "jit_compile",
}
_UNSUITABLE = {
    "keras.Ftrl": "it computes weights from its own state, so that initial weights are lost",
    "keras.ScheduleFreeAdamW": "it evaluates other weights than it trains",
    "tfa.ConditionalGradient": "it has no default for the size of its steps",
}


def is_keras_name(name: Any) -> bool:
    """Returns whether a name stands for an optimizer of Keras or TensorFlow Addons."""
    return isinstance(name, str) and name.startswith(_PREFIXES)


@dataclasses.dataclass(frozen=True)
class KerasRule:
    """An optimizer of Keras or TensorFlow Addons, by name.

    Attributes:
        name: "keras.CLASS" for a class of `tf.keras.optimizers`, or "tfa.CLASS" for one of
            `tfa.optimizers`, which needs TensorFlow 2.15.
        arguments: arguments of the class by name. Learning rate, weight decay, clipping, moving
            average, accumulation and loss scaling have their own keys in a recipe.

    Example:

    >>> KerasRule("keras.Lion", {"beta_1": 0.95}).make(schedule)
    """

    name: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    # The slots are variables of the Keras optimizer.
    slots = ()

    def make(self, learning_rate: Any) -> Any:
        """Returns a new Keras optimizer.

        Args:
            learning_rate: a float or a `tf.keras.optimizers.schedules.LearningRateSchedule`.

        Raises:
            ValueError: there is no such class, or it does not take the arguments.
        """
        cls = self._class()
        for argument in self.arguments:
            if argument in _OUR_ARGUMENTS:
                raise ValueError(
                    f"optimizer.args.{argument} is not passed on to {self.name}: set "
                    f"{_OUR_ARGUMENTS[argument]}."
                )
        # Some classes have a weight decay by default. `KerasOptimizer` decays weights itself.
        has_decay = "weight_decay" in inspect.signature(cls).parameters
        own = {"weight_decay": 0.0} if has_decay else {}
        try:
            return cls(learning_rate=learning_rate, **own, **self.arguments)
        except (TypeError, ValueError) as error:
            raise self._refusal(error) from error

    def check(self) -> None:
        """Makes a step of a new optimizer on one weight, because some arguments fail only then.

        Raises:
            ValueError: there is no such class, or it does not take the arguments.
        """
        optimizer = self.make(0.1)
        weight = tf.Variable([1.0])
        try:
            build_optimizer(optimizer, [weight])
            optimizer.apply_gradients([(tf.constant([1.0]), weight)])
        except (TypeError, ValueError, tf.errors.OpError) as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> ValueError:
        return ValueError(
            f"{self.name} does not take optimizer.args={dict(self.arguments)}: {error}"
        )

    def _class(self) -> type:
        library, _, class_name = self.name.partition(".")
        classes = {
            name: cls
            for name, cls in optimizer_classes(library).items()
            if "learning_rate" in inspect.signature(cls).parameters
            and f"{library}.{name}" not in _UNSUITABLE
        }
        if self.name in _UNSUITABLE:
            raise ValueError(
                f"optimizer.name={self.name!r} cannot be used: {_UNSUITABLE[self.name]}."
            )
        if class_name not in classes:
            raise ValueError(
                f"optimizer.name must be {library}.CLASS, where CLASS is one of "
                f"{', '.join(sorted(classes))}, got {self.name!r}."
            )
        return classes[class_name]


class _Schedule(tf.keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of a run, which does not depend on the steps of a Keras optimizer."""

    def __init__(self, learning_rate: Callable[[], tf.Tensor]) -> None:
        self._learning_rate = learning_rate

    def __call__(self, step: Any) -> tf.Tensor:
        return self._learning_rate()

    def get_config(self) -> dict[str, Any]:
        return {}


class KerasOptimizer(Optimizer):
    """Applies an optimizer of Keras or TensorFlow Addons, with the promises of `Optimizer`.

    Gradients are summed over the replicas, clipped and unscaled before the Keras optimizer sees
    them, and weight decay is decoupled from the gradient: a weight that decays is multiplied by
    1 - rate * weight_decay first. Weights that are trained from different steps on have a Keras
    optimizer for each of these steps, whose bias corrections count from there.

    Args:
        variables: see `Optimizer`, like all the others.
        rule: the Keras optimizer.
        schedule: see there.
        weight_decay: see there.
        decayed: see there.
        lr_factors: must be None.
        start_steps: see there.
        clip_norm: see there.
        loss_scale: see there.
    """

    def __init__(
        self,
        variables: Sequence[Any],
        rule: KerasRule,
        schedule: Callable,
        weight_decay: float,
        decayed: Sequence[bool],
        lr_factors: None = None,
        start_steps: Sequence[int] | None = None,
        clip_norm: float | None = None,
        loss_scale: bool = False,
    ) -> None:
        super().__init__(
            variables,
            rule,
            schedule,
            weight_decay,
            decayed,
            lr_factors,
            start_steps,
            clip_norm,
            loss_scale,
        )
        learning_rate = _Schedule(lambda: self.schedule(self.iterations))
        self.keras_state: list[list[tf.Variable]] = []
        groups: list[tuple[Any, dict[int, Any]]] = []
        for start in self._starts:
            if start == NEVER:
                continue
            optimizer = rule.make(learning_rate)
            members = {
                index: variable
                for index, variable in enumerate(variables)
                if self.start_steps[index] == start
            }
            self.keras_state.append(build_optimizer(optimizer, list(members.values())))
            groups.append((optimizer, members))
        # A function, so that checkpoints save the variables of the optimizers and nothing else.
        self._groups = lambda: groups

    def _update(self, context: Any, gradients: dict, values: tuple, state: dict) -> None:
        rate, trains, _ = values
        groups = [
            (state_variables, optimizer, {i: members[i] for i in members if i in gradients})
            for state_variables, (optimizer, members) in zip(
                self.keras_state, self._groups(), strict=True
            )
        ]
        groups = [group for group in groups if group[2]]
        changed = [
            variable
            for state_variables, _, members in groups
            for variable in (*state_variables, *map(raw_variable, members.values()))
        ]
        may_skip = self.scale is not None
        before = [tf.identity(variable) for variable in changed] if may_skip else []
        context.merge_call(
            tf.autograph.experimental.do_not_convert(self._decay), args=(list(gradients), rate)
        )
        for _, optimizer, members in groups:
            apply_summed_gradients(
                optimizer, [gradients[index] for index in members], list(members.values())
            )

        def finish(strategy: Any, before: Sequence[Any], is_finite: Any) -> None:
            for variable, value in zip(changed if may_skip else (), before, strict=True):
                strategy.extended.update(variable, _restore, args=(value, is_finite), group=False)
            self._set_state(strategy, state)

        context.merge_call(
            tf.autograph.experimental.do_not_convert(finish), args=(before, tf.reduce_any(trains))
        )

    def _decay(self, strategy: Any, indices: Sequence[int], rate: Any) -> None:
        """Shrinks the weights that decay, in cross-replica context."""

        def shrink(variable: tf.Variable, rate: tf.Tensor) -> None:
            decay = tf.cast(rate * self._weight_decay, variable.dtype)
            variable.assign(variable * (1 - decay))

        for index in indices if self._weight_decay else ():
            weight = self._weights()[index]
            if weight.is_decayed:
                strategy.extended.update(weight.variable, shrink, args=(rate,), group=False)


def _restore(variable: tf.Variable, before: tf.Tensor, is_finite: tf.Tensor) -> None:
    """Gives a variable its value before a step that is skipped."""
    variable.assign(tf.where(is_finite, variable, before))
