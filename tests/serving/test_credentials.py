"""Credentials are checked before the server is asked; test_front.py sends them to a front."""

import ssl

import pytest

from noah_tf.serving import Client, Credentials
from noah_tf.serving.__main__ import main

pytestmark = pytest.mark.one_stack


@pytest.fixture
def key(tmp_path):
    (tmp_path / "alice.key").write_text("0123abcd\n")
    return tmp_path / "alice.key"


def test_the_key_is_the_line_of_the_file_and_is_not_printed(key):
    credentials = Credentials(api_key_file=key)
    assert credentials.api_key == "0123abcd"
    assert "0123abcd" not in repr(credentials)
    assert Credentials().is_empty and not credentials.is_empty


@pytest.mark.parametrize("content", [b"", b"two words", b"two\nlines", "k\u00e9y".encode()])
def test_a_file_that_is_no_key_raises_and_is_not_printed(content, key):
    key.write_bytes(content)
    with pytest.raises(ValueError, match="An API key is one word of ASCII") as raised:
        Credentials(api_key_file=key)
    assert not content or content.decode() not in str(raised.value)


@pytest.mark.parametrize("option", ["api_key_file", "cacert", "cert", "key"])
def test_a_missing_file_raises(option, tmp_path):
    with pytest.raises(OSError, match="no.pem cannot be read: no such file or directory"):
        Credentials(**{option: tmp_path / "no.pem"})


@pytest.mark.parametrize("option", ["cert", "key"])
def test_a_certificate_without_its_key_raises(option, key):
    with pytest.raises(ValueError, match="cert and key belong together, got .*None.*: give both"):
        Credentials(**{option: key})


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """A folder with the certificates and keys of bob and eve, and with files that are no PEM."""
    trustme = pytest.importorskip("trustme")
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    for name in ("bob", "eve"):
        issued = authority.issue_cert(f"{name}@example.com")
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.crt"))
    (folder / "text").write_text("this is no certificate")
    (folder / "der").write_bytes(ssl.PEM_cert_to_DER_cert((folder / "bob.crt").read_text()))
    return folder


@pytest.mark.parametrize(
    "files, message",
    [
        ({"cacert": "text"}, "cacert must be a PEM file .* got .*text: give a file with a line"),
        ({"cacert": "der"}, "cacert must be a PEM file .* got .*der: .*openssl x509 -inform DER"),
        ({"cert": "bob.key", "key": "bob.key"}, "cert must be a PEM file .* got .*bob.key: give"),
        ({"cert": "bob.crt", "key": "text"}, "key must be a PEM file .* got .*text: give the key"),
        (
            {"cert": "bob.crt", "key": "eve.key"},
            "key must be that of cert, got .*eve.key, which does not belong to .*bob.crt: give the",
        ),
    ],
)
def test_files_that_are_no_certificate_or_no_key_raise(files, message, pem):
    paths = {option: pem / name for option, name in files.items()}
    with pytest.raises(ValueError, match=message) as raised:
        Credentials(**paths)
    assert "ssl.c" not in str(raised.value)


def test_a_certificate_with_its_key_is_accepted(pem):
    assert Credentials(cacert=pem / "bob.crt", cert=pem / "bob.crt", key=pem / "bob.key").cert_bytes


@pytest.mark.parametrize("url", ["http://localhost:8501", "grpc://localhost:8500"])
def test_a_key_is_not_sent_without_tls(url, key):
    with pytest.raises(ValueError, match=f"need TLS, .* got the url {url}: give the https://"):
        Client(url, "tiny", credentials=Credentials(api_key_file=key))


def test_the_command_line_says_so_in_one_sentence(key, capsys):
    words = ["predict", "--url", "http://localhost:8501", "--model", "tiny", str(key)]
    assert main([*words, "--api-key-file", str(key)]) == 1
    assert "An API key and certificates need TLS" in capsys.readouterr().err
    assert main([*words, "--cert", str(key)]) == 1
    assert "cert and key belong together" in capsys.readouterr().err
