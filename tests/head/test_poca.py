"""POCA compared with a float64 NumPy reference, and properties that follow from the paper."""

import numpy as np
import pytest
import tensorflow as tf
from head_helpers import reference, softmax
from hypothesis import given, settings
from hypothesis import strategies as st

from noah_tf.head import poca
from noah_tf.head.maps import attention_maps, contribution_maps
from noah_tf.head.memory_plan import MASK_OUTPUTS


@st.composite
def problems(draw):
    """Random float64 arguments of `poca.poca` for all combinations of options."""
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
    return features, key_channels, weights, split_key_value


def run(features, weights, dtype=tf.float64, **options):
    key_kernel, _, value_kernel, value_bias = (tf.constant(w, dtype) for w in weights)
    features = tf.constant(features, dtype)
    options.setdefault("accumulate_dtype", dtype)
    return poca.poca(features, key_kernel, value_kernel, value_bias, **options).numpy()


def example(groups=2, classes=3, positions=6, channels=8, seed=0):
    """Returns features, half of whose channels are keys, and the four weights of split groups."""
    rng = np.random.default_rng(seed)
    kernel = (groups, channels // groups, classes)
    shapes = kernel, (groups, classes), kernel, (groups, classes)
    weights = [rng.normal(size=shape) for shape in shapes]
    return rng.normal(size=(2, positions, 2 * channels)), weights


@settings(max_examples=60, deadline=None)
@given(problems())
def test_logits_and_attention_equal_the_reference(problem):
    features, key_channels, weights, split_key_value = problem
    ratio = (key_channels + 0.5) / features.shape[-1]
    logits, attention = reference(features, weights, ratio, split_key_value)
    np.testing.assert_allclose(run(features, weights), logits, rtol=1e-12, atol=1e-12)
    single = run(features, weights, tf.float32)
    np.testing.assert_allclose(single, logits, atol=1e-5 * max(1, np.abs(logits).max()))

    blocks, channels, _ = weights[0].shape
    kernel = weights[0].reshape(blocks, channels, -1, logits.shape[-1])
    maps = attention_maps(
        tf.constant(features[..., :key_channels]), tf.constant(kernel), tf.float64
    )
    np.testing.assert_allclose(maps, attention, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_contributions_sum_to_the_logits(problem):
    features, key_channels, weights, split_key_value = problem
    ratio = (key_channels + 0.5) / features.shape[-1]
    logits, attention = reference(features, weights, ratio, split_key_value)
    key_kernel, _, value_kernel, value_bias = weights
    value_channels = features.shape[-1] - key_channels if split_key_value else key_channels
    kernels = [
        tf.constant(kernel.reshape(*kernel.shape[:2], -1, logits.shape[-1]))
        for kernel in (key_kernel, value_kernel)
    ]
    maps = contribution_maps(
        tf.constant(features[..., :key_channels]),
        tf.constant(features[..., -value_channels:]),
        *kernels,
        tf.constant(value_bias),
        tf.float64,
    ).numpy()
    assert maps.shape == attention.shape
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), logits, rtol=1e-9, atol=1e-9)
    # If the values are only the bias, the attention distributes it.
    blank = [kernels[0], tf.zeros_like(kernels[1])]
    parts = tf.constant(features[..., :key_channels]), tf.constant(features[..., -value_channels:])
    maps = contribution_maps(*parts, *blank, tf.constant(value_bias), tf.float64)
    np.testing.assert_allclose(maps, attention * value_bias, rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(problems(), st.floats(-100, 100))
def test_key_bias_has_no_effect(problem, shift):
    features, key_channels, weights, split_key_value = problem
    ratio = (key_channels + 0.5) / features.shape[-1]
    shifted = [weights[0], weights[1] + shift, *weights[2:]]
    logits, _ = reference(features, shifted, ratio, split_key_value)
    np.testing.assert_allclose(run(features, weights), logits, rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_order_of_positions_has_no_effect(problem, random):
    features, _, weights, _ = problem
    order = list(range(features.shape[1]))
    random.shuffle(order)
    np.testing.assert_allclose(run(features[:, order], weights), run(features, weights), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(problems())
def test_value_bias_adds_its_sum_over_groups(problem):
    features, _, weights, _ = problem
    without = run(features, [*weights[:3], np.zeros_like(weights[3])])
    np.testing.assert_allclose(
        run(features, weights) - without, np.tile(weights[3].sum(0), (len(features), 1)), atol=1e-12
    )


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4])
def test_attention_sums_to_one_over_positions(scale):
    keys = scale * tf.random.stateless_normal((3, 7, 5), seed=(1, 2))
    attention = poca.attention(keys).numpy()
    assert (attention >= 0).all()
    np.testing.assert_allclose(attention.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(attention, softmax(np.float64(keys)), atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_skipping_the_shift_of_small_keys_has_no_effect(scale):
    features, weights = example()
    features *= scale
    logits = run(features, weights, key_norms=poca.largest_norms(weights[0]))
    np.testing.assert_allclose(logits, run(features, weights), atol=1e-12 * max(1, scale))


@pytest.mark.parametrize(
    ("size", "small"), [(1.0, True), (2.9, True), (3.1, False), (np.nan, False)]
)
def test_keys_are_small_uses_a_bound_on_their_magnitude(size, small):
    # Two channel blocks, the second all zeros; the last channel is a value.
    features = tf.constant([[[6.0, 8.0, 0.0, 0.0, 99.0], [1.0, 1.0, 0.0, 0.0, 99.0]]])
    kernel = tf.constant([[[0.1, size], [0.0, 0.0]], [[1e9, 0.0], [0.0, 0.0]]])
    norms = poca.largest_norms(kernel)
    np.testing.assert_allclose(norms, [size, 1e9])
    keys_small = poca.keys_are_small(features, kernel, norms)
    assert [bool(value) for value in keys_small] == [small, True]
    # No key is larger than the bound.
    assert not small or tf.reduce_max(tf.abs(features[0, :, :2] @ kernel[0])) <= 30


def test_attention_on_one_position_is_1():
    np.testing.assert_array_equal(poca.attention(tf.constant([[[-3.0, 0.0, 1e4]]])), 1)


def test_extreme_keys_have_finite_logits_and_gradients():
    features, weights = example()
    key_kernel, _, value_kernel, value_bias = (tf.constant(w, tf.float32) for w in weights)
    features[..., :8] *= 1e4
    features = tf.constant(features, tf.float32)
    sources = [features, key_kernel, value_kernel, value_bias]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        logits = poca.poca(*sources)
    for result in [logits, *tape.gradient(logits, sources)]:
        assert np.isfinite(result).all()
    expected, _ = reference(features, weights)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_zero_keys_equal_average_pooling_and_a_linear_layer():
    features, weights = example(groups=2)
    weights[0] = np.zeros_like(weights[0])
    linear = np.concatenate(list(weights[2]))
    expected = features[..., 8:].mean(axis=1) @ linear + weights[3].sum(axis=0)
    np.testing.assert_allclose(run(features, weights), expected, atol=1e-12)


def test_gradients_equal_finite_differences():
    features, weights = example(groups=2, classes=2, positions=3, channels=4)
    sources = [tf.constant(a) for a in (features, weights[0], weights[2], weights[3])]

    def logits(*sources):
        return poca.poca(*sources, accumulate_dtype=tf.float64)

    analytic, numeric = tf.test.compute_gradient(logits, sources, delta=1e-4)
    for actual, expected in zip(analytic, numeric, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-7)


@pytest.mark.parametrize("split_groups", [True, False])
def test_dropout_acts_on_the_biased_values(split_groups, monkeypatch):
    rng = np.random.default_rng(3)
    groups, classes, positions = 2, 3, 5
    blocks = groups if split_groups else 1
    kernel = (blocks, 4 // blocks, groups * classes // blocks)
    weights = [rng.normal(size=s) for s in (kernel, (groups, classes), kernel, (groups, classes))]
    features = rng.normal(size=(2, positions, 8))
    mask = rng.integers(0, 2, size=(2, positions, groups, classes))
    masks = iter(mask.reshape(2, positions, blocks, -1).swapaxes(0, 2).swapaxes(1, 2) > 0)
    monkeypatch.setattr(poca, "dropout_mask", lambda *_: tf.constant(next(masks)))
    actual = run(features, weights, dropout=0.25, seed=(1, 2))

    expected = np.zeros((2, classes))
    attention = reference(features, weights)[1]
    for group in range(groups):
        block = group if split_groups else 0
        part = slice(group * 2, group * 2 + 2) if split_groups else slice(None)
        columns = slice(None) if split_groups else slice(group * classes, (group + 1) * classes)
        value = features[..., 4:][..., part] @ weights[2][block][:, columns] + weights[3][group]
        expected += (attention[:, :, group] * value * mask[:, :, group] / 0.75).sum(axis=1)
    np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_mask_has_its_rate_and_depends_on_its_seed():
    mask = poca.dropout_mask((10, 100, 300), 0.3, (1, 2)).numpy()
    assert mask.mean() == pytest.approx(0.7, abs=0.01)
    np.testing.assert_array_equal(poca.dropout_mask((10, 100, 300), 0.3, (1, 2)), mask)
    assert (poca.dropout_mask((10, 100, 300), 0.3, (1, 3)).numpy() != mask).any()
    columns = mask.reshape(1000, 300).T
    assert len(np.unique(columns, axis=0)) == 300
    # Two neighbors share 32 random bits.
    assert (mask[..., ::2] | mask[..., 1::2]).mean() == pytest.approx(0.91, abs=0.005)


@pytest.mark.parametrize(("first", "outputs"), [(0, 1), (1, 2), (2, 1)])
def test_part_of_a_mask_equals_the_whole(first, outputs):
    first, outputs = first * MASK_OUTPUTS, outputs * MASK_OUTPUTS
    whole = poca.dropout_mask((2, 3, 2 * MASK_OUTPUTS + 5), 0.5, (1, 2)).numpy()
    outputs = min(outputs, whole.shape[-1] - first)
    part = poca.dropout_mask((2, 3, outputs), 0.5, (1, 2), tf.constant(first))
    np.testing.assert_array_equal(part, whole[..., first : first + outputs])


def test_values_after_dropout_are_zero_or_scaled_up():
    mask = tf.constant([[[True, False, True]]])
    np.testing.assert_allclose(
        poca.apply_dropout_mask(tf.constant([[[3.0, 5.0, -6.0]]]), mask, 0.25), [[[4, 0, -8]]]
    )


def test_groups_have_different_masks(monkeypatch):
    features, weights = example(groups=4)
    seeds = []

    def record(shape, rate, seed, first):
        del rate, first
        seeds.append(tuple(np.asarray(seed)))
        return tf.ones(shape, tf.bool)

    monkeypatch.setattr(poca, "dropout_mask", record)
    run(features, weights, dropout=0.5, seed=(1, 2))
    assert len(set(seeds)) == 4
