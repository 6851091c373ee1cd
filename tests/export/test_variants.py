"""TFLite, ONNX and bfloat16 agree with the float32 model on photos.

With random weights, all logits are nearly equal, and top-1 would agree by chance. Therefore the
models learn to classify 50 real photos of 50 ImageNet classes, each photo as a class of its own.
The fraction of photos that a variant still classifies correctly measures its loss of accuracy. For
a transformer or an MLP, training the head suffices. A deep CNN has to be trained as a whole: with
random weights, rounding errors grow from layer to layer, and int8 keeps a third of the photos only.
"""

import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import noah_tf
from noah_tf import attach_noah
from noah_tf.export import variants
from noah_tf.export.variants import Agreement, agreement
from noah_tf.images.preprocessing import Preprocessing, decode
from noah_tf.models.precision import with_precision

layers = tf.keras.layers
PHOTOS = 50


def photos(shared, preprocessing):
    """Returns the pixels of the center crops of 50 photos of 50 classes."""
    paths = sorted((shared / "imagenet_sample").glob("*.JPEG"))[:: 1000 // PHOTOS]
    crops = [preprocessing.center_crop(decode(tf.io.read_file(str(path)))) for path in paths]
    return np.rint(np.stack(crops)).astype(np.uint8)


def trained(model, variables, inputs, steps, logits_of):
    """Trains variables until the model classifies the inputs."""
    optimizer = tf.keras.optimizers.Adam(0.003)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            logits = logits_of(inputs)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(PHOTOS), logits)
        gradients = tape.gradient(losses, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return tf.reduce_mean(losses)

    for _ in range(steps):
        # Further training would make the margins far larger than those of a real classifier.
        if step() < 0.3:
            break
    return model


def train_head(model, images):
    head = model.get_layer("noah_head")
    body = tf.keras.Model(model.input, head.input)
    features = tf.concat([body(images[i : i + 10], training=False) for i in range(0, 50, 10)], 0)
    return trained(model, head.trainable_variables, features, 150, head)


def train_all(model, images):
    trained(model, model.trainable_variables, images, 40, lambda x: model(x, training=True))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)  # Sets the statistics to those of the photos.
    return model


def predict(model, preprocessing, pixels):
    images = preprocessing.normalize(tf.constant(pixels))
    return np.concatenate([model(images[i : i + 10], training=False) for i in range(0, 50, 10)])


