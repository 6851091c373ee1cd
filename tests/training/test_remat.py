"""Blocks that the backward pass computes again: the same step with fewer bytes."""

import head_helpers
import numpy as np
import pytest
import tensorflow as tf
from recipes import devices, recipe
from stacks import slow_on_one_stack

import noah_tf
from noah_tf.head import Dropout
from noah_tf.models.backbones import layers
from noah_tf.training.batch_norm import normalize_in_groups
from noah_tf.training.plan import TrainingPlan
from noah_tf.training.remat import rematerialized
from noah_tf.utils.keras_compat import random_state_variables, raw_variable


def small_model(blocks=3):
    """Returns a small residual network with BatchNorm, drop path and dropout in its blocks."""
    tf.keras.utils.set_random_seed(0)
    inputs = tf.keras.Input((16, 16, 3))
    x = layers.conv(inputs, 8, 3, "conv1")
    for index in range(blocks):
        name = f"layer1.{index}"
        branch = layers.batch_norm(layers.conv(x, 8, 3, f"{name}.conv1"), f"{name}.bn1")
        branch = tf.keras.layers.ReLU(name=f"{name}.relu")(branch)
        branch = Dropout(0.3, name=f"{name}.dropout")(layers.conv(branch, 8, 3, f"{name}.conv2"))
        x = layers.residual(x, branch, f"{name}.add", drop_path=0.5)
    x = tf.keras.layers.GlobalAveragePooling2D(name="gap_pool")(x)
    return tf.keras.Model(inputs, tf.keras.layers.Dense(4, name="gap_logits")(x), name="small")


def make_step(model, forward):
    """Returns a function from a batch to the logits and the gradients."""

    @tf.function
    def step(images):
        with tf.GradientTape() as tape:
            logits = forward(images, training=True)
            loss = tf.reduce_mean(logits**2)
        return [logits, *tape.gradient(loss, model.trainable_variables)]

    return step


def results(model, forwards, batch=6):
    """Returns for each pass: logits and gradients, weights and random states after two steps."""
    images = tf.random.stateless_normal((batch, *model.input_shape[1:]), (1, 2))
    states = [*map(raw_variable, model.weights), *random_state_variables(model)]
    start = [state.numpy() for state in states]
    found = []
    for forward in forwards:
        for state, value in zip(states, start, strict=True):
            state.assign(value)
        step = make_step(model, forward)
        steps = [*step(images), *step(images)]
        found.append([value.numpy() for value in [*steps, *states]])
    changed = [(a != b).any() for a, b in zip(start, found[0][-len(start) :], strict=True)]
    return *found, sum(changed)


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(np.abs(a).max(), 1e-2))


@pytest.mark.slow
def test_a_step_is_the_same():
    model = small_model()
    one, other, changed = results(model, [model, rematerialized(model)])
    assert_same(one, other)
    # BatchNorm's averages moved, and the streams of drop path and dropout went on.
    assert changed >= 3 * 2 + 3 * 2


def test_a_step_is_the_same_outside_of_a_graph():
    model = small_model(1)
    tf.config.run_functions_eagerly(True)
    try:
        one, other, _ = results(model, [model, rematerialized(model)])
    finally:
        tf.config.run_functions_eagerly(False)
    assert_same(one, other)


@pytest.mark.slow
def test_statistics_of_groups_and_frozen_layers_are_the_same():
    model = small_model()
    normalize_in_groups(model, 3)
    model.get_layer("layer1.1.bn1").trainable = False
    model.get_layer("layer1.1.conv1").trainable = False
    one, other, _ = results(model, [model, rematerialized(model)])
    assert_same(one, other)
    assert model.get_layer("layer1.0.bn1").momentum == 0.9


def source(tensor):
    """Returns the tensor that an identity passes on."""
    while tensor.op.type in ("Identity", "IdentityN"):
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def kept_bytes(model, forward):
    """Returns the bytes of the forward pass that the backward pass of a step reads."""
    spec = tf.TensorSpec((8, *model.input_shape[1:]))
    graph = make_step(model, forward).get_concrete_function(spec).graph
    pending = [graph.structured_outputs[0].op]  # the logits
    before = set()
    while pending:
        op = pending.pop()
        if op.name not in before:
            before.add(op.name)
            pending += [tensor.op for tensor in op.inputs]
    read = {
        source(tensor).name: tensor.shape
        for op in graph.get_operations()
        if op.name not in before and any(tensor.consumers() for tensor in op.outputs)
        for tensor in op.inputs
        if tensor.op.name in before and tensor.shape.rank == 4 and tensor.shape[0] == 8
    }
    return sum(4 * shape.num_elements() for shape in read.values())


