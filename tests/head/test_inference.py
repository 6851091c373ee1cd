"""The inference form: the same logits of fewer ops and weights."""

import numpy as np
import pytest
import tensorflow as tf
from stacks import slow_on_one_stack

import noah_tf
from noah_tf import InferenceForm, NOAHHead


@pytest.fixture(autouse=True)
def seeded():
    tf.keras.utils.set_random_seed(0)


def model_with_head(policy="float32", **options):
    """A model whose head has random weights."""
    inputs = tf.keras.Input((4, 4, 16))
    head = NOAHHead(5, dropout=0.5, dtype=policy, name="head", **options)
    model = tf.keras.Model(inputs, head(inputs))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


FEATURES = np.random.default_rng(1).normal(size=(3, 4, 4, 16)).astype(np.float32)


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
def test_logits_and_attention_are_those_of_the_layer(policy, tolerance, options):
    model = model_with_head(policy, **options)
    head = model.get_layer("head")
    logits, maps = model(FEATURES), head.attention(FEATURES, [1, 4])
    form = InferenceForm(model)
    with InferenceForm(model, branches=False).used():
        np.testing.assert_allclose(model(FEATURES), logits, atol=tolerance)
    with form.used():
        np.testing.assert_allclose(model(FEATURES), logits, atol=tolerance)
        np.testing.assert_allclose(head.attention(FEATURES, [1, 4]), maps, atol=1e-6)
    np.testing.assert_array_equal(model(FEATURES), logits)


def test_it_is_of_the_weights_that_it_was_made_of_and_holds_nothing_else():
    model = model_with_head("mixed_bfloat16")
    logits = model(FEATURES).numpy()
    form = InferenceForm(model, branches=False)
    held = [
        ((4, 2, 5), "bfloat16"),
        ((4, 2, 5), "bfloat16"),
        ((5,), "float32"),
    ]
    assert sorted((tuple(v.shape), v.dtype.name) for v in form.variables) == held
    # And how large keys can be.
    held.insert(0, ((4,), "float32"))
    found = InferenceForm(model).variables
    assert sorted((tuple(v.shape), v.dtype.name) for v in found) == held
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    with form.used():
        np.testing.assert_allclose(model(FEATURES), logits, atol=1e-6)
        np.testing.assert_array_equal(model(FEATURES, training=True), 0)
        with InferenceForm(model).used():
            np.testing.assert_array_equal(model(FEATURES), 0)
        np.testing.assert_allclose(model(FEATURES), logits, atol=1e-6)
    np.testing.assert_array_equal(model(FEATURES), 0)


def test_a_head_without_weights_is_refused():
    with pytest.raises(ValueError, match="other_head has no weights yet: call it on features"):
        InferenceForm(NOAHHead(5, name="other_head"))


def test_an_error_ends_it():
    model = model_with_head()
    with pytest.raises(RuntimeError), InferenceForm(model).used():
        raise RuntimeError
    assert model.get_layer("head").inference_form is None


def test_heads_in_nested_models_are_found():
    inner = model_with_head()
    outer = tf.keras.Sequential([tf.keras.Input((4, 4, 16)), inner])
    assert len(InferenceForm(outer).replaced) == 4
    assert len(InferenceForm(inner.get_layer("head")).replaced) == 4


def ops_of(model, form=None):
    """Types of the ops of a graph of a model's inference."""

    def call(features):
        if form is None:
            return model(features, training=False)
        with form.used():
            return model(features, training=False)

    spec = tf.TensorSpec((1, 4, 4, 16))
    return [op.type for op in tf.function(call).get_concrete_function(spec).graph.get_operations()]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_its_graph_is_smaller_and_casts_no_weight(policy):
    model = model_with_head(policy)
    plain, small = ops_of(model), ops_of(model, InferenceForm(model, branches=False))
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
