"""for_inference: the same logits from fewer ops and weights, and an original that is unchanged."""

import concurrent.futures
import contextlib
import gc
import io
import weakref

import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from stacks import slow_on_one_stack

import noah_tf
from noah_tf import NOAHHead, attach_noah, for_inference
from noah_tf.explain.explainer import Explainer
from noah_tf.head.inference import InferenceHead, precomputed_head
from noah_tf.models.attach import feature_layer_name
from noah_tf.utils.keras_compat import raw_variable

layers = tf.keras.layers


@pytest.fixture(autouse=True)
def seeded():
    tf.keras.utils.set_random_seed(0)


def randomized(model):
    """Gives the model random weights that no initializer gives."""
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.1, 1, w.shape) for w in model.get_weights()])
    return model


def model_with_head(policy="float32", **options):
    """A model whose head has random weights."""
    inputs = tf.keras.Input((4, 4, 16))
    head = NOAHHead(5, dropout=0.5, dtype=policy, name="head", **options)
    model = tf.keras.Model(inputs, head(inputs))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


FEATURES = np.random.default_rng(1).normal(size=(3, 4, 4, 16)).astype(np.float32)
IMAGES = np.random.default_rng(2).uniform(size=(2, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"split_groups": False, "split_key_value": False},
        {"activation": "softmax", "implementation": "blocked"},
        {"implementation": "direct"},
    ],
)
@pytest.mark.parametrize(
    ("policy", "tolerance"), [("float32", 1e-5), ("float64", 1e-12), ("mixed_bfloat16", 1e-5)]
)
def test_logits_and_attention_equal_those_of_the_head(policy, tolerance, options):
    model = model_with_head(policy, **options)
    logits, maps = model(FEATURES), model.get_layer("head").attention(FEATURES, [1, 4])
    without_branches, fast = for_inference(model, branches=False), for_inference(model)
    for new_model in (without_branches, fast):
        head = new_model.get_layer("head")
        assert isinstance(head, InferenceHead)
        assert new_model(FEATURES).dtype == logits.dtype
        np.testing.assert_allclose(new_model(FEATURES), logits, atol=tolerance)
        np.testing.assert_allclose(head.attention(FEATURES, [1, 4]), maps, atol=1e-6)
    per_group = model.get_layer("head").attention(FEATURES, per_group=True)
    new_per_group = fast.get_layer("head").attention(FEATURES, per_group=True)
    np.testing.assert_allclose(new_per_group, per_group, atol=1e-6)
    np.testing.assert_array_equal(model(FEATURES), logits)


def test_the_inference_head_holds_only_precomputed_weights():
    model = model_with_head("mixed_bfloat16")
    expected = [
        ((4, 2, 5), "bfloat16"),
        ((4, 2, 5), "bfloat16"),
        ((5,), "float32"),
    ]

    def shapes_and_dtypes(model):
        variables = [raw_variable(weight) for weight in model.weights]
        return sorted((tuple(v.shape), v.dtype.name) for v in variables)

    assert shapes_and_dtypes(for_inference(model, branches=False)) == expected
    # With branches, the head also stores the norms that bound its keys.
    expected.insert(0, ((4,), "float32"))
    assert shapes_and_dtypes(for_inference(model)) == expected
    assert for_inference(model).trainable_weights == []


def test_later_changes_of_the_original_head_have_no_effect():
    model = model_with_head()
    logits, fast = model(FEATURES).numpy(), for_inference(model)
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    np.testing.assert_array_equal(model(FEATURES), 0)
    np.testing.assert_allclose(fast(FEATURES), logits, atol=1e-5)
    np.testing.assert_array_equal(for_inference(model)(FEATURES), 0)


def test_a_head_without_weights_raises():
    with pytest.raises(ValueError, match="other_head has no weights yet: call it on features"):
        precomputed_head(NOAHHead(5, name="other_head"))


def small_backbone():
    """A backbone of a library's own class, which Keras counts as one layer."""
    return keras_cv.models.ResNetBackbone(
        stackwise_filters=[64, 128],
        stackwise_blocks=[1, 1],
        stackwise_strides=[1, 2],
        include_rescaling=True,
        input_shape=(32, 32, 3),
        block_type="basic_block",
    )


def sequential():
    return tf.keras.Sequential(
        [tf.keras.Input((32, 32, 3)), layers.Conv2D(16, 8, strides=8), NOAHHead(5, name="head")]
    )


