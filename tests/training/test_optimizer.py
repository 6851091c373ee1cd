"""The optimizers against NumPy, PyTorch and TensorFlow Addons; masks; loss scaling."""

import json

import numpy as np
import pytest
import tensorflow as tf
from head_helpers import run_python
from optimizer_steps import (
    DECAY,
    DECAYED,
    NAMES,
    SHAPES,
    STEPS,
    assert_same,
    gradient_values,
    rate_of,
    schedule,
    start_values,
    values,
    variables,
)

from noah_tf.training import optimizer as optim
from noah_tf.training.update_rules import LAMB, SGD, AdamW
from noah_tf.utils.distribute import dtype_policy


def make(rule, weights=None, decayed=DECAYED, **options):
    weights = variables() if weights is None else weights
    return weights, optim.Optimizer(weights, rule, schedule, DECAY, decayed, **options)


def run(rule, **options):
    """Returns the weights after every step."""
    weights, optimizer = make(rule, **options)
    step = tf.function(lambda *gradients: optimizer.apply(gradients))
    history = []
    for number in range(STEPS):
        step(*[tf.constant(gradient) for gradient in gradient_values(number)])
        history.append(values(weights))
    return history


def sgd(weight, gradient, state, step, rate, decay, momentum=0.9, nesterov=False):
    gradient = gradient + (decay or 0) * weight
    state["b"] = momentum * state.get("b", 0) + gradient
    return weight - rate * (gradient + momentum * state["b"] if nesterov else state["b"])


def adam(gradient, state, step, b1, b2, epsilon):
    state["m"] = b1 * state.get("m", 0) + (1 - b1) * gradient
    state["v"] = b2 * state.get("v", 0) + (1 - b2) * gradient**2
    return state["m"] / (1 - b1**step) / (np.sqrt(state["v"] / (1 - b2**step)) + epsilon)


def adamw(weight, gradient, state, step, rate, decay, b1=0.9, b2=0.999, epsilon=1e-8):
    weight = weight * (1 - rate * (decay or 0))
    return weight - rate * adam(gradient, state, step, b1, b2, epsilon)


def lamb(weight, gradient, state, step, rate, decay, b1=0.9, b2=0.999, epsilon=1e-6):
    update = adam(gradient, state, step, b1, b2, epsilon)
    if decay is None:
        return weight - rate * update
    update = update + decay * weight
    lengths = np.linalg.norm(weight), np.linalg.norm(update)
    return weight - rate * (lengths[0] / lengths[1] if all(lengths) else 1) * update


def expected(rule, factors=(1, 1, 1), starts=(0, 0, 0), clip=None, decayed=DECAYED, **options):
    """Returns the expected result of `run`, in float64."""
    weights = [value.astype(np.float64) for value in start_values()]
    states, history = [{} for _ in weights], []
    for number in range(STEPS):
        gradients = [value.astype(np.float64) for value in gradient_values(number)]
        if clip is not None:
            norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
            gradients = [gradient * min(clip / (norm + 1e-6), 1) for gradient in gradients]
        for index, start in enumerate(starts):
            if number >= start:
                weights[index] = rule(
                    weights[index],
                    gradients[index],
                    states[index],
                    number - start + 1,
                    rate_of(number) * factors[index],
                    DECAY if decayed[index] else None,
                    **options,
                )
        history.append(list(weights))
    return history


RULES = {
    "sgd": (SGD(0.9), sgd, {}),
    "nesterov": (SGD(0.8, nesterov=True), sgd, {"momentum": 0.8, "nesterov": True}),
    "plain": (SGD(0.0), sgd, {"momentum": 0.0}),
    "adamw": (AdamW(), adamw, {}),
    "adamw_betas": (
        AdamW(0.0, 0.95, 1e-3),
        adamw,
        {"b1": 0.0, "b2": 0.95, "epsilon": 1e-3},
    ),
    "lamb": (LAMB(), lamb, {}),
}


