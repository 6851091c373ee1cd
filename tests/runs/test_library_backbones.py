"""Pretrained backbones that cannot be downloaded, because the proxy does not exist."""

import re

import pytest
from head_helpers import run_python

from noah_tf.runs.library_backbones import download_problem, library_backbone, library_weights

NO_PROXY_THERE = "http://127.0.0.1:9"
MOBILENET = {"weights": "imagenet", "input_shape": (96, 96, 3), "include_top": False}


@pytest.fixture(autouse=True)
def no_connection(monkeypatch):
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, NO_PROXY_THERE)


def test_keras_applications():
    # Few people have the smallest width in their cache, where no download would be needed.
    with pytest.raises(ConnectionError) as caught:
        library_backbone("tf.keras.applications.MobileNetV2", alpha=0.35, **MOBILENET)
    file = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96_no_top.h5"
    address = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
    pattern = (
        "The weights of tf.keras.applications.MobileNetV2 could not be downloaded from "
        f"{re.escape(address + file)} \\(.*refused.*\\): download the file on a machine with a "
        f"connection and save it as /\\S+/models/{re.escape(file)}, where Keras looks for it."
    )
    assert re.fullmatch(pattern, str(caught.value)), caught.value


@pytest.mark.slow
def test_a_name_that_differs_from_that_of_the_address():
    arguments = {"weights": "imagenet", "input_shape": (224, 224, 3), "include_top": False}
    with pytest.raises(ConnectionError) as caught:
        library_backbone("tf.keras.applications.NASNetMobile", **arguments)
    assert "/NASNet-mobile-no-top.h5 (" in str(caught.value)
    assert "/models/nasnet_mobile_no_top.h5, " in str(caught.value)


def test_kerascv(tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    with pytest.raises(ConnectionError) as caught:
        library_backbone("keras_cv.models.ResNet50V2Backbone", input_shape=(32, 32, 3))
    assert "https://www.kaggle.com/models/keras/resnetv2/keras/resnet50_v2/2 (" in str(caught.value)
    assert f"cache to {tmp_path}/models/keras/resnetv2, where KerasCV" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["keras_cv.models.ResNetV2Backbone", "keras_cv.models.MobileNetV3SmallBackbone"]
)
def test_arguments_of_another_library_raise(name):
    with pytest.raises(ValueError, match="no argument 'include_top' and no argument 'weights'"):
        library_backbone(name, input_shape=(32, 32, 3), weights="imagenet", include_top=False)


def test_a_backbone_can_be_named():
    arguments = {"stackwise_filters": (8,), "stackwise_blocks": (2,), "stackwise_strides": (1,)}
    backbone = library_backbone(
        "keras_cv.models.ResNetV2Backbone",
        name="trunk",
        include_rescaling=False,
        input_shape=(32, 32, 3),
        **arguments,
    )
    assert backbone.name == "trunk"


@pytest.mark.parametrize(
    ("name", "arguments", "weights"),
    [
        ("tf.keras.applications.MobileNetV2", {}, "imagenet"),
        ("tf.keras.applications.MobileNetV2", {"weights": "mine.weights.h5"}, "mine.weights.h5"),
        ("tf.keras.applications.MobileNetV2", {"weights": None}, None),
        ("keras_cv.models.ResNetV2Backbone", {}, None),
        ("noah_tf.models.backbones.small.small_resnet", {}, None),
    ],
)
def test_pretrained_weights_of_a_backbone(name, arguments, weights):
    assert library_weights(name, arguments) == weights


def test_other_errors_stay_as_they_are():
    with pytest.raises(ValueError, match="classes"):
        library_backbone("tf.keras.applications.MobileNetV2", weights="imagenet", classes=3)
    assert download_problem("name", ValueError("no traceback")) is None


@pytest.mark.slow
def test_keras_reads_a_file_at_the_place(tmp_path):
    """Keras reports that the file is damaged, and downloads nothing."""
    code = f"""
import pathlib
from noah_tf.runs.library_backbones import library_backbone

def build():
    try:
        library_backbone("tf.keras.applications.MobileNetV2", **{MOBILENET!r})
    except OSError as error:
        return str(error)

path = build().partition("save it as ")[2].partition(", where")[0]
assert path.startswith({str(tmp_path)!r}), path
pathlib.Path(path).write_bytes(b"not HDF5")
message = build()
assert "could not be downloaded" not in message and "open file" in message, message
"""
    environment = {"HOME": str(tmp_path), "KERAS_HOME": str(tmp_path / ".keras")}
    process = run_python(code, https_proxy=NO_PROXY_THERE, **environment)
    assert process.returncode == 0, process.stderr[-2000:]
