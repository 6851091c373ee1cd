"""The client over gRPC: retries and errors."""

import concurrent.futures
import contextlib
import itertools
import re
import threading

import numpy as np
import pytest

grpc = pytest.importorskip("grpc")
pytest.importorskip("tensorflow_serving")

import tensorflow as tf  # noqa: E402
from fake_clock import FakeClock  # noqa: E402
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc  # noqa: E402

from noah_tf.serving import Client, ServingError  # noqa: E402
from noah_tf.serving.clock import Clock  # noqa: E402
from noah_tf.serving.load import measure  # noqa: E402

pytestmark = pytest.mark.one_stack


HANG = object()  # an answer that never comes


@contextlib.contextmanager
def scripted_rpc(*answers):
    """Yields the url of a server and the requests that it received.

    Its Predict gives the answers in turn, and repeats the last: a status code, a status code with a
    message, `HANG`, or a dict of arrays.
    """
    requests, ended = [], threading.Event()

    class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            answer = answers[min(len(requests), len(answers) - 1)]
            requests.append(request)
            if answer is HANG:
                ended.wait()
                return predict_pb2.PredictResponse()
            if not isinstance(answer, dict):
                code, message = answer if isinstance(answer, tuple) else (answer, None)
                context.abort(code, message or f"scripted {code.name}")
            response = predict_pb2.PredictResponse()
            for name, array in answer.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(array))
            return response

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Predictions(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}", requests
    finally:
        ended.set()
        server.stop(grace=None).wait()


ANSWER = {
    "classes": np.array([[2, 1]], np.int32),
    "labels": np.array([[b"a", b"\xc3\xa9"]], object),
}


