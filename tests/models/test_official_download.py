"""Downloading the authors' checkpoints, from a server on this machine in place of Google Drive."""

import builtins
import concurrent.futures
import contextlib
import hashlib
import http.server
import threading
import urllib.parse

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from noah_tf import attach_noah, create_model, list_models, load_official_weights
from noah_tf.models import official_download, tensor_files
from noah_tf.models.official import state_dict
from noah_tf.models.official_download import official_checkpoint, official_file
from noah_tf.models.zoo import model_info
from noah_tf.runs import ModelSpec

pytestmark = pytest.mark.one_stack

NAME = "noah_resnet18"
FILE_ID = "1G1FWERwP-bRp7-ykqSk0yfSOKSnkXNPm"
PAGE = f"https://drive.google.com/file/d/{FILE_ID}/view"
# The page with which Drive answers for files that are too large for its virus scan.
CONFIRM = (
    '<!DOCTYPE html><html><body><p class="uc-warning-subcaption">Too large to scan</p>'
    '<form id="download-form" action="{base}/download" method="get">'
    '<input type="hidden" name="id" value="{file_id}">'
    '<input type="hidden" name="confirm" value="t"></form></body></html>'
)
QUOTA = (
    "<!DOCTYPE html><html><body>\n"
    '<p class="uc-error-subcaption">Too many users have viewed or downloaded this file.</p>\n'
    "</body></html>"
)


def tiny_model():
    """A model of one convolution whose layers are named as a ResNet's."""
    images = tf.keras.Input((8, 8, 3))
    x = tf.keras.layers.Conv2D(8, 3, use_bias=False, name="conv1")(images)
    return attach_noah(tf.keras.Model(images, x), 3, 2, 0.5, name=NAME)


def checkpoint(model):
    return safetensors.numpy.save(state_dict(model))


class Drive:
    """What the server answers, and the paths it was asked for."""

    def __init__(self):
        self.content = b""
        self.confirm = False
        self.missing_bytes = 0
        self.paths = []
        self.base_url = None

    def answer(self, path):
        """Returns the status, the type and the content for a path."""
        self.paths.append(path)
        url = urllib.parse.urlsplit(path)
        query = urllib.parse.parse_qs(url.query)
        if url.path not in ("/uc", "/download") or query["id"] != [FILE_ID]:
            return 404, "text/html", b"not found"
        if self.confirm and query.get("confirm") != ["t"]:
            page = CONFIRM.format(base=self.base_url, file_id=FILE_ID)
            return 200, "text/html; charset=utf-8", page.encode()
        is_page = self.content.startswith(b"<!")
        return 200, "text/html" if is_page else "application/octet-stream", self.content


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, whose .pth files are in the safetensors format."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(tensor_files, "_read_pickle", tensor_files._read_safetensors)
    monkeypatch.setattr(official_download, "import_torch", lambda path: None)


@pytest.fixture
def drive(cache):
    """A server in place of Drive."""
    pytest.importorskip("gdown")
    state = Drive()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, kind, content = state.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) - state.missing_bytes])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        state.base_url = f"http://127.0.0.1:{server.server_port}"
        yield state
        server.shutdown()


def load(model, drive):
    with official_checkpoint(NAME, drive.base_url) as path:
        load_official_weights(model, path)


def assert_equal_weights(model, other):
    for weight, expected in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def cached_files():
    return sorted(path.name for path in official_file(NAME).path.parent.iterdir())


def test_the_table_has_every_model_of_the_paper():
    models = [name for name in list_models() if model_info(name)[0].top1]
    assert len(models) == 52
    assert {official_file(name).file_id for name in models} == set(
        official_download._file_ids().values()
    )
    assert len({official_file(name).file_id for name in models}) == 52
    assert official_file(NAME).page == PAGE


def test_the_table_equals_the_reference(shared):
    lines = (shared / "checkpoints.tsv").read_text().splitlines()[1:]
    assert official_download._file_ids() == dict(line.split("\t") for line in lines)


@pytest.mark.parametrize("confirm", [False, True])
def test_a_file_is_downloaded_once(drive, confirm, capfd):
    source = tiny_model()
    drive.content, drive.confirm = checkpoint(source), confirm
    for _ in range(2):
        model = tiny_model()
        load(model, drive)
        assert_equal_weights(model, source)
    expected = [f"/uc?id={FILE_ID}"]
    expected += [f"/download?id={FILE_ID}&confirm=t"] if confirm else []
    assert drive.paths == expected
    file = official_file(NAME)
    sha256 = hashlib.sha256(drive.content).hexdigest()
    assert file.sha256_path.read_text() == f"{sha256}  {NAME}.pth\n"
    progress = capfd.readouterr().err
    assert str(file.path) in progress and "100%" in progress
    assert "partial" not in progress
    # From now on, the public functions need no network.
    model = tiny_model()
    load_official_weights(model, "official")
    assert_equal_weights(model, source)


def test_a_cut_download_leaves_no_file(drive):
    drive.content, drive.missing_bytes = checkpoint(tiny_model()), 50
    model = tiny_model()
    with pytest.raises(ConnectionError, match="noah_resnet18 could not be downloaded") as caught:
        load(model, drive)
    file = official_file(NAME)
    assert PAGE in str(caught.value) and str(file.path) in str(caught.value)
    assert cached_files() == [f"{NAME}.pth.lock"]
    drive.missing_bytes = 0
    load(model, drive)
    assert file.path.read_bytes() == drive.content


