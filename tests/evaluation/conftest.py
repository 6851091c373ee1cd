"""A second run to compare with."""

import pytest
from once_per_run import once_per_run


@pytest.fixture(scope="session")
def gap_run(shapes, tmp_path_factory):
    """The --workdir of a run with a pooled head and a moving average. Read it only."""
    from recipes import small_recipe

    from noah_tf.training.loop import train

    config = small_recipe(shapes, "gap")
    config.train.epochs = 1
    config.ema.decay = 0.5
    return once_per_run(tmp_path_factory, "gap", lambda workdir: train(config, workdir))
