"""The learning rates against NumPy."""

import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from noah_tf.training.schedules import make_schedule

pytestmark = pytest.mark.one_stack

STEPS = 7  # of an epoch


def section(name="cosine", by="epoch", **values):
    config = {
        "name": name,
        "by": by,
        "end": 0.0,
        "boundaries": (),
        "factor": 0.1,
        "warmup_epochs": 0,
        "warmup_start": 0.0,
    }
    return ml_collections.ConfigDict({**config, **values})


def cosine(epoch, peak, end, total):
    return end + (peak - end) / 2 * (1 + np.cos(np.pi * epoch / total))


def warmed(epoch, rate, peak, start, warmup):
    return np.where(epoch < warmup, start + epoch * (peak - start) / max(warmup, 1), rate)


# The reference recipes: section, peak, epochs, and a function from epochs to learning rates.
RECIPES = {
    "resnet": (
        section("step", boundaries=(30, 60, 90)),
        0.1,
        100,
        lambda t: 0.1 * 0.1 ** np.digitize(t, [30, 60, 90]),
    ),
    "mobilenetv2": (section(), 0.05, 150, lambda t: cosine(t, 0.05, 0, 150)),
    "shufflenetv2": (section("linear"), 0.5, 240, lambda t: 0.5 * (1 - t / 240)),
    "deit": (
        section(end=1e-5, warmup_epochs=5, warmup_start=1e-6),
        1e-3,
        300,
        lambda t: warmed(t, cosine(t, 1e-3, 1e-5, 300), 1e-3, 1e-6, 5),
    ),
    "mixer": (
        section(end=1e-5, warmup_epochs=20, warmup_start=1e-6),
        7e-4,
        300,
        lambda t: warmed(t, cosine(t, 7e-4, 1e-5, 300), 7e-4, 1e-6, 20),
    ),
    "constant": (section("constant"), 0.3, 10, lambda t: np.full(len(t), 0.3)),
}


def rates(schedule, steps):
    return np.array([schedule(int(step)).numpy() for step in steps])


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_epoch_of_the_recipes(recipe):
    config, peak, total, expected = RECIPES[recipe]
    schedule = make_schedule(config, peak, total, STEPS)
    epochs = np.arange(total + 1)
    results = rates(schedule, epochs * STEPS)
    np.testing.assert_allclose(results, expected(epochs.astype(float)), rtol=2e-7, atol=1e-12)
    np.testing.assert_array_equal(rates(schedule, epochs[:-1] * STEPS + STEPS - 1), results[:-1])
    # After the last epoch the rate does not change.
    np.testing.assert_array_equal(rates(schedule, [total * STEPS + 5 * STEPS]), results[-1:])


@pytest.mark.parametrize("recipe", RECIPES)
def test_by_step_has_the_same_rates(recipe):
    config, peak, total, expected = RECIPES[recipe]
    config = ml_collections.ConfigDict({**config, "by": "step"})
    schedule = make_schedule(config, peak, total, STEPS)
    steps = np.arange(0, total * STEPS, 5)
    times = steps / STEPS
    times = np.where(times < config.warmup_epochs, (steps + 1) / STEPS, times)
    # At the last step of the warm-up, `expected` has the rate of the schedule.
    inside = (times != config.warmup_epochs) | (steps / STEPS == times)
    np.testing.assert_allclose(
        rates(schedule, steps)[inside], expected(times[inside]), rtol=2e-7, atol=1e-12
    )


def test_a_schedule_that_lags_trains_each_epoch_at_the_rate_of_the_one_before():
    config, peak, total, expected = RECIPES["deit"]
    late = ml_collections.ConfigDict({**config, "lag_epochs": 1})
    epochs = np.arange(total + 1)
    results = rates(make_schedule(late, peak, total, STEPS), epochs * STEPS)
    lagging = np.maximum(epochs - 1, 0).astype(float)
    np.testing.assert_allclose(results, expected(lagging), rtol=2e-7, atol=1e-12)
    # The second epoch is still at the first rate of the warm-up.
    assert results[0] == results[1] == np.float32(1e-6) < results[2]