def small_cnn():
    inputs = x = tf.keras.Input((32, 32, 3))
    for filters in (16, 32, 64):
        x = layers.Conv2D(filters, 3, 2, "same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return attach_noah(tf.keras.Model(inputs, x), PHOTOS)


@pytest.fixture(scope="module")
def small(request):
    """Returns a small trained CNN, its preprocessing, pixels of photos, and its logits."""
    shared = request.getfixturevalue("shared_photos")
    tf.keras.utils.set_random_seed(0)
    preprocessing = Preprocessing(image_size=32, resize_size=40)
    pixels = photos(shared, preprocessing)
    model = train_all(small_cnn(), preprocessing.normalize(tf.constant(pixels)))
    return model, preprocessing, pixels, predict(model, preprocessing, pixels)


@pytest.fixture(scope="module")
def shared_photos():
    from shared_data import shared_folder

    if not (shared_folder() / "imagenet_sample").is_dir():
        pytest.skip(f"no photos at {shared_folder()} (set NOAH_TF_SHARED)")
    return shared_folder()


@pytest.fixture(scope="module")
def plain():
    """Returns an untrained model, for tests whose result does not depend on its weights."""
    inputs = tf.keras.Input((8, 8, 3))
    features = layers.Conv2D(8, 3, 2)(inputs)
    return attach_noah(tf.keras.Model(inputs, features), 5), Preprocessing(image_size=8)


def noise(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def variant_logits(kind, model, preprocessing, pixels, path):
    if kind == "bfloat16":
        return predict(with_precision(model, "mixed_bfloat16"), preprocessing, pixels)
    if kind == "onnx":
        pytest.importorskip("tf2onnx")
        variants.write_onnx(model, preprocessing, path)
        return variants.predict_onnx(path, pixels)
    images = pixels if kind == "int8" else None
    variants.write_tflite(model, preprocessing, path, kind, images)
    return variants.predict_tflite(path, pixels)


# The fraction of photos that must keep their class, and the largest allowed error of a logit
# relative to the logits' standard deviation.
LIMITS = {"bfloat16": (0.96, 1.0), "dynamic": (0.96, 1.0), "int8": (0.9, 3.0), "onnx": (1.0, 1e-3)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LIMITS)
def test_small_cnn_keeps_its_predictions(kind, small, tmp_path):
    check_variant(kind, *small, tmp_path / "model")


def check_variant(kind, model, preprocessing, pixels, expected, path):
    top1, difference = LIMITS[kind]
    result = agreement(expected, variant_logits(kind, model, preprocessing, pixels, path))
    print(kind, result)
    assert result.images == PHOTOS
    assert result.top1 >= top1, result
    assert result.largest_difference <= difference * expected.std(), result
    if kind != "onnx":
        assert result.largest_difference > 1e-4  # The weights were quantized at all.


@pytest.mark.slow
def test_broken_inputs_lower_the_agreement(small):
    """The model classifies the photos, so that wrong logits do not agree by chance."""
    model, preprocessing, pixels, expected = small
    assert len(set(expected.argmax(axis=1))) >= 0.95 * PHOTOS
    wrong_channels = predict(model, preprocessing, pixels[..., ::-1])
    assert agreement(expected, wrong_channels).top1 < 0.6
    not_normalized = np.concatenate([model(pixels.astype(np.float32), training=False)])
    assert agreement(expected, not_normalized).top1 < 0.6


# The Mixer has a fixed image size. The others use a small one, for speed.
ZOO = {
    "noah_mobilenetv2_035": (96, train_all),
    "noah_deit_tiny_050_patch16_224": (64, train_head),
    "noah_mixer_s16_050_224": (224, train_head),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ZOO)
def test_zoo_models_keep_their_predictions(name, shared_photos, tmp_path):
    size, train = ZOO[name]
    tf.keras.utils.set_random_seed(0)
    model = noah_tf.create_model(name, PHOTOS, (size, size, 3), dropout=0.0)
    preprocessing = noah_tf.models.zoo.preprocessing_for(name, size)
    pixels = photos(shared_photos, preprocessing)
    train(model, preprocessing.normalize(tf.constant(pixels)))
    expected = predict(model, preprocessing, pixels)
    assert len(set(expected.argmax(axis=1))) >= 0.95 * PHOTOS
    for kind in LIMITS:
        check_variant(kind, model, preprocessing, pixels, expected, tmp_path / kind)


@pytest.mark.slow
def test_int8_quantizes_most_tensors_and_dynamic_only_weights(small, tmp_path):
    model, preprocessing, pixels, _ = small
    path = tmp_path / "model.tflite"
    dynamic = variants.write_tflite(model, preprocessing, path, "dynamic")
    assert dynamic["float32"] > 2 * dynamic["int8"] > 0
    int8 = variants.write_tflite(model, preprocessing, path, "int8", pixels)
    assert int8["int8"] > 2 * int8["float32"] > 0
    operations = {
        operation["op_name"] for operation in variants._interpreter(path)._get_ops_details()
    }
    assert not any("Flex" in operation or operation == "CUSTOM" for operation in operations)


def test_tflite_file_takes_one_image_of_named_pixels(plain, tmp_path, capfd):
    model, preprocessing = plain
    path = tmp_path / "model.tflite"
    variants.write_tflite(model, preprocessing, path, "dynamic")
    run = variants._interpreter(path).get_signature_runner("serving_default")
    (details,) = run.get_input_details().values()
    assert details["dtype"] == np.uint8
    assert tuple(details["shape"]) == tuple(details["shape_signature"]) == (1, 8, 8, 3)
    capfd.readouterr()
    pixels = noise(3, 8)
    logits = variants.predict_tflite(path, pixels)
    assert logits.dtype == np.float32
    expected = model(preprocessing.normalize(pixels), training=False)
    np.testing.assert_allclose(logits, expected, atol=0.05)
    assert capfd.readouterr() == ("", "")


def test_conversion_prints_nothing(plain, tmp_path, capfd):
    capfd.readouterr()
    variants.write_tflite(*plain, tmp_path / "model.tflite", "int8", noise(4, 8))
    assert capfd.readouterr() == ("", "")
    pytest.importorskip("tf2onnx")
    variants.write_onnx(*plain, tmp_path / "model.onnx")
    variants.predict_onnx(tmp_path / "model.onnx", noise(4, 8))
    assert capfd.readouterr() == ("", "")


def test_onnx_file_takes_any_batch_size(plain, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, preprocessing = plain
    path = tmp_path / "model.onnx"
    variants.write_onnx(model, preprocessing, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == (
        "images",
        "tensor(uint8)",
        ["batch", 8, 8, 3],
    )
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 5])
    for count in (1, 3):
        pixels = noise(count, 8)
        expected = model(preprocessing.normalize(pixels), training=False)
        np.testing.assert_allclose(variants.predict_onnx(path, pixels), expected, atol=1e-5)


def test_onnx_computes_exact_gelu(tmp_path):
    """Keras 3 writes GELU with an op that ONNX lacks."""
    pytest.importorskip("tf2onnx")
    inputs = tf.keras.Input((8, 8, 3))
    features = layers.Activation("gelu")(layers.Conv2D(64, 3)(inputs))
    model = attach_noah(tf.keras.Model(inputs, features), 5)
    preprocessing = Preprocessing(image_size=8, mean=(0.5,) * 3, std=(0.05,) * 3)
    variants.write_onnx(model, preprocessing, tmp_path / "model.onnx")
    pixels = noise(8, 8)
    expected = model(preprocessing.normalize(pixels), training=False)
    logits = variants.predict_onnx(tmp_path / "model.onnx", pixels)
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_grouped_convolutions_are_converted(tmp_path):
    """Keras puts them into functions that XLA compiles."""
    tf.keras.utils.set_random_seed(0)
    inputs = tf.keras.Input((8, 8, 3))
    features = layers.Conv2D(16, 3, groups=4)(layers.Conv2D(16, 1)(inputs))
    model = attach_noah(tf.keras.Model(inputs, features), 5)
    preprocessing = Preprocessing(image_size=8)
    pixels = noise(24, 8, seed=1)
    expected = model(preprocessing.normalize(pixels), training=False)
    for kind, tolerance in (("dynamic", 0.05), ("int8", 0.3), ("onnx", 1e-5)):
        logits = variant_logits(kind, model, preprocessing, pixels, tmp_path / kind)
        assert np.abs(logits - expected).mean() <= tolerance * np.std(expected), kind
    assert not tf.config.functions_run_eagerly()


@pytest.mark.slow
def test_normalization_layer_is_converted(tmp_path):
    """The layer keeps its statistics in tensors that are not variables."""
    tf.keras.utils.set_random_seed(0)
    normalization = layers.Normalization()
    normalization.adapt(noise(8, 8).astype(np.float32))
    inputs = tf.keras.Input((8, 8, 3))
    features = layers.Conv2D(8, 3)(normalization(inputs))
    model = attach_noah(tf.keras.Model(inputs, features), 5)
    preprocessing = Preprocessing(image_size=8, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    pixels = noise(24, 8, seed=1)
    expected = model(preprocessing.normalize(pixels), training=False)
    for kind, tolerance in (("dynamic", 0.05), ("int8", 0.3), ("onnx", 1e-5)):
        logits = variant_logits(kind, model, preprocessing, pixels, tmp_path / kind)
        assert np.abs(logits - expected).mean() <= tolerance * np.std(expected), kind


def test_mixed_precision_model_is_converted_in_float32(plain, tmp_path):
    pytest.importorskip("tf2onnx")
    model, preprocessing = plain
    mixed = with_precision(model, "mixed_bfloat16")
    pixels = noise(4, 8)
    expected = model(preprocessing.normalize(pixels), training=False)
    variants.write_onnx(mixed, preprocessing, tmp_path / "model.onnx")
    logits = variants.predict_onnx(tmp_path / "model.onnx", pixels)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    variants.write_tflite(mixed, preprocessing, tmp_path / "model.tflite", "dynamic")
    logits = variants.predict_tflite(tmp_path / "model.tflite", pixels)
    np.testing.assert_allclose(logits, expected, atol=0.05)


@tf.keras.utils.register_keras_serializable("test_variants")
def unusual(x):
    return tf.math.bessel_i0(x) + tf.math.erf(x)


@pytest.mark.slow
def test_unsupported_ops_are_named(tmp_path):
    inputs = tf.keras.Input((8, 8, 3))
    features = layers.Activation(unusual)(layers.Conv2D(8, 3)(inputs))
    model = attach_noah(tf.keras.Model(inputs, features), 5, name="unusual")
    preprocessing = Preprocessing(image_size=8)
    path = tmp_path / "model"
    with pytest.raises(ValueError, match="^unusual cannot .*: TFLite has no built-in BesselI0, Er"):
        variants.write_tflite(model, preprocessing, path, "dynamic")
    with pytest.raises(
        ValueError, match="TFLite has no built-in BesselI0, Erf. Replace the layers"
    ):
        variants.write_tflite(model, preprocessing, path, "int8", noise(4, 8))
    pytest.importorskip("tf2onnx")
    with pytest.raises(ValueError, match="ONNX has no BesselI0. Replace the layers that use it"):
        variants.write_onnx(model, preprocessing, path)
    assert not path.exists()


def test_invalid_arguments_raise(plain, tmp_path):
    path = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match="quantization must be one of dynamic, int8, got 'int4'"):
        variants.write_tflite(*plain, path, "int4")
    with pytest.raises(ValueError, match="'int8' needs representative photos"):
        variants.write_tflite(*plain, path, "int8")
    with pytest.raises(ValueError, match="images are an option of quantization='int8' only"):
        variants.write_tflite(*plain, path, "dynamic", noise(4, 8))
    with pytest.raises(ValueError, match=r"must have the shape \(N, 8, 8, 3\), got \(4, 9"):
        variants.write_tflite(*plain, path, "int8", noise(4, 9))
    for predict_file in (variants.predict_tflite, variants.predict_onnx):
        with pytest.raises(FileNotFoundError, match="There is no model at .*model.tflite"):
            predict_file(path, noise(1, 8))
    variants.write_tflite(*plain, path, "dynamic")
    with pytest.raises(ValueError, match=r"have the shape \(N, 8, 8, 3\), got \(0, 8, 8, 3\)"):
        variants.predict_tflite(path, noise(0, 8))
    for normalized in (noise(1, 8) / 255, noise(1, 8) - 128.0, noise(1, 8) * np.nan):
        with pytest.raises(ValueError, match="whole numbers from 0 to 255, got float64 from"):
            variants.predict_tflite(path, normalized)
    whole = variants.predict_tflite(path, noise(1, 8).astype(np.float32))
    np.testing.assert_array_equal(whole, variants.predict_tflite(path, noise(1, 8)))


def test_missing_extra_raises(plain, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.touch()
    for module in ("tf2onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=f"{module}.*pip install 'noah-tf\\[onnx\\]'"):
            if module == "onnxruntime":
                variants.predict_onnx(path, noise(1, 8))
            else:
                pytest.importorskip("onnx")
                variants.write_onnx(*plain, path)


def test_agreement_is_printed_on_one_line():
    expected = np.zeros((50, 3))
    expected[:, 1] = 1.0
    logits = expected.copy()
    logits[7] = [0.2, 0.69, 0.7]
    result = agreement(expected, logits)
    assert (result.images, result.top1) == (50, 0.98)
    assert str(result) == "top-1 agrees on 98.0 % of 50 photos, largest logit difference 0.7"
    line = "top-1 agrees on 100.0 % of 1 photo, largest logit difference "
    assert str(Agreement(1, 1.0, 0.0)) == f"{line}0"
    assert str(Agreement(1, 1.0, 0.000123)) == f"{line}0.00012"
    assert str(Agreement(1, 1.0, 1234.5)) == f"{line}1234"


@given(hnp.arrays(np.float32, (6, 4), elements=st.floats(-100, 100, width=32)), st.data())
def test_agreement_counts_classes_and_measures_differences(expected, data):
    assert agreement(expected, expected) == Agreement(6, 1.0, 0.0)
    shift = data.draw(st.floats(0.125, 8))
    rows = data.draw(st.sets(st.integers(0, 5)))
    logits = expected.astype(np.float64)
    for row in rows:
        logits[row, (expected[row].argmax() + 1) % 4] = float(expected[row].max()) + shift
    result = agreement(expected, logits)
    assert result.top1 == pytest.approx(1 - len(rows) / 6)
    assert result.largest_difference >= (shift - 1e-6 if rows else 0)
    assert (result.largest_difference > 0) == bool(rows)


def test_agreement_of_incomparable_logits_raises():
    logits = np.ones((4, 3))
    for other in (np.ones((4, 2)), np.ones((3, 3)), np.ones(3)):
        with pytest.raises(ValueError, match=r"one shape \(B, M\), got \(4, 3\) and \("):
            agreement(logits, other)
    with pytest.raises(ValueError, match="one shape"):
        agreement(np.ones((0, 3)), np.ones((0, 3)))
    broken = logits.copy()
    broken[1, 2], broken[3] = np.nan, np.inf
    with pytest.raises(FloatingPointError, match="of 2 of 4 images are not finite"):
        agreement(logits, broken)
