"""Tests of loading files of timm, torchvision, and the official DeiT and PVT repositories."""

import functools
import json

import library_tensors
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from architectures import by_architecture
from library_tensors import random_tensors
from stacks import slow_on_one_stack

from noah_tf import create_model
from noah_tf.models import load_official_weights
from noah_tf.models.official import state_dict
from noah_tf.models.other_libraries import with_reference_names
from noah_tf.models.reference_tensors import reference_tensors

layers = tf.keras.layers
CLASSES = 3
timm_mobilenetv2, torchvision_mobilenetv2 = (
    library_tensors.timm_mobilenetv2,
    library_tensors.torchvision_mobilenetv2,
)
old_torchvision_vit = functools.partial(
    library_tensors.torchvision_vit, first="mlp.linear_1", second="mlp.linear_2"
)
# Architecture → image size, the layouts of the libraries' files.
LAYOUTS = {
    "resnet18": (32, [library_tensors.resnet18]),
    "deit_tiny_patch16_224": (
        224,
        [library_tensors.deit_tiny, library_tensors.torchvision_vit, old_torchvision_vit],
    ),
    "mobilenetv2_035": (32, [timm_mobilenetv2, torchvision_mobilenetv2]),
    "shufflenetv2_100": (32, [library_tensors.shufflenetv2]),
    "pvt_tiny": (224, [library_tensors.pvt_tiny]),
    "mixer_s16_224": (224, [library_tensors.mixer_s16]),
    "gmlp_s16_224": (224, [library_tensors.gmlp_s16]),
}


def floats(tensors):
    """Returns the arrays without the counters of batches, which Keras does not have."""
    return [array for name, array in tensors.items() if "num_batches_tracked" not in name]


def reference_state(architecture):
    """Returns the (name, shape) of each tensor in the reference's state_dict."""
    from shared_data import shared_folder

    manifest = json.loads((shared_folder() / "goldens" / "models" / "manifest.json").read_text())
    (entry,) = (entry for entry in manifest if entry["name"] == architecture)
    return [(name, tuple(shape)) for name, shape, _ in entry["state_dict"]]


@pytest.mark.parametrize(
    ("architecture", "layout"),
    [(name, layout) for name, (_, layouts) in LAYOUTS.items() for layout in layouts]
    + [
        ("mobilenetv2_100", functools.partial(timm_mobilenetv2, 1.0)),
        ("mobilenetv2_100", functools.partial(torchvision_mobilenetv2, 1.0)),
    ],
)
def test_every_name_becomes_the_references(shared, architecture, layout):
    empty = tf.keras.Sequential([tf.keras.Input((1,))], name=architecture)
    family, _ = reference_tensors(empty)
    shapes = layout()
    renamed, names = with_reference_names(shapes, family.libraries, "x.pth")
    assert list(renamed.items()) == reference_state(architecture)
    assert [names.of(name) for name in renamed] == list(shapes)
    if "old" not in str(layout):
        library = names.library
        assert layout is old_torchvision_vit or [*map(library.from_reference, renamed)] == [*shapes]


@pytest.mark.parametrize("architecture", by_architecture(LAYOUTS, slow_on_one_stack))
def test_a_file_fills_a_standard_model(tmp_path, architecture):
    size, layouts = LAYOUTS[architecture]
    model = create_model(architecture, CLASSES, (size, size, 3))
    for seed, layout in enumerate(layouts):
        tensors = random_tensors(layout(classes=CLASSES), seed)
        path = tmp_path / "model.safetensors"
        safetensors.numpy.save_file(tensors, path)
        load_official_weights(model, path)
        for array, expected in zip(floats(state_dict(model)), floats(tensors), strict=True):
            np.testing.assert_array_equal(array, expected)
