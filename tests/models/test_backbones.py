"""Tests of the paper's architectures: initial weights, layers and gradients."""

import numpy as np
import pytest
import tensorflow as tf
from architectures import by_architecture
from stacks import slow_on_one_stack

import noah_tf
from noah_tf.models.backbones import layers

SLOW = pytest.mark.slow

# Expected standard deviations. A uniform distribution on ±b has the standard deviation b / sqrt(3).


def fan_out(kernel):
    """Returns the fan-out as PyTorch counts it: over all output channels."""
    rows, columns, _, filters = kernel.shape
    return rows * columns * filters


def kaiming(layer):
    kernel = layer.kernel
    return (2 / fan_out(kernel)) ** 0.5


def kaiming_depthwise(layer):
    rows, columns, channels, _ = depthwise_kernel(layer).shape
    return (2 / (rows * columns * channels)) ** 0.5


def depthwise_kernel(layer):
    return layer.weights[0]


def uniform(fan_in):
    return (1 / fan_in / 3) ** 0.5


def fan_in(kernel):
    return np.prod(kernel.shape[:-1])


def check_spread(values, std, mean=0.0):
    """Checks that mean and standard deviation are within five standard errors of the expected."""
    values = np.asarray(values).ravel()
    assert values.size > 50
    # The standard error of the deviation is std / sqrt(2n) or less.
    assert abs(values.std() - std) < 5 * std / np.sqrt(2 * values.size)
    assert abs(values.mean() - mean) < 5 * std / np.sqrt(values.size)


def check_head(model, std):
    head = model.get_layer("noah_head")
    check_spread(head.key_kernel, std)
    check_spread(head.value_kernel, std)
    assert not np.array_equal(
        *(k.numpy().ravel()[:50] for k in (head.key_kernel, head.value_kernel))
    )
    assert not head.key_bias.numpy().any()
    assert not head.value_bias.numpy().any()


def layers_of(model, kind):
    return [layer for layer in model.layers if type(layer) is kind]


def check_norms(model):
    for layer in model.layers:
        if isinstance(
            layer, (tf.keras.layers.BatchNormalization, tf.keras.layers.LayerNormalization)
        ):
            assert (layer.gamma.numpy() == 1).all(), layer.name
            assert (layer.beta.numpy() == 0).all(), layer.name


@pytest.fixture(scope="module")
def cached_model():
    """Returns a function that creates each model once for this module."""
    models = {}

    def make(name, **arguments):
        if name not in models:
            tf.keras.utils.set_random_seed(7)
            models[name] = noah_tf.create_model(name, **arguments)
        return models[name]

    return make


@pytest.mark.parametrize(
    "name",
    by_architecture(["resnet18", "resnet50", "mobilenetv2_050", "mobilenetv3_small"], SLOW),
)
def test_convolutional_networks_have_the_references_initial_weights(name, cached_model):
    model, noah = cached_model(name), cached_model(f"noah_{name}")
    for layer in layers_of(model, tf.keras.layers.Conv2D):
        check_spread(layer.kernel, kaiming(layer))
        if layer.use_bias:
            assert not layer.bias.numpy().any()
    for layer in layers_of(model, tf.keras.layers.DepthwiseConv2D):
        check_spread(depthwise_kernel(layer), kaiming_depthwise(layer))
    for layer in layers_of(model, tf.keras.layers.Dense):  # the head and the gates of MobileNetV3
        check_spread(layer.kernel, 0.01)
        assert layer.bias is None or not layer.bias.numpy().any()
    check_norms(model)
    head = noah.get_layer("noah_head")
    check_head(noah, (2 / (head.num_groups * head.num_classes)) ** 0.5)


@pytest.mark.slow
def test_shufflenet_has_the_references_initial_weights(cached_model):
    model, noah = cached_model("shufflenetv2_100"), cached_model("noah_shufflenetv2_100")
    for layer in layers_of(model, tf.keras.layers.Conv2D):
        check_spread(layer.kernel, uniform(fan_in(layer.kernel)))
    for layer in layers_of(model, tf.keras.layers.DepthwiseConv2D):
        kernel = depthwise_kernel(layer)
        check_spread(kernel, uniform(9))
        assert np.abs(kernel).max() <= 1 / 3  # A uniform distribution has no tail.
    dense = model.get_layer("gap_logits")
    check_spread(dense.kernel, uniform(1024))
    check_spread(dense.bias, uniform(1024))
    check_norms(model)
    check_head(noah, (2 / 8000) ** 0.5)