def nested_twice():
    """The head stands in a model in a model, and layers with weights follow it in both."""
    images = tf.keras.Input((32, 32, 3))
    middle = tf.keras.Model(images, layers.Dense(6, name="after")(sequential()(images)))
    images = tf.keras.Input((32, 32, 3))
    features = layers.BatchNormalization()(images)
    return tf.keras.Model(images, layers.Dense(4, name="last")(middle(features, training=False)))


def subclassed_backbone():
    class Patches(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.convolution = layers.Conv2D(16, 8, strides=8)

        def call(self, images):
            return self.convolution(images)

    images = tf.keras.Input((32, 32, 3))
    return tf.keras.Model(images, NOAHHead(5, name="head")(Patches()(images)))


def several_heads():
    """One head is called on two maps, another one on a third; the outputs are a dictionary."""
    images = {side: tf.keras.Input((32, 32, 3), name=side) for side in ("left", "right")}
    convolution, shared = layers.Conv2D(16, 8, strides=8), NOAHHead(5, name="head")
    maps = {side: convolution(tensor) for side, tensor in images.items()}
    logits = shared(maps["left"]) - 2 * shared(maps["right"])
    other = NOAHHead(3, name="other")(layers.Add()([maps["left"], maps["right"]]))
    return tf.keras.Model(images, {"logits": logits, "other": other})


def nested_with_two_inputs():
    inner = several_heads()
    images = tf.keras.Input((32, 32, 3))
    results = inner({"right": 1 - images, "left": images})
    return tf.keras.Model(images, layers.Concatenate()([results["other"], results["logits"]]))


MODELS = {
    "attached": lambda: attach_noah(small_backbone(), 5),
    "applications": lambda: attach_noah(
        tf.keras.applications.MobileNetV2(weights=None, input_shape=(64, 64, 3), alpha=0.35), 5
    ),
    "sequential": sequential,
    "in_a_sequential": lambda: tf.keras.Sequential(
        [tf.keras.Input((32, 32, 3)), attach_noah(small_backbone(), 5), layers.Softmax()]
    ),
    "nested_twice": nested_twice,
    "subclassed_backbone": subclassed_backbone,
    "several_heads": several_heads,
    "nested_with_two_inputs": nested_with_two_inputs,
    "gap": lambda: attach_noah(small_backbone(), 5, head="gap"),
}


def flat_layers(model):
    return {id(layer): layer for layer in model._flatten_layers(include_self=False)}.values()


def summary_of(model):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        model.summary(expand_nested=True)
    return text.getvalue()


def outputs_of(model):
    inputs = np.resize(IMAGES, (2, *model.inputs[0].shape[1:]))
    if len(model.inputs) == 2:
        inputs = {"left": inputs, "right": 1 - inputs}
    return [output.numpy() for output in tf.nest.flatten(model(inputs, training=False))]


@pytest.mark.parametrize("name", MODELS)
def test_the_new_model_shares_all_layers_but_the_heads_and_the_original_is_unchanged(name):
    model = randomized(MODELS[name]())
    expected, summary, weights = outputs_of(model), summary_of(model), model.get_weights()
    config = model.get_config() if name != "subclassed_backbone" else None
    heads = {layer.name for layer in flat_layers(model) if isinstance(layer, NOAHHead)}

    fast = for_inference(model)

    assert fast is not model
    assert fast.name == model.name
    assert {layer.name for layer in flat_layers(fast) if isinstance(layer, InferenceHead)} == heads
    assert not any(isinstance(layer, NOAHHead) for layer in flat_layers(fast))
    for output, original in zip(outputs_of(fast), expected, strict=True):
        np.testing.assert_allclose(output, original, rtol=1e-5, atol=1e-5)
    # Every weight outside of a head is the original's variable.
    head_weights = {
        id(weight)
        for layer in (*flat_layers(model), *flat_layers(fast))
        if isinstance(layer, (NOAHHead, InferenceHead))
        for weight in layer.weights
    }
    shared = [[id(w) for w in m.weights if id(w) not in head_weights] for m in (model, fast)]
    assert sorted(shared[0]) == sorted(shared[1])

    assert summary_of(model) == summary
    for weight, original in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, original)
    for output, original in zip(outputs_of(model), expected, strict=True):
        np.testing.assert_array_equal(output, original)
    if config is not None:
        assert model.get_config() == config


