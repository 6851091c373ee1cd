"""Seeds and the random numbers drawn from them, without any random state.

Everything random in the input pipeline is a function of a seed, so a resumed run draws the same
numbers again. The streams of numbers must not change: saved runs depend on them.
"""

import math

import numpy as np
import tensorflow as tf

# The constants of SplitMix64, as signed numbers.
_INCREMENT = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def derived_seed(*numbers: int) -> int:
    """Returns a non-negative int64 seed that depends on all the numbers, in their order.

    Args:
        *numbers: non-negative ints, for instance a run's seed, an epoch and a purpose.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def fold_in(seed: tf.Tensor, purpose: int) -> tf.Tensor:
    """Returns a stateless seed that depends on both arguments, int64 of the shape of `seed`.

    Args:
        seed: stateless seed, int (2,), or a batch of them, (B, 2).
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


def uniform_per_example(seeds: tf.Tensor, purpose: int, count: int) -> tf.Tensor:
    """Returns uniform random numbers in [0, 1) for each seed of a batch, float64 (B, count).

    Args:
        seeds: stateless seeds, int (B, 2).
        purpose: int, see `fold_in`.
        count: number of random numbers for each seed.
    """
    bits = _random_bits(seeds, purpose, count)
    return tf.cast(_shifted_right(bits, 11), tf.float64) * 2.0**-53


def normal_per_example(seeds: tf.Tensor, purpose: int, count: int) -> tf.Tensor:
    """Returns standard normal random numbers for each seed of a batch, float32 (B, count).

    Args:
        seeds: stateless seeds, int (B, 2).
        purpose: int, see `fold_in`.
        count: number of random numbers for each seed.

    Source: Box and Muller (1958).
    """
    bits = _random_bits(seeds, purpose, -(-count // 2))
    # Each 64 bits give two uniform numbers of 24 bits, which float32 represents exactly. The first
    # is never 0.
    first = (tf.cast(_shifted_right(bits, 40), tf.float32) + 0.5) * 2.0**-24
    second = tf.cast(tf.bitwise.bitwise_and(bits, 2**24 - 1), tf.float32) * 2.0**-24
    radius, angle = tf.sqrt(-2.0 * tf.math.log(first)), 2.0 * math.pi * second
    return tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], 1)[:, :count]


def _random_bits(seeds, purpose, count):
    """Returns 64 random bits for each seed and each of `count` positions, int64 (B, count).

    TensorFlow's random ops take one seed, not a batch of them. This is the generator SplitMix64 of
    Steele, Lea and Flood ("Fast splittable pseudorandom number generators", 2014, section 4), whose
    numbers can be computed in any order, with an initial state that depends on the seed.
    """
    seeds = fold_in(seeds, purpose)
    state = _mixed(_mixed(seeds[:, :1]) + seeds[:, 1:])
    return _mixed(state + _INCREMENT * tf.range(1, count + 1, dtype=tf.int64))


def _mixed(bits):
    """Returns a bijective function of int64 numbers that changes half of the bits on average."""
    for shift, factor in ((30, _FACTORS[0]), (27, _FACTORS[1])):
        bits = tf.bitwise.bitwise_xor(bits, _shifted_right(bits, shift)) * factor
    return tf.bitwise.bitwise_xor(bits, _shifted_right(bits, 31))


def _shifted_right(bits, shift):
    """Shifts int64 numbers to the right and fills them with zeros, not with the sign."""
    kept = tf.constant(2 ** (64 - shift) - 1, tf.int64)
    return tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, tf.constant(shift, tf.int64)), kept)
