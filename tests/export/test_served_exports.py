"""Exports behind a model server: TF Serving's own where it is installed, else its stand-in."""

import base64
import concurrent.futures
import threading

import numpy as np
import pytest
import requests
import tensorflow as tf
from stacks import slow_on_one_stack
from test_export import FILES, NAMES, PREPROCESSING, expected_logits, small_model
from tf_serving_real import RealServer
from tf_serving_stand_in import model_server

from noah_tf import export_savedmodel
from noah_tf.serving import Client, ServingError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models():
    """Two models whose answers differ."""
    made = []
    for seed in (1, 2):
        tf.keras.utils.set_random_seed(seed)
        made.append(small_model())
    return made


def export(model, folder, **options):
    return export_savedmodel(
        model, folder, PREPROCESSING, NAMES, warmup_batch_sizes=(1, 4), **options
    )


@pytest.fixture
def clients():
    """A function that makes the clients of a server, of REST and of gRPC where there is one."""
    opened = []

    def of(server, **options):
        urls = [url for url in (server.rest, server.grpc) if url]
        new = [Client(url, "shapes", timeout=30, **options) for url in urls]
        opened.extend(new)
        return new

    yield of
    for client in opened:
        client.close()


def test_photos_are_answered_over_rest_and_grpc(models, tmp_path, clients):
    path = export(models[0], tmp_path / "shapes")
    expected = expected_logits(models[0], FILES)
    with model_server(tmp_path / "shapes", "shapes") as server:
        if server.kind == "stand-in" and server.grpc:
            assert server.warmed_up == {int(path.name): 6}
        for client in clients(server):
            client.wait_until_ready(30)
            answers = client.predict(list(FILES))
            np.testing.assert_allclose([a["logits"] for a in answers], expected, atol=1e-5)
            assert [a["labels"][0] for a in answers] == [NAMES[i] for i in expected.argmax(1)]
            (seen,) = client.predict([FILES[0]], signature="explain")
            assert np.shape(seen["attention"]) == (5, 5, 5)
            np.testing.assert_allclose(np.sum(seen["attention"], (0, 1)), 1, atol=1e-5)
            with pytest.raises(ServingError, match="image 1 of the request: .*empty") as refused:
                client.predict([FILES[0], b""])
            assert refused.value.refused
        # Pixels, in the form of columns.
        url = f"{server.rest}/v1/models/shapes"
        pixels = np.stack([np.full((24, 24, 3), shade, np.uint8) for shade in (0, 200)])
        body = {"signature_name": "serve_tensor", "inputs": pixels.tolist()}
        logits = requests.post(f"{url}:predict", json=body, timeout=30).json()["outputs"]["logits"]
        images = tf.stack([PREPROCESSING.evaluation(image) for image in pixels])
        np.testing.assert_allclose(logits, models[0](images, training=False), atol=1e-5)
        signatures = requests.get(f"{url}/metadata", timeout=30).json()["metadata"]
        assert {"explain", "serve_tensor"} < set(signatures["signature_def"]["signature_def"])


@slow_on_one_stack
def test_a_tolerant_export_answers_the_good_photos(models, tmp_path, clients):
    export(models[0], tmp_path / "shapes", tolerant=True)
    expected = expected_logits(models[0], FILES[:1])
    with model_server(tmp_path / "shapes", "shapes") as server:
        for client in clients(server):
            client.wait_until_ready(30)
            good, bad = client.predict([FILES[0], FILES[0][:200]])
            assert good["status"] == "OK" and "truncated or corrupt" in bad["status"]
            np.testing.assert_allclose(good["logits"], expected[0], atol=1e-5)


@slow_on_one_stack
def test_requests_at_the_same_time_get_their_own_answers(models, tmp_path, clients):
    """The real server puts them into batches of the sizes that batching.config allows."""
    export(models[0], tmp_path / "shapes")
    expected = expected_logits(models[0], FILES)
    with (
        model_server(tmp_path / "shapes", "shapes") as server,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        of_thread = [client for _ in range(4) for client in clients(server)]

        def ask(client, first):
            rows = [(first + place) % len(FILES) for place in range(1 + first % 3)]
            for answer, row in zip(client.predict([FILES[row] for row in rows]), rows, strict=True):
                np.testing.assert_allclose(answer["logits"], expected[row], atol=1e-5)

        of_thread[0].wait_until_ready(30)
        for _ in range(5):
            list(pool.map(ask, of_thread, range(len(of_thread))))
        if server.kind == RealServer.kind:
            with pytest.raises(ServingError, match="larger than maximum input batch size 32"):
                of_thread[0].predict([FILES[0]] * 33)


def test_a_new_version_takes_over_while_requests_run_and_none_is_lost(models, tmp_path):
    folder = tmp_path / "shapes"
    export(models[0], folder)
    expected = [expected_logits(model, FILES[:2]) for model in models]
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    seen, stop = [], threading.Event()

    def ask(url):
        # Without retries: a request that is lost is an error.
        with Client(url, "shapes", timeout=30, retries=0) as client:
            client.wait_until_ready(30)
            while not stop.is_set():
                logits = [answer["logits"] for answer in client.predict(list(FILES[:2]))]
                errors = [np.abs(wanted - logits).max() for wanted in expected]
                assert min(errors) < 1e-5
                seen.append(int(np.argmin(errors)))

    with (
        model_server(folder, "shapes") as server,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        urls = [url for url in (server.rest, server.grpc) if url]
        asking = [pool.submit(ask, urls[thread % len(urls)]) for thread in range(4)]
        try:
            wait_until(lambda: 0 in seen, asking)
            export(models[1], folder)
            wait_until(lambda: 1 in seen[-4:], asking)
        finally:
            stop.set()
        for thread in asking:
            thread.result()
    assert seen[0] == 0 and seen[-1] == 1 and len(seen) > 20


def wait_until(condition, asking):
    """Waits at most a minute for the condition, and not for threads that have failed."""
    _, running = concurrent.futures.wait(asking, timeout=0)
    for _ in range(600):
        if condition() or not running:
            return
        _, running = concurrent.futures.wait(running, timeout=0.1, return_when="FIRST_COMPLETED")
    raise AssertionError("it did not happen in a minute")


@slow_on_one_stack
def test_base64_is_what_a_user_types(models, tmp_path):
    export(models[0], tmp_path / "shapes")
    with model_server(tmp_path / "shapes", "shapes") as server:
        with Client(server.rest, "shapes") as client:
            client.wait_until_ready(30)
        photo = {"b64": base64.b64encode(FILES[0]).decode()}
        for body in ({"instances": [photo]}, {"inputs": {"image_bytes": [photo]}}):
            url = f"{server.rest}/v1/models/shapes/versions/1:predict"
            answer = requests.post(url, json=body, timeout=30)
            assert answer.status_code == 200, answer.text
            assert set(answer.json()) == {"predictions" if "instances" in body else "outputs"}
        text = {"instances": ["a photo"]}
        answer = requests.post(url, json=text, timeout=30)
        assert answer.status_code == 400 and "is not a" in answer.json()["error"]
