"""The model server that tests use keeps TF Serving's documented rules.

With the real `tensorflow_model_server` on the PATH the same tests ask that one.
"""

import base64
import concurrent.futures
import itertools
import json
import os
import re
import shutil
import stat
import sys
import threading
import time

import numpy as np
import pytest
import requests
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import encoded, noise
from tf_serving_json import BadRequest, answer_to_json, request_from_json, tensor_from_json
from tf_serving_stand_in import HAS_RPC, WARM_UP, model_server
from tiny_model import expected_logits, write_tiny_model

from noah_tf.serving import Client, ServingError

PHOTO = encoded(noise(12, 10), "PNG")
B64 = {"b64": base64.b64encode(PHOTO).decode()}
FLOATS = {"x": tf.float32}
TWO = {"a": tf.int32, "b": tf.string}


def ask(server, body, where=""):
    return requests.post(f"{server.rest}/v1/models/tiny{where}:predict", json=body, timeout=60)


@pytest.fixture
def base(tiny_models, tmp_path):
    """A folder of versions that a test may change; it begins with version 1."""
    shutil.copytree(tiny_models / "1", tmp_path / "tiny" / "1")
    return tmp_path / "tiny"


def add(base, version, source):
    """Copies a version under a name that is no number, then renames it."""
    shutil.copytree(source, base / "incoming")
    (base / "incoming").rename(base / str(version))


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def states(server):
    status = requests.get(f"{server.rest}/v1/models/tiny", timeout=60).json()
    return {s["version"]: s["state"] for s in status["model_version_status"]}


def test_status_has_the_documented_form(server):
    status = requests.get(f"{server.rest}/v1/models/tiny/versions/1", timeout=60)
    assert status.headers["Content-Type"] == "application/json"
    assert status.json() == {
        "model_version_status": [
            {
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
    assert states(server) == {"1": "AVAILABLE", "2": "AVAILABLE"}


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [B64, B64]},
        {"instances": [{"image_bytes": B64}, {"image_bytes": B64}]},
        {"signature_name": "serving_default", "instances": [B64, B64]},
    ],
)
def test_rows(server, body):
    rows = ask(server, body, "/versions/1").json()["predictions"]
    assert len(rows) == 2
    for row in rows:
        assert set(row) == {"classes", "labels", "probabilities", "logits"}
        np.testing.assert_allclose(row["logits"], expected_logits(noise(12, 10)), atol=1e-6)


@pytest.mark.parametrize("inputs", [[B64, B64], {"image_bytes": [B64, B64]}])
def test_columns(server, inputs):
    outputs = ask(server, {"inputs": inputs}, "/labels/stable").json()["outputs"]
    assert set(outputs) == {"classes", "labels", "probabilities", "logits"}
    expected = np.tile(expected_logits(noise(12, 10)), (2, 1))
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-6)


def test_pixels(server):
    images = [noise(4, 5, seed=s).tolist() for s in range(2)]
    for body, key in (({"instances": images}, "predictions"), ({"inputs": images}, "outputs")):
        answer = ask(server, {"signature_name": "serve_tensor", **body}, "/versions/1").json()[key]
        rows = answer["logits"] if key == "outputs" else [row["logits"] for row in answer]
        expected = [expected_logits(noise(4, 5, seed=s)) for s in range(2)]
        np.testing.assert_allclose(rows, expected, atol=1e-6)


@pytest.mark.parametrize(
    "body, where, status, message",
    [
        ({}, "", 400, "Missing 'inputs' or 'instances' key"),
        ({"instances": []}, "", 400, "No values in 'instances'"),
        ({"instances": [B64], "inputs": [B64]}, "", 400, "only one of"),
        (
            {"instances": [{"image": B64}]},
            "",
            400,
            "keys must be equal to: image_bytes|named input",
        ),
        ({"instances": [{"b64": "!"}]}, "", 400, "base64"),
        ({"instances": [5]}, "", 400, "not of expected type"),
        ({"signature_name": "nope", "instances": [B64]}, "", 400, '"nope" not found'),
        ({"instances": [B64]}, "/versions/9", 404, r"Servable not found for request: Specific"),
        ({"instances": [B64]}, "/labels/nope", 400, "Unrecognized servable version label: nope"),
    ],
)
def test_mistakes_are_errors_of_the_documented_form(server, body, where, status, message):
    answer = ask(server, body, where)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert re.search(message, answer.json()["error"]), answer.text


def test_other_paths_and_models(server):
    for path, status in (
        ("/v1/models/other", 404),
        ("/v1/models/tiny/versions/x", 400),
        ("/v1/nothing", 400),
    ):
        answer = requests.get(f"{server.rest}{path}", timeout=60)
        assert answer.status_code == status
        assert "error" in answer.json()


