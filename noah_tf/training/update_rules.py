"""The update rules of the optimizers for one weight, as pure functions of tensors.

The rules are those of PyTorch and timm. Keras's rules differ: its SGD multiplies the learning rate
into the momentum buffer, its Adam adds epsilon before the bias correction, and its Lamb leaves
weight decay out of the trust ratio.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class SGD:
    """Gradient descent with momentum. Weight decay is L2: it is added to the gradient.

        g = g + weight_decay * w;  b = momentum * b + g;  w = w - rate * b

    Args:
        momentum: in [0, 1).
        nesterov: whether w moves by g + momentum * b instead of b.

    Source: torch.optim.SGD, without dampening.
    """

    momentum: float = 0.9
    nesterov: bool = False

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the state that the rule keeps for each weight."""
        return ("momentum",) if self.momentum else ()

    def __call__(
        self,
        weight: tf.Tensor,
        gradient: tf.Tensor,
        slots: Sequence[tf.Tensor],
        step: tf.Tensor,
        rate: tf.Tensor,
        weight_decay: float | None,
    ) -> tuple[tf.Tensor, Sequence[tf.Tensor]]:
        """Returns the new weight and slots. `step` counts from 1; None exempts from decay."""
        if weight_decay:
            gradient += weight_decay * weight
        if not self.momentum:
            return weight - rate * gradient, ()
        buffer = self.momentum * slots[0] + gradient
        update = gradient + self.momentum * buffer if self.nesterov else buffer
        return weight - rate * update, (buffer,)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam whose weight decay is decoupled from the gradient.

        w = w * (1 - rate * weight_decay)
        m = b1 * m + (1 - b1) * g;  v = b2 * v + (1 - b2) * g^2
        w = w - rate * (m / (1 - b1^t)) / (sqrt(v) / sqrt(1 - b2^t) + epsilon)

    Args:
        beta_1: b1, in [0, 1).
        beta_2: b2, in [0, 1).
        epsilon: above 0.

    Source: torch.optim.AdamW (arXiv 1711.05101).
    """

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    slots = ("m", "v")

    def __call__(
        self,
        weight: tf.Tensor,
        gradient: tf.Tensor,
        slots: Sequence[tf.Tensor],
        step: tf.Tensor,
        rate: tf.Tensor,
        weight_decay: float | None,
    ) -> tuple[tf.Tensor, Sequence[tf.Tensor]]:
        """Returns the new weight and slots. `step` counts from 1; None exempts from decay."""
        update, slots = _adam(self, gradient, slots, step)
        if weight_decay:
            weight *= 1 - rate * weight_decay
        return weight - rate * update, slots


@dataclasses.dataclass(frozen=True)
class LAMB:
    """Adam whose update is scaled to the norm of the weight, for large batches.

        u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon) + weight_decay * w
        w = w - rate * (|w| / |u|) * u

    with m and v as in `AdamW`. The ratio |w| / |u| is 1 if either norm is 0, and for weights that
    are exempt from decay. With a weight decay of 0 the other weights still have their ratio, as in
    TensorFlow Addons, and as in timm with `always_adapt`. timm's LAMB also clips gradients to a
    norm of 1; here that is the optimizer's `clip_norm`.

    Args:
        beta_1: b1, in [0, 1).
        beta_2: b2, in [0, 1).
        epsilon: above 0.

    Source: timm's Lamb (arXiv 1904.00962).
    """

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-6

    slots = ("m", "v")

    def __call__(
        self,
        weight: tf.Tensor,
        gradient: tf.Tensor,
        slots: Sequence[tf.Tensor],
        step: tf.Tensor,
        rate: tf.Tensor,
        weight_decay: float | None,
    ) -> tuple[tf.Tensor, Sequence[tf.Tensor]]:
        """Returns the new weight and slots. `step` counts from 1; None exempts from decay."""
        update, slots = _adam(self, gradient, slots, step)
        if weight_decay is None:
            return weight - rate * update, slots
        update += weight_decay * weight
        norm, update_norm = tf.norm(weight), tf.norm(update)
        ratio = tf.where(
            (norm > 0) & (update_norm > 0), tf.math.divide_no_nan(norm, update_norm), 1
        )
        return weight - rate * ratio * update, slots


def _adam(rule: Any, gradient: tf.Tensor, slots: Sequence[tf.Tensor], step: tf.Tensor) -> tuple:
    """Returns Adam's update for a learning rate of 1, and the new moments."""
    m = rule.beta_1 * slots[0] + (1 - rule.beta_1) * gradient
    v = rule.beta_2 * slots[1] + (1 - rule.beta_2) * tf.square(gradient)
    denominator = tf.sqrt(v / _bias(rule.beta_2, step, v.dtype)) + rule.epsilon
    return m / _bias(rule.beta_1, step, m.dtype) / denominator, (m, v)


def _bias(beta: float, step: tf.Tensor, dtype: tf.DType) -> Any:
    """Returns 1 - beta ** step; expm1 keeps its last digits if beta is nearly 1."""
    return -tf.math.expm1(tf.cast(step, dtype) * math.log(beta)) if beta else 1.0
