"""Optimizers of Keras and TensorFlow Addons, compared with these libraries themselves."""

import json

import numpy as np
import pytest
import tensorflow as tf
from head_helpers import run_python
from optimizer_steps import (
    DECAY,
    DECAYED,
    STEPS,
    assert_same,
    gradient_values,
    rate_of,
    schedule,
    start_values,
    values,
    variables,
)

from noah_tf.training.keras_optimizer import KerasOptimizer, KerasRule
from noah_tf.training.optimizer_settings import OptimizerSettings
from noah_tf.utils.keras_compat import IS_KERAS_3

NAMES = ["keras.Lion", "keras.AdamW"] + ([] if IS_KERAS_3 else ["tfa.LAMB"])
MORE = ["keras.Adam", "keras.RMSprop", "keras.SGD"]
MORE += ["keras.Nadam", "keras.Muon"] if IS_KERAS_3 else ["tfa.NovoGrad", "tfa.AdamW"]


def make(name, weight_decay=0.0, arguments=None, **options):
    weights = variables()
    rule = KerasRule(name, arguments or {})
    return weights, KerasOptimizer(weights, rule, schedule, weight_decay, DECAYED, **options)


def run(weights, optimizer, steps=range(STEPS), trained=(0, 1, 2)):
    """Makes the steps and returns the weights after each of them."""

    @tf.function
    def step(gradients):
        optimizer.apply([gradients[i] if i in trained else None for i in range(3)])

    results = []
    for number in steps:
        step([tf.constant(gradient) for gradient in gradient_values(number)])
        results.append(values(weights))
    return results


def reference(name, shrink=0.0):
    """Returns the weights after each step of the library's own optimizer."""
    weights = variables()
    optimizer = KerasRule(name).make(0.1)
    results = []
    for number in range(STEPS):
        optimizer.learning_rate = rate_of(number)
        for weight, decays in zip(weights, DECAYED, strict=True):
            weight.assign(weight * (1 - rate_of(number) * shrink * decays))
        gradients = map(tf.constant, gradient_values(number))
        optimizer.apply_gradients(list(zip(gradients, weights, strict=True)))
        results.append(values(weights))
    return results


@pytest.mark.parametrize("name", NAMES + [pytest.param(n, marks=pytest.mark.slow) for n in MORE])
def test_every_step_is_that_of_the_library(name):
    assert_same(run(*make(name)), reference(name))


def test_weight_decay_is_decoupled_and_masked():
    assert_same(run(*make("keras.Adam", DECAY)), reference("keras.Adam", DECAY))


def test_arguments_are_passed_on():
    moved = run(*make("keras.SGD", arguments={"momentum": 0.9}))
    assert not np.allclose(moved[-1][0], run(*make("keras.SGD"))[-1][0])


def test_gradients_are_clipped_before_the_step():
    weights, optimizer = make("keras.SGD", clip_norm=0.5)
    (after,) = run(weights, optimizer, [0])
    gradients = gradient_values(0)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
    expected = [
        value - rate_of(0) * gradient * 0.5 / norm
        for value, gradient in zip(start_values(), gradients, strict=True)
    ]
    assert_same([after], [expected])


@pytest.mark.parametrize("name", ["keras.Adam"] if IS_KERAS_3 else ["keras.Adam", "tfa.LAMB"])
def test_weights_that_start_later_have_their_own_bias_correction(name):
    weights, optimizer = make(name, start_steps=(3, 0, 2**63 - 1))
    early = run(weights, optimizer, range(3), trained=(1,))
    np.testing.assert_array_equal(early[-1][0], start_values()[0])
    late = run(weights, optimizer, range(3, 6), trained=(0, 1))
    fresh = [tf.Variable(start_values()[0])]
    library = KerasRule(name).make(0.1)
    for number in range(3, 6):
        library.learning_rate = rate_of(number)
        library.apply_gradients([(tf.constant(gradient_values(number)[0]), fresh[0])])
    np.testing.assert_allclose(late[-1][0], fresh[0], rtol=2e-5)
    np.testing.assert_array_equal(late[-1][2], start_values()[2])


@pytest.mark.parametrize("name", ["keras.Adam"] if IS_KERAS_3 else ["keras.Adam", "tfa.LAMB"])
def test_a_step_that_is_not_finite_changes_only_the_scale(name):
    weights, optimizer = make(name, DECAY, loss_scale=True)
    run(weights, optimizer, [0])
    state = [variable for group in optimizer.keras_state for variable in group]
    before = values([*weights, *state])
    optimizer.apply([tf.fill(weight.shape, np.inf) for weight in weights])
    assert_same([values([*weights, *state])], [before], rtol=0)
    assert float(optimizer.scale) == 2.0**14 and int(optimizer.iterations) == 2
    # The next step is as if there had been none.
    scaled = [gradient * 2.0**14 for gradient in gradient_values(1)]
    optimizer.apply([tf.constant(gradient) for gradient in scaled])
    assert not np.allclose(values(weights)[0], before[0])


