"""The learning rates of the recipes against plain statements of the reference's training loops."""

import math

import numpy as np
import pytest
from recipes import devices, recipe

from noah_tf.training.plan import TrainingPlan

pytestmark = pytest.mark.one_stack


class Recorder:
    """Stands for the model: notes the learning rate at which each epoch is trained."""

    def __init__(self):
        self.rate, self.rates = None, []

    def train_one_epoch(self):
        self.rates.append(self.rate)


def loop_of_the_cnns(epochs, rate, decay, milestones=()):
    """main.py: the rate is set at the beginning of each epoch."""
    model = Recorder()
    for epoch in range(epochs):
        if decay == "cos":
            model.rate = rate * (1 + math.cos(math.pi * epoch / epochs)) / 2
        elif decay == "linear":
            model.rate = rate * (1 - epoch / epochs)
        else:
            model.rate = rate * 0.1 ** sum(milestone <= epoch for milestone in milestones)
        model.train_one_epoch()
    return model.rates


class TimmCosine:
    """timm's CosineLRScheduler, which begins with the first rate of the warm-up."""

    def __init__(self, model, epochs, peak, end, warmup_epochs, warmup_start):
        self.model, self.epochs, self.peak, self.end = model, epochs, peak, end
        self.warmup_epochs, self.warmup_start = warmup_epochs, warmup_start
        model.rate = warmup_start

    def step(self, epoch):
        if epoch < self.warmup_epochs:
            slope = (self.peak - self.warmup_start) / self.warmup_epochs
            self.model.rate = self.warmup_start + epoch * slope
        elif epoch < self.epochs:
            half = 0.5 * (self.peak - self.end)
            self.model.rate = self.end + half * (1 + math.cos(math.pi * epoch / self.epochs))
        else:
            self.model.rate = self.end


def loop_of_deit_and_pvt(**schedule):
    """vit/deit/main.py and vit/pvt/classification/main.py."""
    model = Recorder()
    scheduler = TimmCosine(model, **schedule)
    for epoch in range(schedule["epochs"]):
        model.train_one_epoch()
        scheduler.step(epoch)
    return model.rates


def loop_of_timm(**schedule):
    """train.py of timm, which trains the MLPs (mlp/README.md)."""
    model = Recorder()
    scheduler = TimmCosine(model, **schedule)
    for epoch in range(schedule["epochs"]):
        model.train_one_epoch()
        scheduler.step(epoch + 1)
    return model.rates


# The values are those that the reference's commands and defaults have.
VIT = {
    "epochs": 300,
    "peak": 5e-4 * 128 * 8 / 512,
    "end": 1e-5,
    "warmup_epochs": 5,
    "warmup_start": 1e-6,
}
MLP = {**VIT, "peak": 7e-4, "warmup_epochs": 20}
RSB = {**VIT, "peak": 5e-3, "end": 1e-6, "warmup_start": 1e-4}
LOOPS = {
    "resnet": lambda: loop_of_the_cnns(100, 0.1, "schedule", (30, 60, 90)),
    "mobilenet_v2": lambda: loop_of_the_cnns(150, 0.05, "cos"),
    "mobilenet_v3": lambda: loop_of_the_cnns(150, 0.05, "cos"),
    "shufflenet_v2": lambda: loop_of_the_cnns(240, 0.5, "linear"),
    "deit": lambda: loop_of_deit_and_pvt(**VIT),
    "pvt": lambda: loop_of_deit_and_pvt(**VIT),
    "mixer": lambda: loop_of_timm(**MLP),
    "gmlp": lambda: loop_of_timm(**MLP),
    "resnet50_rsb": lambda: loop_of_timm(**RSB),
}


@pytest.mark.parametrize("family", LOOPS)
def test_first_ten_and_last_three_epochs(family):
    expected = LOOPS[family]()
    plan = TrainingPlan.from_config(recipe(family), devices(8))
    steps = plan.steps_per_epoch(plan.config.data.num_examples)
    rate = plan.schedule.for_steps(steps)
    epochs = [*range(10), *range(len(expected) - 3, len(expected))]
    wanted = np.array(expected)[epochs]
    for step in (0, steps - 1):  # the first and the last of an epoch
        rates = [float(rate(epoch * steps + step)) for epoch in epochs]
        np.testing.assert_allclose(rates, wanted, rtol=2e-7)
    assert len(expected) == plan.train.epochs


def test_loops_differ_by_one_epoch():
    late, early = loop_of_deit_and_pvt(**VIT), loop_of_timm(**VIT)
    assert late[:2] == [1e-6, 1e-6] and early[:2] == [1e-6, pytest.approx(2.008e-4)]
    assert late[2:] == early[1:-1]
