"""The client: requests, answers, waiting, retries, and the messages of its errors."""

import base64
import concurrent.futures
import contextlib
import json

import numpy as np
import pytest
from fake_clock import FakeClock
from head_helpers import run_python
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import encoded, noise, smooth
from ports import reserved_ports
from scripted import CLOSE, HANG, available, scripted_server
from tiny_model import NAMES, expected_logits

from noah_tf.serving import Client, ServingError
from noah_tf.serving.errors import readable_message

pytestmark = pytest.mark.one_stack

SCHEMES = ("rest", "grpc")
URL_SCHEMES = {"rest": "http", "grpc": "grpc"}
PHOTOS = [encoded(noise(20, 30), "PNG"), encoded(smooth(15, 9), "PNG")]
PREDICTION = {"predictions": [{"classes": [1]}]}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_predictions_are_those_of_the_model(server, scheme):
    with Client(getattr(server, scheme), "tiny", version=1) as client:
        client.wait_until_ready(10)
        rows = client.predict(PHOTOS)
    assert [set(row) for row in rows] == [{"classes", "labels", "probabilities", "logits"}] * 2
    for row, image in zip(rows, (noise(20, 30), smooth(15, 9)), strict=True):
        logits = expected_logits(image)
        np.testing.assert_allclose(row["logits"], logits, atol=1e-6)
        order = np.argsort(-logits)[:2]
        assert row["classes"] == order.tolist()
        assert row["labels"] == [NAMES[i] for i in order]
        probabilities = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(row["probabilities"], probabilities[order], atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_version_label_and_signature_select_what_is_asked(server, scheme):
    url = getattr(server, scheme)
    for options, is_tolerant in (
        ({"version": 1}, False),
        ({"version": 2}, True),
        ({"label": "stable"}, False),
        ({"label": "canary"}, True),
        ({}, True),
    ):
        with Client(url, "tiny", **options) as client:
            assert ("status" in client.predict(PHOTOS)[0]) == is_tolerant, options
    with Client(url, "tiny", version=1) as client:
        row = client.predict(PHOTOS[:1], "explain")[0]
    attention = np.array(row["attention"])
    assert attention.shape == (2, 3, 2)
    np.testing.assert_array_equal(attention.sum((0, 1)), [1, 1])
    assert row["region"] == [0, 0, 1, 0.5]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_metadata_has_the_signatures(server, scheme):
    with Client(getattr(server, scheme), "tiny", label="canary") as client:
        metadata = client.metadata()
    assert metadata["model_spec"]["version"] == "2"
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "explain", "serve_tensor"} <= set(signatures)
    assert signatures["explain"]["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    assert "attention" in signatures["explain"]["outputs"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "options, signature, images, message",
    [
        ({"version": 1}, "serving_default", [PHOTOS[0], b"text"], "row 1 is neither PNG nor JPEG"),
        ({"version": 7}, "serving_default", PHOTOS, r"Servable not found .*Specific\(tiny, 7\)"),
        ({"label": "next"}, "serving_default", PHOTOS, "Unrecognized servable version label: next"),
        ({}, "color", PHOTOS, '(signature name:|Serving signature key) "color" not found'),
    ],
)
def test_a_refusal_has_the_message_of_the_server(
    server, scheme, options, signature, images, message
):
    clock = FakeClock()
    with Client(getattr(server, scheme), "tiny", **options, clock=clock) as client:
        with pytest.raises(ServingError, match=message) as raised:
            client.predict(images, signature)
        assert clock.pauses == []
        assert raised.value.refused
        assert "[[" not in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_tolerant_export_answers_a_bad_photo_beside_a_good_one(server, scheme):
    with Client(getattr(server, scheme), "tiny", version=2) as client:
        good, bad = client.predict([PHOTOS[0], b"text"])
    assert good["status"] == "OK"
    assert bad["status"] == "neither PNG nor JPEG"
    assert bad["classes"] == [-1, -1]
    assert bad["labels"] == ["", ""]
    np.testing.assert_allclose(good["logits"], expected_logits(noise(20, 30)), atol=1e-6)