def test_an_unchanged_backbone_stays_one_layer():
    model = attach_noah(small_backbone(), 5)
    fast = for_inference(model)
    assert [layer.name for layer in fast.layers] == [layer.name for layer in model.layers]
    for new_layer, layer in zip(fast.layers[:-1], model.layers[:-1], strict=True):
        assert new_layer is layer
    assert fast.noah_feature_layer == feature_layer_name(fast) == feature_layer_name(model)
    assert fast.noah_discarded_layers == model.noah_discarded_layers


def test_a_head_that_is_called_twice_is_replaced_once():
    fast = for_inference(several_heads())
    assert [layer.name for layer in fast.layers].count("head") == 1


def test_dropout_that_the_graph_asks_for_stays():
    inputs = tf.keras.Input((4, 4, 16))
    model = tf.keras.Model(inputs, NOAHHead(5, dropout=0.5)(inputs, training=True))
    fast = for_inference(model)
    assert np.abs(fast(FEATURES) - fast(FEATURES)).max() > 0


def test_models_without_a_graph_raise():
    class Subclassed(tf.keras.Model):
        def __init__(self, name):
            super().__init__(name=name)
            self.head = NOAHHead(5)

        def call(self, features):
            return self.head(features)

    message = r"odd \(Subclassed\) cannot be rebuilt for inference, because it has no graph"
    with pytest.raises(ValueError, match=message):
        for_inference(Subclassed(name="odd"))
    inputs = tf.keras.Input((4, 4, 16))
    outer = tf.keras.Model(inputs, Subclassed(name="odd")(inputs))
    with pytest.raises(ValueError, match=message):
        for_inference(outer)
    with pytest.raises(TypeError, match="model must be a tf.keras.Model, got NOAHHead"):
        for_inference(NOAHHead(5))


def test_two_threads_use_the_original_and_the_new_model_at_once():
    model = model_with_head("mixed_bfloat16")
    fast = for_inference(model)

    def compiled_ops(model):
        return [[op.type for op in graph_of(model).get_operations()] for _ in range(5)]

    expected = [compiled_ops(model)[0], compiled_ops(fast)[0]]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for ops, runs in zip(expected, pool.map(compiled_ops, [model, fast]), strict=True):
            assert all(run == ops for run in runs)


def test_the_weights_of_the_new_head_are_freed_with_the_new_model():
    model = attach_noah(small_backbone(), 5)
    fast = for_inference(model)
    head = weakref.ref(fast.get_layer("noah_head"))
    del fast
    gc.collect()
    assert head() is None


def test_the_new_model_survives_a_file(tmp_path):
    fast = for_inference(model_with_head(activation="sigmoid"))
    fast.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(loaded(FEATURES), fast(FEATURES))


def test_the_explainer_shows_the_attention_of_the_new_model():
    model = attach_noah(small_backbone(), 5)
    expected, explainer = Explainer(model), Explainer(for_inference(model))
    assert explainer.methods == ("attention",)
    for result, original in zip(explainer(IMAGES), expected(IMAGES), strict=True):
        np.testing.assert_allclose(result, original, atol=1e-5)


def graph_of(model):
    """The graph of a model's inference."""
    call = tf.function(lambda features: model(features, training=False))
    return call.get_concrete_function(tf.TensorSpec((1, 4, 4, 16))).graph


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_graph_is_smaller_and_casts_no_weight(policy):
    model = model_with_head(policy)
    fast = for_inference(model, branches=False)
    plain, small = ([op.type for op in graph_of(m).get_operations()] for m in (model, fast))
    assert "If" not in " ".join(small)
    assert len(small) < len(plain)
    # Keys and values of four groups, and the features, to bfloat16 and back.
    assert small.count("Cast") == (9 if policy == "mixed_bfloat16" else 0)


@slow_on_one_stack
def test_an_export_has_no_custom_gradient_and_none_of_the_heads_training_weights(tmp_path):
    backbone = tf.keras.Sequential(
        [tf.keras.Input((32, 32, 3)), tf.keras.layers.Conv2D(16, 8, strides=8)]
    )
    model = noah_tf.attach_noah(backbone, num_classes=5)
    model.get_layer("noah_head").implementation = "blocked"
    path = noah_tf.export_savedmodel(model, tmp_path, warmup_batch_sizes=())
    proto = (path / "saved_model.pb").read_bytes()
    assert b"CustomGradient" not in proto
    assert b"_gradient_op_type" not in proto
    names = [name for name, _ in tf.train.list_variables(str(path / "variables" / "variables"))]
    shapes = [shape for _, shape in tf.train.list_variables(str(path / "variables" / "variables"))]
    assert [4, 5] not in shapes, names
    assert shapes.count([4, 2, 5]) == 2
