"""The stand-in for TF Serving keeps the rules that TF Serving's pages document."""

import base64
import json
import re
import shutil

import numpy as np
import pytest
import requests
import tensorflow as tf
from photos import encoded, noise
from tf_serving_stand_in import WARMUP_FILE, StandIn
from tiny_model import expected_logits

from noah_tf.serving import Client, ServingError

pytestmark = pytest.mark.one_stack

PHOTO = encoded(noise(12, 10), "PNG")
B64 = {"b64": base64.b64encode(PHOTO).decode()}


@pytest.fixture
def base(tiny_models, tmp_path):
    """A folder of versions that a test may change; it begins with version 1."""
    shutil.copytree(tiny_models / "1", tmp_path / "tiny" / "1")
    return tmp_path / "tiny"


def states(server):
    status = requests.get(f"{server.rest}/v1/models/tiny", timeout=60).json()
    return {s["version"]: s["state"] for s in status["model_version_status"]}


def is_tolerant(server, **version):
    """Asks a version whether it has the output `status`, as version 2 has."""
    with Client(server.rest, "tiny", retries=0, **version) as client:
        return "status" in client.predict([PHOTO])[0]


def test_status_has_the_documented_form(server):
    status = requests.get(f"{server.rest}/v1/models/tiny/versions/1", timeout=60)
    assert status.headers["Content-Type"] == "application/json"
    ok = {"error_code": "OK", "error_message": ""}
    version = {"version": "1", "state": "AVAILABLE", "status": ok}
    assert status.json() == {"model_version_status": [version]}
    assert states(server) == {"1": "AVAILABLE", "2": "AVAILABLE"}


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [B64, B64]},
        {"instances": [{"image_bytes": B64}, {"image_bytes": B64}]},
        {"inputs": [B64, B64]},
        {"inputs": {"image_bytes": [B64, B64]}},
        {"instances": [noise(12, 10).tolist()] * 2, "signature_name": "serve_tensor"},
    ],
)
def test_predictions_have_the_form_of_the_request(server, body):
    url = f"{server.rest}/v1/models/tiny/versions/1:predict"
    answer = requests.post(url, json=body, timeout=60).json()
    if "instances" in body:
        answer = {
            name: [row[name] for row in answer["predictions"]] for name in answer["predictions"][0]
        }
    else:
        answer = answer["outputs"]
    assert set(answer) == {"classes", "labels", "probabilities", "logits"}
    np.testing.assert_allclose(answer["logits"], [expected_logits(noise(12, 10))] * 2, atol=1e-6)


@pytest.mark.parametrize(
    "body, version, status, message",
    [
        ({}, "", 400, "'inputs' or 'instances' key"),
        ({"instances": []}, "", 400, "No values in 'instances'"),
        ({"instances": [B64], "inputs": [B64]}, "", 400, "expecting one of"),
        ({"instances": [{"image": B64}]}, "", 400, "keys must be equal to: image_bytes"),
        ({"instances": [{"b64": "!"}]}, "", 400, "base64"),
        ({"instances": [5]}, "", 400, "not of expected type"),
        ({"signature_name": "nope", "instances": [B64]}, "", 400, 'name: "nope" not found'),
        ({"instances": [B64]}, "/versions/9", 404, r"Servable not found for request: Specific"),
        ({"instances": [B64]}, "/labels/nope", 400, "Unrecognized servable version label: nope"),
        ({"instances": [B64]}, "/versions/x", 400, "Malformed request"),
    ],
)
def test_errors_have_the_documented_form(server, body, version, status, message):
    url = f"{server.rest}/v1/models/tiny{version}:predict"
    answer = requests.post(url, json=body, timeout=60)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert re.search(message, answer.json()["error"]), answer.text


def test_an_unknown_signature_has_the_words_of_each_interface(server):
    with Client(server.grpc, "tiny", version=1) as client:
        message = r'^Serving signature key "colour" not found \(FAILED_PRECONDITION\)\.$'
        with pytest.raises(ServingError, match=message):
            client.predict([PHOTO], "colour")
    with Client(server.rest, "tiny", version=1) as client:
        message = r'signature name: "colour" not found in signature def \(HTTP 400\)\.$'
        with pytest.raises(ServingError, match=message):
            client.predict([PHOTO], "colour")


