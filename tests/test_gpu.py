"""Tests that need a GPU: `pytest -m gpu`."""

import numpy as np
import pytest
import tensorflow as tf
from recipes import small_recipe

from noah_tf import NOAHHead
from noah_tf.training.loop import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="no GPU"),
]

FEATURES = np.random.default_rng(0).normal(size=(8, 7, 7, 512)).astype(np.float32)


def logits_and_gradients(head, device):
    with tf.device(device), tf.GradientTape() as tape:
        logits = head(FEATURES)
        loss = tf.reduce_sum(logits * logits)
        return [logits, *tape.gradient(loss, head.trainable_variables)]


@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [("float32", 5e-3), ("mixed_bfloat16", 3e-2), ("mixed_float16", 5e-3)],
)
def test_gpu_and_cpu_give_equal_logits_and_gradients(policy, tolerance):
    # The tolerance of float32 is large because current GPUs multiply in TF32 by default.
    head = NOAHHead(100, num_groups=4, key_ratio=0.5, dtype=policy)
    reference = NOAHHead(100, num_groups=4, key_ratio=0.5)
    head.build(FEATURES.shape)
    reference.build(FEATURES.shape)
    reference.set_weights(head.get_weights())
    expected = logits_and_gradients(reference, "CPU:0")
    actual = logits_and_gradients(head, "GPU:0")
    for value, expected_value in zip(actual, expected, strict=True):
        scale = np.abs(expected_value).max() or 1
        np.testing.assert_allclose(value, expected_value, atol=tolerance * scale)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_run_on_all_gpus_learns(shapes, tmp_path, precision):
    config = small_recipe(shapes)
    config.strategy, config.precision, config.train.epochs = "mirrored", precision, 8
    config.ema.decay = 0.9
    result = train(config, tmp_path)
    lines = (tmp_path / "epochs.csv").read_text().splitlines()
    losses = [float(line.split(",")[lines[0].split(",").index("loss")]) for line in lines[1:]]
    assert losses[-1] < 0.7 * losses[0]
    assert np.isfinite(result["loss"]) and np.isfinite(result["ema_loss"])


def test_xla_on_one_gpu_gives_the_same_loss(shapes, tmp_path):
    losses = []
    for jit_compile in (False, True):
        config = small_recipe(shapes)
        config.strategy, config.jit_compile = "single", jit_compile
        losses.append(train(config, tmp_path / str(jit_compile))["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
