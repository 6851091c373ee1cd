"""What needs a GPU: `pytest -m gpu`."""

import numpy as np
import pytest
import tensorflow as tf

from noah_tf import NOAHHead

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
def test_the_gpu_agrees_with_the_cpu(policy, tolerance):
    # float32 products run in TF32 on current GPUs unless that is switched off.
    head = NOAHHead(100, num_groups=4, key_ratio=0.5, dtype=policy)
    reference = NOAHHead(100, num_groups=4, key_ratio=0.5)
    head.build(FEATURES.shape)
    reference.build(FEATURES.shape)
    reference.set_weights(head.get_weights())
    expected = logits_and_gradients(reference, "CPU:0")
    for got, wanted in zip(logits_and_gradients(head, "GPU:0"), expected, strict=True):
        scale = np.abs(wanted).max() or 1
        np.testing.assert_allclose(got, wanted, atol=tolerance * scale)
