"""NOAHHead as a Keras layer: golden numbers, arguments, precision, saving, training, export."""

import itertools

import head_helpers
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_data import shared_folder
from stacks import slow_on_one_stack

from benchmarks import head_parity
from noah_tf.head import poca
from noah_tf.head.layer import NOAHHead
from noah_tf.utils.keras_compat import IS_KERAS_3

WEIGHTS = ["key_kernel", "key_bias", "value_kernel", "value_bias"]
GOLDENS = shared_folder() / "goldens" / "heads"
MANIFEST = head_parity.read_manifest(GOLDENS)


@pytest.fixture(autouse=True)
def seeded():
    tf.keras.utils.set_random_seed(0)


def features_of(*shape, scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def weights_of(head):
    return [np.asarray(getattr(head, name)) for name in WEIGHTS]


def randomize(head, seed=0):
    """Sets all weights to random values, including the biases."""
    rng = np.random.default_rng(seed)
    head.set_weights([rng.normal(size=w.shape) for w in head.get_weights()])
    return head


def built(*args, shape=(None, 4, 4, 16), **kwargs):
    head = NOAHHead(*args, **kwargs)
    head.build(shape)
    return randomize(head)


# Golden numbers


def golden_params(kind, name):
    """Returns a parameter for each golden entry, or a skipped one if the data is missing."""
    reason = f"no golden heads at {GOLDENS} (set NOAH_TF_SHARED)"
    missing = [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="missing")]
    return [pytest.param(entry, id=name(entry)) for entry in MANIFEST[kind]] or missing


@pytest.mark.parametrize("case", golden_params("cases", lambda case: case["file"][:-4]))
@pytest.mark.parametrize("implementation", ["direct", "blocked"])
def test_golden_logits_gradients_and_attention(case, implementation):
    errors = head_parity.measure(GOLDENS, case, implementation=implementation)
    expected = {"logits", "d_x", *(f"d_{name}" for name in head_parity.WEIGHTS)}
    expected |= {"attention"} if "attention" in case["arrays"] else set()
    expected |= {"logits_eval"} if case["dropout"] else set()
    assert set(errors) == expected
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.parametrize("configuration", golden_params("rejected_configurations", str))
def test_configurations_that_the_reference_rejects_raise(configuration):
    head = head_parity.make_head(configuration)
    with pytest.raises(ValueError, match=f"C={configuration['inplanes']}"):
        head(tf.ones((1, 2, 2, configuration["inplanes"])))


# Shapes


@settings(max_examples=25, deadline=None)
@given(
    groups=st.integers(1, 3),
    keys=st.integers(1, 3),
    values=st.integers(1, 3),
    classes=st.integers(1, 4),
    size=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    switches=st.tuples(st.booleans(), st.booleans()),
)
def test_all_shapes_options_and_ranks_equal_the_reference(
    groups, keys, values, classes, size, switches
):
    channels = groups * (keys + values)
    ratio = (groups * keys + 0.5) / channels
    head = NOAHHead(classes, groups, ratio, split_groups=switches[0], split_key_value=switches[1])
    features = features_of(*size, channels)
    head.build(features.shape)
    randomize(head)
    flat = features.reshape(size[0], -1, channels)
    expected, attention = head_helpers.reference(flat, weights_of(head), ratio, switches[1])
    # A logit near zero is a sum of terms that are not.
    tolerance = 1e-6 + 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(head(features), expected, atol=tolerance)
    np.testing.assert_array_equal(head(flat), head(features))
    maps = head.attention(features, per_group=True)
    np.testing.assert_allclose(maps, attention.reshape(maps.shape), atol=1e-6)


