"""Models by name."""

import pytest
from recipes import quickstart

from noah_tf import NOAHHead, zoo


def test_a_recipe_becomes_a_model_with_its_head():
    config = quickstart().model
    config.dropout = 0.25
    model = zoo.model_from_config(config, (64, 64), num_classes=7)
    assert model.input_shape == (None, 64, 64, 3)
    assert model.output_shape == (None, 7)
    (head,) = [layer for layer in model.layers if isinstance(layer, NOAHHead)]
    assert head.dropout == 0.25


def test_both_heads_have_the_same_backbone():
    noah, gap = (
        zoo.model_from_config(quickstart(head).model, (64, 64), 10) for head in ("noah", "gap")
    )
    assert noah.count_params() - gap.count_params() == (2 * 4 - 1) * 10


def test_keras_applications():
    model = zoo.library_backbone(
        "tf.keras.applications.MobileNetV2", weights=None, input_shape=(32, 32, 3), alpha=0.35
    )
    assert model.output_shape[-1] == 1000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm.models.resnet18", "must be of tf.keras.applications or keras_cv.models"),
        ("os.system", "must be of"),
        ("tf.keras.applications.ResNet5", "has no model 'ResNet5'"),
        ("keras_cv.models.NoSuchBackbone", "has no model 'NoSuchBackbone'"),
        ("tf.keras.applications.resnet", "has no model 'resnet'"),
    ],
)
def test_names_of_nothing_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        zoo.library_backbone(name)
