"""Exports behind a model server, the stand-in for TF Serving."""

import base64
import concurrent.futures
import shutil
import threading

import numpy as np
import pytest
import requests
import tensorflow as tf
from stacks import slow_on_one_stack
from test_savedmodel import FILES, NAMES, PREPROCESSING, expected_logits, small_model
from tf_serving_stand_in import StandIn

from noah_tf import export_savedmodel
from noah_tf.serving import Client, ServingError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models():
    """Two models with different logits."""
    models = []
    for seed in (1, 2):
        tf.keras.utils.set_random_seed(seed)
        models.append(small_model())
    return models


def export(model, folder, **options):
    return export_savedmodel(
        model, folder, PREPROCESSING, NAMES, warmup_batch_sizes=(1, 4), **options
    )


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    """The folder with version 1 of the first model. Tests must not change it."""
    folder = tmp_path_factory.mktemp("served") / "shapes"
    export(models[0], folder)
    return folder


@pytest.fixture
def make_clients():
    """A function that returns a client for REST and one for gRPC; closes them after the test."""
    clients = []

    def make(server):
        new = [Client(url, "shapes", timeout=30) for url in (server.rest, server.grpc)]
        clients.extend(new)
        return new

    yield make
    for client in clients:
        client.close()


def test_photos_are_answered_over_rest_and_grpc(models, exported, make_clients):
    expected = expected_logits(models[0], FILES)
    with StandIn(exported, "shapes") as server:
        with server.loaded("shapes") as (version, loaded):
            assert (version, loaded.num_warmed_up) == (1, 8)
        for client in make_clients(server):
            client.wait_until_ready(0)
            answers = client.predict(list(FILES))
            np.testing.assert_allclose([a["logits"] for a in answers], expected, atol=1e-5)
            assert [a["labels"][0] for a in answers] == [NAMES[i] for i in expected.argmax(1)]
            (answer,) = client.predict([FILES[0]], signature="explain")
            assert np.shape(answer["attention"]) == (5, 5, 5)
            np.testing.assert_allclose(np.sum(answer["attention"], (0, 1)), 1, atol=1e-5)
            (answer,) = client.predict([FILES[0]], signature="embed")
            assert np.shape(answer["pooled"]) == np.shape(answer["attended"])
            assert np.isfinite([answer["pooled"], answer["attended"]]).all()
            with pytest.raises(ServingError, match="image 1 of the request: .*empty") as raised:
                client.predict([FILES[0], b""])
            assert raised.value.refused
        # Pixels, in columns.
        url = f"{server.rest}/v1/models/shapes"
        pixels = np.stack([np.full((24, 24, 3), gray, np.uint8) for gray in (0, 200)])
        body = {"signature_name": "serve_tensor", "inputs": pixels.tolist()}
        logits = requests.post(f"{url}:predict", json=body, timeout=30).json()["outputs"]["logits"]
        images = tf.stack([PREPROCESSING.evaluation(image) for image in pixels])
        np.testing.assert_allclose(logits, models[0](images, training=False), atol=1e-5)
        signatures = requests.get(f"{url}/metadata", timeout=30).json()["metadata"]
        assert {"explain", "serve_tensor"} < set(signatures["signature_def"]["signature_def"])


@slow_on_one_stack
def test_a_tolerant_export_answers_the_good_photos(models, tmp_path, make_clients):
    export(models[0], tmp_path / "shapes", tolerant=True)
    expected = expected_logits(models[0], FILES[:1])
    with StandIn(tmp_path / "shapes", "shapes") as server:
        for client in make_clients(server):
            good, bad = client.predict([FILES[0], FILES[0][:200]])
            assert good["status"] == "OK" and "truncated or corrupt" in bad["status"]
            np.testing.assert_allclose(good["logits"], expected[0], atol=1e-5)


@slow_on_one_stack
def test_concurrent_requests_get_their_own_answers(models, exported, make_clients):
    expected = expected_logits(models[0], FILES)
    with (
        StandIn(exported, "shapes") as server,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        clients = [client for _ in range(4) for client in make_clients(server)]

        def ask(client, first):
            rows = [(first + offset) % len(FILES) for offset in range(1 + first % 3)]
            for answer, row in zip(client.predict([FILES[row] for row in rows]), rows, strict=True):
                np.testing.assert_allclose(answer["logits"], expected[row], atol=1e-5)

        for _ in range(5):
            list(pool.map(ask, clients, range(len(clients))))


@slow_on_one_stack
def test_no_request_is_lost_while_a_new_version_is_loaded(models, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "shapes")
    new_version = export(models[1], tmp_path / "elsewhere", version=2)
    expected = [expected_logits(model, FILES[:2]) for model in models]
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    versions, answered, stop = [], threading.Condition(), threading.Event()

    def ask(url):
        # Without retries a lost request raises.
        with Client(url, "shapes", timeout=30, retries=0) as client:
            while not stop.is_set():
                logits = [answer["logits"] for answer in client.predict(list(FILES[:2]))]
                errors = [np.abs(each - logits).max() for each in expected]
                assert min(errors) < 1e-5
                with answered:
                    versions.append(1 + int(np.argmin(errors)))
                    answered.notify_all()

    def wait_for_answers(count):
        with answered:
            assert answered.wait_for(lambda: len(versions) >= count, timeout=60)

    with StandIn(folder, "shapes") as server, concurrent.futures.ThreadPoolExecutor(4) as pool:
        threads = [pool.submit(ask, url) for url in (server.rest, server.grpc) * 2]
        try:
            wait_for_answers(8)
            new_version.rename(folder / "2")
            server.poll()
            count = len(versions)
            wait_for_answers(count + 16)
        finally:
            stop.set()
        for thread in threads:
            thread.result()
    # Requests that were under way during the exchange may be answered by either version.
    assert set(versions[:8]) == {1} and set(versions[count + 4 :]) == {2}


@slow_on_one_stack
def test_photos_in_base64_are_accepted_in_rows_and_columns(exported):
    with StandIn(exported, "shapes") as server:
        photo = {"b64": base64.b64encode(FILES[0]).decode()}
        url = f"{server.rest}/v1/models/shapes/versions/1:predict"
        for body in ({"instances": [photo]}, {"inputs": {"image_bytes": [photo]}}):
            answer = requests.post(url, json=body, timeout=30)
            assert answer.status_code == 200, answer.text
            assert set(answer.json()) == {"predictions" if "instances" in body else "outputs"}
        answer = requests.post(url, json={"instances": ["a photo"]}, timeout=30)
        assert answer.status_code == 400 and "is not a" in answer.json()["error"]
