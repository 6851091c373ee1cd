"""The closed-form gradients: the same numbers as automatic differentiation, and less memory."""

import contextlib

import head_helpers
import numpy as np
import pytest
import tensorflow as tf
from stacks import slow_on_one_stack

from noah_tf import NOAHHead
from noah_tf.head import poca
from noah_tf.head.gradients import blocked_poca
from noah_tf.head.memory_plan import MASK_OUTPUTS

# Within LARGE everything is kept. Within TINY nothing is, and 300 classes are three ranges.
LARGE, TINY = 256, 1e-3
# Of split_groups and split_key_value; the default has both.
OTHER_SPLITS = [(True, False), (False, True), (False, False)]
CLASSES = 2 * MASK_OUTPUTS + 44
# A loop over ranges, and a remainder.
LOOPED_CLASSES = 5 * MASK_OUTPUTS + 1


def problem(
    groups=2, classes=CLASSES, split_groups=True, split_key_value=True, scale=1.0, positions=6
):
    """Returns features, both kernels, value biases and a gradient of the logits, in float64.

    With 6 positions, heads with split groups average features if they have no dropout and keep
    everything for the backward pass.
    """
    rng = np.random.default_rng(0)
    channels, count = 8, groups if split_groups else 1
    part = channels // 2 if split_key_value else channels
    kernel = (count, part // count, groups * classes // count)
    shapes = (2, positions, channels), kernel, kernel, (groups, classes), (2, classes)
    features, *others = (rng.normal(size=shape) for shape in shapes)
    return scale * features, *others


def compute(function, arrays, mode="graph", dtype=tf.float32, products=None, **options):
    """Returns the logits and the gradients of all inputs."""
    *inputs, bias, upstream = arrays
    inputs = [tf.constant(array, products or dtype) for array in inputs]
    inputs.append(tf.constant(bias, dtype))
    upstream = tf.constant(upstream, dtype)
    if options.get("dropout"):
        options["seed"] = tf.constant([3, 4])

    def step(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            logits = function(*inputs, accumulate_dtype=dtype, **options)
            loss = tf.reduce_sum(logits * upstream)
        return logits, *tape.gradient(loss, inputs)

    if mode != "eager":
        step = tf.function(step, jit_compile=mode == "xla")
    return [np.asarray(tf.cast(tensor, tf.float64)) for tensor in step(*inputs)]


def assert_close(actual, expected, tolerance):
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape
        # Values that are zero in exact arithmetic may have rounding errors.
        assert np.abs(a - b).max() <= tolerance * max(np.abs(b).max(), 0.1)


@pytest.mark.parametrize(
    ("dropout", "budget"),
    [
        (0.3, TINY),
        pytest.param(0.0, LARGE, marks=slow_on_one_stack),
        pytest.param(0.0, TINY, marks=slow_on_one_stack),
        pytest.param(0.3, LARGE, marks=slow_on_one_stack),
    ],
)
@pytest.mark.parametrize(
    ("split_groups", "split_key_value"),
    [(True, True), *(pytest.param(*s, marks=slow_on_one_stack) for s in OTHER_SPLITS)],
)
def test_logits_and_gradients_equal_automatic_differentiation(
    split_groups, split_key_value, dropout, budget
):
    arrays = problem(split_groups=split_groups, split_key_value=split_key_value)
    exact = compute(poca.poca, arrays, dtype=tf.float64, dropout=dropout)
    double = compute(blocked_poca, arrays, dtype=tf.float64, dropout=dropout, memory_budget=budget)
    assert_close(double, exact, 1e-13)
    single = compute(blocked_poca, arrays, dropout=dropout, memory_budget=budget)
    assert_close(single, compute(poca.poca, arrays, dropout=dropout), 2e-6)


@pytest.mark.parametrize("positions", [3, 6])
@pytest.mark.parametrize("budget", [LARGE, TINY])
def test_averages_of_values_and_of_features(positions, budget):
    arrays = problem(positions=positions)
    exact = compute(poca.poca, arrays, dtype=tf.float64)
    double = compute(blocked_poca, arrays, dtype=tf.float64, memory_budget=budget)
    assert_close(double, exact, 1e-13)


@pytest.mark.parametrize(
    ("mode", "dropout"),
    [("eager", 0.0), ("eager", 0.3), pytest.param("xla", 0.3, marks=slow_on_one_stack)],
)
@pytest.mark.parametrize("budget", [LARGE, pytest.param(TINY, marks=slow_on_one_stack)])
def test_eager_mode_and_xla_equal_a_graph(mode, budget, dropout):
    arrays = problem(classes=LOOPED_CLASSES)
    options = {"dropout": dropout, "memory_budget": budget}
    graph = compute(blocked_poca, arrays, **options)
    assert_close(compute(blocked_poca, arrays, mode, **options), graph, 2e-6)
    direct = compute(poca.poca, arrays, mode, dropout=dropout)
    assert_close(direct, graph, 2e-6)


@slow_on_one_stack
@pytest.mark.parametrize("budget", [LARGE, TINY])
def test_loop_over_many_classes_equals_the_direct_form(budget):
    arrays = problem(classes=20 * MASK_OUTPUTS + 1)
    for dropout in (0.0, 0.3):
        expected = compute(poca.poca, arrays, dropout=dropout)
        actual = compute(blocked_poca, arrays, dropout=dropout, memory_budget=budget)
        assert_close(actual, expected, 2e-6)


@pytest.mark.parametrize(
    "block_outputs",
    [MASK_OUTPUTS, *(pytest.param(b, marks=slow_on_one_stack) for b in (2 * MASK_OUTPUTS, None))],
)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_blocks_of_the_direct_form_have_no_effect(block_outputs, dropout):
    expected = compute(poca.poca, problem(), dropout=dropout)
    actual = compute(poca.poca, problem(), dropout=dropout, block_outputs=block_outputs)
    assert_close(actual, expected, 1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 10.0, 1e3, 1e18])
@pytest.mark.parametrize("budget", [LARGE, TINY])
def test_keys_of_any_magnitude(scale, budget):
    arrays = problem(scale=scale)
    expected = compute(poca.poca, arrays)
    actual = compute(blocked_poca, arrays, memory_budget=budget)
    assert all(np.isfinite(array).all() for array in actual)
    assert_close(actual[:1], expected[:1], 2e-6)
    exact = compute(poca.poca, arrays, dtype=tf.float64)
    for a, b, c in zip(actual, expected, exact, strict=True):
        assert np.abs(a - c).max() <= 2 * np.abs(b - c).max() + 2e-6 * np.abs(c).max()


def test_nan_propagates():
    arrays = problem()
    arrays[0][0, 0, 0] = np.nan
    logits = compute(blocked_poca, arrays)[0]
    assert np.isnan(logits[0]).any()
    assert np.isfinite(logits[1]).all()


@pytest.mark.parametrize(("products", "tolerance"), [(tf.float16, 5e-3), (tf.bfloat16, 3e-2)])
@pytest.mark.parametrize("budget", [pytest.param(LARGE, marks=slow_on_one_stack), TINY])
@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=slow_on_one_stack), 0.3])
def test_mixed_precision(products, tolerance, budget, dropout):
    expected = compute(poca.poca, problem(), products=products, dropout=dropout)
    options = {"dropout": dropout, "memory_budget": budget}
    actual = compute(blocked_poca, problem(), products=products, **options)
    assert_close(actual[:1], expected[:1], 1e-6)
    assert_close(actual, expected, tolerance)


