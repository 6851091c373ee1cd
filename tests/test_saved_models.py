"""TF Serving can read the files of saved_models/, and the commands of the pages on serving work."""

import ast
import inspect
import re
import shutil
import subprocess
import urllib.parse

import nginx_front
import numpy as np
import pages
import pytest
import requests
import tensorflow as tf
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from photos import encoded, noise
from ports import reserved_ports
from shared_data import REPOSITORY
from tf_serving_stand_in import StandIn
from tiny_model import expected_logits, write_tiny_model

from noah_tf import attach_noah, export_savedmodel
from noah_tf.serving import Client
from noah_tf.serving.__main__ import main

pytestmark = pytest.mark.one_stack

FOLDER = REPOSITORY / "saved_models"
PAGE, CLIENT_PAGE = "docs/serving.md", "docs/client.md"
PAGES = (PAGE, CLIENT_PAGE)
FRONT_URLS = ("https://localhost:8443", "grpcs://localhost:8444")
FIELD = descriptor_pb2.FieldDescriptorProto

# Messages that tensorflow-serving-api lacks: field -> (number, type). They are defined in
# tensorflow_serving/servables/tensorflow/session_bundle_config.proto and
# tensorflow_serving/config/monitoring_config.proto in tensorflow/serving.
MESSAGES = {
    "BatchingParameters": {
        "max_batch_size": (1, wrappers_pb2.Int64Value),
        "batch_timeout_micros": (2, wrappers_pb2.Int64Value),
        "max_enqueued_batches": (3, wrappers_pb2.Int64Value),
        "num_batch_threads": (4, wrappers_pb2.Int64Value),
        "thread_pool_name": (5, wrappers_pb2.StringValue),
        "allowed_batch_sizes": (6, [FIELD.TYPE_INT64]),
        "pad_variable_length_inputs": (7, FIELD.TYPE_BOOL),
    },
    "PrometheusConfig": {"enable": (1, FIELD.TYPE_BOOL), "path": (2, FIELD.TYPE_STRING)},
    "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig")},
}