@pytest.mark.parametrize(
    "name", by_architecture(["deit_tiny_050_patch16_224", "pvt_tiny_050"], SLOW)
)
def test_transformers_have_the_references_initial_weights(name, cached_model):
    model, noah = cached_model(name), cached_model(f"noah_{name}")
    for layer in layers_of(model, tf.keras.layers.Dense):
        check_spread(layer.kernel, 0.02)
        assert not layer.bias.numpy().any()
    for layer in layers_of(model, tf.keras.layers.Conv2D):
        check_spread(layer.kernel, uniform(fan_in(layer.kernel)))
    biases = [
        x.bias.numpy() * fan_in(x.kernel) ** 0.5 for x in layers_of(model, tf.keras.layers.Conv2D)
    ]
    check_spread(np.concatenate(biases), 3**-0.5)
    for layer in layers_of(model, layers.PositionEmbedding):
        check_spread(layer.embedding, 0.02)
    (token,) = layers_of(model, layers.ClassToken)
    check_spread(token.token, 0.02)
    check_norms(model)
    check_head(noah, (2 / 4000) ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixer_s16_050_224", "gmlp_ti16_050_224"])
def test_mlps_have_the_references_initial_weights(name, cached_model):
    model, noah = cached_model(name), cached_model(f"noah_{name}")
    for layer in layers_of(model, tf.keras.layers.Dense):
        inputs, outputs = layer.kernel.shape
        if layer.name == "gap_logits":
            assert not layer.kernel.numpy().any()
            assert not layer.bias.numpy().any()
        elif layer.name.endswith("gate.proj"):
            check_spread(layer.kernel, 1e-6)
            assert (layer.bias.numpy() == 1).all()
        else:
            check_spread(layer.kernel, (2 / (inputs + outputs)) ** 0.5)
            check_spread(layer.bias, 1e-6)
    stem = model.get_layer("stem.proj")
    check_spread(stem.kernel, (1 / fan_in(stem.kernel)) ** 0.5)
    assert not stem.bias.numpy().any()
    check_norms(model)
    # LeCun's variance for the channels of one group: half of the channels are keys, in four groups.
    width = stem.kernel.shape[-1]
    check_head(noah, (1 / (width / 2 / 4)) ** 0.5)
    whole = noah_tf.create_model(f"noah_{name}", input_shape=(32, 32, 3), split_groups=False)
    check_head(whole, (1 / (width / 2)) ** 0.5)


# Each model with the smallest image size of its architecture, because float64 is slow on a CPU.
GRADIENTS = {
    "noah_resnet18": (64, ["conv1", "layer3.0.downsample.0", "layer4.1.bn2"]),
    "noah_mobilenetv2_035": (64, ["features.1.conv.0.0", "features.9.conv.2", "features.18.1"]),
    "noah_mobilenetv3_small": (
        64,
        ["features.1.conv.5.fc.2", "features.4.conv.3", "features.13"],
    ),
    "noah_shufflenetv2_100": (
        64,
        ["conv1.0", "stage2.0.branch1.0", "stage3.1.branch2.5"],
    ),
    "noah_deit_tiny_050_patch16_224": (
        48,
        ["pos_embed", "blocks.3.attn.qkv", "blocks.11.mlp.fc2"],
    ),
    "pvt_tiny_050": (64, ["cls_token", "block1.0.attn.sr", "block4.1.attn.kv", "head"]),
    "noah_mixer_s16_050_224": (48, ["stem.proj", "blocks.2.mlp_tokens.fc1", "norm"]),
    "noah_gmlp_ti16_050_224": (
        48,
        ["blocks.0.mlp_channels.gate.proj", "blocks.9.mlp_channels.fc1", "noah_head"],
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=slow_on_one_stack
            if name in ("noah_mobilenetv2_035", "noah_deit_tiny_050_patch16_224")
            else pytest.mark.exhaustive,
        )
        for name in GRADIENTS
    ],
)
def test_gradients_agree_with_finite_differences(name):
    size, layer_names = GRADIENTS[name]
    tf.keras.mixed_precision.set_global_policy("float64")
    tf.keras.utils.set_random_seed(3)
    # training=True includes the batch statistics in the gradient. Dropout would add noise.
    model = noah_tf.create_model(name, num_classes=5, input_shape=(size, size, 3), dropout=0.0)
    rng = np.random.default_rng(5)
    for weight in model.trainable_weights:  # moves the weights away from zeros and ones
        weight.assign_add(rng.normal(0, 0.05, weight.shape))
    images = tf.constant(rng.normal(size=(2, size, size, 3)))
    upstream = tf.constant(rng.normal(size=(2, 5)))

    @tf.function
    def loss():
        return tf.reduce_sum(model(images, training=True) * upstream)

    kernels = [model.get_layer(layer_name).trainable_weights[0] for layer_name in layer_names]
    with tf.GradientTape() as tape:
        value = loss()
    gradients = tape.gradient(value, kernels)
    assert value.dtype == tf.float64
    for layer_name, kernel, gradient in zip(layer_names, kernels, gradients, strict=True):
        gradient = gradient.numpy()
        # Checks the largest element and a random one.
        for index in (np.argmax(np.abs(gradient)), rng.integers(gradient.size)):
            position = np.unravel_index(index, gradient.shape)
            expected = finite_difference(loss, kernel, position)
            tolerance = 1e-6 * np.abs(gradient).max()
            assert gradient[position] == pytest.approx(expected, rel=1e-4, abs=tolerance), (
                layer_name
            )


