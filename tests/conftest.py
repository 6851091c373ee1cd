"""Fixtures that several test modules share."""

import gc
import os

import pytest
from once_per_run import once_per_run
from shared_data import shared_folder

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_collection_modifyitems(items):
    """Runs the tests that take minutes first, so that none of them runs alone at the end."""
    items.sort(key=lambda item: not any(m.kwargs.get("minutes") for m in item.iter_markers("slow")))


def pytest_collection_finish():
    """Excludes all imported objects from garbage collection.

    Otherwise each collection, such as that of `clear_session`, takes half a second to a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def shared():
    """The folder of reference data; skips the test if the folder does not exist."""
    folder = shared_folder()
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder} (set NOAH_TF_SHARED)")
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A folder of drawn photos of three classes: train/CLASS/*.png and test/CLASS/*.png."""
    from recipes import draw_shapes

    return once_per_run(tmp_path_factory, "shapes", draw_shapes)


@pytest.fixture(scope="session")
def finished_run(shapes, tmp_path_factory):
    """The workdir of a complete run of `recipes.small_recipe`. Tests must not change it."""
    from recipes import small_recipe

    from noah_tf.training.loop import train

    recipe = small_recipe(shapes)
    return once_per_run(tmp_path_factory, "noah", lambda workdir: train(recipe, workdir))


@pytest.fixture(scope="session")
def gap_run(shapes, tmp_path_factory):
    """The --workdir of a complete run with a pooled head and a moving average. Read it only."""
    from recipes import small_recipe

    from noah_tf.training.loop import train

    recipe = small_recipe(shapes, "gap")
    recipe.train.epochs = 1
    recipe.ema.decay = 0.5
    return once_per_run(tmp_path_factory, "gap", lambda workdir: train(recipe, workdir))


@pytest.fixture(autouse=True)
def float32_policy():
    """Restores the default Keras dtype policy after each test."""
    yield
    import tensorflow as tf

    tf.keras.mixed_precision.set_global_policy("float32")


@pytest.fixture(scope="session")
def coco_dir(tmp_path_factory):
    """A TFDS data directory with a small coco/2017, see `coco_like`."""
    from coco_like import make_coco

    return once_per_run(tmp_path_factory, "coco", make_coco) / "tfds"


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
    """A TFDS data directory with both configs of digit_scenes, 200 scenes per split."""
    import tensorflow_datasets as tfds
    from shared_data import SCENES

    import noah_tf.datasets.digit_scenes  # noqa: F401
    from noah_tf.datasets.tfds_sources import prepare

    def prepare_both(directory):
        for config in ("single", "multi"):
            prepare(tfds.builder(f"digit_scenes/{config}", data_dir=directory), SCENES)

    return once_per_run(tmp_path_factory, "tfds", prepare_both)
