"""Small preparations of digit_scenes, made once a test run."""

import pytest

SCENES = 200  # a split; the tests' own numbers follow from it


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
    """A TFDS data directory with both configs of digit_scenes, 200 scenes a split."""
    import tensorflow_datasets as tfds

    import noah_tf.datasets.digit_scenes  # noqa: F401
    from noah_tf.datasets.tfds_sources import prepare

    directory = tmp_path_factory.mktemp("tfds")
    for config in ("single", "multi"):
        prepare(tfds.builder(f"digit_scenes/{config}", data_dir=directory), SCENES)
    return directory


@pytest.fixture(scope="session")
def scenes(tfds_dir):
    """The training split of digit_scenes, 200 scenes."""
    from noah_tf.datasets.sources import open_source

    return open_source("digit_scenes", "train", data_dir=tfds_dir)
