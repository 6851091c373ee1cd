"""A real nginx with saved_models/nginx.conf lets only known clients and small requests pass."""

import base64
import concurrent.futures
import re
import socket
import ssl
import threading
import urllib.parse

import nginx_front
import numpy as np
import pytest
import requests
from photos import encoded, noise
from tiny_model import expected_logits

grpc = pytest.importorskip("grpc")
trustme = pytest.importorskip("trustme")
pytest.importorskip("tensorflow_serving")

from noah_tf.serving import Client, Credentials, ServingError  # noqa: E402
from noah_tf.serving.__main__ import main  # noqa: E402

pytestmark = [
    pytest.mark.one_stack,
    pytest.mark.slow,
    pytest.mark.skipif(
        nginx_front.missing_software is not None, reason=str(nginx_front.missing_software)
    ),
]

PHOTO = encoded(noise(12, 10), "PNG")
BODY = {"instances": [{"b64": base64.b64encode(PHOTO).decode()}]}
KEY = "4f" * 32
LARGE = 33 * 2**20  # the front takes 32 MB


@pytest.fixture(scope="module")
def front(server, tmp_path_factory):
    """A front before the stand-in, with the key of alice and certificates of an authority."""
    folder = tmp_path_factory.mktemp("front")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(folder / "server.key"))
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(folder / "server.crt"), append=True)
    for name, issuer in (("bob", authority), ("stranger", trustme.CA())):
        issued = issuer.issue_cert(f"{name}@example.com", common_name=name)
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.crt"))
    (folder / "keys.map").write_text(f'"Bearer {KEY}" alice;\n')
    (folder / "alice.key").write_text(f"{KEY}\n")
    (folder / "wrong.key").write_text("e" * 64)
    (folder / "clients.conf").write_text(
        f"ssl_client_certificate {folder}/ca.crt;\nssl_verify_client optional;\n"
    )
    ports = [urllib.parse.urlsplit(url).port for url in (server.rest, server.grpc)]
    with nginx_front.running_front(folder, *ports, timeout="1s") as running:
        yield running


def credentials(front, key="alice.key", cert=None):
    return Credentials(
        key and front.folder / key,
        front.folder / "ca.crt",
        cert and front.folder / f"{cert}.crt",
        cert and front.folder / f"{cert}.key",
    )


def client(front, scheme, *shown, **options):
    url = getattr(front, scheme)
    return Client(url, "tiny", credentials=credentials(front, *shown), **options)


@pytest.fixture
def session(front):
    """A session of `requests` with the key of alice."""
    with requests.Session() as session:
        session.trust_env = False  # a variable may name other authorities
        session.verify = str(front.folder / "ca.crt")
        session.headers["Authorization"] = f"Bearer {KEY}"
        yield session


@pytest.mark.parametrize("scheme", ["rest", "grpc"])
@pytest.mark.parametrize("shown", [("alice.key",), (None, "bob")], ids=["key", "certificate"])
def test_known_clients_are_answered(front, scheme, shown, tmp_path, monkeypatch):
    # The environment of a user must replace neither the key nor the authority.
    (tmp_path / "netrc").write_text("machine localhost login x password y")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(front.folder / "stranger.crt"))
    with client(front, scheme, *shown, version=1) as known:
        known.wait_until_ready(0)
        assert "serving_default" in str(known.metadata())
        (row,) = known.predict([PHOTO])
    np.testing.assert_allclose(row["logits"], expected_logits(noise(12, 10)), atol=1e-6)


@pytest.mark.parametrize("scheme, code", [("rest", "HTTP 401"), ("grpc", "UNAUTHENTICATED")])
@pytest.mark.parametrize("key", [None, "wrong.key"])
def test_strangers_are_refused(front, scheme, code, key):
    with (
        client(front, scheme, key) as stranger,
        pytest.raises(ServingError, match=rf"has no valid API key .*\({code}\)") as raised,
    ):
        stranger.predict([PHOTO])
    assert raised.value.kind == code


