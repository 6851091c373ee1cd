"""attach_noah on all models of Keras applications and KerasCV, and on KerasHub if installed."""

import gc
import inspect
import re
import zlib

import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from attach_helpers import CLASSES, images
from stacks import slow_on_one_stack

from benchmarks.backbone_cases import (
    HAS_KERAS_HUB,
    KERAS_CV_OTHERS,
    KERAS_HUB,
    Case,
    all_cases,
)
from noah_tf.models.attach import attach_noah, feature_layer_name
from noah_tf.models.feature_map import find_feature_map

CASES = all_cases()
FIT = [case for case in CASES if case.unfit is None]
UNFIT = [case for case in CASES if case.unfit]
# The first case of each reason why a model cannot have a head.
ONE_PER_REASON = list({case.unfit: case for case in reversed(UNFIT)}.values())
EXHAUSTIVE = pytest.mark.exhaustive


# Models with large graphs, which take long to build and to trace.
LARGE = re.compile(
    "CSPDarkNet(M|L|XL)|ConvNeXt|DenseNet|EfficientNet.*V[12]|EfficientNet(Lite)?B[2-4]|Inception"
    "|EfficientNetV2[LM]|EfficientNet(V1)?B[5-7]|MiTB[2-5]|MLPMixer|NASNet|RegNet.(0[468]|[1-9])"
    "|ResNet(RS)?(1[05]|2|3|4)|RS50|ViT(Det)?[HL]|ViTDet|Xcep"
)


# The tests of the other models are slow.
QUICK = ("MobileNetV2",)


# CI also trains one model with each kind of layers that a library defines itself.
TRAINED = (
    "EfficientNetB0",
    "MobileNetV3SmallBackbone",
    "MiTB0Backbone",
    "YOLOV8Backbone",
    "ViTTiny16",
)


def training_marks(case):
    if case.name not in QUICK:
        yield slow_on_one_stack if case.name in TRAINED else EXHAUSTIVE


def _params(cases, marks=()):
    return [pytest.param(case, id=str(case), marks=(*marks, *_marks(case))) for case in cases]


def _marks(case):
    if case.name not in QUICK:
        yield slow_on_one_stack if LARGE.search(case.name) else pytest.mark.slow
    # Models of a family differ only in width and depth.
    if not case.smallest and case not in ONE_PER_REASON:
        yield EXHAUSTIVE


@pytest.fixture(autouse=True)
def fresh_session():
    tf.keras.backend.clear_session()
    # Models are reference cycles of few objects and much memory. Without this, 15 GB accumulate.
    gc.collect()
    tf.keras.utils.set_random_seed(0)


def attach_and_check(backbone):
    """Returns the model with a head, after checks that hold for all models."""
    model = attach_noah(backbone, CLASSES)
    assert model.output_shape == (None, CLASSES)
    assert tf.as_dtype(model.outputs[0].dtype) == tf.float32
    features = model.get_layer("noah_head").input
    assert len(features.shape) in (3, 4)
    assert np.prod(features.shape[1:-1]) >= 4, "NOAH is linear on a map of one position"
    return model


def both_forms(case):
    """Returns whether the case is in `test_classifier_and_backbone_have_the_same_feature_map`."""
    return case.has_top and case.smallest


@pytest.mark.parametrize("case", _params([case for case in FIT if not both_forms(case)]))
def test_every_backbone_takes_the_head(case):
    model = attach_and_check(case.build(include_top=case.has_top))
    assert bool(model.noah_discarded_layers) == case.has_top


@pytest.mark.parametrize("case", _params(UNFIT))
def test_unfit_models_raise(case):
    with pytest.raises(ValueError, match=case.error):
        attach_noah(case.build(include_top=False), CLASSES)


@pytest.mark.parametrize("case", _params([case for case in FIT if both_forms(case)]))
def test_classifier_and_backbone_have_the_same_feature_map(case):
    results = []
    for include_top in (True, False):
        tf.keras.backend.clear_session()
        backbone = case.build(include_top=include_top)
        model = attach_and_check(backbone)
        # Some KerasCV backbones pool even without their classifier.
        assert model.noah_discarded_layers or not include_top
        results.append((find_feature_map(backbone).layer.name, model.get_layer("noah_head").input))
    (top_layer, top_map), (bare_layer, bare_map) = results
    assert top_map.shape == bare_map.shape
    if case.family == "ConvNeXt":
        # The classifier has its LayerNorm after the pool, the backbone has it on the map.
        assert bare_layer.startswith("layer_normalization")
        return
    if case is KERAS_HUB:  # Its classifier nests the backbone.
        assert top_layer == "res_net_backbone"
        return
    assert top_layer == bare_layer


