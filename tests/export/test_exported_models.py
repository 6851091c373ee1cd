"""Exports of a CNN, a ViT and an MLP of the paper, run by TensorFlow's C++ loader."""

import numpy as np
import pytest
import tensorflow as tf
from loaded_graph import loaded_graph

from noah_tf import create_model, export_savedmodel
from noah_tf.export.warmup import read_requests
from noah_tf.models.zoo import preprocessing_for


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        pytest.param("noah_mobilenetv2_035", 96, (3, 3), marks=pytest.mark.slow),
        pytest.param("noah_deit_tiny_050_patch16_224", 96, (6, 6), marks=pytest.mark.exhaustive),
        pytest.param("noah_mixer_s16_050_224", 224, (14, 14), marks=pytest.mark.exhaustive),
    ],
)
def test_bytes_and_pixels_match_evaluation(shared, tmp_path, name, size, grid):
    files = sorted((shared / "imagenet_sample").glob("*.JPEG"))[::90]
    photos = [file.read_bytes() for file in files]
    tf.keras.utils.set_random_seed(0)
    model = create_model(name, 50, input_shape=(size, size, 3))
    preprocessing = preprocessing_for(name, size)
    decoded = [preprocessing.decode(data) for data in photos]
    images = tf.stack([preprocessing.evaluation(photo) for photo in decoded])
    # With the initial statistics of BatchNorm, the logits hardly differ between photos.
    for _ in range(60 if model.non_trainable_variables else 0):
        model(images, training=True)
    head = model.layers[-1]
    scale = 1 / model(images, training=False).numpy().std()
    head.set_weights([scale * weight for weight in head.get_weights()])
    expected = model(images, training=False).numpy()
    assert 0.1 < expected.std() < 10 and expected.std(axis=0).mean() > 0.01

    path = export_savedmodel(model, tmp_path / name, preprocessing, warmup_batch_sizes=(1, 3))
    requests = list(read_requests(path))
    assert len(requests) == 8
    with loaded_graph(path) as call:
        answer = call("serving_default", image_bytes=photos)
        np.testing.assert_allclose(answer["logits"], expected, atol=1e-5)
        np.testing.assert_array_equal(answer["classes"][:, 0], expected.argmax(1))
        for photo, logits in zip(decoded[:3], expected, strict=False):
            answer = call("serve_tensor", images=photo.numpy()[None])
            np.testing.assert_allclose(answer["logits"][0], logits, atol=1e-5)
        answer = call("explain", image_bytes=photos[:2])
        assert answer["attention"].shape == (2, *grid, 5)
        np.testing.assert_allclose(answer["attention"].sum((1, 2)), 1, atol=1e-5)
        for signature, inputs in requests:
            assert np.isfinite(call(signature, **inputs)["logits"]).all()
