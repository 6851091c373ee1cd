"""Tests that weights, runs and exports of one stack work on the other, with equal logits."""

import os
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from recipes import small_recipe
from shared_data import REPOSITORY

from noah_tf.evaluation.evaluator import evaluate_run
from noah_tf.runs.checkpoint import load_run
from noah_tf.utils.keras_compat import IS_KERAS_3

# `make test` and `make test-addons` create these environments.
OTHER = REPOSITORY / (".venv-addons" if IS_KERAS_3 else ".venv") / "bin" / "python"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not OTHER.exists(),
        reason=f"no other stack at {OTHER.relative_to(REPOSITORY)}: make test and test-addons",
    ),
]

# Keras 2 and Keras 3 number layers and order attributes differently. These models have what could
# differ: names given by Keras, names with a slash, equal class names, a nested backbone, tokens.
MODELS = """
import numpy as np
import tensorflow as tf
import keras_cv
import noah_tf

applications = tf.keras.applications

def tokens():
    image = tf.keras.Input((32, 32, 3))
    patches = tf.keras.layers.Conv2D(32, 8, strides=8)(image)
    x = tf.keras.layers.Reshape((16, 32))(patches)
    return image, tf.keras.layers.LayerNormalization()(x)

def models():
    shape = (64, 64, 3)
    yield "mobilenet_v2", noah_tf.attach_noah(
        applications.MobileNetV2(weights=None, input_shape=shape, alpha=0.35), 5)
    yield "mobilenet_v3", noah_tf.attach_noah(
        applications.MobileNetV3Small(weights=None, input_shape=shape, include_top=False), 5)
    yield "resnet50_gap", noah_tf.attach_noah(
        applications.ResNet50(weights=None, input_shape=shape), 5, head="gap")
    yield "kerascv_resnet", noah_tf.attach_noah(
        keras_cv.models.ResNetBackbone(
            stackwise_filters=[64, 128], stackwise_blocks=[1, 1], stackwise_strides=[1, 2],
            block_type="basic_block", include_rescaling=False, input_shape=shape), 5, dropout=0.2)
    for name in ("noah_mobilenetv3_small", "noah_shufflenetv2_100", "pvt_tiny_050"):
        yield name, noah_tf.create_model(name, 5, shape)
    yield "drop_path", noah_tf.create_model(
        "deit_tiny_050_patch16_224", 5, (32, 32, 3), drop_path=0.1, mlp_dropout=0.1)
    yield "gmlp", noah_tf.create_model("noah_gmlp_ti16_050_224", 5)
    image, x = tokens()
    x = tf.keras.layers.Add()([x, tf.keras.layers.Dense(32, activation="gelu")(x)])
    yield "tokens", noah_tf.attach_noah(tf.keras.Model(image, x), 5)
    image, x = tokens()
    x = tf.keras.layers.Add()([x, tf.keras.layers.MultiHeadAttention(2, 16)(x, x)])
    yield "multi_head_attention", noah_tf.attach_noah(tf.keras.Model(image, x), 5)

def logits(model):
    images = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:]))
    return model(images.astype("float32"), training=False).numpy()
"""

SAVE = (
    MODELS
    + """
import sys
for name, model in models():
    rng = np.random.default_rng(1)
    model.set_weights([0.1 * np.abs(rng.normal(size=w.shape)) for w in model.get_weights()])
    model.save_weights(f"{sys.argv[1]}/{name}.weights.h5")
    np.save(f"{sys.argv[1]}/{name}.npy", logits(model))
"""
)


def run_on(python, code, *arguments):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.run(
        [str(python), "-c", code, *map(str, arguments)],
        env=environment,
        cwd=REPOSITORY / "trainers",
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def test_weights_of_the_other_stack_load(tmp_path):
    run_on(OTHER, SAVE, tmp_path)
    namespace = {}
    exec(MODELS, namespace)
    for name, model in namespace["models"]():
        if name == "multi_head_attention" and not IS_KERAS_3:
            # Keras 2 does not find the weights of this layer in a file of Keras 3.
            with pytest.raises(ValueError, match="expected 2 variables, but received 0"):
                model.load_weights(str(tmp_path / f"{name}.weights.h5"))
            continue
        model.load_weights(str(tmp_path / f"{name}.weights.h5"))
        expected = np.load(tmp_path / f"{name}.npy")
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(
            namespace["logits"](model), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
        )


def test_a_run_and_its_export_of_the_other_stack_load(shapes, tmp_path):
    config = small_recipe(shapes)
    config.train.epochs = 1
    train_and_export = f"""
import json, ml_collections
from noah_tf.export.from_run import export_run
from noah_tf.training.loop import train
result = train(ml_collections.ConfigDict(json.loads({config.to_json()!r})), {str(tmp_path)!r})
export_run({str(tmp_path)!r}, {str(tmp_path / "saved")!r})
print(result["loss"])
"""
    loss = float(run_on(OTHER, train_and_export).splitlines()[-1])
    result, _ = evaluate_run(tmp_path)
    assert result["loss"] == pytest.approx(loss, rel=1e-4)

    run = load_run(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    loaded = tf.saved_model.load(str(tmp_path / "saved" / "1"))
    outputs = loaded.signatures["serve_tensor"](images=tf.constant(images))
    pixels = tf.stack([run.preprocessing.evaluation(image) for image in images])
    np.testing.assert_allclose(
        outputs["logits"], run.model(pixels, training=False), rtol=1e-4, atol=1e-4
    )
