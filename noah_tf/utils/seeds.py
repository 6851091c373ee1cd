"""Seeds and the random numbers drawn from them, without any random state.

Everything random in the input pipeline is a function of a seed, so a resumed run draws the same
numbers again. The streams of numbers must not change: saved runs depend on them.
"""

import numpy as np
import tensorflow as tf


def derived_seed(*numbers: int) -> int:
    """Returns a non-negative int64 seed that depends on all the numbers, in their order.

    Args:
        *numbers: non-negative ints, for instance a run's seed, an epoch and a purpose.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def fold_in(seed: tf.Tensor, purpose: int) -> tf.Tensor:
    """Returns a stateless seed that depends on both arguments, int64 (2,).

    Args:
        seed: stateless seed, int (2,).
        purpose: int below 2**31. Numbers drawn from one seed for two purposes are independent.
    """
    # Philox scrambles its key, so any two keys give unrelated numbers; TensorFlow's
    # stateless_fold_in would run one more random op. The purpose is XORed into the high half, so
    # that small seeds stay different.
    return tf.bitwise.bitwise_xor(
        tf.cast(seed, tf.int64), tf.constant([purpose << 32, 0], tf.int64)
    )


def uniform(seed: tf.Tensor, purpose: int, shape: list[int]) -> tf.Tensor:
    """Returns uniform random numbers in [0, 1), float64.

    Args:
        seed: stateless seed, int (2,).
        purpose: int, see `fold_in`.
        shape: the shape of the result.
    """
    # The bits of a named algorithm are the same on every device, while XLA would turn them into
    # other floats than TensorFlow does.
    bits = tf.random.stateless_uniform(
        shape, fold_in(seed, purpose), None, None, tf.int32, alg="philox"
    )
    return tf.cast(bits, tf.float64) / 2**32 + 0.5