def parse_config(name, message):
    """Returns a configuration file as a message of `MESSAGES`; unknown fields raise."""
    file = descriptor_pb2.FileDescriptorProto(
        name="served.proto", package="served", dependency=["google/protobuf/wrappers.proto"]
    )
    file.syntax = "proto3"
    for message_name, fields in MESSAGES.items():
        description = file.message_type.add(name=message_name)
        for field_name, (number, kind) in fields.items():
            field = description.field.add(name=field_name, number=number)
            field.label = FIELD.LABEL_OPTIONAL
            if isinstance(kind, list):
                field.label, field.type = FIELD.LABEL_REPEATED, kind[0]
            elif isinstance(kind, int):
                field.type = kind
            else:
                full_name = f"served.{kind}" if isinstance(kind, str) else kind.DESCRIPTOR.full_name
                field.type, field.type_name = FIELD.TYPE_MESSAGE, f".{full_name}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    message_class = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"served.{message}"))
    return text_format.Parse((FOLDER / name).read_text(), message_class())


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with the model digits in two versions, and a photo."""
    base = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        write_tiny_model(base / "digits" / str(version), tolerant=version == 2)
    (base / "photo.png").write_bytes(encoded(noise(9, 7), "PNG"))
    return base


@pytest.fixture(scope="module")
def server(digits):
    labels = {"stable": 1, "canary": 2}
    with StandIn(digits / "digits", "digits", [1, 2], labels) as running:
        yield running


def test_models_config_is_a_server_configuration():
    from tensorflow_serving.config import model_server_config_pb2

    text = (FOLDER / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("digits", "/models/digits")
    assert model.model_platform == "tensorflow"
    versions = set(model.model_version_policy.specific.versions)
    assert versions
    assert set(model.version_labels) == {"stable", "canary"}
    assert set(model.version_labels.values()) <= versions
    # The page tells the reader to activate the line that is commented out.
    edited = text.replace("# versions: 2", "versions: 2")
    config = text_format.Parse(edited, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert list(model.model_version_policy.specific.versions) == [1, 2]


def test_batch_sizes_are_those_that_an_export_warms_up():
    batching = parse_config("batching.config", "BatchingParameters")
    sizes = list(batching.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == batching.max_batch_size.value
    assert batching.batch_timeout_micros.value >= 0
    assert batching.max_enqueued_batches.value >= 1
    assert batching.num_batch_threads.value >= 1
    # Padding would change the photos of other clients.
    assert not batching.pad_variable_length_inputs
    warmed_up = inspect.signature(export_savedmodel).parameters["warmup_batch_sizes"].default
    assert tuple(sizes) == tuple(warmed_up)


def test_monitoring_has_the_path_of_the_page():
    monitoring = parse_config("monitoring.config", "MonitoringConfig").prometheus_config
    assert monitoring.enable
    assert f"localhost:8501{monitoring.path}" in pages.text(PAGE)


def test_an_unknown_field_raises(tmp_path, monkeypatch):
    (tmp_path / "batching.config").write_text("max_batch_sise { value: 3 }")
    monkeypatch.setattr(f"{__name__}.FOLDER", tmp_path)
    with pytest.raises(text_format.ParseError, match="max_batch_sise"):
        parse_config("batching.config", "BatchingParameters")


def test_compose_mounts_this_folder_and_names_its_files():
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    service = compose["services"]["serving"]
    assert service["image"].startswith("tensorflow/serving:")
    assert service["volumes"] == [".:/models:ro"]
    assert {port.rpartition(":")[2] for port in service["ports"]} == {"8500", "8501"}
    files = re.findall(r"=/models/([\w.]+)", " ".join(service["command"]))
    assert sorted(files) == ["batching.config", "models.config", "monitoring.config"]
    assert all((FOLDER / name).is_file() for name in files)


def test_compose_has_a_front_before_the_server():
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    front = services["front"]
    assert front["profiles"] == ["front"]
    assert "./nginx.conf:/etc/nginx/nginx.conf:ro" in front["volumes"]
    # The server cannot read the folder of the keys, which is not in the one that it mounts.
    assert "../front:/etc/nginx/front:ro" in front["volumes"]
    assert (front["read_only"], front["tmpfs"]) == (True, ["/tmp"])
    config = (FOLDER / "nginx.conf").read_text()
    assert {f"{port}:{port}" for port in re.findall(r"listen (\d+) ssl", config)} == set(
        front["ports"]
    )
    # Only this machine reaches the server itself; the front reaches it by the name of its service.
    assert all(port.startswith("127.0.0.1:") for port in services["serving"]["ports"])
    assert set(re.findall(r"server (\w+):(\d+);", config)) == {
        ("serving", "8500"),
        ("serving", "8501"),
    }
    assert front["healthcheck"]["test"][-1] == "https://localhost:8443/healthz"
    assert "location = /healthz" in config


@pytest.mark.skipif(
    nginx_front.missing_software is not None, reason=str(nginx_front.missing_software)
)
def test_a_front_without_keys_knows_clients_by_their_certificates(tmp_path):
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "clients.crt"))
    for name, issued in (
        ("server", authority.issue_cert("localhost")),
        ("bob", authority.issue_cert("bob@example.com")),
    ):
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.crt"))
    (tmp_path / "clients.conf").write_text(
        f"ssl_client_certificate {tmp_path}/clients.crt; ssl_verify_client optional;"
    )
    with (
        reserved_ports(2) as closed,
        nginx_front.running_front(tmp_path, *closed) as front,
        requests.Session() as session,
    ):
        session.trust_env, session.verify = False, str(tmp_path / "clients.crt")
        url = f"{front.rest}/v1/models/digits"
        headers = {"Authorization": "Bearer "}
        assert session.get(url, headers=headers, timeout=30).status_code == 401
        cert = str(tmp_path / "bob.crt"), str(tmp_path / "bob.key")
        # The server behind the front is down.
        assert session.get(url, cert=cert, timeout=30).status_code == 503


def test_the_front_forwards_fewer_calls_than_the_server_has_threads():
    config = (FOLDER / "nginx.conf").read_text()
    (limit,) = set(re.findall(r"limit_conn port (\d+);", config))
    command = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["serving"][
        "command"
    ]
    (option,) = (word for word in command if word.startswith("--grpc_max_threads="))
    assert int(limit) < int(option.partition("=")[2])


def test_the_health_check_waits_as_long_as_the_probes_of_kubernetes():
    healthcheck = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["serving"][
        "healthcheck"
    ]
    documents = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    probe = container["startupProbe"]
    seconds = probe["periodSeconds"] * probe["failureThreshold"]
    assert healthcheck["start_period"] == f"{seconds}s"


def test_prometheus_asks_for_the_path_of_the_server():
    monitoring = parse_config("monitoring.config", "MonitoringConfig").prometheus_config
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["metrics_path"] == monitoring.path
    assert job["static_configs"] == [{"targets": ["localhost:8501"]}]


def test_every_file_of_the_folder_is_in_the_table_of_the_page():
    names = {path.name for path in FOLDER.iterdir() if path.is_file()} - {"README.md"}
    table = pages.text(PAGE).partition("## Deploy")[2].partition("On one machine")[0]
    assert names == {name for name in re.findall(r"`([\w.]+)`", table) if "." in name}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("path, healthy", [("digits", True), ("digits/versions/9", False)])
def test_the_health_check_asks_whether_the_model_is_available(server, path, healthy):
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    _, bash, option, line = compose["services"]["serving"]["healthcheck"]["test"]
    port = urllib.parse.urlsplit(server.rest).port
    assert "$" not in line  # compose would replace it
    line = line.replace("8501", str(port)).replace("models/digits", f"models/{path}")
    process = subprocess.run([bash, option, line], timeout=20, check=False)
    assert (process.returncode == 0) == healthy


def test_the_curl_commands_of_the_page_are_answered(server, digits):
    kinds = set()
    for words in [words for page in PAGES for words in pages.commands(page)]:
        if words[0] != "curl" or "prometheus" in words[1] or len(words) > 2:
            continue
        _, url = words
        answer = requests.get(url.replace("http://localhost:8501", server.rest), timeout=60)
        assert answer.status_code == 200, answer.text
        kinds.add("metadata" if "metadata" in answer.json() else "status")
    for line in pages.command_lines(CLIENT_PAGE):
        if "base64" not in line:
            continue
        # The shell runs the line, and this `curl` prints the url and the body.
        shell = f'curl() {{ echo "$3"; cat; }}; {line}'
        process = subprocess.run(
            ["bash", "-c", shell],
            cwd=digits,
            capture_output=True,
            check=True,
            timeout=20,
            text=True,
        )
        url, body = process.stdout.split("\n", 1)
        url = url.replace("http://localhost:8501", server.rest)
        answer = requests.post(url, data=body, timeout=60)
        assert answer.status_code == 200, answer.text
        answer = answer.json()
        if "outputs" in answer:
            kinds.add("columns")
            logits = answer["outputs"]["logits"][0]
        else:
            (row,) = answer["predictions"]
            kinds.add("explain" if "attention" in row else "rows")
            logits = row["logits"]
        np.testing.assert_allclose(logits, expected_logits(noise(9, 7)), atol=1e-6)
    assert kinds == {"status", "metadata", "rows", "columns", "explain"}


def client_commands(page):
    """Returns the client's commands of a page that end, as lists of words."""
    return [
        words[3:]
        for words in pages.commands(page)
        if words[:3] == ["python", "-m", "noah_tf.serving"] and words[3] != "demo"
    ]