def finite_difference(loss, variable, position, step=1e-7):
    """Returns the central difference of the loss with respect to one element of a variable."""
    start = variable.numpy()
    values = []
    for sign in (1, -1):
        shifted = start.copy()
        shifted[position] += sign * step
        variable.assign(shifted)
        values.append(loss().numpy())
    variable.assign(start)
    return (values[0] - values[1]) / (2 * step)


def test_channel_shuffle_interleaves_the_groups():
    x = tf.reshape(tf.range(6.0), (1, 1, 1, 6)) * tf.ones((2, 3, 5, 1))
    shuffled = layers.ChannelShuffle(2)(x)
    assert shuffled.shape == x.shape
    assert (shuffled.numpy() == [0, 3, 1, 4, 2, 5]).all()


def test_channel_split_returns_consecutive_parts():
    first, second = layers.ChannelSplit((1, 3))(tf.reshape(tf.range(4.0), (1, 1, 4)))
    assert first.numpy().tolist() == [[[0]]]
    assert second.numpy().tolist() == [[[1, 2, 3]]]


def test_class_token_is_the_first_token():
    layer = layers.ClassToken()
    x = tf.random.normal((2, 4, 3))
    tokens = layer(x)
    np.testing.assert_array_equal(tokens[:, 1:], x)
    np.testing.assert_array_equal(tokens[:, 0], np.repeat(layer.token.numpy()[0], 2, 0))


@pytest.mark.parametrize("heads", [1, 3])
def test_attention_equals_its_equation(heads):
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2, 5, 12)).astype("float32")
    key_value = rng.normal(size=(2, 7, 24)).astype("float32")
    size = 12 // heads
    expected = np.zeros_like(query)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        q, k, v = query[..., part], key_value[..., :12][..., part], key_value[..., 12:][..., part]
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(size)
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        expected[..., part] = weights @ v
    mixed = layers.DotProductAttention(heads)([query, key_value])
    np.testing.assert_allclose(mixed, expected, atol=1e-5)


def test_attention_under_float16_takes_its_softmax_in_float32():
    layer = layers.DotProductAttention(1, dtype="mixed_float16")
    # In float16 the sum of this many equal exponentials would stop growing at 2,048.
    query = tf.zeros((1, 1, 2))
    key_value = tf.concat([tf.zeros((1, 9000, 2)), tf.ones((1, 9000, 2))], -1)
    mixed = layer([query, key_value])
    assert mixed.dtype == tf.float16
    np.testing.assert_allclose(tf.cast(mixed, tf.float32), tf.ones((1, 1, 2)), rtol=0.1)


def test_hard_swish_and_sigmoid():
    x = tf.constant([-4.0, -3.0, 0.0, 1.0, 3.0, 5.0])
    np.testing.assert_allclose(layers.hard_sigmoid(x), [0, 0, 0.5, 2 / 3, 1, 1], atol=1e-6)
    np.testing.assert_allclose(layers.hard_swish(x), [0, 0, 0, 2 / 3, 3, 5], atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.ClassToken(name="a"),
        lambda: layers.PositionEmbedding((2, 3), 1, name="b"),
        lambda: layers.DotProductAttention(3, name="c"),
        lambda: layers.ChannelSplit((1, 2), name="d"),
        lambda: layers.ChannelShuffle(4, name="e"),
    ],
)
def test_from_config_creates_an_equal_layer(make):
    layer = make()
    config = layer.get_config()
    copy = type(layer).from_config(config)
    assert copy.get_config() == config
    assert copy.name == layer.name


def test_drop_path_rates_increase_linearly():
    assert layers.drop_path_rates(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert layers.drop_path_rates(0.3, 1) == [0]