def test_a_certificate_of_another_authority_is_refused(front):
    with (
        client(front, "rest", None, "stranger") as stranger,
        pytest.raises(ServingError, match=r"certificate is not accepted \(HTTP 400\)"),
    ):
        stranger.predict([PHOTO])
    with (
        client(front, "grpc", None, "stranger") as stranger,
        pytest.raises(ServingError, match=r"certificate is not accepted \(UNAUTHENTICATED\)"),
    ):
        stranger.predict([PHOTO])


@pytest.mark.parametrize("scheme", ["rest", "grpc"])
def test_a_server_with_another_certificate_gets_no_key(front, scheme):
    url = getattr(front, scheme)
    with (
        # The libraries do not know the authority of this test.
        Client(
            url, "tiny", retries=0, credentials=Credentials(front.folder / "alice.key")
        ) as asked,
        pytest.raises(ServingError, match="(?i)certificate.verify.failed"),
    ):
        asked.predict([PHOTO])


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", "/healthz", 200),
        ("GET", "/v1/models/tiny", 200),
        ("GET", "/v1/models/tiny/versions/1", 200),
        ("GET", "/v1/models/tiny/labels/canary/metadata", 200),
        ("GET", "/monitoring/prometheus/metrics", 404),
        ("GET", "/v1/models/tiny/../../monitoring/prometheus/metrics", 404),
        ("POST", "/v1/models/tiny:classify", 404),
        ("GET", "/v1/config", 404),
        ("GET", "/", 404),
        ("GET", "/error/x", 404),
        ("DELETE", "/v1/models/tiny", 403),
    ],
)
def test_only_prediction_status_and_metadata_are_forwarded(front, session, method, path, status):
    request = session.prepare_request(requests.Request(method, front.rest))
    request.url = front.rest + path  # requests would resolve the dots
    answer = session.send(request, verify=session.verify)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert set(answer.json()) == {"error"}
    assert "nginx/" not in answer.headers["Server"]


def grpc_call(front, path, requests=(b"",)):
    """Returns the status code of a call with raw bytes."""
    shown = credentials(front)
    channel = grpc.secure_channel(
        urllib.parse.urlsplit(front.grpc).netloc,
        grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(shown.cacert_bytes),
            grpc.access_token_call_credentials(shown.api_key),
        ),
    )
    with channel:
        try:
            channel.stream_unary(path)(iter(requests), timeout=30)
        except grpc.RpcError as error:
            return error.code().name, error.details()
    return "OK", ""


