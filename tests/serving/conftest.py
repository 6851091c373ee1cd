"""A small SavedModel with the signatures of noah_tf's exports, served."""

import pytest
from once_per_run import once_per_run
from tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """A folder with two versions: 1 is strict, 2 is tolerant."""

    def write_both(base):
        write_tiny_model(base / "1")
        write_tiny_model(base / "2", tolerant=True)

    return once_per_run(tmp_path_factory, "tiny", write_both)


@pytest.fixture(scope="session")
def server(tiny_models):
    """A server of both versions, with the labels stable and canary. Tests must not change it."""
    from tf_serving_stand_in import StandIn

    labels = {"stable": 1, "canary": 2}
    with StandIn(tiny_models, "tiny", versions=[1, 2], labels=labels) as running:
        yield running
