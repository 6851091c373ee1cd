"""The client: requests, answers, waiting, trying again, and what it says when that fails."""

import base64
import concurrent.futures
import json
import threading
import time
import types

import numpy as np
import pytest
from head_helpers import run_python
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import encoded, noise, smooth
from ports import free_ports
from scripted import available, scripted_server
from tiny_model import NAMES, expected_logits

from noah_tf.serving import Client, ServingError
from noah_tf.serving.errors import server_message

SCHEMES = ("rest", "grpc")
PHOTOS = [encoded(noise(20, 30), "PNG"), encoded(smooth(15, 9), "PNG")]
PREDICTION = {"predictions": [{"classes": [1]}]}


def address(server, scheme):
    url = getattr(server, scheme)
    if url is None:
        pytest.skip("tensorflow-serving-api is not installed")
    return url


@pytest.mark.parametrize("scheme", SCHEMES)
def test_predictions_are_the_models(server, scheme):
    print(f"asked: {server.kind}")
    with Client(address(server, scheme), "tiny", version=1) as client:
        client.wait_until_ready(10)
        rows = client.predict(PHOTOS)
    assert [set(row) for row in rows] == [{"classes", "labels", "probabilities", "logits"}] * 2
    for row, image in zip(rows, (noise(20, 30), smooth(15, 9)), strict=True):
        logits = expected_logits(image)
        np.testing.assert_allclose(row["logits"], logits, atol=1e-6)
        order = np.argsort(-logits)[:2]
        assert row["classes"] == order.tolist()
        assert row["labels"] == [NAMES[i] for i in order]
        shares = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(row["probabilities"], shares[order], atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_versions_labels_and_signatures_are_chosen(server, scheme):
    url = address(server, scheme)
    for chosen, tolerant in (
        ({"version": 1}, False),
        ({"version": 2}, True),
        ({"label": "stable"}, False),
        ({"label": "canary"}, True),
        ({}, True),
    ):
        with Client(url, "tiny", **chosen) as client:
            assert ("status" in client.predict(PHOTOS)[0]) == tolerant, chosen
    with Client(url, "tiny", version=1) as client:
        row = client.predict(PHOTOS[:1], "explain")[0]
    attention = np.array(row["attention"])
    assert attention.shape == (2, 3, 2)
    np.testing.assert_array_equal(attention.sum((0, 1)), [1, 1])
    assert row["region"] == [0, 0, 1, 0.5]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_metadata_has_the_signatures(server, scheme):
    with Client(address(server, scheme), "tiny", label="canary") as client:
        metadata = client.metadata()
    assert metadata["model_spec"]["version"] == "2"
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "explain", "serve_tensor"} <= set(signatures)
    assert signatures["explain"]["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    assert "attention" in signatures["explain"]["outputs"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "chosen, signature, images, message",
    [
        ({"version": 1}, "serving_default", [PHOTOS[0], b"text"], "row 1 is neither PNG nor JPEG"),
        ({"version": 7}, "serving_default", PHOTOS, r"Servable not found .*Specific\(tiny, 7\)"),
        ({"label": "next"}, "serving_default", PHOTOS, "Unrecognized servable version label: next"),
        ({}, "colour", PHOTOS, 'signature name: "colour" not found'),
    ],
)
def test_a_refusal_is_the_servers_message(server, scheme, chosen, signature, images, message):
    with Client(address(server, scheme), "tiny", **chosen) as client:
        begin = time.monotonic()
        with pytest.raises(ServingError, match=message) as raised:
            client.predict(images, signature)
        assert time.monotonic() - begin < 2, "a refusal was tried again"
        assert raised.value.refused
        assert "[[" not in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_bad_photo_is_its_own_affair_in_a_tolerant_export(server, scheme):
    with Client(address(server, scheme), "tiny", version=2) as client:
        good, bad = client.predict([PHOTOS[0], b"text"])
    assert good["status"] == "OK"
    assert bad["status"] == "neither PNG nor JPEG"
    assert bad["classes"] == [-1, -1]
    assert bad["labels"] == ["", ""]
    np.testing.assert_allclose(good["logits"], expected_logits(noise(20, 30)), atol=1e-6)