def test_a_new_version_takes_over_while_requests_run_and_none_is_lost(base, tiny_models):
    stop, answers = threading.Event(), []

    def keep_asking(url):
        with Client(url, "tiny", retries=0) as client:
            while not stop.is_set():
                answers.append("status" in client.predict([PHOTO])[0])

    with model_server(base, "tiny") as server, concurrent.futures.ThreadPoolExecutor(6) as pool:
        urls = [url for url in (server.rest, server.grpc) if url]
        asking = [pool.submit(keep_asking, url) for url, _ in zip(itertools.cycle(urls), range(6))]
        wait_for(lambda: len(answers) > 50)
        add(base, 2, tiny_models / "2")
        wait_for(lambda: states(server) == {"1": "END", "2": "AVAILABLE"})
        seen = len(answers)
        wait_for(lambda: len(answers) > seen + 50)
        shutil.rmtree(base / "2")
        wait_for(lambda: states(server)["1"] == "AVAILABLE")
        wait_for(lambda: not answers[-1])
        stop.set()
        for each in asking:
            each.result(timeout=30)
    assert not answers[0]
    assert True in answers


def test_versions_and_labels_are_configured_while_it_runs(base, tiny_models):
    def tolerant(**chosen):
        with Client(server.rest, "tiny", retries=0, **chosen) as client:
            return "status" in client.predict([PHOTO])[0]

    with model_server(base, "tiny", [1], {"stable": 1, "canary": 1}) as server:
        add(base, 2, tiny_models / "2")
        time.sleep(0.5)
        assert not tolerant()
        server.configure([1, 2], {"stable": 1, "canary": 1})
        wait_for(lambda: states(server) == {"1": "AVAILABLE", "2": "AVAILABLE"})
        assert tolerant()
        server.configure([1, 2], {"stable": 1, "canary": 2})
        wait_for(lambda: tolerant(label="canary"))
        assert not tolerant(label="stable")
        server.configure([2], {"stable": 2, "canary": 2})
        wait_for(lambda: states(server)["1"] == "END")
        assert tolerant(label="stable")
        with pytest.raises(ServingError, match="Specific"):
            tolerant(version=1)


def test_a_version_that_cannot_be_loaded_says_why_and_harms_nobody(base):
    with model_server(base, "tiny") as server, Client(server.rest, "tiny") as client:
        (base / "incoming").mkdir()
        (base / "incoming" / "saved_model.pb").write_bytes(b"this is none")
        (base / "incoming").rename(base / "2")
        wait_for(lambda: states(server).get("2") == "END")
        assert states(server)["1"] == "AVAILABLE"
        assert len(client.predict([PHOTO])) == 1
        with (
            Client(server.rest, "tiny", version=2) as other,
            pytest.raises(ServingError, match="version 2 is END"),
        ):
            other.wait_until_ready(0)


@pytest.mark.skipif(not HAS_RPC, reason="tensorflow-serving-api is not installed")
@pytest.mark.parametrize("photo, state", [(PHOTO, "AVAILABLE"), (b"text", "END")])
def test_warm_up_records_are_replayed_and_a_bad_one_keeps_it_from_loading(base, photo, state):
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "tiny"
    request.model_spec.signature_name = "explain"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([PHOTO, photo]))
    shutil.copytree(base / "1", base / "incoming")
    (base / "incoming" / WARM_UP).parent.mkdir()
    with tf.io.TFRecordWriter(str(base / "incoming" / WARM_UP)) as writer:
        for _ in range(3):
            writer.write(log.SerializeToString())
    with model_server(base, "tiny", [1, 2]) as server:
        (base / "incoming").rename(base / "2")
        wait_for(lambda: states(server).get("2") == state)
        if server.kind == "stand-in":
            assert server.warmed_up == ({1: 0, 2: 3} if state == "AVAILABLE" else {1: 0})


def test_a_model_runs_without_python(tmp_path):
    """The stand-in's promise: the graph alone, in a session."""
    write_tiny_model(tmp_path / "3", top_k=3)
    with model_server(tmp_path, "tiny") as server:
        labels = ask(server, {"instances": [B64]}).json()["predictions"][0]["labels"]
    assert sorted(labels) == ["blue", "green", "red"]


