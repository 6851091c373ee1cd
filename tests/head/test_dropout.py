"""Dropout and drop path: values, seeds, and different masks on each replica."""

import numpy as np
import pytest
import tensorflow as tf
from head_helpers import run_python
from stacks import slow_on_one_stack

from noah_tf.head.dropout import Dropout


@pytest.mark.parametrize("per_example", [False, True])
def test_remaining_values_are_scaled_up(per_example):
    x = np.ones((400, 5, 3), "float32")
    layer = Dropout(0.25, per_example)
    y = layer(x, training=True).numpy()
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    masks = y.reshape(400, -1) > 0
    assert masks.mean() == pytest.approx(0.75, abs=5 * (0.25 * 0.75 / 400) ** 0.5)
    # An example is dropped as a whole, or almost never as a whole.
    assert (masks.all(1) | ~masks.any(1)).mean() == 1 if per_example else masks.all(1).mean() < 0.1
    assert not np.array_equal(y, layer(x, training=True))


def test_no_dropout_at_inference_or_at_rate_0():
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    np.testing.assert_array_equal(Dropout(0.5)(x, training=False), x)
    np.testing.assert_array_equal(Dropout(0.0)(x, training=True), x)


def test_global_seed_reproduces_the_mask():
    masks = []
    for seed in (1, 1, 2):
        tf.keras.utils.set_random_seed(seed)
        masks.append(Dropout(0.5)(np.ones((50, 3), "float32"), training=True).numpy())
    np.testing.assert_array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


@pytest.mark.parametrize("rate", [-0.1, 1.0, "half", True])
def test_invalid_rate_raises(rate):
    with pytest.raises(ValueError, match="rate must be a number in"):
        Dropout(rate)


def test_unknown_batch_in_a_graph():
    layer = Dropout(0.5, per_example=True)
    call = tf.function(
        lambda x: layer(x, training=True), input_signature=[tf.TensorSpec((None, 2, 2, 3))]
    )
    assert call(tf.ones((7, 2, 2, 3))).shape == (7, 2, 2, 3)


@slow_on_one_stack
def test_replicas_of_a_zoo_model_have_different_masks():
    process = run_python("""
import tensorflow as tf
cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import noah_tf

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = noah_tf.create_model(
        "deit_tiny_050_patch16_224", 5, (32, 32, 3), drop_path=0.5, mlp_dropout=0.5, dropout=0.5)
for name in ("blocks.11.add2.drop_path", "blocks.5.mlp.drop1", "head.dropout"):
    layer = model.get_layer(name)
    x = tf.ones((64, *layer.input.shape[1:]))
    step = tf.function(lambda x: strategy.run(lambda x: layer(x, training=True), args=(x,)))
    first, second = strategy.experimental_local_results(step(x))
    third, _ = strategy.experimental_local_results(step(x))
    assert (first.numpy() != third.numpy()).any(), f"{name}: two steps have the same mask"
    assert (first.numpy() != second.numpy()).any(), f"{name}: two replicas have the same mask"
""")
    assert process.returncode == 0, process.stderr[-3000:]