@pytest.mark.parametrize("name", RULES)
def test_every_step_follows_the_rule(name):
    rule, reference, options = RULES[name]
    assert_same(run(rule), expected(reference, **options))


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
@pytest.mark.parametrize("decayed", [(True, True, True), (False, False, False)])
def test_decay_masks(name, decayed):
    rule, function, options = RULES[name]
    reference = expected(function, decayed=decayed, **options)
    assert_same(run(rule, decayed=decayed), reference)


@pytest.mark.parametrize("name", ["nesterov", "adamw", "lamb"])
def test_factors_starts_and_clipping(name):
    rule, reference, options = RULES[name]
    factors, starts = (1.0, 0.5, 0.25), (0, 3, 7)
    results = run(rule, lr_factors=factors, start_steps=starts, clip_norm=2.0)
    reference = expected(reference, factors=factors, starts=starts, clip=2.0, **options)
    assert_same(results, reference)
    np.testing.assert_array_equal(results[6][2], start_values()[2])


def test_norm_below_the_limit_is_not_clipped():
    unclipped, far = run(SGD()), run(SGD(), clip_norm=1e3)
    # The last bits differ, because TensorFlow fuses the two graphs differently.
    assert_same(unclipped, far, rtol=1e-6)


@pytest.mark.parametrize("loss_scale", [False, True])
def test_apply_returns_the_norm_before_clipping(loss_scale):
    weights, optimizer = make(SGD(), clip_norm=0.5, loss_scale=loss_scale)
    gradients = gradient_values(0)
    scale = float(optimizer.scale_loss(tf.constant(1.0)))
    norm = optimizer.apply([tf.constant(scale * gradient) for gradient in gradients])
    reference = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
    assert norm.dtype == tf.float32
    assert float(norm) == pytest.approx(reference, rel=1e-6)


@pytest.mark.parametrize("rule", [AdamW(), LAMB()])
def test_weights_and_gradients_of_zero_stay_finite(rule):
    weights, optimizer = make(rule, decayed=(True,) * 3)
    weights[0].assign(np.zeros(SHAPES[0]))
    optimizer.apply([tf.zeros(shape) for shape in SHAPES])
    assert all(np.isfinite(value).all() for value in values(weights))
    np.testing.assert_array_equal(values(weights)[0], 0)


def test_weight_without_gradient_does_not_change():
    weights, optimizer = make(AdamW())
    gradients = [tf.constant(gradient) for gradient in gradient_values(0)]
    optimizer.apply(gradients)
    slots = [optimizer.slots["m"]["1"], optimizer.slots["v"]["1"]]
    before, before_slots = values(weights), values(slots)
    optimizer.apply([gradients[0], None, gradients[2]])
    after = values(weights)
    np.testing.assert_array_equal(after[1], before[1])
    for old, new in zip(before_slots, values(slots), strict=True):
        np.testing.assert_array_equal(new, old)
    assert (after[0] != before[0]).any() and (after[2] != before[2]).any()
    assert int(optimizer.iterations) == 2


def test_start_steps_freeze_weights_with_and_without_gradient():
    # The gradients of frozen weights are None, or are ignored.
    histories = []
    for frozen_gradient in (None, 1.0):
        weights, optimizer = make(AdamW(), start_steps=(0, 2, 2))
        assert optimizer.start_steps == [0, 2, 2]
        for number in range(4):
            gradients = [tf.constant(gradient) for gradient in gradient_values(number)]
            if number < 2 and frozen_gradient is None:
                gradients[1:] = [None, None]
            optimizer.apply(gradients)
        histories.append(values(weights))
    assert_same([histories[0]], [histories[1]], rtol=0)


def test_sparse_and_half_precision_gradients():
    weights, optimizer = make(SGD())
    others, dense_optimizer = make(SGD())
    rows = tf.IndexedSlices(tf.ones((2, 2)), tf.constant([0, 2]), tf.constant([3, 2]))
    halves = [tf.cast(gradient, tf.float16) for gradient in gradient_values(0)[1:]]
    optimizer.apply([rows, *halves])
    dense_optimizer.apply(
        [tf.convert_to_tensor(rows), *[tf.cast(half, tf.float32) for half in halves]]
    )
    assert_same([values(weights)], [values(others)], rtol=0)


