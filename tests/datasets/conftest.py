"""Fixtures for the tests of data sets."""

import pytest


@pytest.fixture(scope="session")
def scenes(tfds_dir):
    """The training split of digit_scenes, 200 scenes."""
    from noah_tf.datasets.registry import open_source

    return open_source("digit_scenes", "train", data_dir=tfds_dir)