def test_clients_in_threads_get_their_own_answers(server):
    pictures = [np.full((3, 4, 3), shade, np.uint8) for shade in range(0, 240, 10)]

    def ask(index):
        url = server.grpc if server.grpc and index % 2 else server.rest
        with Client(url, "tiny", version=1) as client:
            rows = [client.predict([encoded(pictures[index], "PNG")])[0] for _ in range(10)]
        return np.array([row["logits"] for row in rows])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for image, logits in zip(pictures, pool.map(ask, range(len(pictures))), strict=True):
            np.testing.assert_allclose(logits, np.tile(expected_logits(image), (10, 1)), atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_photos_are_sent_as_they_are(photos):
    body = json.loads(rest_transport().encode(photos, "explain"))
    assert body["signature_name"] == "explain"
    assert [base64.b64decode(row["b64"]) for row in body["instances"]] == photos
    assert all(set(row) == {"b64"} for row in body["instances"])


def rest_transport():
    return Client("http://localhost:8501", "tiny")._transport


def test_urls_of_requests():
    for chosen, path in (
        ({}, "/v1/models/my%20model"),
        ({"version": 3}, "/v1/models/my%20model/versions/3"),
        ({"label": "a/b"}, "/v1/models/my%20model/labels/a%2Fb"),
    ):
        with (
            scripted_server((200, PREDICTION)) as (url, script),
            Client(f"{url}/", "my model", **chosen) as client,
        ):
            client.predict([b"photo"])
        assert [request[:2] for request in script.requests] == [("POST", f"{path}:predict")]


@pytest.mark.parametrize(
    "answer",
    [
        (200, available()),
        (200, {"name": "tiny", "ready": True}),
        (200, {"name": "tiny", "ready": "True"}),
    ],
)
def test_ready_is_what_tf_serving_and_kserve_say(answer, monkeypatch):
    monkeypatch.setattr("noah_tf.serving.client._FIRST_PAUSE", 0.01)
    unready = [
        (404, {"error": "Could not find any versions of model tiny"}),
        (200, {"model_version_status": [{"version": "1", "state": "LOADING", "status": {}}]}),
        (200, {"name": "tiny", "ready": False}),
        (503, {"error": "Model with name tiny is not ready."}),
        (200, b"<html>starting</html>"),
    ]
    with scripted_server(*unready, answer) as (url, script), Client(url, "tiny") as client:
        client.wait_until_ready(20)
    assert len(script.requests) == 6
    assert {request[:2] for request in script.requests} == {("GET", "/v1/models/tiny")}


@pytest.mark.parametrize(
    "answer, what",
    [
        ((404, {"error": "no such model"}), "the answer is 404, no such model"),
        ((200, {"ready": False, "name": "tiny"}), "the server says ready: False"),
        ((200, b"<html>"), "the answer is 200, <html>"),
        ((200, b""), "the answer is 200, an empty answer"),
        ((200, {"model_version_status": []}), "no version is there"),
        (
            (
                200,
                {
                    "model_version_status": [
                        {
                            "version": "4",
                            "state": "END",
                            "status": {"error_code": "UNKNOWN", "error_message": "bad warm-up"},
                        },
                        {"version": "3", "state": "LOADING", "status": {}},
                    ]
                },
            ),
            r"version 4 is END \(bad warm-up\), version 3 is LOADING",
        ),
    ],
)
def test_not_ready_says_what_came_instead(answer, what, monkeypatch):
    # A clock of its own: on a busy machine the answer to the last look comes later.
    pauses = []
    clock = types.SimpleNamespace(sleep=pauses.append, monotonic=lambda: sum(pauses))
    monkeypatch.setattr("noah_tf.serving.client.time", clock)
    with scripted_server(answer) as (url, _), Client(url, "tiny") as client:
        with pytest.raises(ServingError, match=f"tiny at {url} was not ready in 0.3 s: {what}"):
            client.wait_until_ready(0.3)
        assert 0.25 < sum(pauses) < 2


def test_waiting_ends_in_time_where_the_server_does_not_answer():
    with scripted_server((200, available(), 3)) as (url, _), Client(url, "tiny") as client:
        begin = time.monotonic()
        with pytest.raises(ServingError, match="timeout"):
            client.wait_until_ready(0.2)
        assert time.monotonic() - begin < 2.5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_waiting_for_a_server_that_is_not_there(scheme):
    if scheme == "grpc":
        pytest.importorskip("tensorflow_serving")
    url = f"{'http' if scheme == 'rest' else scheme}://127.0.0.1:{free_ports(1)[0]}"
    with (
        Client(url, "tiny") as client,
        pytest.raises(ServingError, match=r"was not ready in 0.\d s: .*[Cc]onnection refused"),
    ):
        client.wait_until_ready(0.2)


def test_503_is_tried_again_with_growing_pauses():
    busy = (503, {"error": "queue is full"})
    with (
        scripted_server(busy, busy, busy, (200, PREDICTION)) as (url, script),
        Client(url, "tiny") as client,
    ):
        assert client.predict([b"photo"]) == [{"classes": [1]}]
    times = [request[3] for request in script.requests]
    pauses = np.diff(times)
    assert len(pauses) == 3
    assert pauses[0] < 0.2 < pauses[1] < pauses[2] < 2, pauses


def test_the_server_says_when_to_try_again_within_reason(monkeypatch):
    monkeypatch.setattr("noah_tf.serving.rest._LONGEST_PAUSE", 0.3)
    busy = (503, {"error": "busy"}, 0, {"Retry-After": "3600"})
    with scripted_server(busy, (200, PREDICTION)) as (url, script), Client(url, "tiny") as client:
        client.predict([b"photo"])
    assert 0.25 < script.requests[1][3] - script.requests[0][3] < 2


def test_503_to_the_end_is_one_sentence():
    with (
        scripted_server((503, {"error": "queue is full"})) as (url, script),
        Client(url, "tiny", retries=2) as client,
        pytest.raises(ServingError) as raised,
    ):
        client.predict([b"photo"])
    assert len(script.requests) == 3
    assert str(raised.value).startswith(f"{url}/v1/models/tiny:predict was not available for 0.")
    assert str(raised.value).endswith("s and 3 tries: queue is full (HTTP 503).")
    assert raised.value.kind == "HTTP 503"
    assert not raised.value.refused


@pytest.mark.parametrize("status", [400, 404, 412, 429, 500, 501, 504])
def test_other_answers_are_not_tried_again(status):
    with (
        scripted_server((status, {"error": "no"})) as (url, script),
        Client(url, "tiny") as client,
        pytest.raises(ServingError, match=rf"^no \(HTTP {status}\)\.$") as raised,
    ):
        client.predict([b"photo"])
    assert len(script.requests) == 1
    assert raised.value.kind == f"HTTP {status}"
    assert raised.value.refused == (status < 500)


def test_a_closed_connection_is_tried_again():
    with scripted_server(None, (200, PREDICTION)) as (url, script), Client(url, "tiny") as client:
        assert client.predict([b"photo"]) == [{"classes": [1]}]
    assert len(script.requests) == 2


def test_a_request_that_timed_out_is_not_tried_again():
    with (
        scripted_server((200, PREDICTION, 3)) as (url, script),
        Client(url, "tiny", timeout=0.2) as client,
    ):
        begin = time.monotonic()
        with pytest.raises(ServingError, match=r"No answer from .* \(timeout 0.2 s\): timeout"):
            client.predict([b"photo"])
    assert time.monotonic() - begin < 2
    assert len(script.requests) == 1


def test_connection_refused_to_the_end_is_one_sentence():
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    with Client(url, "tiny", retries=1) as client, pytest.raises(ServingError) as raised:
        client.predict([b"photo"])
    assert str(raised.value) == (
        f"No answer from {url}/v1/models/tiny:predict in 0.0 s and 2 tries: connection refused."
    )
    assert raised.value.kind == "connection refused"


def test_a_server_that_comes_back_is_found():
    port, found = free_ports(1)[0], []

    def ask():
        with Client(f"http://127.0.0.1:{port}", "tiny") as client:
            found.extend(client.predict([b"photo"]))

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.5)
    with scripted_server((200, PREDICTION), port=port):
        asking.join(10)
    assert found == [{"classes": [1]}]


