"""A second run to compare with."""

import pytest


@pytest.fixture(scope="session")
def gap_run(shapes, tmp_path_factory):
    """The --workdir of a run with a pooled head and a moving average. Read it only."""
    from recipes import small_recipe

    from noah_tf.training.loop import train

    workdir = tmp_path_factory.mktemp("runs") / "gap"
    config = small_recipe(shapes, "gap")
    config.train.epochs = 1
    config.ema.decay = 0.5
    train(config, workdir)
    return workdir
