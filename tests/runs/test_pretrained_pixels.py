"""The preprocessing that pretrained weights of Keras applications need."""

import ast
import re

import pytest

from noah_tf.images import Preprocessing
from noah_tf.runs import ModelSpec, pixel_advice

HALF, IMAGENET_MEAN, IMAGENET_STD = (0.5,) * 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BYTES = (0.0,) * 3, (0.00392157,) * 3
NEEDED = {
    "MobileNetV2": (HALF, HALF),
    "DenseNet121": (IMAGENET_MEAN, IMAGENET_STD),
    "EfficientNetV2B0": BYTES,
    "ConvNeXtTiny": BYTES,
}


def advice(name, mean=HALF, std=HALF, **arguments):
    model = ModelSpec(backbone=f"tf.keras.applications.{name}", backbone_args=arguments)
    return pixel_advice(model, Preprocessing(224, mean=mean, std=std))


@pytest.mark.parametrize("name", NEEDED)
def test_advice_leads_to_the_pixels_of_the_library(name):
    assert advice(name, *NEEDED[name]) is None
    text = advice(name, (0.3,) * 3, (0.2,) * 3)
    assert f"'imagenet' of tf.keras.applications.{name} were trained on other pixels" in text
    assert text.endswith("got (0.3, 0.3, 0.3) and (0.2, 0.2, 0.2).")
    flags = re.findall(r"--config\.preprocess\.(\w+)='(\([^)]*\))'", text)
    assert [key for key, _ in flags] == ["mean", "std"]
    mean, std = (ast.literal_eval(value) for _, value in flags)
    assert mean == pytest.approx(NEEDED[name][0], abs=1e-6)
    assert advice(name, mean, std) is None


@pytest.mark.parametrize("name", ["ResNet50", "VGG16"])
def test_no_mean_makes_blue_green_and_red(name):
    assert "blue, green and red in this order" in advice(name)


def test_nothing_is_said_where_nothing_is_known():
    assert advice("ResNet50", weights=None) is None
    assert advice("ResNet50", weights="mine.weights.h5") is None
    assert advice("MobileNetV3Small", include_preprocessing=False) is None
    assert advice("ResNet50", (0.5,), (0.5,)) is None  # one channel
    for model in (
        ModelSpec(architecture="resnet50"),
        ModelSpec(backbone="tf.keras.applications.ResNet50", weights="runs/first"),
        ModelSpec(backbone="keras_cv.models.ResNetV2Backbone"),
        ModelSpec(backbone="mine.keras"),
    ):
        assert pixel_advice(model, Preprocessing(224)) is None
