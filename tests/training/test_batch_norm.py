"""BatchNorm in groups, and over all replicas."""

import json

import numpy as np
import pytest
import tensorflow as tf
from head_helpers import run_python
from recipes import small_recipe

import noah_tf
from noah_tf.training.batch_norm import normalize_in_groups, normalize_over_replicas
from noah_tf.training.plan import TrainingPlan
from noah_tf.training.recipe_checks import combination_problems


def make_model():
    inputs = tf.keras.Input((6, 6, 3))
    x = tf.keras.layers.BatchNormalization(momentum=0.5, name="norm")(inputs)
    return tf.keras.Model(inputs, tf.keras.layers.Conv2D(8, 3)(x))


def images(batch=12):
    values = np.random.default_rng(0).normal(size=(batch, 6, 6, 3))
    return np.float32(values * np.arange(1, 1 + batch)[:, None, None, None])


def test_each_group_is_normalized_like_a_batch():
    model, twin = make_model(), make_model()
    twin.set_weights(model.get_weights())
    normalize_in_groups(model, 3)
    batch = images()
    first = twin(batch[:4], training=True).numpy()
    statistics = twin.get_layer("norm").get_weights()
    others = [twin(part, training=True).numpy() for part in (batch[4:8], batch[8:])]
    got = tf.function(lambda x: model(x, training=True))(batch)
    np.testing.assert_allclose(got, np.concatenate([first, *others]), atol=1e-5)
    # The moving averages are those of the first group.
    for value, expected in zip(model.get_layer("norm").get_weights(), statistics, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    twin.set_weights(model.get_weights())
    np.testing.assert_allclose(model(batch), twin(batch), atol=1e-6)  # evaluation
    model.get_layer("norm").trainable = False
    np.testing.assert_allclose(model(batch, training=True), twin(batch), atol=1e-6)


def test_a_saved_model_has_ordinary_layers(tmp_path):
    model = make_model()
    normalize_in_groups(model, 3)
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("norm")) is tf.keras.layers.BatchNormalization
    np.testing.assert_allclose(loaded(images()), model(images()), atol=1e-6)


def test_a_model_without_batch_norm_raises():
    model = noah_tf.create_model("noah_deit_tiny_050_patch16_224", 3, (32, 32, 3))
    with pytest.raises(ValueError, match="has no BatchNorm: leave model.batch_norm_group out"):
        normalize_in_groups(model, 2)
    with pytest.raises(ValueError, match="leave model.synchronized_batch_norm out"):
        normalize_over_replicas(model)


def test_groups_of_a_recipe(shapes):
    config = small_recipe(shapes)
    config.model.batch_norm_group = 2
    assert TrainingPlan.from_config(config).num_batch_norm_groups == 4
    config.train.accumulate = 2
    assert TrainingPlan.from_config(config).num_batch_norm_groups == 2
    (problem,) = combination_problems(config, replicas=4)
    assert "batch_norm_group=2 does not divide the 1 examples that a replica" in problem
    config.model.synchronized_batch_norm = True
    with pytest.raises(ValueError, match="synchronized_batch_norm=True contradict each other"):
        TrainingPlan.from_config(config)


SCRIPT = """
import json, sys
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4)
from noah_tf.training.batch_norm import normalize_over_replicas
from noah_tf.utils.keras_compat import seed_layers

def step(devices):
    strategy = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(devices)])
    rng = np.random.default_rng(0)
    batch = (rng.normal(size=(8, 6, 6, 3)) * np.arange(1, 9)[:, None, None, None]).astype("float32")
    with strategy.scope():
        seed_layers(0)
        inputs = tf.keras.Input((6, 6, 3))
        x = tf.keras.layers.Conv2D(4, 3)(inputs)
        x = tf.keras.layers.BatchNormalization(name="norm", momentum=0.5)(x)
        model = tf.keras.Model(inputs, tf.keras.layers.ReLU()(x))
        normalize_over_replicas(model)
    size = 8 // devices
    shares = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(batch[context.replica_id_in_sync_group * size:][:size]))

    @tf.function
    def run(share):
        def replica(x):
            with tf.GradientTape() as tape:
                y = model(x, training=True)
                loss = tf.reduce_sum(y ** 2)
            gradients = tape.gradient(loss, model.trainable_variables)
            total = tf.distribute.get_replica_context().all_reduce("sum", gradients)
            return y, total
        return strategy.run(replica, args=(share,))

    outputs, gradients = run(shares)
    outputs = strategy.experimental_local_results(outputs)
    return {
        "outputs": np.concatenate([value.numpy() for value in outputs]).ravel().tolist(),
        "gradients": [strategy.experimental_local_results(g)[0].numpy().ravel().tolist()
                      for g in gradients],
        "averages": [value.ravel().tolist() for value in model.get_layer("norm").get_weights()],
    }

# A process takes no other number of replicas once it has reduced over some.
print(json.dumps([step(1), step(int(sys.argv[1]))]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("replicas", ["2", "4"])
def test_replicas_normalize_as_one_device_does_with_the_whole_batch(replicas):
    process = run_python(SCRIPT, replicas)
    assert process.returncode == 0, process.stderr[-3000:]
    one, other = json.loads(process.stdout.splitlines()[-1])
    np.testing.assert_allclose(other["outputs"], one["outputs"], atol=2e-5)
    for key in ("gradients", "averages"):
        for got, expected in zip(other[key], one[key], strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
