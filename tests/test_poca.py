"""The mathematics: against a float64 numpy reference, and the properties that the paper implies."""

import numpy as np
import pytest
import tensorflow as tf
from head_helpers import reference, softmax
from hypothesis import given, settings
from hypothesis import strategies as st

from noah_tf import poca


@st.composite
def problems(draw):
    """Random arguments of `poca.poca` with all their switches, in float64."""
    groups = draw(st.integers(1, 4))
    split_groups, split_key_value = draw(st.booleans()), draw(st.booleans())
    classes, batch, positions = (draw(st.integers(1, 5)) for _ in range(3))
    key_channels = value_channels = groups * draw(st.integers(1, 3))
    if split_key_value:
        value_channels = groups * draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    blocks = groups if split_groups else 1

    def kernel(channels):
        return rng.normal(size=(blocks, channels // blocks, groups * classes // blocks))

    channels = key_channels + value_channels if split_key_value else key_channels
    weights = [
        kernel(key_channels),
        rng.normal(size=(groups, classes)),
        kernel(value_channels),
        rng.normal(size=(groups, classes)),
    ]
    features = rng.normal(size=(batch, positions, channels))
    keys = features[..., :key_channels]
    values = features[..., -value_channels:]
    return features, keys, values, weights, split_key_value


def run(keys, values, weights, dtype=tf.float64, **options):
    key_kernel, _, value_kernel, value_bias = (tf.constant(w, dtype) for w in weights)
    keys, values = tf.constant(keys, dtype), tf.constant(values, dtype)
    options.setdefault("accumulate_dtype", dtype)
    return poca.poca(keys, values, key_kernel, value_kernel, value_bias, **options).numpy()


def example(groups=2, classes=3, positions=6, channels=8, seed=0):
    """One fixed problem with split groups: keys, values and the four weights."""
    rng = np.random.default_rng(seed)
    kernel = (groups, channels // groups, classes)
    shapes = kernel, (groups, classes), kernel, (groups, classes)
    weights = [rng.normal(size=shape) for shape in shapes]
    keys, values = rng.normal(size=(2, 2, positions, channels))
    return keys, values, weights


@settings(max_examples=60, deadline=None)
@given(problems())
def test_logits_and_attention_are_those_of_the_reference(problem):
    features, keys, values, weights, split_key_value = problem
    ratio = (keys.shape[-1] + 0.5) / features.shape[-1]
    logits, attention = reference(features, weights, ratio, split_key_value)
    np.testing.assert_allclose(run(keys, values, weights), logits, rtol=1e-12, atol=1e-12)
    single = run(keys, values, weights, tf.float32)
    np.testing.assert_allclose(single, logits, atol=1e-5 * max(1, np.abs(logits).max()))

    blocks, channels, _ = weights[0].shape
    kernel = weights[0].reshape(blocks, channels, -1, logits.shape[-1])
    maps = poca.poca_attention(tf.constant(keys), tf.constant(kernel), tf.float64)
    np.testing.assert_allclose(maps, attention, rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(problems(), st.floats(-100, 100))
def test_a_key_bias_changes_nothing(problem, shift):
    features, keys, values, weights, split_key_value = problem
    ratio = (keys.shape[-1] + 0.5) / features.shape[-1]
    shifted = [weights[0], weights[1] + shift, *weights[2:]]
    logits, _ = reference(features, shifted, ratio, split_key_value)
    np.testing.assert_allclose(run(keys, values, weights), logits, rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_positions_does_not_matter(problem, random):
    _, keys, values, weights, _ = problem
    order = list(range(keys.shape[1]))
    random.shuffle(order)
    np.testing.assert_allclose(
        run(keys[:, order], values[:, order], weights), run(keys, values, weights), atol=1e-12
    )


@settings(max_examples=30, deadline=None)
@given(problems())
def test_a_value_bias_adds_its_sum_over_groups(problem):
    _, keys, values, weights, _ = problem
    without = run(keys, values, [*weights[:3], np.zeros_like(weights[3])])
    np.testing.assert_allclose(
        run(keys, values, weights) - without, np.tile(weights[3].sum(0), (len(keys), 1)), atol=1e-12
    )


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4])
def test_attention_sums_to_one_over_positions(scale):
    keys = scale * tf.random.stateless_normal((3, 7, 5), seed=(1, 2))
    attention = poca.attention(keys).numpy()
    assert (attention >= 0).all()
    np.testing.assert_allclose(attention.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(attention, softmax(np.float64(keys)), atol=1e-6)


def test_one_position_gets_all_the_attention():
    np.testing.assert_array_equal(poca.attention(tf.constant([[[-3.0, 0.0, 1e4]]])), 1)


def test_extreme_keys_stay_finite_forwards_and_backwards():
    keys, values, weights = example()
    key_kernel, _, value_kernel, value_bias = (tf.constant(w, tf.float32) for w in weights)
    keys, values = tf.constant(1e4 * keys, tf.float32), tf.constant(values, tf.float32)
    sources = [keys, values, key_kernel, value_kernel, value_bias]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        logits = poca.poca(*sources)
    for result in [logits, *tape.gradient(logits, sources)]:
        assert np.isfinite(result).all()
    expected, _ = reference(np.concatenate([keys, values], axis=-1), weights)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_keys_of_zero_make_it_average_pooling_and_a_linear_layer():
    keys, values, weights = example(groups=2)
    weights[0] = np.zeros_like(weights[0])
    linear = np.concatenate(list(weights[2]))
    expected = values.mean(axis=1) @ linear + weights[3].sum(axis=0)
    np.testing.assert_allclose(run(keys, values, weights), expected, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    keys, values, weights = example(groups=2, classes=2, positions=3, channels=4)
    sources = [tf.constant(a) for a in (keys, values, weights[0], weights[2], weights[3])]

    def logits(*sources):
        return poca.poca(*sources, accumulate_dtype=tf.float64)

    analytic, numeric = tf.test.compute_gradient(logits, sources, delta=1e-4)
    for got, want in zip(analytic, numeric, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-7)


@pytest.mark.parametrize("split_groups", [True, False])
def test_dropout_acts_on_the_biased_values(split_groups, monkeypatch):
    rng = np.random.default_rng(3)
    groups, classes, positions = 2, 3, 5
    blocks = groups if split_groups else 1
    kernel = (blocks, 4 // blocks, groups * classes // blocks)
    weights = [rng.normal(size=s) for s in (kernel, (groups, classes), kernel, (groups, classes))]
    keys, values = rng.normal(size=(2, 2, positions, 4))
    mask = rng.integers(0, 2, size=(2, positions, groups, classes))
    masks = iter(mask.reshape(2, positions, blocks, -1).swapaxes(0, 2).swapaxes(1, 2))
    monkeypatch.setattr(poca, "drop", lambda values, rate, seed: values * next(masks) / (1 - rate))
    got = run(keys, values, weights, dropout=0.25, seed=(1, 2))

    expected = np.zeros((2, classes))
    attention = reference(np.concatenate([keys, values], -1), weights)[1]
    for group in range(groups):
        block = group if split_groups else 0
        part = slice(group * 2, group * 2 + 2) if split_groups else slice(None)
        columns = slice(None) if split_groups else slice(group * classes, (group + 1) * classes)
        value = values[..., part] @ weights[2][block][:, columns] + weights[3][group]
        expected += (attention[:, :, group] * value * mask[:, :, group] / 0.75).sum(axis=1)
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_drop_has_its_rate_keeps_the_mean_and_follows_its_seed():
    values = tf.ones((10, 100, 100))
    dropped = poca.drop(values, 0.3, (1, 2)).numpy()
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.7], rtol=1e-6)
    assert np.mean(dropped == 0) == pytest.approx(0.3, abs=0.01)
    assert dropped.mean() == pytest.approx(1, abs=0.01)
    np.testing.assert_array_equal(poca.drop(values, 0.3, (1, 2)), dropped)
    assert (poca.drop(values, 0.3, (1, 3)).numpy() != dropped).any()


def test_groups_draw_masks_of_their_own(monkeypatch):
    keys, values, weights = example(groups=4)
    seeds = []

    def record(values, rate, seed):
        del rate
        seeds.append(tuple(np.asarray(seed)))
        return values

    monkeypatch.setattr(poca, "drop", record)
    run(keys, values, weights, dropout=0.5, seed=(1, 2))
    assert len(set(seeds)) == 4