def test_warm_up_by_step_from_zero_starts_above_zero_and_ends_at_its_peak():
    config = section(by="step", warmup_epochs=0.5, warmup_start=0.0)
    results = rates(make_schedule(config, 0.4, 3, 10), range(30))
    np.testing.assert_allclose(results[:5], 0.4 * np.arange(1, 6) / 5, rtol=1e-6)
    np.testing.assert_allclose(results[5:], cosine(np.arange(5, 30) / 10, 0.4, 0, 3), rtol=1e-6)


def test_warm_up_that_ends_within_a_step_does_not_exceed_its_peak():
    config = section("constant", by="step", warmup_epochs=0.25, warmup_start=0.0)
    results = rates(make_schedule(config, 0.4, 3, 10), range(4))
    np.testing.assert_allclose(results, [0.4 * 0.1 / 0.25, 0.4 * 0.2 / 0.25, 0.4, 0.4], rtol=1e-6)


def test_steps_of_a_long_run_are_exact():
    # float32 cannot represent 2 ** 24 + 1.
    config = section("linear", by="step", end=0.0)
    schedule = make_schedule(config, 1.0, 3 * 2**24, 1)
    for step in (2**24 + 1, 2**25 + 3):
        assert schedule(step).numpy() == np.float32(1 - step / (3 * 2**24))
    by_epoch = make_schedule(section("step", boundaries=(2,)), 1.0, 4, 2**24 + 1)
    assert rates(by_epoch, [2 * (2**24 + 1) - 1, 2 * (2**24 + 1)]).tolist() == [1, np.float32(0.1)]


def test_schedule_runs_inside_a_function():
    schedule = make_schedule(RECIPES["deit"][0], 1e-3, 300, STEPS)
    step = tf.Variable(40 * STEPS, dtype=tf.int64)
    rate = tf.function(lambda: schedule(step))()
    assert rate.dtype == tf.float32 and rate.shape == ()
    assert rate.numpy() == schedule(40 * STEPS).numpy()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "poly"}, r"schedule.name must be one of cosine, step, linear, constant.*'poly'"),
        ({"by": "batch"}, "schedule.by must be 'epoch' or 'step', got 'batch'"),
        ({"name": "step", "boundaries": (30, 20)}, r"schedule.boundaries must be rising .*30, 20"),
        ({"name": "step", "boundaries": (0, 20)}, "schedule.boundaries must be rising"),
        ({"name": "step", "boundaries": (5,), "factor": 0.0}, "schedule.factor must be above 0"),
        ({"lag_epochs": -1}, "schedule.lag_epochs must be a whole number from 0, got -1"),
        ({"lag_epochs": 1, "by": "step"}, "schedule.lag_epochs must be 0 if schedule.by='step'"),
        ({"end": -1.0}, "schedule.end must be at least 0, got -1.0"),
        ({"warmup_epochs": 10}, "less than the 10 epochs of the run, got 10"),
        ({"warmup_epochs": 2, "warmup_start": -1.0}, "schedule.warmup_start must be at least 0"),
        ({"warmup_epochs": 2}, "schedule.warmup_start must be above 0 if schedule.by='epoch'"),
    ],
)
def test_invalid_values_raise(values, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(section(**values), 0.1, 10, STEPS)


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match="optimizer.learning_rate must be above 0, got 0"):
        make_schedule(section(), 0, 10, STEPS)
    with pytest.raises(ValueError, match="train.epochs must be a number above 0, got 0"):
        make_schedule(section(), 0.1, 0, STEPS)
    with pytest.raises(ValueError, match="steps_per_epoch must be a positive integer, got 0"):
        make_schedule(section(), 0.1, 10, 0)
