"""The `optimizer` section of a recipe, and the optimizer that it describes."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from noah_tf.training.keras_optimizer import KerasOptimizer, KerasRule, is_keras_name
from noah_tf.training.optimizer import Optimizer
from noah_tf.training.param_groups import LayerStart, decay_mask, layer_factors
from noah_tf.training.settings import raise_joined
from noah_tf.training.update_rules import LAMB, SGD, AdamW
from noah_tf.utils.validation import error_messages, is_number

OPTIMIZERS = ("sgd", "adamw", "lamb")


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """The `optimizer` section of a recipe without its learning rate, which `Schedule` has.

    Attributes:
        name: "sgd", "adamw" or "lamb"; or an optimizer of Keras or TensorFlow Addons, such as
            "keras.Lion" or "tfa.NovoGrad", see `KerasRule`.
        args: arguments of such an optimizer, by name.
        momentum: of SGD, in [0, 1).
        nesterov: whether SGD uses Nesterov momentum.
        beta_1: of AdamW and LAMB, in [0, 1).
        beta_2: likewise.
        epsilon: of AdamW and LAMB, above 0.
        weight_decay: at least 0; in the gradient for SGD, decoupled for the others.
        exempt_1d: whether biases and normalization are not decayed, see `decay_mask`.
        exempt: patterns of other weights that are not decayed, see `decay_mask`.
        clip_norm: largest norm of all gradients together; None for no clipping.
        layer_decay: factor of the learning rate per layer group, in (0, 1], see `layer_factors`;
            None for one learning rate.
        layer_decay_groups: number of layer groups of the backbone.

    Raises:
        ValueError: values are unknown or out of range; the message names all of them.
    """

    name: str = "sgd"
    args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    momentum: float = 0.9
    nesterov: bool = False
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    exempt_1d: bool = True
    exempt: tuple = ()
    clip_norm: float | None = None
    layer_decay: float | None = None
    layer_decay_groups: int = 12

    def __post_init__(self) -> None:
        raise_joined(list(self._problems()))

    @property
    def rule(self) -> SGD | AdamW | LAMB | KerasRule:
        """The update rule."""
        if is_keras_name(self.name):
            return KerasRule(self.name, dict(self.args))
        if self.name == "sgd":
            return SGD(self.momentum, self.nesterov)
        adam = AdamW if self.name == "adamw" else LAMB
        return adam(self.beta_1, self.beta_2, self.epsilon)

    def _problems(self) -> Iterator[str]:
        def problem(name: str, is_allowed: Callable, allowed: str) -> Iterator[str]:
            value = getattr(self, name)
            if not is_number(value) or not is_allowed(value):
                yield f"optimizer.{name} must be {allowed}, got {value!r}"

        if is_keras_name(self.name):
            yield from self._keras_problems()
        elif self.name not in OPTIMIZERS:
            yield (
                f"optimizer.name must be one of {', '.join(OPTIMIZERS)}, or one of Keras or "
                f"TensorFlow Addons such as keras.Lion or tfa.NovoGrad, got {self.name!r}"
            )
        elif self.args:
            yield f"optimizer.args={dict(self.args)} is for optimizers such as keras.Lion"
        if self.name == "sgd":
            yield from problem("momentum", lambda x: 0 <= x < 1, "in [0, 1)")
            if self.nesterov and not self.momentum:
                yield "optimizer.nesterov needs optimizer.momentum above 0, got 0"
        else:
            yield from problem("beta_1", lambda x: 0 <= x < 1, "in [0, 1)")
            yield from problem("beta_2", lambda x: 0 <= x < 1, "in [0, 1)")
            yield from problem("epsilon", lambda x: 0 < x < math.inf, "above 0")
        yield from problem("weight_decay", lambda x: 0 <= x < math.inf, "at least 0")
        if self.clip_norm is not None:
            yield from problem("clip_norm", lambda x: x > 0, "None or above 0")
        if self.layer_decay is not None:
            yield from problem("layer_decay", lambda x: 0 < x <= 1, "None or in (0, 1]")
        yield from problem("layer_decay_groups", lambda x: x >= 1, "at least 1")

    def _keras_problems(self) -> Iterator[str]:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in ("momentum", "nesterov", "beta_1", "beta_2", "epsilon"):
            if getattr(self, name) != defaults[name]:
                yield (
                    f"optimizer.{name}={getattr(self, name)} is not for {self.name}: set "
                    f"optimizer.args.{name}"
                )
        if self.layer_decay is not None:
            yield (
                f"optimizer.layer_decay={self.layer_decay} is not for {self.name}, which has one "
                f"learning rate: use {', '.join(OPTIMIZERS)}, or leave it out"
            )
        yield from error_messages(KerasRule(self.name, self.args).check)


def make_optimizer(
    settings: OptimizerSettings,
    schedule: Callable,
    model: tf.keras.Model,
    layer_starts: Sequence[LayerStart] = (),
    loss_scale: bool = False,
) -> Optimizer:
    """Returns the optimizer of a recipe for a model.

    Args:
        settings: the `optimizer` section, an `OptimizerSettings`.
        schedule: the learning rate as a function of the step, see `make_schedule`.
        model: the model, of `attach_noah` or `create_model`.
        layer_starts: the layers that are frozen at first, see `param_groups.layer_starts`.
        loss_scale: whether to scale the loss, as mixed_float16 needs it.

    Returns:
        An `Optimizer` of `model.trainable_variables`.

    Raises:
        ValueError: a pattern of `exempt` matches no weight, or the model's head is unknown.

    Example:

    >>> schedule = make_schedule(config.schedule, 0.1, total_epochs=300, steps_per_epoch=1251)
    >>> optimizer = make_optimizer(OptimizerSettings("lamb"), schedule, model)
    """
    variables = model.trainable_variables
    lr_factors = None
    if settings.layer_decay is not None:
        lr_factors = layer_factors(model, settings.layer_decay, settings.layer_decay_groups)
    starts = {id(weight): step for layer, step in layer_starts for weight in layer.weights}
    rule: Any = settings.rule
    optimizer: Any = KerasOptimizer if isinstance(rule, KerasRule) else Optimizer
    return optimizer(
        variables,
        rule,
        schedule,
        settings.weight_decay,
        decay_mask(variables, settings.exempt_1d, settings.exempt),
        lr_factors=lr_factors,
        start_steps=[starts.get(id(variable), 0) for variable in variables],
        clip_norm=settings.clip_norm,
        loss_scale=loss_scale,
    )