@pytest.mark.parametrize(("split_groups", "blocks"), [(True, 4), (False, 1)])
@pytest.mark.parametrize("split_key_value", [True, False])
def test_weight_names_shapes_and_order(split_groups, blocks, split_key_value):
    head = NOAHHead(
        10, 4, 0.25, 0.5, split_groups=split_groups, split_key_value=split_key_value, seed=1
    )
    head(features_of(2, 3, 3, 32))
    key, value = (8, 24) if split_key_value else (32, 32)
    shapes = {
        "key_kernel": (blocks, key // blocks, 40 // blocks),
        "key_bias": (4, 10),
        "value_kernel": (blocks, value // blocks, 40 // blocks),
        "value_bias": (4, 10),
    }
    assert len(head.weights) == len(head.trainable_weights) == 4
    for weight, (name, shape) in zip(head.weights, shapes.items(), strict=True):
        assert weight is getattr(head, name)
        assert weight.name.split("/")[-1].split(":")[0] == name
        assert tuple(weight.shape) == shape


def test_number_of_parameters():
    head = built(1000, 4, shape=(None, 7, 7, 512))
    assert head.count_params() == 512 * 1000 + 1000 + (2 * 4 - 1) * 1000


@pytest.mark.parametrize("spec", [(None, None, None, 16), (None, None, 16)])
def test_unknown_sizes_in_a_tf_function(spec):
    head = built(5)
    call = tf.function(head, input_signature=[tf.TensorSpec(spec)])
    attention = tf.function(head.attention, input_signature=[tf.TensorSpec(spec)])
    for size in (1, 3):
        features = features_of(size, *(size + n for n in range(len(spec) - 2)), 16)
        np.testing.assert_allclose(call(features), head(features), rtol=1e-5, atol=1e-5)
        maps = attention(features)
        np.testing.assert_allclose(maps, head.attention(features), atol=1e-6)
    assert len(call._list_all_concrete_functions_for_serialization()) == 1


@pytest.mark.parametrize("shape", [(None, None, 16), (None, 16), (4, 4, 16), (16, 16)])
def test_functional_models_with_known_and_unknown_sizes(shape):
    head = built(5)
    inputs = tf.keras.Input(shape)
    outputs = head(inputs)
    assert tuple(outputs.shape) == (None, 5)
    features = features_of(3, *(size or 5 for size in shape))
    model = tf.keras.Model(inputs, outputs)
    np.testing.assert_allclose(model(features), head(features), rtol=1e-5, atol=1e-5)
    assert model.predict(features, batch_size=2, verbose=0).shape == (3, 5)


def test_empty_batch():
    head = built(5)
    assert head(tf.zeros((0, 4, 4, 16))).shape == (0, 5)
    assert head.attention(tf.zeros((0, 4, 4, 16))).shape == (0, 4, 4, 5)


def test_inside_time_distributed_and_vectorized_map():
    head, clips = built(5), features_of(2, 3, 4, 4, 16)
    frames = np.stack([head(clips[:, t]) for t in range(3)], axis=1)
    np.testing.assert_allclose(tf.keras.layers.TimeDistributed(head)(clips), frames, atol=1e-5)
    np.testing.assert_allclose(tf.vectorized_map(head, clips), frames, atol=1e-5)


def test_lists_and_numpy_arrays_as_features():
    head, features = built(3, 2, shape=(None, 4, 8)), features_of(2, 4, 8)
    np.testing.assert_array_equal(head(features.astype(np.float64)), head(features))
    np.testing.assert_array_equal(head.attention(features.tolist()), head.attention(features))


# Precision


@pytest.mark.parametrize(
    ("policy", "dtype", "tolerance"),
    [
        ("float32", "float32", 1e-6),
        ("float64", "float64", 1e-14),
        ("mixed_bfloat16", "float32", 3e-2),
        ("mixed_float16", "float32", 4e-3),
    ],
)
@pytest.mark.parametrize("rank", [3, 4])
def test_logits_under_every_policy(policy, dtype, tolerance, rank):
    features = features_of(2, 2, 3, 8) if rank == 4 else features_of(2, 6, 8)
    head = NOAHHead(3, 2, dtype=policy)
    logits = head(tf.keras.Input(features.shape[1:]))
    assert tf.as_dtype(logits.dtype).name == dtype
    randomize(head)
    expected, _ = head_helpers.reference(features.reshape(2, 6, 8), weights_of(head))
    if policy == "float64":
        features = features.astype(np.float64)
    actual = head(features)
    assert actual.dtype.name == dtype
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()
    maps = head.attention(features)
    assert maps.dtype.name == dtype
    np.testing.assert_allclose(tf.reduce_sum(maps, axis=list(range(1, rank - 1))), 1, rtol=1e-5)
    assert all(tf.as_dtype(w.dtype).name == dtype for w in head.weights)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_sums_and_biases_are_not_rounded_to_the_compute_dtype(policy):
    head = NOAHHead(1, 1, dtype=policy)
    head(features_of(1, 2, 2))
    # 1 + 2**-12 and 2**17 cannot be represented in float16.
    for bias in (1 + 2**-12, 2.0**17):
        zeros = [np.zeros_like(w) for w in head.get_weights()[:3]]
        head.set_weights([*zeros, np.array([[bias]])])
        for training in (False, True):
            assert head(features_of(1, 2, 2), training=training).numpy().item() == bias


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_keys_whose_exponential_overflows_float16(policy):
    head = NOAHHead(2, 2, dtype=policy)
    features = tf.constant(features_of(2, 4, 4, scale=100.0))
    head.build(features.shape)
    randomize(head)
    with tf.GradientTape() as tape:
        tape.watch(features)
        logits = head(features)
    assert np.isfinite(logits).all()
    assert np.isfinite(tape.gradient(logits, features)).all()


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_training_step_under_every_policy_changes_all_weights_but_the_key_bias(policy):
    model = tf.keras.Sequential(
        [tf.keras.Input((2, 2, 8)), NOAHHead(3, 2, dropout=0.1, dtype=policy)]
    )
    before = weights_of(model.layers[-1])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    model.fit(features_of(4, 2, 2, 8), np.array([0, 1, 2, 0]), epochs=3, verbose=0)
    moved = [(a != b).any() for a, b in zip(before, weights_of(model.layers[-1]), strict=True)]
    assert moved == [True, False, True, True]


# Initial weights, regularizers, constraints


@pytest.mark.parametrize("split_groups", [True, False])
def test_default_kernels_have_the_standard_deviation_of_the_reference(split_groups):
    groups, classes = 4, 64
    head = NOAHHead(classes, groups, split_groups=split_groups)
    head.build((None, 2, 2, 512))
    for kernel in (head.key_kernel, head.value_kernel):
        kernel = np.asarray(kernel)
        std = np.sqrt(2 / (groups * classes))
        assert kernel.std() == pytest.approx(std, rel=0.03)
        assert kernel.mean() == pytest.approx(0, abs=0.03 * std)
        assert np.abs(kernel).max() > 3 * std  # The normal distribution is not truncated.
        if split_groups:
            assert (kernel[0] != kernel[1]).all()
    np.testing.assert_array_equal(head.key_bias, 0)
    np.testing.assert_array_equal(head.value_bias, 0)


def initializers():
    """Returns parameters with functions that make initializers, which may have a state."""
    make = {
        "default": lambda: None,
        "by name": lambda: "glorot_uniform",
        "unseeded": lambda: tf.keras.initializers.RandomNormal(),
        "seeded": lambda: tf.keras.initializers.RandomNormal(seed=5),
        "seed 0": lambda: tf.keras.initializers.TruncatedNormal(seed=0),
        "numpy seed": lambda: tf.keras.initializers.HeUniform(seed=int(np.int64(7))),
        "orthogonal": lambda: tf.keras.initializers.Orthogonal(seed=5),
        "function": lambda: lambda shape, dtype=None: tf.random.normal(shape, dtype=dtype),
    }
    if IS_KERAS_3:
        stream = tf.keras.random.SeedGenerator
        make["stream"] = lambda: tf.keras.initializers.RandomNormal(seed=stream(5))
    return [pytest.param(function, id=name) for name, function in make.items()]


@pytest.mark.parametrize("make", initializers())
def test_key_and_value_weights_of_one_shape_start_with_different_values(make):
    head = NOAHHead(3, 2, kernel_initializer=make(), bias_initializer=make() or "zeros")
    head.build((None, 2, 2, 8))
    assert np.mean(np.asarray(head.key_kernel) == np.asarray(head.value_kernel)) < 0.1
    if make() is not None:
        assert np.mean(np.asarray(head.key_bias) == np.asarray(head.value_bias)) < 0.5


def test_initializers_without_a_seed():
    class Ramp(tf.keras.initializers.Initializer):
        def __init__(self, step):
            self.step = step

        def __call__(self, shape, dtype=None, **kwargs):
            return tf.reshape(tf.range(np.prod(shape), dtype=tf.float32) * self.step, shape)

    constant = tf.keras.initializers.Constant(2.0)
    head = NOAHHead(3, 2, kernel_initializer=Ramp(0.5), bias_initializer=constant)
    head.build((None, 2, 2, 8))
    np.testing.assert_array_equal(np.ravel(head.value_kernel), np.arange(12) * 0.5)
    np.testing.assert_array_equal(head.value_bias, 2)


@pytest.mark.parametrize("initializer", [None, "he_normal"])
def test_set_random_seed_reproduces_weights_and_dropout(initializer):
    def make():
        tf.keras.utils.set_random_seed(11)
        head = NOAHHead(3, 2, dropout=0.5, kernel_initializer=initializer)
        logits = head(features_of(2, 4, 8), training=True)
        return [*weights_of(head), logits]

    for first, second in zip(make(), make(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_initializer_with_a_seed_reproduces_the_weights():
    def make():
        initializer = tf.keras.initializers.RandomNormal(seed=5)
        head = NOAHHead(3, 2, kernel_initializer=initializer)
        head.build((None, 4, 8))
        return weights_of(head)

    for first, second in zip(make(), make(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_regularizers_add_their_losses():
    head = built(3, 2, kernel_regularizer=tf.keras.regularizers.L2(0.1), bias_regularizer="l1")
    head(features_of(2, 2, 2, 16))
    key_kernel, key_bias, value_kernel, value_bias = weights_of(head)
    expected = 0.1 * (key_kernel**2).sum() + 0.1 * (value_kernel**2).sum()
    expected += 0.01 * (np.abs(key_bias).sum() + np.abs(value_bias).sum())
    assert len(head.losses) == 4
    assert float(sum(head.losses)) == pytest.approx(expected, rel=1e-5)


def test_constraints_hold_after_a_training_step():
    head = NOAHHead(
        3,
        2,
        kernel_constraint="non_neg",
        bias_constraint=tf.keras.constraints.MaxNorm(0.01, axis=None),
        bias_initializer="ones",
    )
    model = tf.keras.Sequential([tf.keras.Input((4, 8)), head])
    model.compile("sgd", "mse")
    model.fit(features_of(4, 4, 8), np.ones((4, 3)), verbose=0)
    key_kernel, _, value_kernel, value_bias = weights_of(head)
    assert (key_kernel >= 0).all()
    assert (value_kernel >= 0).all()
    assert (value_kernel == 0).any()
    assert np.linalg.norm(value_bias) == pytest.approx(0.01, rel=1e-3)


def test_frozen_head_has_no_trainable_weights():
    head = built(3, 2, shape=(None, 4, 8), trainable=False)
    assert (len(head.trainable_weights), len(head.non_trainable_weights)) == (0, 4)


# Config, files, models


@tf.keras.utils.register_keras_serializable("noah_tf_tests")
def doubled(logits):
    return 2 * logits


@tf.keras.utils.register_keras_serializable("noah_tf_tests")
class Classifier(tf.keras.Model):
    """A subclassed model with a head."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convolution = tf.keras.layers.Conv2D(16, 3)
        self.head = NOAHHead(3, dropout=0.1, seed=1)

    def call(self, images, training=None):
        return self.head(self.convolution(images), training=training)


def sequential():
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [tf.keras.Input((6, 6, 3)), layers.Conv2D(16, 3), NOAHHead(3, dropout=0.1, seed=1)]
    )


def functional():
    inputs = tf.keras.Input((None, None, 3))
    features = tf.keras.layers.Conv2D(16, 3)(inputs)
    return tf.keras.Model(inputs, NOAHHead(3, dropout=0.1, seed=1)(features))


MODELS = pytest.mark.parametrize(
    "make",
    [
        sequential,
        pytest.param(functional, marks=pytest.mark.slow),
        pytest.param(Classifier, marks=pytest.mark.slow),
    ],
)


def images(count=4):
    return features_of(count, 6, 6, 3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_groups": 2, "key_ratio": 0.25, "dropout": 0.3, "seed": 4, "name": "mine"},
        {"split_groups": False, "split_key_value": False, "activation": "softmax"},
        {
            "activation": doubled,
            "implementation": "blocked",
            "memory_budget": 8.5,
            "trainable": False,
        },
        {
            "kernel_initializer": "he_normal",
            "bias_initializer": tf.keras.initializers.Constant(0.5),
            "kernel_regularizer": tf.keras.regularizers.L2(0.1),
            "bias_regularizer": "l1",
            "kernel_constraint": tf.keras.constraints.MaxNorm(2.0),
            "bias_constraint": "non_neg",
            "dtype": "mixed_bfloat16",
        },
    ],
)
def test_config_round_trip(options):
    head = NOAHHead(7, **options)
    config = head.get_config()
    copy = NOAHHead.from_config(config)
    assert copy.get_config() == config
    assert config["num_classes"] == 7
    for name, value in options.items():
        if isinstance(value, (bool, int, float)) or name == "name":
            assert config[name] == value
    for layer in (head, copy):
        layer.build((None, 2, 2, 8))
        randomize(layer)
    features = features_of(2, 2, 2, 8)
    np.testing.assert_array_equal(head(features), copy(features))
    assert copy.compute_dtype == head.compute_dtype


def test_config_is_plain_data_after_a_round_trip_through_json():
    model = tf.keras.Sequential(
        [
            tf.keras.Input((4, 8)),
            NOAHHead(np.int64(3), np.int32(2), np.float32(0.5), seed=np.int64(1)),
        ]
    )
    copy = tf.keras.models.model_from_json(model.to_json())
    assert copy.layers[-1].get_config() == model.layers[-1].get_config()


@MODELS
def test_fit_then_save_and_load_gives_the_same_predictions(make, tmp_path):
    model = make()
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    history = model.fit(images(), np.array([0, 1, 2, 0]), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    expected = model.predict(images(), verbose=0)

    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(loaded.predict(images(), verbose=0), expected)

    model.save_weights(tmp_path / "model.weights.h5")
    fresh = make()
    fresh(images())
    assert (fresh.predict(images(), verbose=0) != expected).any()
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(fresh.predict(images(), verbose=0), expected)


@pytest.mark.parametrize("make", [sequential, functional])
def test_clone_model_copies_the_architecture(make):
    model = make()
    clone = tf.keras.models.clone_model(model)
    assert clone.layers[-1] is not model.layers[-1]
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(images()), model(images()))


def test_saved_file_loads_after_importing_only_noah_tf(tmp_path):
    model = functional()
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images())
    code = f"""
import noah_tf, numpy, tensorflow as tf
model = tf.keras.models.load_model({str(tmp_path / "model.keras")!r})
logits = model(numpy.load({str(tmp_path / "images.npy")!r}))
numpy.save({str(tmp_path / "logits.npy")!r}, logits)
"""
    process = head_helpers.run_python(code)
    assert process.returncode == 0, process.stderr[-2000:]
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), model(images()), atol=1e-6)


def test_one_head_shared_by_two_inputs():
    head = NOAHHead(3, 2)
    left, right = tf.keras.Input((4, 4, 8)), tf.keras.Input((None, 8))
    model = tf.keras.Model([left, right], [head(left), head(right)])
    first, second = model([features_of(2, 4, 4, 8), features_of(2, 16, 8)])
    np.testing.assert_allclose(first, head(features_of(2, 4, 4, 8)), atol=1e-6)
    np.testing.assert_allclose(second, head(features_of(2, 16, 8)), atol=1e-6)
    assert len(model.weights) == 4


def test_activation_is_applied_to_the_logits():
    head, features = built(3), features_of(2, 4, 4, 16)
    probabilities = built(3, activation="softmax")(features)
    np.testing.assert_allclose(probabilities, tf.nn.softmax(head(features)), atol=1e-6)
    np.testing.assert_array_equal(built(3, activation=doubled)(features), 2 * head(features))


# Compilation, distribution, export


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(
    "spec", [pytest.param((2, 4, 4, 16), marks=pytest.mark.slow), (None, None, None, 16)]
)
def test_jit_compiled_tf_function(dropout, spec):
    head, features = built(5, dropout=dropout), features_of(2, 4, 4, 16)
    compiled = tf.function(head, jit_compile=True, input_signature=[tf.TensorSpec(spec)])
    np.testing.assert_allclose(compiled(features), head(features), rtol=1e-4, atol=1e-5)

    @tf.function(jit_compile=True)
    def gradient(features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            logits = head(features, training=True)
        return logits, tape.gradient(logits, features)

    first, second = gradient(features)[0], gradient(features)[0]
    assert np.isfinite(gradient(features)[1]).all()
    assert (np.abs(first - second).max() > 0) == bool(dropout)


@pytest.mark.slow
def test_keras_compile_with_jit():
    model = sequential()
    model.compile("sgd", "mse", jit_compile=True)
    before = weights_of(model.layers[-1])
    model.fit(images(), np.ones((4, 3)), epochs=2, verbose=0)
    assert (weights_of(model.layers[-1])[2] != before[2]).any()
    assert np.isfinite(model.predict(images(), verbose=0)).all()


MIRRORED = """
import sys
import numpy as np, tensorflow as tf
cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from noah_tf.head.layer import NOAHHead
from noah_tf.utils.keras_compat import IS_KERAS_3

implementation, memory_budget = sys.argv[1], float(sys.argv[2])

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
features = np.random.default_rng(0).normal(size=(4, 4, 8)).astype("float32")
targets = np.ones((4, 3), "float32")
initializer = tf.keras.initializers.RandomNormal(seed=1)

def make(dropout):
    head = NOAHHead(
        3, 2, dropout=dropout, kernel_initializer=initializer, seed=2,
        implementation=implementation, memory_budget=memory_budget,
    )
    model = tf.keras.Sequential([tf.keras.Input((4, 8)), head])
    model.compile(tf.keras.optimizers.SGD(0.1), "mse")
    return model

def fit(model):
    model.fit(features, targets, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()

alone = fit(make(0.0))
with strategy.scope():
    model, dropping = make(0.0), make(0.5)
for a, b in zip(alone, fit(model), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
assert all(np.isfinite(w).all() for w in fit(dropping))

head = dropping.layers[-1]

@tf.function
def step(features):
    return strategy.run(lambda x: head(x, training=True), args=(features,))

ones = tf.ones((4, 4, 8))
first, second = strategy.experimental_local_results(step(ones))
third, _ = strategy.experimental_local_results(step(ones))
assert (first.numpy() != third.numpy()).any(), "two steps have the same mask"
assert (first.numpy() != second.numpy()).any(), "two replicas have the same mask"
assert strategy.num_replicas_in_sync == 2
with strategy.scope():
    assert np.isfinite(head(ones, training=True)).all()
print("done")
"""


@pytest.mark.parametrize(
    ("implementation", "memory_budget"),
    # Everything is kept within 256 MiB, and recomputed within a few bytes.
    [
        pytest.param("direct", 256, marks=slow_on_one_stack),
        pytest.param("blocked", 256, marks=slow_on_one_stack),
        pytest.param("blocked", 1e-5, marks=pytest.mark.slow),
    ],
)
def test_mirrored_strategy_equals_one_device(implementation, memory_budget):
    process = head_helpers.run_python(MIRRORED, implementation, str(memory_budget))
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout.endswith("done\n")


@pytest.mark.parametrize("shape", [(5, 4, 16), (20, 16)])
@pytest.mark.parametrize("split_groups", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "implementation", [pytest.param("auto", marks=pytest.mark.slow), "blocked"]
)
def test_tflite_with_built_in_ops_only(shape, split_groups, implementation):
    head = NOAHHead(3, 2, split_groups=split_groups, dropout=0.1, implementation=implementation)
    model = tf.keras.Sequential([tf.keras.Input(shape), head])
    randomize(head)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    operations = {op["op_name"] for op in interpreter._get_ops_details()}
    assert not {name for name in operations if name.startswith("Flex") or name == "CUSTOM"}
    features = features_of(3, *shape)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(source["index"], features.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], features)
    interpreter.invoke()
    logits = interpreter.get_tensor(target["index"])
    np.testing.assert_allclose(logits, model(features), rtol=1e-4, atol=1e-4)


def test_savedmodel_serves_the_same_logits_for_any_size(tmp_path):
    model = functional()
    model.export(tmp_path / "export")
    served = tf.saved_model.load(tmp_path / "export")
    for shape in [(1, 6, 6, 3), (3, 5, 8, 3)]:
        inputs = features_of(*shape)
        np.testing.assert_allclose(served.serve(inputs), model(inputs), atol=1e-5)


def test_exported_module_serves_attention(tmp_path):
    class Explainer(tf.Module):
        def __init__(self, head):
            super().__init__()
            self.variables_of_head = [
                getattr(w, "value", w) if IS_KERAS_3 else w for w in head.weights
            ]
            self.head = head

        @tf.function(
            input_signature=[
                tf.TensorSpec((None, None, None, 16)),
                tf.TensorSpec((None,), tf.int32),
            ]
        )
        def __call__(self, features, classes):
            return self.head.attention(features, classes)

    head, features = built(5), features_of(2, 3, 4, 16)
    tf.saved_model.save(Explainer(head), str(tmp_path))
    served = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(
        served(features, [4, 0]), head.attention(features, [4, 0]), atol=1e-6
    )


# Dropout


def test_dropout_is_off_at_inference():
    head, plain = built(5, dropout=0.9), built(5)
    features = features_of(2, 4, 4, 16)
    for options in ({}, {"training": False}, {"training": None}):
        np.testing.assert_array_equal(head(features, **options), plain(features))
    assert (head(features, training=True) != plain(features)).numpy().any()


def test_dropout_is_on_in_fit_and_off_in_predict(monkeypatch):
    rates = []

    def record(shape, rate, seed, first):
        del seed, first
        rates.append(rate)
        return tf.ones(shape, tf.bool)

    monkeypatch.setattr(poca, "dropout_mask", record)
    model = tf.keras.Sequential([tf.keras.Input((4, 8)), NOAHHead(3, 2, dropout=0.25)])
    model.compile("sgd", "mse", run_eagerly=True)
    model.predict(features_of(2, 4, 8), verbose=0)
    model.evaluate(features_of(2, 4, 8), np.ones((2, 3)), verbose=0)
    assert rates == []
    model.fit(features_of(2, 4, 8), np.ones((2, 3)), verbose=0)
    assert rates == [0.25, 0.25]


@pytest.mark.parametrize("compiled", [False, True])
def test_masks_differ_between_calls_and_depend_on_the_seed(compiled):
    features = features_of(2, 4, 4, 16)

    def masked_logits(**options):
        head = built(5, dropout=0.5, **options)

        def call(features):
            return head(features, training=True)

        call = tf.function(call) if compiled else call
        return [call(features).numpy() for _ in range(3)]

    first, again, other = masked_logits(seed=1), masked_logits(seed=1), masked_logits(seed=2)
    np.testing.assert_array_equal(first, again)
    for a, b in itertools.combinations([*first, *other, *masked_logits(), *masked_logits()], 2):
        assert (a != b).any()


def test_logits_with_dropout_are_unbiased():
    head = built(3, 2, shape=(None, 4, 8), dropout=0.3, seed=1)
    features = np.repeat(features_of(1, 4, 8), 20000, axis=0)
    mean = head(features, training=True).numpy().mean(axis=0)
    np.testing.assert_allclose(mean, head(features[:1])[0], atol=0.1)


@pytest.mark.parametrize("seed", [None, 3])
def test_checkpoint_restores_the_stream_of_masks(seed, tmp_path):
    features = features_of(2, 4, 4, 16)

    def make():
        return tf.keras.Sequential(
            [tf.keras.Input((4, 4, 16)), NOAHHead(5, dropout=0.5, seed=seed)]
        )

    model = make()
    for _ in range(3):
        model(features, training=True)
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
    expected = [model(features, training=True).numpy() for _ in range(2)]

    resumed = make()
    tf.train.Checkpoint(model=resumed).restore(path).assert_existing_objects_matched()
    for logits in expected:
        np.testing.assert_array_equal(resumed(features, training=True), logits)


# Attention


@pytest.mark.parametrize(
    ("shape", "classes", "per_group", "expected"),
    [
        ((2, 3, 4, 16), None, False, (2, 3, 4, 5)),
        ((2, 3, 4, 16), [1], False, (2, 3, 4, 1)),
        ((2, 3, 4, 16), None, True, (2, 3, 4, 4, 5)),
        ((2, 3, 4, 16), [1, 4], True, (2, 3, 4, 4, 2)),
        ((2, 6, 16), None, False, (2, 6, 5)),
        ((2, 6, 16), [0, 2, 2], False, (2, 6, 3)),
        ((2, 6, 16), [3], True, (2, 6, 4, 1)),
    ],
)
@pytest.mark.parametrize("split_groups", [True, False])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_attention_shapes_sums_and_slices(
    shape, classes, per_group, expected, split_groups, policy
):
    head, features = built(5, split_groups=split_groups, dtype=policy), features_of(*shape)
    maps = head.attention(features, classes, per_group)
    assert maps.shape == expected
    assert maps.dtype == tf.float32
    positions = tuple(range(1, len(shape) - 1))
    np.testing.assert_allclose(np.sum(maps, axis=positions), 1, rtol=1e-5)

    every = head.attention(features, per_group=True).numpy()
    chosen = every if classes is None else every[..., classes]
    np.testing.assert_allclose(maps, chosen if per_group else chosen.mean(axis=-2), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 4, 16), (2, 6, 16)])
@pytest.mark.parametrize("split_groups", [True, False])
@pytest.mark.parametrize("split_key_value", [True, False])
@pytest.mark.parametrize("policy", ["float32", "float64", "mixed_bfloat16", "mixed_float16"])
def test_contributions_sum_to_the_logits(shape, split_groups, split_key_value, policy):
    options = {"split_groups": split_groups, "split_key_value": split_key_value}
    head = built(5, **options, activation="tanh", dropout=0.5, dtype=policy)
    features = features_of(*shape)
    positions = tuple(range(1, len(shape) - 1))
    maps = head.contributions(features)
    assert maps.shape == (*shape[:-1], 5)
    assert maps.dtype == ("float64" if policy == "float64" else "float32")
    head.activation = tf.keras.activations.get(None)
    logits = head(tf.cast(features, head.compute_dtype)).numpy()
    np.testing.assert_allclose(np.sum(maps, axis=positions), logits, atol=1e-5)

    groups = head.contributions(features, per_group=True)
    assert groups.shape == (*shape[:-1], 4, 5)
    np.testing.assert_allclose(np.sum(groups, axis=-2), maps, atol=1e-5)
    some = head.contributions(features, [4, 1, 4])
    # On CPU, TensorFlow 2.15 rounds float16 products differently if there are fewer columns.
    rounding = 3e-2 if policy == "mixed_float16" else 1e-5
    np.testing.assert_allclose(np.sum(some, axis=positions), logits[:, [4, 1, 4]], atol=rounding)


def test_contributions_inside_tf_function_and_invalid_classes():
    head, features = built(5), features_of(2, 3, 4, 16)
    traced = tf.function(head.contributions)
    expected = head.contributions(features, [4, 1])
    np.testing.assert_allclose(traced(features, tf.constant([4, 1])), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"classes must lie in \[0, 5\), got \[5\]"):
        head.contributions(features, [5])
    with pytest.raises(ValueError, match="no weights yet"):
        NOAHHead(5).contributions(features)


def test_attention_inside_tf_function_tf_data_and_as_tensor_classes():
    head, features = built(5), features_of(2, 3, 4, 16)
    expected = head.attention(features, [4, 1])
    traced = tf.function(head.attention)
    np.testing.assert_allclose(traced(features, [4, 1]), expected, atol=1e-6)
    np.testing.assert_allclose(traced(features, tf.constant([4, 1])), expected, atol=1e-6)
    dataset = tf.data.Dataset.from_tensors(features).map(lambda x: head.attention(x, [4, 1]))
    np.testing.assert_allclose(next(iter(dataset)), expected, atol=1e-6)
    np.testing.assert_allclose(head.attention(features, np.array([4, 1])), expected, atol=1e-6)


@pytest.mark.parametrize("classes", [[5], [-1], [0, 7], np.array([5]), tf.constant([9])])
def test_attention_of_classes_out_of_range_raises(classes):
    head, features = built(5), features_of(2, 3, 4, 16)
    for attention in (head.attention, tf.function(lambda x: head.attention(x, classes))):
        with pytest.raises(ValueError, match=r"classes must lie in \[0, 5\), got \["):
            attention(features) if attention != head.attention else attention(features, classes)


@pytest.mark.parametrize("classes", [3, [1.0], ["cat"], [[1]], []])
def test_attention_of_classes_that_are_not_integers_raises(classes):
    with pytest.raises(ValueError, match="classes must be a list of class indices"):
        built(5).attention(features_of(2, 3, 4, 16), classes)


def test_attention_of_an_unbuilt_head_or_invalid_features_raises():
    with pytest.raises(ValueError, match="no weights yet"):
        NOAHHead(5).attention(features_of(2, 4, 4, 16))
    with pytest.raises(ValueError, match="built for 16 channels"):
        built(5).attention(features_of(2, 4, 4, 8))
    with pytest.raises(TypeError, match="int32"):
        built(5).attention(np.ones((2, 4, 4, 16), np.int32))
    with pytest.raises(ValueError, match=r"shape \(2, 16\)"):
        built(5).attention(features_of(2, 16))


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"num_classes": v}, "num_classes must be a positive integer") for v in
          (0, -1, "10", None, True, 2.0)),
        *(({"num_groups": v}, "num_groups must be a positive integer") for v in
          (0, "4", None, 1.5)),
        *(({"key_ratio": v}, "key_ratio must be a number between 0 and 1") for v in
          (0, 1, 0.0, 1.0, 1.5, -0.5, float("nan"), "0.5", None, True, [0.5])),
        *(({"dropout": v}, r"dropout must be a number in \[0, 1\)") for v in
          (1, 1.5, -0.1, float("nan"), "0.1", None, True)),
        ({"implementation": "fast"},
         "implementation must be 'auto', 'direct' or 'blocked', got 'fast'"),
        *(({"memory_budget": v}, "memory_budget must be a positive number of MiB") for v in
          (0, -1, "64", None, True, float("inf"), float("nan"))),
        *(({"seed": v}, "seed must be an integer or None") for v in ("a", 1.5)),
    ],
)  # fmt: skip
def test_invalid_arguments_raise_with_the_received_value(options, message):
    (value,) = options.values()
    with pytest.raises(ValueError, match=message) as error:
        NOAHHead(**{"num_classes": 5, **options})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("shape", [(16,), (2, 2, 2, 16), (2, 2, 2, 2, 16)])
def test_features_of_another_rank_raise(shape, symbolic):
    features = tf.keras.Input(shape) if symbolic else tf.ones((2, *shape))
    with pytest.raises(
        ValueError, match=r"needs features \(B, H, W, C\) or \(B, L, C\), got shape"
    ):
        NOAHHead(5)(features)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
@pytest.mark.parametrize(
    "make",
    [
        lambda dtype: np.ones((2, 2, 2, 16), dtype),
        lambda dtype: tf.cast(tf.ones((2, 2, 2, 16)), dtype),
        lambda dtype: tf.keras.Input((2, 2, 16), dtype=dtype),
    ],
    ids=["numpy", "eager", "symbolic"],
)
def test_integer_features_raise(make, dtype):
    with pytest.raises(TypeError, match=f"needs floating-point features, got {dtype}"):
        NOAHHead(5)(make(dtype))


def test_unknown_number_of_channels_raises():
    with pytest.raises(ValueError, match="needs a known number of channels"):
        NOAHHead(5)(tf.keras.Input((4, 4, None)))


@pytest.mark.parametrize("channels", [8, 32])
def test_another_number_of_channels_than_built_raises(channels):
    head = built(5)
    for features in (tf.ones((2, 4, 4, channels)), tf.keras.Input((4, 4, channels))):
        with pytest.raises(ValueError, match="built for 16 channels"):
            head(features)


def test_indivisible_channels_raise_with_suggestions():
    with pytest.raises(ValueError) as error:
        NOAHHead(5, 4, 0.3)(tf.ones((1, 2, 2, 100)))
    message = str(error.value)
    for part in ("num_groups=4", "30 key", "70 value", "C=100", "key_ratio=0.3"):
        assert part in message
    assert "use num_groups=2 or 5, or key_ratio=0.28 or 0.32" in message


def test_key_ratio_has_no_effect_without_split_key_value():
    features = features_of(2, 2, 2, 12)
    heads = [NOAHHead(3, 4, ratio, split_key_value=False) for ratio in (0.01, 0.5)]
    for head in heads:
        head.build(features.shape)
        randomize(head)
    np.testing.assert_array_equal(heads[0](features), heads[1](features))


@pytest.mark.parametrize("implementation", ["direct", "blocked"])
@pytest.mark.parametrize("split_groups", [True, False])
@pytest.mark.parametrize("split_key_value", [True, False])
def test_uniform_attention_equals_a_pooled_linear_layer(
    split_key_value, split_groups, implementation
):
    rng = np.random.default_rng(0)
    features = tf.constant(rng.normal(size=(3, 4, 5, 16)), tf.float32)
    labels = tf.constant([0, 5, 6])
    head = NOAHHead(
        7,
        4,
        0.25,
        split_groups=split_groups,
        split_key_value=split_key_value,
        uniform_attention=True,
        implementation=implementation,
    )
    head.build(features.shape)
    head.value_bias.assign(rng.normal(size=head.value_bias.shape))
    # The equal linear layer has the kernels of the groups stacked, or summed if each group uses all
    # channels.
    kernel = head.value_kernel.numpy()
    kernel = kernel.reshape(-1, 7) if split_groups else kernel[0].reshape(-1, 4, 7).sum(axis=1)
    linear = tf.keras.layers.Dense(7)
    linear.build((3, len(kernel)))
    linear.set_weights([kernel, head.value_bias.numpy().sum(axis=0)])

    def gradients(logits_of, weights):
        with tf.GradientTape() as tape:
            tape.watch(features)
            logits = logits_of(features)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_sum(losses)
        return logits, tape.gradient(loss, [features, *weights])

    def pooled(features):
        return linear(tf.reduce_mean(features, axis=(1, 2))[:, -len(kernel) :])

    logits, (to_features, to_kernel, to_bias) = gradients(
        lambda x: head(x, training=True), [head.value_kernel, head.value_bias]
    )
    expected, (expected_features, expected_kernel, expected_bias) = gradients(
        pooled, [linear.kernel, linear.bias]
    )
    if split_groups:
        expected_kernel = tf.reshape(expected_kernel, head.value_kernel.shape)
    else:
        expected_kernel = tf.tile(expected_kernel, (1, 4))[None]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_features, expected_features, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(to_kernel, expected_kernel, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_bias, np.tile(expected_bias, (4, 1)), rtol=1e-5, atol=1e-6)
    assert not head.key_kernel.numpy().any()
    assert not any(weight is head.key_kernel for weight in head.trainable_weights)
    np.testing.assert_allclose(head.attention(features), np.full((3, 4, 5, 7), 1 / 20), rtol=1e-6)


def test_uniform_attention_is_not_trained():
    head = NOAHHead(3, 2, uniform_attention=True)
    model = tf.keras.Sequential([tf.keras.Input((2, 2, 8)), head])
    model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = head.value_kernel.numpy()
    model.fit(np.random.default_rng(0).normal(size=(6, 2, 2, 8)), np.arange(6) % 3, verbose=0)
    assert not head.key_kernel.numpy().any()
    assert not np.array_equal(head.value_kernel.numpy(), before)
    assert NOAHHead.from_config(head.get_config()).uniform_attention