def test_learning_rate_is_that_of_the_next_step():
    _, optimizer = make(SGD())
    for number in range(3):
        assert float(optimizer.learning_rate) == pytest.approx(rate_of(number))
        optimizer.apply([tf.constant(gradient) for gradient in gradient_values(number)])
    assert optimizer.learning_rate.dtype == tf.float32
    assert optimizer.iterations.dtype == tf.int64


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adamw", "adamw_betas"])
def test_rules_match_torch(name):
    torch = pytest.importorskip("torch")
    rule, _, _ = RULES[name]
    weights = [torch.nn.Parameter(torch.tensor(value)) for value in start_values()]
    groups = [
        {"params": [weight], "weight_decay": DECAY if decayed else 0.0}
        for weight, decayed in zip(weights, DECAYED, strict=True)
    ]
    if isinstance(rule, SGD):
        theirs = torch.optim.SGD(groups, lr=1.0, momentum=rule.momentum, nesterov=rule.nesterov)
    else:
        betas = (rule.beta_1, rule.beta_2)
        theirs = torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=rule.epsilon)
    reference = []
    for number in range(STEPS):
        for group in theirs.param_groups:
            group["lr"] = rate_of(number)
        for weight, gradient in zip(weights, gradient_values(number), strict=True):
            weight.grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_norm_(weights, 2.0)
        theirs.step()
        reference.append([weight.detach().numpy().copy() for weight in weights])
    assert_same(run(rule, clip_norm=2.0), reference)


def test_lamb_matches_tensorflow_addons():
    addons = pytest.importorskip("tensorflow_addons")
    weights = [tf.Variable(v, name=n) for v, n in zip(start_values(), NAMES, strict=True)]
    theirs = addons.optimizers.LAMB(1.0, weight_decay=DECAY, exclude_from_weight_decay=["bias"])
    reference = []
    for number in range(STEPS):
        theirs.learning_rate = rate_of(number)
        theirs.apply_gradients(zip(gradient_values(number), weights, strict=True))
        reference.append(values(weights))
    # TensorFlow Addons computes the bias corrections in float32.
    assert_same(run(LAMB()), reference, rtol=3e-4)


def test_lamb_without_decay_matches_keras():
    if not hasattr(tf.keras.optimizers, "Lamb"):
        pytest.skip("Keras 2 has no Lamb")
    weights = variables()
    theirs = tf.keras.optimizers.Lamb(1.0, epsilon=1e-6, weight_decay=None)
    reference = []
    for number in range(STEPS):
        theirs.learning_rate = rate_of(number)
        theirs.apply_gradients(zip(gradient_values(number), weights, strict=True))
        reference.append(values(weights))
    ours = variables()
    optimizer = optim.Optimizer(ours, LAMB(), schedule, 0.0, (True,) * 3)
    results = []
    for number in range(STEPS):
        optimizer.apply([tf.constant(gradient) for gradient in gradient_values(number)])
        results.append(values(ours))
    assert_same(results, reference, rtol=3e-4)


# Loss scaling.