@pytest.mark.parametrize("name", ["keras.Lion"] if IS_KERAS_3 else ["keras.Lion", "tfa.LAMB"])
def test_checkpoints_have_all_state_and_no_weights(name, tmp_path):
    weights, optimizer = make(name, start_steps=(0, 2, 0))
    run(weights, optimizer, range(2), trained=(0, 2))
    run(weights, optimizer, range(2, 4))
    path = tf.train.Checkpoint(optimizer=optimizer).write(str(tmp_path / "state"))
    final = run(weights, optimizer, range(4, 6))
    other, resumed = make(name, start_steps=(0, 2, 0))
    tf.train.Checkpoint(optimizer=resumed).read(path).assert_consumed()
    for weight, value in zip(other, start_values(), strict=True):
        np.testing.assert_array_equal(weight, value)
    weights, optimizer = make(name, start_steps=(0, 2, 0))
    run(weights, optimizer, range(2), trained=(0, 2))
    run(weights, optimizer, range(2, 4))
    for weight, value in zip(other, values(weights), strict=True):
        weight.assign(value)
    assert_same(run(other, resumed, range(4, 6)), final, rtol=0)


SCRIPT = """
import json
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from noah_tf.training.keras_optimizer import KerasOptimizer, KerasRule

def train(strategy, name):
    with strategy.scope():
        weight = tf.Variable([1.0, 2.0])
        optimizer = KerasOptimizer(
            [weight], KerasRule(name), lambda step: tf.constant(0.1), 0.1, [True], clip_norm=0.5,
            loss_scale=True)

    @tf.function
    def step(gradient):
        def replica_step():
            share = optimizer.scale_loss(gradient / strategy.num_replicas_in_sync)
            optimizer.apply([share])
        strategy.run(replica_step)

    results = []
    for number in range(5):
        step(tf.constant([0.1, 0.2]) * (number + 1.0) if number != 2 else tf.constant([1.0, 1e38]))
        results.append(strategy.experimental_local_results(weight)[-1].numpy().tolist())
    return results

print(json.dumps([
    [train(strategy, name) for strategy in (
        tf.distribute.OneDeviceStrategy("CPU:0"),
        tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))]
    for name in NAMES]))
"""


@pytest.mark.slow
def test_two_replicas_step_as_one():
    names = ["keras.Adam"] if IS_KERAS_3 else ["keras.Adam", "tfa.LAMB"]
    process = run_python(SCRIPT.replace("NAMES", repr(names)))
    assert process.returncode == 0, process.stderr
    for one, two in json.loads(process.stdout.splitlines()[-1]):
        np.testing.assert_allclose(one, two, rtol=1e-6)
        assert one[1] == one[2] != one[3]  # the step that is not finite


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "keras.Adm"}, "keras.CLASS, where CLASS is one of .*Adam, .*, got 'keras.Adm'"),
        ({"name": "keras.ScheduleFreeAdamW"}, "cannot be used: it evaluates other weights")
        if IS_KERAS_3
        else ({"name": "keras.Nadam"}, "is one of Adadelta, .*, got 'keras.Nadam'"),
        ({"name": "keras.Ftrl"}, "cannot be used: it computes weights from its own state"),
        ({"name": "keras.Adam", "args": {"weight_decay": 0.1}}, "set optimizer.weight_decay"),
        ({"name": "keras.Adam", "beta_1": 0.8}, "beta_1=0.8 is not for keras.Adam: set optimizer"),
        ({"name": "keras.Adam", "layer_decay": 0.7}, "layer_decay=0.7 is not for keras.Adam"),
        (
            {"name": "keras.Adam", "args": {"clipnorm": 1.0}},
            "clipnorm is not .* set optimizer.clip",
        ),
        (
            {"name": "keras.Adam", "args": {"beta": 1.0}},
            "does not take optimizer.args={'beta'",
        ),
        (
            {"name": "keras.Adam", "args": {"beta_2": "high"}},
            "does not take optimizer.args={'beta_2': 'high'}",
        ),
        (
            {"name": "sgd", "args": {"beta": 1.0}},
            "optimizer.args={'beta': 1.0} is for opt",
        ),
    ],
)
def test_settings_that_cannot_be_kept_raise(options, message):
    with pytest.raises(ValueError, match=message):
        OptimizerSettings(**options)


@pytest.mark.skipif(not IS_KERAS_3, reason="this TensorFlow has TensorFlow Addons")
def test_addons_need_their_tensorflow():
    with pytest.raises(ValueError, match="tfa.*needs TensorFlow Addons, which needs TensorFlow 2"):
        OptimizerSettings("tfa.LAMB")