def test_clients_in_threads_get_their_own_answers(server):
    images = [np.full((3, 4, 3), shade, np.uint8) for shade in range(0, 240, 10)]

    def ask(index):
        with Client(server.grpc if index % 2 else server.rest, "tiny", version=1) as client:
            rows = [client.predict([encoded(images[index], "PNG")])[0] for _ in range(10)]
        return np.array([row["logits"] for row in rows])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for image, logits in zip(images, pool.map(ask, range(len(images))), strict=True):
            np.testing.assert_allclose(logits, np.tile(expected_logits(image), (10, 1)), atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_photos_are_sent_unchanged(photos):
    body = json.loads(rest_transport().encode(photos, "explain"))
    assert body["signature_name"] == "explain"
    assert [base64.b64decode(row["b64"]) for row in body["instances"]] == photos
    assert all(set(row) == {"b64"} for row in body["instances"])


def rest_transport():
    return Client("http://localhost:8501", "tiny")._transport


def test_requests_go_to_the_documented_urls():
    for options, path in (
        ({}, "/v1/models/my%20model"),
        ({"version": 3}, "/v1/models/my%20model/versions/3"),
        ({"label": "a/b"}, "/v1/models/my%20model/labels/a%2Fb"),
    ):
        with (
            scripted_server((200, PREDICTION)) as (url, script),
            Client(f"{url}/", "my model", **options) as client,
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
def test_readiness_is_read_in_the_forms_of_tf_serving_and_kserve(answer):
    unready = [
        (404, {"error": "Could not find any versions of model tiny"}),
        (200, {"model_version_status": [{"version": "1", "state": "LOADING", "status": {}}]}),
        (200, {"name": "tiny", "ready": False}),
        (503, {"error": "Model with name tiny is not ready."}),
        (200, b"<html>starting</html>"),
    ]
    clock = FakeClock()
    with (
        scripted_server(*unready, answer) as (url, script),
        Client(url, "tiny", clock=clock) as client,
    ):
        client.wait_until_ready(20)
    assert clock.pauses == [0.1, 0.2, 0.4, 0.8, 1.0]
    assert len(script.requests) == 6
    assert {request[:2] for request in script.requests} == {("GET", "/v1/models/tiny")}


@pytest.mark.parametrize(
    "answer, state",
    [
        ((404, {"error": "no such model"}), "the server answered 404, no such model"),
        ((200, {"ready": False, "name": "tiny"}), "the server says ready: False"),
        ((200, b"<html>"), "the server answered 200, <html>"),
        ((200, b""), "the server answered 200, an empty answer"),
        ((200, {"model_version_status": []}), "the server has no version of it"),
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
def test_a_model_that_is_not_ready_raises_with_its_state(answer, state):
    clock = FakeClock()
    with scripted_server(answer) as (url, _), Client(url, "tiny", clock=clock) as client:
        with pytest.raises(ServingError, match=f"tiny at {url} was not ready in 0.3 s: {state}"):
            client.wait_until_ready(0.3)
        np.testing.assert_allclose(clock.pauses, [0.1, 0.2])


def one_version(state, error=""):
    status = {"version": "2", "state": state, "status": {"error_message": error}}
    return 200, {"model_version_status": [status]}


@pytest.mark.parametrize(
    "answer, is_unloaded, failure",
    [
        ((404, {"error": "Could not find version 2 of model tiny"}), True, ""),
        (one_version("END"), True, ""),
        (one_version("END", "bad warm-up."), True, "bad warm-up"),
        (one_version("LOADING", "not yet"), False, ""),
        (one_version("AVAILABLE"), False, ""),
        ((404, {"error": "the front forwards prediction, status and metadata only"}), False, ""),
        ((401, {"error": "the request has no valid API key"}), False, ""),
        ((429, {"error": "too many requests"}), False, ""),
        ((503, {"error": "the server is unavailable"}), False, ""),
        (HANG, False, ""),
    ],
)
def test_only_the_server_itself_says_that_a_version_is_unloaded(answer, is_unloaded, failure):
    with scripted_server(answer) as (url, _), Client(url, "tiny", version=2) as client:
        status = client.status(timeout=0.2)
    assert (status.is_unloaded, status.failure) == (is_unloaded, failure)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_version_that_the_server_does_not_have_is_unloaded(server, scheme):
    for version, is_unloaded in ((1, False), (7, True)):
        with Client(getattr(server, scheme), "tiny", version=version) as client:
            assert client.status().is_unloaded == is_unloaded


def test_waiting_ends_if_the_server_never_answers():
    with (
        scripted_server(HANG) as (url, script),
        Client(url, "tiny", timeout=0.2) as client,
        pytest.raises(ServingError, match="timeout"),
    ):
        client.wait_until_ready(0)
    assert len(script.requests) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_waiting_for_a_server_that_does_not_exist_raises(scheme):
    if scheme == "grpc":
        pytest.importorskip("tensorflow_serving")
    clock = FakeClock()
    with (
        reserved_ports(1) as (port,),
        Client(f"{URL_SCHEMES[scheme]}://127.0.0.1:{port}", "tiny", clock=clock) as client,
        pytest.raises(ServingError, match=r"was not ready in 0.2 s: .*[Cc]onnection refused"),
    ):
        client.wait_until_ready(0.2)
    assert sum(clock.pauses) == pytest.approx(0.2)


@pytest.mark.parametrize("status", [429, 503])
def test_busy_and_unavailable_are_repeated_after_growing_pauses(status):
    busy, clock = (status, {"error": "queue is full"}), FakeClock()
    with (
        scripted_server(busy, busy, busy, (200, PREDICTION)) as (url, script),
        Client(url, "tiny", clock=clock) as client,
    ):
        assert client.predict([b"photo"]) == [{"classes": [1]}]
    assert len(script.requests) == 4
    np.testing.assert_allclose(clock.pauses, [0, 0.45, 0.85], atol=0.05)  # jitter of 0.1


@pytest.mark.parametrize("requested, pause", [("3600", 10.0), ("2", 2.0)])
def test_the_pause_that_the_server_requests_is_limited(requested, pause):
    busy, clock = (503, {"error": "busy"}, {"Retry-After": requested}), FakeClock()
    with (
        scripted_server(busy, (200, PREDICTION)) as (url, _),
        Client(url, "tiny", clock=clock) as client,
    ):
        client.predict([b"photo"])
    assert clock.pauses == [pause]


def test_an_error_after_all_retries_is_one_sentence():
    clock = FakeClock()
    with (
        scripted_server((503, {"error": "queue is full"}, {"Retry-After": "3"})) as (url, script),
        Client(url, "tiny", retries=2, clock=clock) as client,
        pytest.raises(ServingError) as raised,
    ):
        client.predict([b"photo"])
    assert len(script.requests) == 3
    assert str(raised.value) == (
        f"{url}/v1/models/tiny:predict was not available for 6.0 s and 3 tries: queue is full "
        "(HTTP 503)."
    )
    assert raised.value.kind == "HTTP 503"
    assert not raised.value.refused


def test_too_many_requests_are_counted_apart():
    with (
        scripted_server((429, {"error": "slow down"})) as (url, _),
        Client(url, "tiny", retries=0) as client,
        pytest.raises(ServingError, match=r"was busy for 0.0 s: slow down \(HTTP 429\)") as raised,
    ):
        client.predict([b"photo"])
    assert raised.value.kind == "too many requests"
    assert not raised.value.refused


@pytest.mark.parametrize("status", [400, 404, 412, 500, 501, 504])
def test_other_statuses_are_not_repeated(status):
    with (
        scripted_server((status, {"error": "no"})) as (url, script),
        Client(url, "tiny") as client,
        pytest.raises(ServingError, match=rf"^no \(HTTP {status}\)\.$") as raised,
    ):
        client.predict([b"photo"])
    assert len(script.requests) == 1
    assert raised.value.kind == f"HTTP {status}"
    assert raised.value.refused == (status < 500)


def test_a_request_is_repeated_after_the_connection_was_closed():
    with scripted_server(CLOSE, (200, PREDICTION)) as (url, script), Client(url, "tiny") as client:
        assert client.predict([b"photo"]) == [{"classes": [1]}]
    assert len(script.requests) == 2


def test_a_request_that_timed_out_is_not_repeated():
    with (
        scripted_server(HANG) as (url, script),
        Client(url, "tiny", timeout=0.2, clock=FakeClock()) as client,
        pytest.raises(ServingError, match=r"No answer from .* \(timeout 0.2 s\): timeout"),
    ):
        client.predict([b"photo"])
    assert len(script.requests) == 1


def test_a_connection_that_timed_out_is_not_repeated(monkeypatch):
    clock, addresses = FakeClock(), []

    def never_connect(address, timeout, **_):
        addresses.append(address)
        clock.sleep(timeout)
        raise TimeoutError

    monkeypatch.setattr("urllib3.util.connection.create_connection", never_connect)
    with (
        Client("http://127.0.0.1:8501", "tiny", timeout=60, clock=clock) as client,
        pytest.raises(ServingError, match=r" in 60.0 s \(timeout 60 s\): timeout") as raised,
    ):
        client.predict([b"photo"])
    assert addresses == [("127.0.0.1", 8501)]
    assert raised.value.kind == "timeout"


def test_a_refused_connection_is_one_sentence():
    clock = FakeClock()
    with reserved_ports(1) as (port,):
        url = f"http://127.0.0.1:{port}"
        with (
            Client(url, "tiny", retries=1, clock=clock) as client,
            pytest.raises(ServingError) as raised,
        ):
            client.predict([b"photo"])
    assert str(raised.value) == (
        f"No answer from {url}/v1/models/tiny:predict in 0.0 s and 2 tries: connection refused."
    )
    assert raised.value.kind == "connection refused"


def test_a_server_that_starts_during_the_retries_is_reached():
    class StartingClock(FakeClock):
        """Starts the server in the second pause."""

        def __init__(self, start):
            super().__init__()
            sleep = self.sleep

            def sleep_and_start(seconds):
                sleep(seconds)
                if len(self.pauses) == 2:
                    start()

            object.__setattr__(self, "sleep", sleep_and_start)

    with contextlib.ExitStack() as stack:
        (port,) = stack.enter_context(reserved_ports(1))
        clock = StartingClock(
            lambda: stack.enter_context(scripted_server((200, PREDICTION), port=port))
        )
        with Client(f"http://127.0.0.1:{port}", "tiny", clock=clock) as client:
            assert client.predict([b"photo"]) == [{"classes": [1]}]
        assert len(clock.pauses) == 2


def test_a_redirect_raises_with_the_new_address():
    answer = (301, b"", {"Location": "https://example.org/v1/models/tiny:predict"})
    with (
        scripted_server(answer) as (url, _),
        Client(url, "tiny") as client,
        pytest.raises(ServingError, match=r"redirects to https://example.org/.*HTTP 301"),
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
def test_an_answer_without_predictions_raises(answer, message):
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
def test_error_messages_are_read_in_all_forms(body, message):
    with (
        scripted_server((400, body)) as (url, _),
        Client(url, "tiny") as client,
        pytest.raises(ServingError) as raised,
    ):
        client.predict([b"photo"])
    assert str(raised.value) == f"{message} (HTTP 400)."


def test_readable_messages_have_no_node_names_and_no_photos():
    noisy = "{{function_node __inference_f_1}} row 3 is bad.\n\t [[{{node map/Assert}}]]\n [[Call]]"
    assert readable_message(noisy) == "row 3 is bad"
    assert readable_message(f'{{"b64": "{base64.b64encode(bytes(999)).decode()}"}} is no') == (
        '{"b64": "..."} is no'
    )
    assert len(readable_message("many words " * 100)) < 510


@pytest.mark.parametrize(
    "url",
    ["localhost:8501", "ftp://localhost", "http://", "", "http://h:port", "http://h:99999", None],
)
def test_a_url_that_is_not_a_server_raises(url):
    with pytest.raises(ValueError, match="url must be the address of a server, got") as raised:
        Client(url, "tiny")
    assert f"got {url!r}: give http://HOST:8501" in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://h:8501/v1/models/tiny:predict",
        "http://h:8501/v1",
        "http://h:8501?x=1",
        "grpc://h:8500/tiny",
    ],
)
def test_a_url_with_more_than_the_server_raises(url):
    with pytest.raises(ValueError, match="url must be the server's address alone, got"):
        Client(url, "tiny")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model": ""}, "model must be the model's name"),
        ({"version": 0}, "version must be a positive integer, got 0"),
        ({"version": 1, "label": "stable"}, "exclude each other, got version 1 and label 'stable'"),
        ({"timeout": 0}, "timeout must be a positive number of seconds, got 0"),
        ({"retries": -1}, "retries must be an integer of at least 0, got -1"),
        ({"retries": 2.5}, "retries must be an integer of at least 0, got 2.5"),
        (
            {"url": "grpc://localhost"},
            "url must name the port, got .* gRPC port is 8500",
        ),
    ],
)
def test_invalid_arguments_raise(options, message):
    with pytest.raises(ValueError, match=message):
        Client(**{"url": "http://localhost:8501", "model": "tiny", **options})


@pytest.mark.parametrize("images", [[], ["photo.jpg"], [b"photo", None]])
def test_images_that_are_not_bytes_raise(images):
    with (
        Client("http://localhost:8501", "tiny") as client,
        pytest.raises(ValueError, match="images must be a list of bytes"),
    ):
        client.predict(images)


def test_rest_works_without_tensorflow_and_grpc_names_the_missing_package():
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