@pytest.mark.parametrize("implementation", ["direct", "blocked"])
@pytest.mark.parametrize(
    ("spec", "compiled"),
    [
        ((None, None, None, 16), False),
        ((None, None, 16), False),
        pytest.param((None, None, None, 16), True, marks=slow_on_one_stack),
    ],
)
def test_unknown_batch_and_positions(implementation, spec, compiled):
    # The reference is eager automatic differentiation with known sizes.
    options = {"num_classes": LOOPED_CLASSES, "num_groups": 2, "dropout": 0.2, "seed": 1}
    reference = NOAHHead(**options, implementation="direct")
    head = NOAHHead(**options, implementation=implementation, memory_budget=TINY)
    for each in (reference, head):
        each.build(spec)
    head.set_weights(reference.get_weights()[: len(head.get_weights())])

    def step(head, features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            logits = head(features, training=True)
            loss = tf.reduce_sum(logits**2)
        return logits, *tape.gradient(loss, [features, *head.trainable_variables])

    traced = tf.function(
        lambda features: step(head, features),
        input_signature=[tf.TensorSpec(spec)],
        jit_compile=compiled,
    )
    for size in (1, 3):
        shape = (size, *(size + n for n in range(len(spec) - 2)), 16)
        features = tf.random.stateless_normal(shape, (1, size))
        expected = [array.numpy() for array in step(reference, features)]
        assert_close([array.numpy() for array in traced(features)], expected, 3e-6)


# Choice of the implementation


def second_derivative(head, features, compiled=False, **options):
    """Returns a second derivative of the logits' sum of squares by the features."""

    def compute(features):
        with tf.GradientTape() as outer:
            outer.watch(features)
            with tf.GradientTape() as tape:
                tape.watch(features)
                loss = tf.reduce_sum(head(features, **options) ** 2)
            slope = tf.reduce_sum(tape.gradient(loss, features) ** 2)
        return outer.gradient(slope, features)

    return (tf.function(compute) if compiled else compute)(features)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("implementation", "classes", "training", "blocked"),
    [
        ("auto", 10, True, False),
        ("auto", 6000, True, True),
        ("auto", 6000, False, False),
        ("blocked", 10, False, True),
        ("direct", 6000, True, False),
    ],
)
def test_implementation_depends_on_size_and_only_blocked_has_no_second_derivatives(
    implementation, classes, training, blocked, compiled
):
    # 4 * 12 * 4 * 6000 numbers are more than 4 MiB.
    head = NOAHHead(classes, implementation=implementation)
    features = tf.random.stateless_normal((4, 12, 16), (1, 2))
    head(features)
    raises = pytest.raises(NotImplementedError, match="implementation='direct'")
    with raises if blocked else contextlib.nullcontext():
        assert np.isfinite(second_derivative(head, features, compiled, training=training)).all()