def scaled(optimizer, gradients):
    scale = optimizer.scale_loss(tf.constant(1.0))
    return [scale * gradient for gradient in gradients]


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_scaled_loss_takes_the_same_steps(name):
    rule = RULES[name][0]
    weights, optimizer = make(rule, loss_scale=True)
    assert float(optimizer.scale_loss(tf.constant(1.0))) == 2.0**15
    history = []
    for number in range(5):
        optimizer.apply(scaled(optimizer, gradient_values(number)))
        history.append(values(weights))
    # The scale is a power of two, but a fused graph can round the last bit differently.
    assert_same(history, run(rule)[:5], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_step_that_is_not_finite_changes_only_the_scale(bad):
    weights, optimizer = make(AdamW(), loss_scale=True, clip_norm=1.0)
    step = tf.function(lambda *gradients: optimizer.apply(gradients))
    step(*scaled(optimizer, gradient_values(0)))
    slots = [slot for slots in optimizer.slots.values() for slot in slots.values()]
    before = values(weights) + values(slots)
    gradients = gradient_values(1)
    gradients[2][0, 0, 0] = bad
    assert not np.isfinite(step(*scaled(optimizer, gradients)))
    for old, new in zip(before, values(weights) + values(slots), strict=True):
        np.testing.assert_array_equal(new, old)
    assert float(optimizer.scale) == 2.0**14
    assert int(optimizer.iterations) == 2 and optimizer.applied.numpy().tolist() == [1]
    # The bias corrections do not count the skipped step.
    step(*scaled(optimizer, gradient_values(2)))
    other, unscaled = make(AdamW(), clip_norm=1.0)
    for number in (0, 2):
        unscaled.iterations.assign(number)
        unscaled.apply([tf.constant(gradient) for gradient in gradient_values(number)])
    assert_same([values(weights)], [values(other)], rtol=1e-6)


def test_scale_doubles_after_many_finite_steps_and_is_at_least_one():
    _, optimizer = make(SGD(), loss_scale=True)
    optimizer.finite_steps.assign(1998)
    for reference, finite in ((2.0**15, 1999), (2.0**16, 0), (2.0**16, 1)):
        optimizer.apply(scaled(optimizer, gradient_values(0)))
        assert (float(optimizer.scale), int(optimizer.finite_steps)) == (reference, finite)
    for start, reference in ((1.5, 1.0), (1.0, 1.0)):
        optimizer.scale.assign(start)
        optimizer.apply([tf.fill(shape, np.nan) for shape in SHAPES])
        assert (float(optimizer.scale), int(optimizer.finite_steps)) == (reference, 0)


def test_loss_without_scaling_does_not_change():
    _, optimizer = make(SGD())
    loss = tf.constant(3.0)
    assert optimizer.scale_loss(loss) is loss


def test_float16_models_train_float32_weights():
    tf.keras.utils.set_random_seed(0)
    with dtype_policy("mixed_float16"):
        model = tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(3)])
    weights = model.trainable_variables
    optimizer = optim.Optimizer(
        weights,
        SGD(0.0),
        lambda step: tf.constant(1e-4),
        0.0,
        (False,) * 2,
        loss_scale=True,
    )
    before = values(weights)
    with tf.GradientTape() as tape:
        outputs = tf.cast(model(tf.ones((2, 4))), tf.float32)
        loss = optimizer.scale_loss(tf.reduce_sum(outputs) / 2)
    optimizer.apply(tape.gradient(loss, weights))
    for old, new in zip(before, values(weights), strict=True):
        assert new.dtype == np.float32
        # In float16 these values equal the old ones.
        np.testing.assert_allclose(new, old - 1e-4, rtol=0, atol=1e-7)


# Replicas and checkpoints.

