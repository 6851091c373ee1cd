"""Tests that every model computes the reference implementation's logits."""

import filelock
import numpy as np
import pytest
import tensorflow as tf
from architectures import is_quick
from shared_data import shared_folder
from stacks import slow_on_one_stack

import noah_tf
from benchmarks import model_goldens
from noah_tf.models import zoo

# The models of the paper, and those that only the reference's code has.
FOLDERS = [shared_folder() / "goldens" / name for name in ("models", "models_extra")]
# The largest error in standard deviations of the logits. The reference's own float32 logits have
# errors of up to 1.4e-5.
TOLERANCE = 1e-4
HEAVY = ("_base_", "_b16_", "resnet101", "resnet152")
# Models with large graphs, and the same networks with other epsilons.
SLOW = (*HEAVY, "gmlp", "epsprobe")
# Two of the architectures that only the code has: the modules' numbers of the first, and the blocks
# per stage of the second, differ from the paper's models of the family.
NOT_EXHAUSTIVE = ("mobilenetv3_large", "noah_mobilenetv3_large", "noah_pvt_small")


def _marks(name):
    if ENTRIES[name]["folder"] == FOLDERS[1] and name not in NOT_EXHAUSTIVE:
        yield pytest.mark.exhaustive
    elif any(part in name for part in (*SLOW, *NOT_EXHAUSTIVE)):
        yield slow_on_one_stack
    elif not is_quick(name):
        yield pytest.mark.slow


ENTRIES = {
    name: {**entry, "folder": folder}
    for folder in FOLDERS
    if folder.is_dir()
    for name, entry in model_goldens.read_manifest(folder).items()
}
NAMES = [pytest.param(name, marks=list(_marks(name))) for name in ENTRIES] or [
    pytest.param("", marks=pytest.mark.skip(reason=f"no reference data at {FOLDERS[0]}"))
]


@pytest.fixture
def one_at_a_time(name, tmp_path_factory):
    """Lets only one worker of a test run hold a heavy model at a time."""
    if not any(part in name for part in HEAVY):
        yield
        return
    with filelock.FileLock(tmp_path_factory.getbasetemp().parent / "heavy.lock"):
        yield


@pytest.mark.parametrize("name", NAMES)
def test_model_equals_the_references(name, one_at_a_time):
    entry = ENTRIES[name]
    model = noah_tf.create_model(**model_goldens.model_arguments(entry))
    noah_tf.load_official_weights(model, model_goldens.weights(entry))

    assert trainable_parameters(model) == entry["total_params"]
    assert norm_epsilons(model) == pytest.approx(entry["norm_eps"], rel=1e-6)
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            assert layer.momentum == 1 - entry["bn_momentum_torch"]

    outputs = model_goldens.read_outputs(entry["folder"], entry)
    (features_in,) = tf.nest.flatten(head_layer(model).input)
    features, logits = tf.keras.Model(model.input, [features_in, model.output])(
        tf.constant(model_goldens.images(entry)), training=False
    )
    assert model_goldens.error(logits.numpy(), outputs) <= TOLERANCE
    check_features(features.numpy(), entry, outputs)


def trainable_parameters(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def norm_epsilons(model):
    kinds = (tf.keras.layers.BatchNormalization, tf.keras.layers.LayerNormalization)
    return {layer.name: layer.epsilon for layer in model.layers if isinstance(layer, kinds)}


def head_layer(model):
    """Returns the layer whose input features the goldens hold."""
    names = ("noah_head", "classifier.1", "head", "gap_pool")
    layers = {layer.name: layer for layer in model.layers}
    return next(layers[name] for name in names if name in layers)


def check_features(features, entry, outputs):
    """Compares the head's input: its first channels and its mean over the positions."""
    channels = features.shape[-1]
    flat = features.reshape(len(features), -1, channels)
    if entry["family"] in ("mixer", "gmlp") and not entry["noah"]:
        flat = flat.mean(axis=1, keepdims=True)  # The reference's linear head takes the mean.
    assert channels == entry["feat_shape"][1]
    expected = outputs["feat_slice"].reshape(len(features), 8, -1).transpose(0, 2, 1)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(flat[..., :8], expected, atol=1e-4 * scale)
    mean = outputs["feat_channel_mean"]
    np.testing.assert_allclose(flat.mean(axis=1), mean, atol=1e-4 * np.abs(mean).max())


def test_every_model_of_the_zoo_has_a_golden(shared):
    # The reference has no ViT. test_vit.py tests it.
    models = {name for name in noah_tf.list_models() if "vit_large" not in name}
    assert models == {name for name in ENTRIES if "__" not in name}


def test_the_paper_table_equals_the_references(shared):
    for name, entry in ENTRIES.items():
        if "__" in name:
            continue
        row, is_noah = zoo.model_info(name)
        printed, top1, parameters = (
            (row.noah_printed_millions, row.noah_top1, row.noah_parameters)
            if is_noah
            else (row.printed_millions, row.top1, row.parameters)
        )
        assert parameters == entry["total_params"], name
        reported = entry["reported"] or {"params_millions": None, "top1": None}
        assert {"params_millions": printed, "top1": top1} == reported, name
        if is_noah:
            head = entry["head"]
            assert (row.num_groups, row.key_ratio) == (head["head_num"], head["key_ratio"]), name
            assert row.dropout == head["training_dropout"], name


def test_a_wrong_epsilon_exceeds_the_tolerance(shared):
    entry = ENTRIES["resnet18"]
    model = noah_tf.create_model("resnet18")
    noah_tf.load_official_weights(model, model_goldens.weights(entry))
    model.get_layer("layer4.1.bn2").epsilon = 1e-3
    logits = model(tf.constant(model_goldens.images(entry)), training=False).numpy()
    outputs = model_goldens.read_outputs(entry["folder"], entry)
    assert model_goldens.error(logits, outputs) > TOLERANCE