@pytest.mark.parametrize(
    "path",
    [
        "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
        "/tensorflow.serving.PredictionService/Classify",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_other_grpc_calls_are_not_forwarded(front, path):
    assert grpc_call(front, path) == (
        "UNIMPLEMENTED",
        "the front forwards prediction, status and metadata only",
    )


def test_an_error_of_the_server_passes(front):
    for scheme, code in (("rest", "HTTP 400"), ("grpc", "INVALID_ARGUMENT")):
        with (
            client(front, scheme, version=1) as known,
            pytest.raises(ServingError, match=rf"row 0 is neither PNG nor JPEG.*\({code}\)"),
        ):
            known.predict([b"text"])


def test_a_large_request_is_refused(front, session):
    answer = session.post(f"{front.rest}/v1/models/tiny:predict", data=b"x" * LARGE, timeout=60)
    assert (answer.status_code, answer.json()) == (413, {"error": "the request is too large"})
    for scheme, code in (("rest", "HTTP 413"), ("grpc", "RESOURCE_EXHAUSTED")):
        with (
            client(front, scheme) as known,
            pytest.raises(ServingError, match=rf"is too large \({code}\)") as raised,
        ):
            known.predict([b"x" * LARGE])
        assert raised.value.kind == "request too large"  # and no reason to repeat it


def test_a_slow_request_is_refused(front):
    context = ssl.create_default_context(cafile=str(front.folder / "ca.crt"))
    address = "localhost", urllib.parse.urlsplit(front.rest).port
    start = front.num_lines()
    head = f"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    with (
        socket.create_connection(address, timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        answer = b""
        while part := connection.recv(4096):
            answer += part
    # nginx logs this status, and closes the connection without an answer.
    assert answer == b""
    assert front.new_lines(start, 1, 'client="alice" POST /v1/models/tiny:predict status=408 ')

    # This call has no body until it is refused.
    refused = threading.Event()

    def messages():
        refused.wait(timeout=30)
        yield b""

    try:
        code, message = grpc_call(
            front, "/tensorflow.serving.PredictionService/Predict", requests=messages()
        )
    finally:
        refused.set()
    assert (code, "RST_STREAM" in message) == ("INTERNAL", True)
    assert front.new_lines(start, 1, "PredictionService/Predict status=408 ")


@pytest.mark.parametrize("scheme", ["rest", "grpc"])
def test_many_requests_at_once_are_answered_or_told_to_wait(front, scheme):
    def ask(_):
        with client(front, scheme, version=1, retries=0) as known:
            try:
                return "OK" if len(known.predict([PHOTO])) == 1 else "wrong"
            except ServingError as error:
                return error.kind

    start = front.num_lines()
    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        kinds = list(pool.map(ask, range(200)))
    # Neither 502 nor any other error.
    assert set(kinds) <= {"OK", "too many requests"}, kinds
    assert kinds.count("OK") > 0
    text = "/v1/models/tiny/versions/1:predict" if scheme == "rest" else "Service/Predict "
    lines = front.new_lines(start, 200, text)
    statuses = {re.search(r" status=(\d+) ", line)[1] for line in lines}
    assert statuses <= {"200", "204" if scheme == "grpc" else "429"}


def test_clients_come_back_until_they_are_answered(front):
    def ask(_):
        with client(front, "grpc", version=1) as known:
            return len(known.predict([PHOTO]))

    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        assert list(pool.map(ask, range(100))) == [1] * 100


def test_the_log_names_clients_and_has_no_bodies_and_keys(front):
    start = front.num_lines()
    with client(front, "rest", version=1) as known:
        known.predict([PHOTO])
    with client(front, "grpc", None, "bob", version=1) as known:
        known.predict([PHOTO])
    text = 'client="alice" POST /v1/models/tiny/versions/1:predict status=200'
    assert front.new_lines(start, 1, text)
    (line,) = front.new_lines(start, 1, 'client="CN=bob')
    assert 'grpc_status="0"' in line
    for name in ("access.log", "error.log"):
        log = (front.folder / name).read_text()
        assert KEY not in log
        assert BODY["instances"][0]["b64"][:40] not in log


@pytest.mark.parametrize("scheme", ["rest", "grpc"])
def test_the_command_line_shows_the_key(front, scheme, tmp_path, capsys):
    (tmp_path / "photo.png").write_bytes(PHOTO)
    words = ["predict", "--url", getattr(front, scheme), "--model", "tiny", "--version", "1"]
    words += ["--cacert", str(front.folder / "ca.crt"), str(tmp_path / "photo.png")]
    assert main([*words, "--api-key-file", str(front.folder / "alice.key")]) == 0
    assert "%" in capsys.readouterr().out
    assert main([*words, "--wait", "0"]) == 1
    assert "has no valid API key" in capsys.readouterr().err


def test_a_server_that_is_down_is_unavailable(front, tmp_path):
    from ports import reserved_ports

    for name in ("server.crt", "server.key", "keys.map", "alice.key", "ca.crt"):
        (tmp_path / name).write_bytes((front.folder / name).read_bytes())
    with (
        reserved_ports(2) as closed,
        nginx_front.running_front(tmp_path, *closed) as alone,
    ):
        for scheme, kind in (("rest", "HTTP 503"), ("grpc", "UNAVAILABLE")):
            with (
                client(alone, scheme, retries=0) as asked,
                pytest.raises(ServingError, match="the server is unavailable") as raised,
            ):
                asked.predict([PHOTO])
            assert raised.value.kind == kind
