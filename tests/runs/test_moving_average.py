"""The moving average against NumPy; swapping it with the weights; replicas; checkpoints."""

import json

import numpy as np
import pytest
import tensorflow as tf
from head_helpers import run_python

from noah_tf.runs.moving_average import MovingAverage
from noah_tf.utils.distribute import dtype_policy


def make_model():
    inputs = tf.keras.Input((4,))
    x = tf.keras.layers.Dense(3)(inputs)
    x = tf.keras.layers.BatchNormalization(momentum=0.5)(x)
    x = tf.keras.layers.Dropout(0.5)(x)
    return tf.keras.Model(inputs, x)


def values(weights):
    return [tf.convert_to_tensor(weight).numpy() for weight in weights]


def move(model, seed):
    """Sets random weights, as a train step would change them."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])


def assert_equal(results, expected):
    for one, other in zip(results, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_average_follows_weights_and_statistics(policy):
    with dtype_policy(policy):
        model = make_model()
    average = MovingAverage(model, 0.9)
    expected = [value.astype(np.float64) for value in model.get_weights()]
    assert len(expected) == 6  # a kernel and a bias; a scale, an offset and two statistics
    assert_equal(values(average.averages), model.get_weights())
    update = tf.function(average.update)
    for step in range(20):
        move(model, step)
        update()
        for index, weight in enumerate(model.get_weights()):
            expected[index] = 0.9 * expected[index] + 0.1 * weight
    for result, value in zip(values(average.averages), expected, strict=True):
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, value, rtol=1e-5, atol=1e-6)


def test_reset_starts_again_at_the_weights():
    model = make_model()
    average = MovingAverage(model, 0.9)
    move(model, 0)
    average.reset()
    assert_equal(values(average.averages), model.get_weights())


@pytest.mark.parametrize("error", [None, KeyError])
def test_swapped_sets_the_average_and_restores_the_weights(error):
    model = make_model()
    average = MovingAverage(model, 0.7)
    move(model, 0)
    average.update()
    own, averages = model.get_weights(), values(average.averages)
    try:
        with average.swapped():
            assert_equal(model.get_weights(), averages)
            if error:
                raise error("in evaluation")
    except KeyError:
        assert error is KeyError
    assert_equal(model.get_weights(), own)
    assert_equal(values(average.averages), averages)


def test_checkpoint_has_only_the_average(tmp_path):
    model = make_model()
    average = MovingAverage(model, 0.7)
    move(model, 0)
    average.update()
    path = tf.train.Checkpoint(average=average).save(str(tmp_path / "state"))
    names = {name for name, _ in tf.train.list_variables(path) if name.startswith("average")}
    assert names == {f"average/averages/{n}/.ATTRIBUTES/VARIABLE_VALUE" for n in range(6)}
    other = MovingAverage(make_model(), 0.7)
    tf.train.Checkpoint(average=other).restore(path).assert_consumed()
    assert_equal(values(other.averages), values(average.averages))


@pytest.mark.parametrize("decay", [1.0, -0.1, True, None])
def test_decays_out_of_range_raise(decay):
    with pytest.raises(ValueError, match=r"of a moving average must be a number in \[0, 1\), got"):
        MovingAverage(make_model(), decay)


# Trains on eight replicas. The mean of eight equal numbers can differ from them.
REPLICAS = """
import json, sys
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 8)
from noah_tf.runs.moving_average import MovingAverage
from noah_tf.training.optimizer import Optimizer, raw_variable
from noah_tf.training.update_rules import SGD
from noah_tf.utils import distribute

DECAY = 0.8
rng = np.random.default_rng(0)
tf.keras.utils.set_random_seed(0)

def statistics(model):
    return [raw_variable(weight) for weight in model.non_trainable_weights]

def make(strategy):
    with strategy.scope():
        inputs = tf.keras.Input((4,))
        x = tf.keras.layers.Dense(3)(inputs)
        model = tf.keras.Model(inputs, tf.keras.layers.BatchNormalization(momentum=0.5)(x))
        weights = model.trainable_variables
        optimizer = Optimizer(
            weights, SGD(), lambda step: tf.constant(0.1), 0.0, [False] * len(weights))
        distribute.read_first_replica(statistics(model))
        return model, optimizer, MovingAverage(model, DECAY)

strategy = distribute.make_strategy("mirrored")
model, optimizer, average = make(strategy)

def replica_step(x):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum((model(x, training=True) - 1) ** 2) / 8
    distribute.synchronize_statistics(statistics(model))
    optimizer.apply(tape.gradient(loss, model.trainable_variables))
    average.update()

train_step = tf.function(lambda x: strategy.run(replica_step, args=(x,)))
read = lambda weights: [tf.convert_to_tensor(w).numpy() for w in weights]
copies = lambda w: [copy.numpy() for copy in raw_variable(w).values]
first = lambda: [copies(w)[0] for w in model.weights]
expected = first()
data = tf.data.Dataset.from_tensor_slices(rng.normal(size=(40, 4)).astype("float32")).batch(8)
for x in strategy.experimental_distribute_dataset(data):
    train_step(x)
    expected = [DECAY * a + (1 - DECAY) * w for a, w in zip(expected, first())]
differs = lambda xs, ys: max(float(abs(x - y).max()) for x, y in zip(xs, ys))

own, averages = [copies(w) for w in model.weights], read(average.averages)
predict = tf.function(lambda x: strategy.run(lambda x: model(x, training=False), args=(x,)))
x = tf.ones((2, 4))
local = lambda: [y.numpy() for y in strategy.experimental_local_results(predict(x))]
before = local()
path = tf.train.Checkpoint(model=model, average=average).save(sys.argv[1] + "/state")
with average.swapped():
    within = local()
    swapped = read(model.weights)
after = local()
result = {
    "average": differs(averages, expected),
    "swapped": differs(swapped, averages),
    "replicas_alike": differs(within[:1], within[1:]),
    "moved": differs(within, before),
    "own": differs(sum(map(copies, model.weights), []), sum(own, [])),
    "drifted": max(float(np.ptp(w, axis=0).max()) for w in own),
    "read": differs(read(model.weights), [w[0] for w in own]),
    "after": differs(after, before),
    "average_after": differs(read(average.averages), averages),
}
for name in ("mirrored", "single"):
    other, _, restored = make(distribute.make_strategy(name))
    tf.train.Checkpoint(model=other, average=restored).restore(path).assert_consumed()
    result[f"restored_{name}"] = differs(read(restored.averages), averages)
    restored.reset()
    result[f"reset_{name}"] = differs(read(restored.averages), read(other.weights))
print(json.dumps(result))
"""


@pytest.mark.slow
def test_copies_of_eight_replicas_are_equal_and_are_read_to_the_bit(tmp_path):
    process = run_python(REPLICAS, str(tmp_path))
    assert process.returncode == 0, process.stderr[-3000:]
    result = json.loads(process.stdout.splitlines()[-1])
    assert result.pop("moved") > 1e-3
    assert result.pop("average") < 1e-6
    assert set(result.values()) == {0.0}, result