@pytest.fixture(autouse=True)
def large_models_are_freed(request):
    """Frees the models of exhaustive tests. For other tests this would cost more than it saves."""
    yield
    if request.node.get_closest_marker("exhaustive"):
        tf.keras.backend.clear_session()
        gc.collect()


def train_save_and_load(case, tmp_path):
    model = attach_noah(case.build(include_top=case.has_top), CLASSES)
    x = images(model)
    one_step(model, x)
    logits = model(x, training=False).numpy()
    assert np.isfinite(logits).all()
    if case.file_defect is None:
        loaded = keras_file_round_trip(model, tmp_path)
        assert feature_layer_name(loaded) == model.noah_feature_layer
        head, loaded_head = (m.get_layer("noah_head") for m in (model, loaded))
        assert loaded_head.get_config() == head.get_config()
    else:  # This fails once the library has fixed its layers.
        with pytest.raises(Exception, match=case.file_defect):
            keras_file_round_trip(model, tmp_path)
        model.save_weights(str(tmp_path / "model.weights.h5"))
        loaded = attach_noah(case.build(include_top=case.has_top), CLASSES)
        loaded.load_weights(str(tmp_path / "model.weights.h5"))
    actual = loaded(x, training=False)
    np.testing.assert_allclose(actual, logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())


def one_step(model, x):
    """Takes a small step, and checks that all weights have gradients and most of them change.

    Some may not change, because ReLUs of an untrained network can be zero on both images.
    """
    # Checksums, because a second copy of the largest models does not fit into memory.
    before = [zlib.crc32(variable.numpy()) for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        logits = model(x, training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=[0, 1], logits=logits)
    gradients = tape.gradient(losses, model.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    assert np.isfinite(losses).all()
    # Without clipping an untrained ResNet-50 overflows.
    gradients, _ = tf.clip_by_global_norm(gradients, 0.1)
    optimizer = tf.keras.optimizers.SGD(0.1)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    changed = [
        zlib.crc32(variable.numpy()) != old
        for variable, old in zip(model.trainable_variables, before, strict=True)
    ]
    assert np.mean(changed) > 0.5


def keras_file_round_trip(model, tmp_path):
    path = str(tmp_path / "model.keras")
    model.save(path)
    return tf.keras.models.load_model(path, compile=False)


@pytest.mark.parametrize(
    "case",
    [param for case in FIT if case.smallest for param in _params([case], training_marks(case))],
)
def test_one_model_per_family_trains_saves_and_loads(case, tmp_path):
    train_save_and_load(case, tmp_path)


@pytest.mark.parametrize("case", _params([case for case in FIT if not case.smallest], [EXHAUSTIVE]))
def test_every_other_model_trains_saves_and_loads(case, tmp_path):
    train_save_and_load(case, tmp_path)


def test_all_models_of_keras_applications_are_listed():
    listed = {case.name for case in CASES if case.library == "keras.applications"}
    functions = inspect.getmembers(tf.keras.applications, inspect.isfunction)
    assert listed == {name for name, _ in functions}
    assert len(listed) >= 40


def test_all_classes_of_keras_cv_models_are_listed():
    tested = {case.name for case in CASES if case.library == "keras_cv.models"}
    bases = {case.family for case in CASES if case.library == "keras_cv.models"}
    classes = dict(inspect.getmembers(keras_cv.models, inspect.isclass))
    assert set(classes) <= tested | bases | set(KERAS_CV_OTHERS)
    untested = {name for name, cls in classes.items() if issubclass(cls, keras_cv.models.Backbone)}
    assert untested - tested - bases == {"Backbone"}


def test_every_family_has_a_trained_model():
    trained = {(case.library, case.family) for case in FIT if case.smallest}
    assert {(case.library, case.family) for case in FIT} == trained


@pytest.mark.skipif(not HAS_KERAS_HUB, reason="keras_hub is not installed: pip install keras-hub")
def test_keras_hub_backbone_takes_the_head():
    assert isinstance(KERAS_HUB, Case)
    model = attach_noah(KERAS_HUB.build(include_top=True), CLASSES)
    assert model.noah_discarded_layers == ("predictions",)
    assert model.get_layer("noah_head").input.shape[1:] == (2, 2, 512)