def test_a_cut_file_that_the_server_takes_for_whole(drive):
    drive.content = checkpoint(tiny_model())[:-50]
    with pytest.raises(ConnectionError, match="noah_resnet18.pth is damaged"):
        load(tiny_model(), drive)
    assert cached_files() == [f"{NAME}.pth.lock"]


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (QUOTA, "Too many users have viewed"),
        ("<!DOCTYPE html>\n<html>sign in</html>", "Cannot retrieve the public link"),
    ],
)
def test_another_page_is_not_kept(drive, page, reason):
    drive.content = page.encode()
    with pytest.raises(ConnectionError, match=reason) as caught:
        load(tiny_model(), drive)
    assert PAGE in str(caught.value) and "\n" not in str(caught.value)
    assert cached_files() == [f"{NAME}.pth.lock"]


def test_the_confirmation_leads_to_another_page(drive):
    drive.content, drive.confirm = QUOTA.encode(), True
    with pytest.raises(ConnectionError, match="web page"):
        load(tiny_model(), drive)
    assert cached_files() == [f"{NAME}.pth.lock"]


def test_no_connection(drive):
    drive.base_url = "http://127.0.0.1:9"
    with pytest.raises(ConnectionError, match="could not be downloaded") as caught:
        load(tiny_model(), drive)
    assert PAGE in str(caught.value) and str(official_file(NAME).path) in str(caught.value)


def test_no_gdown(cache, monkeypatch):
    real_import = builtins.__import__

    def no_gdown(name, *args, **kwargs):
        if name.startswith("gdown"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_gdown)
    with pytest.raises(ImportError, match="pip install gdown") as caught:
        load_official_weights(tiny_model(), "official")
    file = official_file(NAME)
    assert PAGE in str(caught.value) and str(file.path) in str(caught.value)
    assert file.path.parent.is_dir()


def put_by_hand(content):
    file = official_file(NAME)
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(content)
    return file


def test_a_file_put_by_hand(cache):
    source = tiny_model()
    file = put_by_hand(checkpoint(source))
    model = tiny_model()
    load_official_weights(model, "official")
    assert_equal_weights(model, source)
    assert file.sha256_path.is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: checkpoint(tiny_model())[:-50], "damaged"),
        (lambda: b"\n<HTML><head></head>", "web page"),
        (lambda: safetensors.numpy.save({"other": np.zeros(3, np.float32)}), "missing: conv1"),
    ],
)
def test_a_file_put_by_hand_that_does_not_load(cache, content, message):
    file = put_by_hand(content())
    with pytest.raises(ValueError, match=message) as caught:
        load_official_weights(tiny_model(), "official")
    assert str(file.path) in str(caught.value)
    assert not file.sha256_path.exists()


def test_a_changed_file(drive):
    drive.content = checkpoint(tiny_model())
    load(tiny_model(), drive)
    file = official_file(NAME)
    other = checkpoint(tiny_model())
    file.path.write_bytes(other)
    with pytest.raises(ValueError, match="has changed") as caught:
        load(tiny_model(), drive)
    for content in (drive.content, other):
        assert hashlib.sha256(content).hexdigest() in str(caught.value)
    file.sha256_path.unlink()
    load(tiny_model(), drive)
    assert len(drive.paths) == 1


def test_threads_download_once(drive):
    drive.content = checkpoint(tiny_model())
    barrier = threading.Barrier(8)

    def use(_):
        with official_checkpoint(NAME, drive.base_url) as path:
            barrier.wait(timeout=60)  # All of them write the hash at the same time.
        return path.read_bytes()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(8))) == [drive.content] * 8
    assert len(drive.paths) == 1


def test_keras_home(monkeypatch):
    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.setenv("HOME", "/somewhere")
    assert str(official_file(NAME).path) == "/somewhere/.keras/noah_tf/noah_resnet18.pth"


def test_models_without_a_checkpoint():
    with pytest.raises(ValueError, match="52 models whose checkpoints .* got 'resnet34'"):
        official_file("resnet34")
    model = tf.keras.Sequential([tf.keras.Input((1,))], name="resnet_of_mine")
    with pytest.raises(ValueError, match="got 'resnet_of_mine'"):
        load_official_weights(model, "official")


@pytest.mark.parametrize("suffix", ["pth", "pth.tar", "safetensors"])
def test_a_page_given_by_path(tmp_path, suffix):
    path = tmp_path / f"file.{suffix}"
    path.write_bytes(b"\xef\xbb\xbf  <!doctype HTML><html>")
    with pytest.raises(ValueError, match=r"file\..* is a web page \(HTML\)"):
        load_official_weights(tiny_model(), path)


def test_recipes():
    spec = ModelSpec(architecture="resnet18", weights="official")
    assert spec.start == "official"
    with pytest.raises(ValueError, match="'official' needs model.architecture"):
        ModelSpec(backbone="noah_tf.models.backbones.small.small_resnet", weights="official")
    with pytest.raises(ValueError, match="published"):
        ModelSpec(architecture="resnet34", weights="official")


@pytest.mark.slow
def test_create_model(drive):
    source = create_model(NAME)
    drive.content = checkpoint(source)
    with contextlib.suppress(KeyError), official_checkpoint(NAME, drive.base_url):
        raise KeyError  # so that no hash is written yet
    assert not official_file(NAME).sha256_path.exists()
    model = create_model(NAME, num_classes=3, weights="official", weights_head="skip")
    for name in ("conv1", "layer4.1.conv2"):
        np.testing.assert_array_equal(
            model.get_layer(name).get_weights()[0], source.get_layer(name).get_weights()[0]
        )
    assert official_file(NAME).sha256_path.exists()
    backbone = create_model(NAME, weights="official", include_top=False)
    assert len(backbone.get_weights()) == len(source.get_weights()) - 4
    with pytest.raises(ValueError, match="weights_head"):
        create_model(NAME, num_classes=3, weights="official")
    assert len(drive.paths) == 1