def test_only_the_inputs_of_the_blocks_are_kept():
    model = small_model(4)
    size = 8 * 16 * 16 * 8 * 4  # of a feature map of the batch
    images = 8 * 16 * 16 * 3 * 4
    with_blocks = kept_bytes(model, rematerialized(model))
    assert with_blocks == images + 4 * size
    assert kept_bytes(model, model) > 2.5 * with_blocks


def test_evaluation_is_that_of_the_model():
    model = small_model(1)
    images = tf.random.stateless_normal((2, 16, 16, 3), (3, 4))
    np.testing.assert_array_equal(
        rematerialized(model)(images, training=False), model(images, training=False)
    )


def test_a_model_without_blocks_raises():
    inputs = tf.keras.Input((8,))
    model = tf.keras.Model(inputs, tf.keras.layers.Dense(2)(inputs), name="flat")
    with pytest.raises(ValueError, match="flat has no blocks .* leave model.remat out"):
        rematerialized(model)


@pytest.mark.one_stack
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.architecture": None, "model.backbone": "MobileNetV2"}, "for the paper's archit"),
        (
            {"model.batch_norm_group": None, "model.synchronized_batch_norm": True},
            "model.remat=True and model.synchronized_batch_norm=True contradict each other",
        ),
    ],
)
def test_recipes_that_cannot_work_raise(changes, message):
    config = recipe("resnet")
    config.model.remat = True
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        TrainingPlan.from_config(config, devices(8))


# A model of each family, with the smallest image size of its architecture.
MODELS = {
    "noah_resnet18": (64, {"drop_path": 0.2, "dropout": 0.1}),
    "mobilenetv2_035": (64, {}),
    "noah_mobilenetv3_small": (64, {"dropout": 0.2}),
    "shufflenetv2_100": (64, {}),
    "noah_deit_tiny_050_patch16_224": (48, {"drop_path": 0.2}),
    "pvt_tiny_050": (64, {"drop_path": 0.2}),
    "noah_mixer_s16_050_224": (224, {"drop_path": 0.2, "mlp_dropout": 0.1}),
    "gmlp_ti16_050_224": (224, {"drop_path": 0.2, "mlp_dropout": 0.1}),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=slow_on_one_stack if name == "noah_resnet18" else pytest.mark.exhaustive
        )
        for name in MODELS
    ],
)
def test_a_step_of_the_papers_models_is_the_same(name):
    size, options = MODELS[name]
    tf.keras.utils.set_random_seed(0)
    model = noah_tf.create_model(name, 10, (size, size, 3), **options)
    one, other, _ = results(model, [model, rematerialized(model)], batch=2)
    for a, b in zip(one, other, strict=True):
        # Gradients that are 0 but for rounding are compared with the others.
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


MEMORY = """
import pathlib, sys
import tensorflow as tf
import noah_tf
from noah_tf.training.remat import rematerialized

model = noah_tf.create_model("deit_tiny_050_patch16_224")
forward = rematerialized(model) if sys.argv[1] == "remat" else model
images = tf.random.normal((8, 224, 224, 3))

@tf.function
def step(images):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(forward(images, training=True) ** 2)
    return [tf.reduce_sum(x) for x in tape.gradient(loss, model.trainable_variables)]

def resident(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))

before = resident("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")
step(images)
print(resident("VmHWM") - before)
"""


@slow_on_one_stack
def test_peak_memory_is_lower():
    def peak(kind):
        process = head_helpers.run_python(MEMORY, kind)
        assert process.returncode == 0, process.stderr[-3000:]
        return float(process.stdout)

    kept, again = peak("kept"), peak("remat")
    print(f"DeiT-Tiny x0.5, batch 8: {kept:.0f} MiB, with remat {again:.0f} MiB")
    assert again < 0.7 * kept