def test_more_grpc_calls_than_threads_are_refused(base):
    with (
        StandIn(base, "tiny", grpc_max_threads=0) as server,
        Client(server.grpc, "tiny", retries=0) as client,
        pytest.raises(ServingError, match="Server Threadpool Exhausted") as raised,
    ):
        client.predict([PHOTO])
    assert raised.value.kind == "gRPC threads exhausted"


def test_the_newest_version_is_served_and_a_deleted_one_is_not(base, tiny_models):
    with StandIn(base, "tiny") as server:
        assert not is_tolerant(server)
        shutil.copytree(tiny_models / "2", base / "2")
        server.poll()
        assert states(server) == {"1": "END", "2": "AVAILABLE"}
        assert is_tolerant(server)
        shutil.rmtree(base / "2")
        server.poll()
        assert states(server) == {"1": "AVAILABLE", "2": "END"}
        assert not is_tolerant(server)


def test_versions_and_labels_follow_the_configuration(base, tiny_models):
    with StandIn(base, "tiny", [1], {"stable": 1, "canary": 1}) as server:
        shutil.copytree(tiny_models / "2", base / "2")
        server.poll()
        assert not is_tolerant(server)
        # A version and its label take two edits, whether the label is new or moves.
        for label in ("canary", "next"):
            with pytest.raises(ValueError, match="version 2 .* is not currently available"):
                server.configure([1, 2], {"stable": 1, label: 2})
            assert states(server) == {"1": "AVAILABLE"}
        server.configure([1, 2], {"stable": 1, "canary": 1})
        assert states(server) == {"1": "AVAILABLE", "2": "AVAILABLE"}
        assert is_tolerant(server)
        server.configure([1, 2], {"stable": 1, "canary": 2})
        assert is_tolerant(server, label="canary")
        assert not is_tolerant(server, label="stable")
        server.configure([2], {"stable": 2, "canary": 2})
        assert states(server)["1"] == "END"
        assert is_tolerant(server, label="stable")
        with pytest.raises(ServingError, match="Specific"):
            is_tolerant(server, version=1)


def test_a_version_that_cannot_be_loaded_ends_with_the_reason(base):
    (base / "2").mkdir()
    (base / "2" / "saved_model.pb").write_bytes(b"not a SavedModel")
    with StandIn(base, "tiny") as server:
        assert states(server) == {"2": "END"}
        server.configure([1, 2])
        assert not is_tolerant(server)
        with (
            Client(server.rest, "tiny", version=2) as client,
            pytest.raises(ServingError, match=r"version 2 is END \("),
        ):
            client.wait_until_ready(0)


@pytest.mark.parametrize("photo, state", [(PHOTO, "AVAILABLE"), (b"text", "END")])
def test_warmup_requests_are_answered_and_a_bad_one_prevents_loading(base, photo, state):
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "tiny"
    request.model_spec.signature_name = "explain"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([PHOTO, photo]))
    (base / "1" / WARMUP_FILE).parent.mkdir()
    with tf.io.TFRecordWriter(str(base / "1" / WARMUP_FILE)) as writer:
        for _ in range(3):
            writer.write(log.SerializeToString())
    with StandIn(base, "tiny") as server:
        assert states(server) == {"1": state}
        if state == "AVAILABLE":
            with server.loaded("tiny") as (_, model):
                assert model.num_warmed_up == 3


def test_metadata_is_the_same_over_rest_and_grpc(server):
    documents = []
    for url in (server.rest, server.grpc):
        with Client(url, "tiny", version=1) as client:
            documents.append(client.metadata())
    documents[0]["metadata"]["signature_def"].pop("@type", None)
    assert json.dumps(documents[0], sort_keys=True) == json.dumps(documents[1], sort_keys=True)