# Trains on one replica and on two, in one process, and prints the results.
REPLICAS = """
import json
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from noah_tf.training import optimizer as optim
from noah_tf.training.update_rules import LAMB, SGD
from noah_tf.training.update_rules import LAMB, SGD, AdamW
from noah_tf.utils import distribute

def train(strategy, rule, policy):
    rng = np.random.default_rng(0)
    with distribute.dtype_policy(policy), strategy.scope():
        inputs = tf.keras.Input((4,))
        outputs = tf.keras.layers.Dense(3, dtype="float32")(tf.keras.layers.Dense(4)(inputs))
        model = tf.keras.Model(inputs, outputs)
        model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
        weights = model.trainable_variables
        optimizer = optim.Optimizer(
            weights, rule, lambda step: 0.01 * tf.cast(step + 1, tf.float32), 0.1,
            [True, False] * 2, start_steps=[1, 1, 0, 0], clip_norm=1.0,
            loss_scale=policy != "float32")

    def replica_step(x):
        with tf.GradientTape() as tape:
            loss = optimizer.scale_loss(tf.reduce_sum(model(x, training=True) ** 2) / 8)
        return optimizer.apply(tape.gradient(loss, weights))

    @tf.function
    def train_step(x):
        return strategy.reduce("MEAN", strategy.run(replica_step, args=(x,)), axis=None)

    data = tf.data.Dataset.from_tensor_slices(rng.normal(size=(32, 4)).astype("float32")).batch(8)
    norms = [float(train_step(x)) for x in strategy.experimental_distribute_dataset(data)]
    raw = [optim.raw_variable(w) for w in weights]
    slots = [slot for slots in optimizer.slots.values() for slot in slots.values()]
    copies = [[c.numpy().tolist() for c in getattr(v, "values", [v])] for v in raw + slots]
    return {
        "replicas": strategy.num_replicas_in_sync,
        "norms": norms,
        "weights": np.concatenate([np.ravel(w) for w in model.get_weights()]).tolist(),
        "equal": all(copy == c[0] for c in copies for copy in c),
        "iterations": int(optimizer.iterations.numpy()),
        "applied": optimizer.applied.numpy().tolist(),
        "rate": float(optimizer.learning_rate)}

print(json.dumps([
    [train(distribute.make_strategy(name), rule, policy) for name in ("single", "mirrored")]
    for rule, policy in ((LAMB(), "float32"), (SGD(), "mixed_bfloat16"))]))
"""


@pytest.mark.slow
def test_two_replicas_step_as_one():
    process = run_python(REPLICAS)
    assert process.returncode == 0, process.stderr[-3000:]
    plain, mixed = json.loads(process.stdout.splitlines()[-1])
    for (one, two), tolerance in ((plain, 1e-6), (mixed, 1e-2)):
        assert (one["replicas"], two["replicas"]) == (1, 2)
        assert two["weights"] == pytest.approx(one["weights"], abs=tolerance)
        assert two["norms"] == pytest.approx(one["norms"], rel=tolerance)
        for result in (one, two):
            assert result["equal"]
            assert (result["iterations"], result["applied"]) == (4, [4, 3])
            assert result["rate"] == pytest.approx(0.05)


def test_checkpoint_has_all_state(tmp_path):
    def trained(weights, optimizer, numbers):
        for number in numbers:
            optimizer.apply(scaled(optimizer, gradient_values(number)))
        return values(weights)

    def checkpoint(weights, optimizer):
        raw = [optim.raw_variable(weight) for weight in weights]
        return tf.train.Checkpoint(weights=raw, optimizer=optimizer)

    options = {"loss_scale": True, "start_steps": (0, 2, 2)}
    weights, optimizer = make(AdamW(), **options)
    optimizer.scale.assign(2.0**10)
    trained(weights, optimizer, range(3))
    path = checkpoint(weights, optimizer).save(str(tmp_path / "state"))
    names = {name for name, _ in tf.train.list_variables(path) if name.startswith("optimizer")}
    slots = [f"slots/{slot}/{index}" for slot in "mv" for index in range(3)]
    variables = ["iterations", "applied", "scale", "finite_steps", *slots]
    assert names == {f"optimizer/{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in variables}

    further = trained(weights, optimizer, range(3, 6))
    resumed, other = make(AdamW(), **options)
    checkpoint(resumed, other).restore(path).assert_consumed()
    assert (int(other.iterations), float(other.scale)) == (3, 2.0**10)
    for ours, theirs in zip(trained(resumed, other, range(3, 6)), further, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_lists_and_gradients_must_fit_the_weights():
    with pytest.raises(ValueError, match="decayed has 2 values for 3 weights"):
        make(SGD(), decayed=(True, False))
    _, optimizer = make(SGD())
    with pytest.raises(ValueError, match="got 1 gradients for 3 weights"):
        optimizer.apply([tf.zeros(SHAPES[0])])
    with pytest.raises(ValueError, match="all gradients are None"):
        optimizer.apply([None] * 3)
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with (
        strategy.scope(),
        pytest.raises(RuntimeError, match="inside the function that strategy.run calls"),
    ):
        optimizer.apply([tf.zeros(shape) for shape in SHAPES])