def test_a_redirect_is_not_followed_but_said():
    answer = (301, b"", 0, {"Location": "https://example.org/v1/models/tiny:predict"})
    with (
        scripted_server(answer) as (url, _),
        Client(url, "tiny") as client,
        pytest.raises(ServingError, match=r"sends on to https://example.org/.*HTTP 301"),
    ):
        client.predict([b"photo"])


@pytest.mark.parametrize(
    "answer, message",
    [
        (b"<html>", "did not answer with 1 predictions: <html>"),
        ({"predictions": []}, "did not answer with 1 predictions"),
        ({"outputs": {}}, "did not answer with 1 predictions"),
        ([1], "did not answer with 1 predictions"),
        ({"predictions": [[0.1, 0.9]]}, "tiny at .* has a single output without a name"),
    ],
)
def test_an_answer_that_is_no_prediction(answer, message):
    with (
        scripted_server((200, answer)) as (url, _),
        Client(url, "tiny") as client,
        pytest.raises(ServingError, match=message),
    ):
        client.predict([b"photo"])


@pytest.mark.parametrize(
    "body, message",
    [
        (b'{ "error": "the model\\\'s input" }', "the model's input"),  # of older TF Servings
        (b'{"detail": "Not Found"}', "Not Found"),  # KServe's FastAPI
        (b"upstream connect error", "upstream connect error"),
        (b"", "an empty answer"),
    ],
)
def test_forms_of_error_messages(body, message):
    with (
        scripted_server((400, body)) as (url, _),
        Client(url, "tiny") as client,
        pytest.raises(ServingError) as raised,
    ):
        client.predict([b"photo"])
    assert str(raised.value) == f"{message} (HTTP 400)."


