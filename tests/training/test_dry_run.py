"""The dry run of a recipe."""

import pytest
from recipes import quickstart, recipe, small_recipe

from noah_tf.training.dry_run import dry_run

pytestmark = pytest.mark.one_stack


@pytest.mark.slow
def test_data_size_comes_from_the_source_if_the_recipe_has_none(shapes):
    config = small_recipe(shapes)
    config.train.accumulate = 2
    text = dry_run(config)
    assert "folder train: 24 examples, 3 classes" in text
    assert "2 epochs of 3: 6 steps, 48 images" in text
    assert "batch       8: 8 per device, in 2 parts of 4" in text
    losses = text.split("loss ")[1].split(";")[0].split(" and ")
    assert len(losses) == 2 and all(0 < float(loss) < 10 for loss in losses)


def test_schedule_is_plotted(shapes):
    paper, config = recipe("resnet", "noah_resnet18"), small_recipe(shapes)
    config.optimizer, config.schedule = paper.optimizer, paper.schedule
    config.train.epochs = paper.train.epochs
    lines = dry_run(config).splitlines()
    rates = {}
    for line in lines[lines.index("learning rate after this many epochs:") + 1 :]:
        epoch, rate, *bar = line.split()
        rates[int(epoch)] = (float(rate), len(bar[0]) if bar else 0)
    assert rates[0] == (0.1, 40) and rates[99] == (1e-4, 0)
    assert {rate for rate, _ in rates.values()} == {0.1, 0.01, 0.001, 1e-4}


def test_invalid_recipe_raises():
    config = quickstart()
    config.train.batch_size = 0
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        dry_run(config)
