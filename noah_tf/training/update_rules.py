"""The rules by which optimizers move one weight: pure functions of tensors.

They are PyTorch's and timm's. Keras's own differ: its SGD puts the learning rate into the momentum
buffer, its Adam the epsilon elsewhere, and its Lamb leaves weight decay out of the trust ratio.
"""

import dataclasses
import math

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class SGD:
    """Gradient descent with momentum, and L2 weight decay as a part of the gradient.

        g = g + weight_decay * w;  b = momentum * b + g;  w = w - rate * b

    Args:
        momentum: in [0, 1).
        nesterov: whether w moves by g + momentum * b in place of b.

    Source: torch.optim.SGD, without dampening.
    """

    momentum: float = 0.9
    nesterov: bool = False

    @property
    def slots(self):
        """Names of what it keeps for each weight."""
        return ("momentum",) if self.momentum else ()

    def __call__(self, weight, gradient, slots, step, rate, weight_decay):
        """The new weight and slots; `step` counts from 1, `weight_decay` is None if exempt."""
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

    def __call__(self, weight, gradient, slots, step, rate, weight_decay):
        """The new weight and slots; `step` counts from 1, `weight_decay` is None if exempt."""
        update, slots = _adam(self, gradient, slots, step)
        if weight_decay:
            weight *= 1 - rate * weight_decay
        return weight - rate * update, slots


@dataclasses.dataclass(frozen=True)
class LAMB:
    """Adam whose update has the length of the weight, for large batches.

        u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon) + weight_decay * w
        w = w - rate * (|w| / |u|) * u

    with m and v as in `AdamW`. The ratio |w| / |u| is 1 where either is 0, and for weights that
    are exempt from decay. (With a weight decay of 0 the others still have their ratio, as in
    TensorFlow Addons; timm then wants `always_adapt`. timm also clips gradients to a norm of 1
    by itself, which here is `clip_norm`.)

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

    def __call__(self, weight, gradient, slots, step, rate, weight_decay):
        """The new weight and slots; `step` counts from 1, `weight_decay` is None if exempt."""
        update, slots = _adam(self, gradient, slots, step)
        if weight_decay is None:
            return weight - rate * update, slots
        update += weight_decay * weight
        length, update_length = tf.norm(weight), tf.norm(update)
        ratio = tf.where(
            (length > 0) & (update_length > 0), tf.math.divide_no_nan(length, update_length), 1
        )
        return weight - rate * ratio * update, slots


def _adam(rule, gradient, slots, step):
    """Adam's update for a rate of 1, and the new moments."""
    m = rule.beta_1 * slots[0] + (1 - rule.beta_1) * gradient
    v = rule.beta_2 * slots[1] + (1 - rule.beta_2) * tf.square(gradient)
    corrected = tf.sqrt(v / _bias(rule.beta_2, step, v.dtype)) + rule.epsilon
    return m / _bias(rule.beta_1, step, m.dtype) / corrected, (m, v)


def _bias(beta, step, dtype):
    """1 - beta ** step, to the last digits also where beta is nearly 1."""
    return -tf.math.expm1(tf.cast(step, dtype) * math.log(beta)) if beta else 1.0