# The answers of a TF Serving with too few threads, and of saved_models/nginx.conf.
EXHAUSTED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
TOO_MANY = (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests")


@pytest.mark.parametrize("failure", [grpc.StatusCode.UNAVAILABLE, EXHAUSTED, TOO_MANY])
def test_unavailable_and_busy_are_repeated(failure):
    clock = FakeClock()
    with (
        scripted_rpc(failure, failure, ANSWER) as (url, requests),
        Client(url, "tiny", clock=clock) as client,
    ):
        assert client.predict([b"photo"]) == [{"classes": [2, 1], "labels": ["a", "é"]}]
    assert len(requests) == 3
    first, second = clock.pauses
    assert 0.1 <= first <= 0.2 <= second <= 0.4


@pytest.mark.parametrize(
    ("failure", "kind"),
    [(EXHAUSTED, "gRPC threads exhausted"), (TOO_MANY, "too many requests")],
)
def test_a_busy_server_is_asked_until_the_timeout(failure, kind):
    clock = FakeClock()
    with (
        scripted_rpc(failure) as (url, requests),
        Client(url, "tiny", timeout=20, clock=clock) as client,
        pytest.raises(ServingError, match=r"was busy for .* s and \d+ tries: ") as raised,
    ):
        client.predict([b"photo"])
    assert raised.value.kind == kind
    assert not raised.value.refused
    # More attempts than `retries`, with pauses of at most 5 seconds that are not all alike.
    assert len(requests) == len(clock.pauses) + 1 > 5
    assert 20 - 5 < sum(clock.pauses) < 20
    assert len(set(clock.pauses)) == len(clock.pauses)
    assert max(clock.pauses) <= 5


def test_without_retries_a_busy_server_is_asked_once():
    clock = FakeClock()
    with (
        scripted_rpc(EXHAUSTED) as (url, requests),
        Client(url, "tiny", retries=0, clock=clock) as client,
        pytest.raises(ServingError, match="busy for 0.0 s: Server Threadpool Exhausted"),
    ):
        client.predict([b"photo"])
    assert len(requests) == 1


def test_load_counts_exhausted_threads_apart_and_names_the_flag():
    with scripted_rpc(EXHAUSTED, grpc.StatusCode.INTERNAL, ANSWER) as (url, _):
        report = measure(
            lambda: Client(url, "tiny", retries=0),
            [[b"photo"]],
            "serving_default",
            concurrency=1,
            seconds=3.0,
            # A quarter of a second passes whenever the load test looks at the clock.
            clock=Clock(now=(0.25 * n for n in itertools.count()).__next__),
        )
    assert len(report.latencies)
    assert {kind: len(failures) for kind, failures in report.failures.items()} == {
        "gRPC threads exhausted": 1,
        "INTERNAL": 1,
    }
    text = "\n".join(report.lines())
    assert "1 x gRPC threads exhausted, " in text
    assert "start it with --grpc_max_threads=64, or give a lower --concurrency" in text


def test_an_error_after_all_retries_is_one_sentence():
    with (
        scripted_rpc(grpc.StatusCode.UNAVAILABLE) as (url, requests),
        Client(url, "tiny", retries=2, clock=FakeClock()) as client,
        pytest.raises(ServingError) as raised,
    ):
        client.predict([b"photo"])
    assert len(requests) == 3
    message = rf"{url} was not available for 0.\d s and 3 tries: scripted UNAVAILABLE"
    assert re.fullmatch(rf"{message} \(UNAVAILABLE\)\.", str(raised.value))
    assert not raised.value.refused


def test_without_retries_there_is_one_try():
    with (
        scripted_rpc(grpc.StatusCode.UNAVAILABLE) as (url, requests),
        Client(url, "tiny", retries=0) as client,
        pytest.raises(ServingError) as raised,
    ):
        client.predict([b"photo"])
    assert len(requests) == 1
    assert "tries" not in str(raised.value)


REFUSALS = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION")


@pytest.mark.parametrize("code", [*REFUSALS, "RESOURCE_EXHAUSTED", "INTERNAL", "UNIMPLEMENTED"])
def test_other_codes_are_not_repeated(code):
    with (
        scripted_rpc(grpc.StatusCode[code]) as (url, requests),
        Client(url, "tiny") as client,
        pytest.raises(ServingError, match=rf"^scripted {code} \({code}\)\.$") as raised,
    ):
        client.predict([b"photo"])
    assert len(requests) == 1
    assert raised.value.refused == (code in REFUSALS)


@pytest.mark.parametrize(
    "details", ["the request is too large", "SERVER: Received message larger than max (9 vs. 4)"]
)
def test_a_request_that_is_too_large_is_refused(details):
    with (
        scripted_rpc((grpc.StatusCode.RESOURCE_EXHAUSTED, details)) as (url, requests),
        Client(url, "tiny") as client,
        pytest.raises(ServingError, match=r"\(RESOURCE_EXHAUSTED\)\.$") as raised,
    ):
        client.predict([b"photo"])
    assert len(requests) == 1
    assert (raised.value.kind, raised.value.refused) == ("request too large", True)


def test_a_timeout_is_one_sentence():
    with (
        scripted_rpc(HANG) as (url, _),
        Client(url, "tiny", timeout=0.2) as client,
        pytest.raises(ServingError, match=r"No answer from .* \(timeout 0.2 s\)") as raised,
    ):
        client.predict([b"photo"])
    assert raised.value.kind == "timeout"


def test_photos_are_sent_unchanged():
    photos = [b"\x00photo\x00\x00", b"", b"\xff\xd8"]
    answer = {"classes": np.zeros([3, 1], np.int32)}
    with scripted_rpc(answer) as (url, requests), Client(url, "tiny", label="canary") as client:
        client.predict(photos, "explain")
    (request,) = requests
    assert tf.make_ndarray(request.inputs["image_bytes"]).tolist() == photos
    assert request.model_spec.signature_name == "explain"
    assert request.model_spec.version_label == "canary"


def test_a_wrong_number_of_answers_raises():
    with (
        scripted_rpc(ANSWER) as (url, _),
        Client(url, "tiny") as client,
        pytest.raises(ServingError, match="tiny at grpc://.* did not answer with 2 pred"),
    ):
        client.predict([b"photo", b"photo"])


def test_messages_larger_than_the_default_of_grpc_are_received():
    answer = {"attention": np.zeros([1, 2_000_000], np.float32)}  # 8 MB; the default is 4
    with scripted_rpc(answer) as (url, _), Client(url, "tiny") as client:
        assert len(client.predict([b"photo"])[0]["attention"]) == 2_000_000