def run_client(words, urls):
    """Runs a command of a page with other urls and less time."""
    words = [urls.get(word, word) for word in words]
    words = ["photo.png" if word == "photos/*.png" else word for word in words]
    if words[0] == "load":
        if "--seconds" in words:
            del words[words.index("--seconds") : words.index("--seconds") + 2]
        words += ["--seconds", "0.3", "--warmup-seconds", "0"]
    return main(words)


def test_the_client_commands_of_the_pages_run(server, digits, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(digits / "photo.png", "photo.png")
    urls = {"http://localhost:8501": server.rest, "grpc://localhost:8500": server.grpc}
    num_run = 0
    for words in client_commands(PAGE) + client_commands(CLIENT_PAGE):
        if words[0] == "rollout" or set(words) & set(FRONT_URLS):
            continue
        assert run_client(words, urls) == 0, capsys.readouterr().err
        num_run += 1
    assert num_run >= 4
    assert (tmp_path / "latency.png").stat().st_size > 1000


def test_the_rollout_of_the_page_runs_in_order(digits, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved_models").mkdir()
    config = tmp_path / "saved_models" / "models.config"
    shutil.copy(FOLDER / "models.config", config)
    commands = [words for words in client_commands(PAGE) if words[0] == "rollout"]
    assert [words[-1] for words in commands if words[-1].startswith("--")] == [
        "--back",
        "--drop-old",
    ]
    with StandIn(digits / "digits", "digits", [1], {"stable": 1, "canary": 1}) as running:
        running.follow(config)
        for words in commands:
            urls = {"http://localhost:8501": running.rest}
            assert run_client(words, urls) == 0, capsys.readouterr().err
        assert not running.rejected
    assert capsys.readouterr().out.splitlines()[-1] == "Version 1 is unloaded."
    assert config.read_text() == (FOLDER / "models.config").read_text().replace(
        "        versions: 1\n", "        versions: 2\n"
    ).replace("value: 1 }", "value: 2 }")


@pytest.mark.slow
@pytest.mark.skipif(
    nginx_front.missing_software is not None, reason=str(nginx_front.missing_software)
)
@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
def test_the_front_of_the_page_answers(server, digits, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(digits / "photo.png", "photo.png")
    shell = [
        line for line in pages.command_lines(PAGE) if line.startswith(("mkdir", "openssl", "echo"))
    ]
    assert len(shell) == 8
    for line in shell:
        subprocess.run(["bash", "-c", line], check=True, capture_output=True, timeout=60)
    clients = tmp_path / "front" / "clients.conf"
    clients.write_text(clients.read_text().replace("/etc/nginx/front", str(tmp_path / "front")))
    ports = [urllib.parse.urlsplit(url).port for url in (server.rest, server.grpc)]
    with nginx_front.running_front(tmp_path / "front", *ports) as front:
        urls = dict(zip(FRONT_URLS, (front.rest, front.grpc), strict=True))
        commands = [
            words
            for words in client_commands(PAGE) + client_commands(CLIENT_PAGE)
            if set(words) & set(FRONT_URLS)
        ]
        assert len(commands) == 4
        for words in commands:
            assert run_client(words, urls) == 0, capsys.readouterr().err
            assert "photo.png" in capsys.readouterr().out
        if shutil.which("curl") is None:
            return
        (line,) = (line for line in pages.command_lines(CLIENT_PAGE) if "Bearer" in line)
        process = subprocess.run(
            ["bash", "-c", line.replace(FRONT_URLS[0], front.rest)],
            check=True,
            capture_output=True,
            timeout=60,
            text=True,
        )
        assert "AVAILABLE" in process.stdout


def test_the_python_code_of_the_page_runs(server, digits, monkeypatch, capsys):
    (block,) = pages.blocks(CLIENT_PAGE, "python")
    monkeypatch.chdir(digits)
    exec(block.code.replace("http://localhost:8501", server.rest), {})
    assert len(ast.literal_eval(capsys.readouterr().out)) == 2


@pytest.mark.slow
def test_the_table_of_signatures_is_that_of_an_export(server, tmp_path):
    text = pages.text(CLIENT_PAGE)
    rows = re.findall(r"^\| `(\w+)`.*?\| `(\w+)`.*?\| (.*) \|$", text, re.MULTILINE)
    table = {
        name: (input_name, set(re.findall(r"`(\w+)`", outputs)))
        for name, input_name, outputs in rows
    }
    table["serve_tensor"] = table["serve_tensor"][0], table["serving_default"][1]  # "the same"
    inputs = tf.keras.Input((8, 8, 3))
    features = tf.keras.layers.Conv2D(8, 3, strides=2)(inputs)
    model = attach_noah(tf.keras.Model(inputs, features), 6)
    exported = tf.saved_model.load(
        str(export_savedmodel(model, tmp_path, warmup_batch_sizes=()))
    ).signatures
    with Client(server.rest, "digits", version=1) as client:
        served = client.metadata()["metadata"]["signature_def"]["signature_def"]
    assert set(exported) == set(table)
    for name, (input_name, outputs) in table.items():
        assert set(exported[name].structured_outputs) == set(served[name]["outputs"]) == outputs
        assert [input_name] == list(exported[name].structured_input_signature[1])
        assert [input_name] == list(served[name]["inputs"])