@pytest.mark.parametrize("by", ["features", "key_kernel", "value_kernel"])
@pytest.mark.parametrize("compiled", [False, True])
def test_second_derivatives_of_a_linear_loss_raise(by, compiled):
    head = NOAHHead(10, implementation="blocked")
    features = tf.random.stateless_normal((2, 9, 16), (1, 2))
    head(features)

    def mixed(features):
        with tf.GradientTape() as outer:
            outer.watch(features)
            with tf.GradientTape() as tape:
                tape.watch(features)
                loss = tf.reduce_sum(head(features, training=True))
            slope = tf.reduce_sum(tape.gradient(loss, features))
        return outer.gradient(slope, features if by == "features" else getattr(head, by))

    with pytest.raises(NotImplementedError, match="no second and no forward-mode derivatives"):
        (tf.function(mixed) if compiled else mixed)(features)


def test_forward_mode_raises():
    head = NOAHHead(10, implementation="blocked")
    features = tf.random.stateless_normal((2, 9, 16), (1, 2))
    head(features)
    accumulator = tf.autodiff.ForwardAccumulator(features, tf.ones_like(features))
    raises = pytest.raises(NotImplementedError, match="no forward-mode derivatives")
    with accumulator, raises:
        head(features, training=True)


# Memory


def loops_without(graph, name):
    """Returns the number of loops in a graph that do not depend on the argument with that name."""
    dependent = set()
    for op in graph.get_operations():  # in topological order
        inputs = [*op.control_inputs, *(tensor.op for tensor in op.inputs)]
        if op.name == name or dependent.intersection(o.name for o in inputs):
            dependent.add(op.name)
    loops = [op.name for op in graph.get_operations() if op.type in ("While", "StatelessWhile")]
    return len(set(loops) - dependent)


@pytest.mark.parametrize("classes", [10, CLASSES, LOOPED_CLASSES])
def test_recomputation_waits_for_the_gradient(classes):
    *inputs, upstream = (array.astype(np.float32) for array in problem(classes=classes))

    def forward(upstream, *inputs):
        return blocked_poca(*inputs, memory_budget=TINY)

    def step(upstream, *inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(forward(upstream, *inputs) * upstream)
        return tape.gradient(loss, inputs)

    graphs = [
        tf.function(call).get_concrete_function(upstream, *map(tf.constant, inputs)).graph
        for call in (forward, step)
    ]
    assert [loops_without(graph, "upstream") for graph in graphs] == [1, 1]
    assert not [op for op in graphs[1].get_operations() if op.type == "MatMul"]


MEMORY = """
import pathlib, sys
import tensorflow as tf
from noah_tf import NOAHHead

classes, implementation, budget = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
head = NOAHHead(classes, implementation=implementation, memory_budget=budget)
features = tf.random.normal((8, 196, 256))
head(features[:1])

@tf.function
def step(features):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(head(features, training=True) ** 2)
    return tape.gradient(loss, head.trainable_variables)

def resident(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))

before = resident("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")
for _ in range(3):
    step(features)
print(resident("VmHWM") - before)
"""


@slow_on_one_stack
def test_memory_of_a_training_step_does_not_grow_with_the_classes():
    def peak(*arguments):
        process = head_helpers.run_python(MEMORY, *map(str, arguments))
        assert process.returncode == 0, process.stderr[-3000:]
        return float(process.stdout)

    few, many = peak(4000, "blocked", 32), peak(32000, "blocked", 32)
    # Gradients and logits of 28,000 classes are 30 MiB, and concatenating a kernel's takes 14.
    assert many < few + 80
    # 4 * 8 * 196 * 4000 numbers are 96 MiB, and several such tensors exist at once.
    assert peak(4000, "direct", 32) > 2 * few