def test_messages_lose_node_names_and_photos():
    noisy = "{{function_node __inference_f_1}} row 3 is bad.\n\t [[{{node map/Assert}}]]\n [[Call]]"
    assert server_message(noisy) == "row 3 is bad"
    assert server_message(f'{{"b64": "{base64.b64encode(bytes(999)).decode()}"}} is no') == (
        '{"b64": "..."} is no'
    )
    assert len(server_message("many words " * 100)) < 510


@pytest.mark.parametrize(
    "url",
    ["localhost:8501", "ftp://localhost", "http://", "", "http://h:port", "http://h:99999", None],
)
def test_an_url_that_is_no_server_is_one_sentence(url):
    with pytest.raises(ValueError, match="is no address of a server: give http://HOST:8501") as why:
        Client(url, "tiny")
    assert repr(url) in str(why.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://h:8501/v1/models/tiny:predict",
        "http://h:8501/v1",
        "http://h:8501?x=1",
        "grpc://h:8500/tiny",
    ],
)
def test_an_url_with_more_than_the_server_is_one_sentence(url):
    with pytest.raises(ValueError, match="has more than the server's address"):
        Client(url, "tiny")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model": ""}, "model must be the model's name"),
        ({"version": 0}, "version must be a positive integer, got 0"),
        ({"version": 1, "label": "stable"}, "A version .1. and a label .'stable'. are given"),
        ({"timeout": 0}, "timeout must be a positive number of seconds, got 0"),
        ({"retries": -1}, "retries must be 0 or a positive integer, got -1"),
        ({"retries": 2.5}, "retries must be 0 or a positive integer, got 2.5"),
        ({"url": "grpc://localhost"}, "has no port: TF Serving's gRPC port is 8500"),
    ],
)
def test_arguments_of_no_use(options, message):
    with pytest.raises(ValueError, match=message):
        Client(**{"url": "http://localhost:8501", "model": "tiny", **options})


@pytest.mark.parametrize("images", [[], ["photo.jpg"], [b"photo", None]])
def test_images_must_be_bytes(images):
    with (
        Client("http://localhost:8501", "tiny") as client,
        pytest.raises(ValueError, match="images must be a list of bytes"),
    ):
        client.predict(images)


def test_rest_needs_no_tensorflow_and_grpc_says_what_it_needs():
    """In an interpreter where neither can be imported; the package's own __init__ imports TF."""
    code = """
import importlib.util, sys, types
package = types.ModuleType("noah_tf")
package.__path__ = importlib.util.find_spec("noah_tf").submodule_search_locations
sys.modules["noah_tf"] = package
for name in ("tensorflow", "tensorflow_serving", "matplotlib"):
    sys.modules[name] = None
from noah_tf.serving import Client
import noah_tf.serving.__main__, noah_tf.serving.predict, noah_tf.serving.load
Client("http://localhost:8501", "tiny", retries=9).close()
try:
    Client("grpc://localhost:8500", "tiny")
except ImportError as error:
    print(error)
"""
    process = run_python(code)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("A grpc:// url needs tensorflow-serving-api (")
    assert "pip install 'noah-tf[serving]'" in process.stdout
    assert len(process.stdout.splitlines()) == 1