def test_the_real_program_is_taken_where_there_is_one(base, tmp_path, monkeypatch):
    """A program of that name that notes its options and says that the model is ready."""
    program = tmp_path / "bin" / "tensorflow_model_server"
    program.parent.mkdir()
    program.write_text(
        f"""#!{sys.executable}
import http.server, json, pathlib, sys
options = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
options["text"] = pathlib.Path(options["model_config_file"]).read_text()
pathlib.Path({str(tmp_path / "options.json")!r}).write_text(json.dumps(options))
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{{"model_version_status": [{{"state": "AVAILABLE"}}]}}')
http.server.HTTPServer(("127.0.0.1", int(options["rest_api_port"])), Ready).serve_forever()
"""
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    with model_server(base, "tiny", [1], {"stable": 1}) as server:
        assert server.kind == "tensorflow_model_server"
        options = json.loads((tmp_path / "options.json").read_text())
        assert server.rest.endswith(options["rest_api_port"])
        assert server.grpc.endswith(options["port"])
        assert os.path.isfile(options["batching_parameters_file"])
        assert f'base_path: "{base}"' in options["text"]
        if HAS_RPC:
            from google.protobuf import text_format
            from tensorflow_serving.config import model_server_config_pb2

            config = text_format.Parse(
                options["text"], model_server_config_pb2.ModelServerConfig()
            ).model_config_list.config[0]
            assert list(config.model_version_policy.specific.versions) == [1]
            assert dict(config.version_labels) == {"stable": 1}
    with pytest.raises(requests.ConnectionError):
        requests.get(server.rest, timeout=5)


def test_a_real_program_that_ends_at_once_shows_its_log(base, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "tensorflow_model_server"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho unknown argument\nexit 3\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(RuntimeError, match="unknown argument"), model_server(base, "tiny"):
        pass


nested = st.integers(0, 3).flatmap(
    lambda rank: st.tuples(*[st.integers(1, 3)] * rank).flatmap(
        lambda shape: st.lists(
            st.floats(-1e6, 1e6, width=32) | st.integers(-1000, 1000),
            min_size=int(np.prod(shape)),
            max_size=int(np.prod(shape)),
        ).map(lambda flat: np.array(flat, np.float32).reshape(shape))
    )
)


@settings(max_examples=100, deadline=None)
@given(nested)
def test_tensors_are_read_in_their_nested_form(array):
    read = tensor_from_json(array.tolist(), tf.float32)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, array)
    body = json.dumps({"inputs": {"x": array.tolist()}}).encode()
    name, values, rows = request_from_json(body, lambda name: FLOATS)
    assert (name, rows) == ("", False)
    np.testing.assert_array_equal(values["x"], array)


@pytest.mark.parametrize(
    "value, dtype",
    [
        ([[1, 2], [3]], tf.float32),
        ([1, [2]], tf.float32),
        ([[1], 2], tf.float32),
        (["1"], tf.float32),
        ([True], tf.float32),
        ([None], tf.float32),
        ([1.5], tf.int32),
        ([256], tf.uint8),
        ([-1], tf.uint8),
        ([1], tf.string),
        ([1], tf.bool),
        ([{"b64": "aGk=", "x": 1}], tf.string),
        ([{"b64": "aGk"}], tf.string),
        ([{"b64": "aGk="}], tf.float32),
    ],
)
def test_what_is_no_tensor(value, dtype):
    with pytest.raises(BadRequest):
        tensor_from_json(value, dtype)


def test_strings_are_text_or_base64():
    value = ["héllo", {"b64": base64.b64encode(b"\x00\xff\x00").decode()}]
    assert tensor_from_json(value, tf.string).tolist() == ["héllo".encode(), b"\x00\xff\x00"]


@pytest.mark.parametrize(
    "instances",
    [
        [{"a": 1}],
        [{"a": 1, "b": "x", "c": 2}],
        [{"a": 1, "b": "x"}, [1]],
        [1, 2],
        [{"a": 1, "b": "x"}, {"a": [1], "b": "x"}],
        {"a": 1, "b": "x"},
    ],
)
def test_rows_of_several_inputs_must_be_complete_and_alike(instances):
    body = json.dumps({"instances": instances}).encode()
    with pytest.raises(BadRequest):
        request_from_json(body, lambda name: TWO)


def test_rows_and_columns_of_several_inputs():
    rows = {"instances": [{"a": [1, 2], "b": "x"}, {"a": [3, 4], "b": "y"}]}
    columns = {"inputs": {"a": [[1, 2], [3, 4]], "b": ["x", "y"]}, "signature_name": "s"}
    for body, name in ((rows, ""), (columns, "s")):
        text = json.dumps(body).encode()
        got, values, _ = request_from_json(text, lambda name: TWO)
        assert got == name
        assert values["a"].tolist() == [[1, 2], [3, 4]]
        assert values["b"].tolist() == [b"x", b"y"]


def test_answers_take_the_form_of_the_request():
    one = {"scores": np.array([[0.5, 0.25], [1.0, 0.0]], np.float32)}
    two = {**one, "name_bytes": np.array([b"\xff", b"hi"], object)}
    loads = json.loads
    assert loads(answer_to_json(one, rows=True)) == {"predictions": [[0.5, 0.25], [1.0, 0.0]]}
    assert loads(answer_to_json(one, rows=False)) == {"outputs": [[0.5, 0.25], [1.0, 0.0]]}
    assert loads(answer_to_json(two, rows=True)) == {
        "predictions": [
            {"scores": [0.5, 0.25], "name_bytes": {"b64": "/w=="}},
            {"scores": [1.0, 0.0], "name_bytes": {"b64": "aGk="}},
        ]
    }
    assert loads(answer_to_json(two, rows=False))["outputs"]["name_bytes"][1] == {"b64": "aGk="}
    text = {"name": np.array([b"hi"], object)}
    assert loads(answer_to_json(text, rows=True)) == {"predictions": ["hi"]}


def test_rows_need_outputs_of_one_batch_size():
    outputs = {"a": np.zeros(2), "b": np.zeros(3)}
    assert set(json.loads(answer_to_json(outputs, rows=False))["outputs"]) == {"a", "b"}
    with pytest.raises(BadRequest, match="inconsistent batch size"):
        answer_to_json(outputs, rows=True)
