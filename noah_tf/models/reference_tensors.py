"""Maps the weights of a Keras model to the tensors of the reference implementation.

The layers of `create_model` are named as the reference's modules, so the name of a tensor follows
from the names of a layer and its weight. The tables below hold the other differences.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from noah_tf.head import NOAHHead
from noah_tf.models.backbones.layers import ClassToken, PositionEmbedding
from noah_tf.models.feature_map import weighted_layers
from noah_tf.models.other_libraries import (
    DEIT,
    MOBILENETV2,
    MOBILENETV3,
    RESNET,
    SHUFFLENETV2,
    LibraryNames,
)


class Family(NamedTuple):
    """How the checkpoints of one family of architectures are organized.

    Attributes:
        order: the names of all modules. Modules with the same parent are in the reference's order.
        linear: name of the standard head's linear layer.
        head: name of the head.
        script_key: the key under which the family's training script expects the weights. None
            if the script loads the mapping itself into a DataParallel model.
        interpolation: how position embeddings are resized. None if the family has none.
        libraries: other libraries' names of the tensors, in files that are read too.
    """

    order: str
    linear: str
    head: str = "head"
    script_key: str | None = None
    interpolation: str | None = None
    libraries: tuple[LibraryNames, ...] = ()

    @property
    def words(self) -> list[str]:
        """The parts of tensor names, in the order of a state_dict."""
        return [*self.order.split(), *_TENSORS]

    def rank(self, name: str) -> list[int]:
        """Returns the key that sorts tensor names into the order of a state_dict."""
        words = self.words
        return [int(part) if part.isdigit() else words.index(part) for part in name.split(".")]

    def is_head(self, name: str) -> bool:
        """Returns True if a tensor or module belongs to the head."""
        return name.split(".")[0] == self.head


_TENSORS = [
    "query",
    "value",
    "weight",
    "bias",
    "running_mean",
    "running_var",
    "num_batches_tracked",
]
_FAMILIES = {
    "resnet": Family(
        "conv1 bn1 conv2 bn2 conv3 bn3 downsample layer1 layer2 layer3 layer4 head",
        "head.2",
        libraries=RESNET,
    ),
    "mobilenetv2": Family("features conv head", "head.2", libraries=MOBILENETV2),
    "mobilenetv3": Family(
        "features conv fc classifier", "classifier.1", "classifier", libraries=MOBILENETV3
    ),
    "shufflenetv2": Family(
        "conv1 stage2 stage3 stage4 branch1 branch2 conv5 head", "head.2", libraries=SHUFFLENETV2
    ),
    "deit": Family(
        "cls_token pos_embed patch_embed blocks norm1 attn qkv proj norm2 mlp fc1 fc2 norm "
        "pre_logits fc head",
        "head",
        script_key="model",
        interpolation="bicubic",
        libraries=DEIT,
    ),
    "pvt": Family(
        "pos_embed1 pos_embed2 pos_embed3 pos_embed4 cls_token patch_embed1 block1 patch_embed2 "
        "block2 patch_embed3 block3 patch_embed4 block4 norm1 attn q kv proj sr norm norm2 mlp "
        "fc1 fc2 head",
        "head",
        script_key="model",
        interpolation="bilinear",
    ),
    "mixer": Family(
        "stem blocks norm1 mlp_tokens norm2 mlp_channels proj fc1 fc2 norm head",
        "head",
        script_key="state_dict",
    ),
    "gmlp": Family(
        "stem blocks norm proj mlp_channels fc1 gate fc2 head", "head", script_key="state_dict"
    ),
}
# The reference has no ViT, but other ViT checkpoints use the names of its DeiT.
_FAMILIES["vit"] = _FAMILIES["deit"]
# The family of a NOAHHead without a backbone. Its tensor names have no module.
BARE_HEAD = Family("", "", head="")


class _Layout(NamedTuple):
    """How the reference stores a weight.

    Attributes:
        name: the tensor's name in its module. "" if the module's name is the tensor's name.
        axes: the weight's axes in the reference's order. () keeps their order.
        shape: a function from the sizes of those axes to the tensor's shape.
    """

    name: str
    axes: tuple[int, ...] = ()
    shape: Callable[..., tuple[int, ...]] = lambda *sizes: sizes


_BIAS = _Layout("bias")
_SCALE_AND_SHIFT = {"gamma": _Layout("weight"), "beta": _BIAS}
_DEPTHWISE = _Layout(
    "weight", (2, 3, 0, 1), lambda channels, copies, h, w: (channels * copies, 1, h, w)
)
# Layer class → weight name → layout.
_LAYOUTS: dict[type, dict[str, _Layout]] = {
    tf.keras.layers.Conv2D: {"kernel": _Layout("weight", (3, 2, 0, 1)), "bias": _BIAS},
    # The kernel's name is "kernel" in Keras 3 and "depthwise_kernel" in Keras 2.
    tf.keras.layers.DepthwiseConv2D: {
        "kernel": _DEPTHWISE,
        "depthwise_kernel": _DEPTHWISE,
        "bias": _BIAS,
    },
    tf.keras.layers.Dense: {"kernel": _Layout("weight", (1, 0)), "bias": _BIAS},
    tf.keras.layers.LayerNormalization: _SCALE_AND_SHIFT,
    tf.keras.layers.BatchNormalization: {
        **_SCALE_AND_SHIFT,
        "moving_mean": _Layout("running_mean"),
        "moving_variance": _Layout("running_var"),
    },
    ClassToken: {"token": _Layout("")},
    PositionEmbedding: {"embedding": _Layout("")},
    # Output channel n * M + m of the reference's convolutions belongs to group n and class m.
    NOAHHead: {
        f"{ours}_{weight}": layout
        for ours, theirs in (("key", "query"), ("value", "value"))
        for weight, layout in (
            ("kernel", _Layout(f"{theirs}.weight", (0, 2, 1), lambda g, o, i: (g * o, i, 1, 1))),
            ("bias", _Layout(f"{theirs}.bias", (0, 1), lambda n, m: (n * m,))),
        )
    },
}


class ReferenceTensor(NamedTuple):
    """A weight of a model and the corresponding tensor of the reference.

    Attributes:
        name: the tensor's name in a state_dict.
        layer: the weight's layer.
        variable: the weight.
        layout: how the reference stores the weight.
    """

    name: str
    layer: Any
    variable: Any
    layout: _Layout

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.layout.shape(*(self.variable.shape[axis] for axis in self._axes))

    @property
    def _axes(self) -> tuple[int, ...]:
        return self.layout.axes or tuple(range(len(self.variable.shape)))

    def as_tensor(self, array: Any) -> np.ndarray:
        """Returns an array of the weight's shape in the layout of the tensor, as a copy."""
        array = np.asarray(array).transpose(self._axes).reshape(self.shape)
        return np.array(array, order="C")

    def as_weight(self, array: np.ndarray) -> np.ndarray:
        """Returns an array of the tensor's shape in the layout and dtype of the weight."""
        array = array.reshape([self.variable.shape[axis] for axis in self._axes])
        dtype = tf.as_dtype(self.variable.dtype).as_numpy_dtype
        return array.transpose(np.argsort(self._axes)).astype(dtype)


def reference_tensors(
    model: tf.keras.Model | NOAHHead, architecture: str | None = None
) -> tuple[Family, list[ReferenceTensor]]:
    """Returns the reference's tensor for each weight of a model.

    Args:
        model: a Keras model whose layers have the reference's names, or a `NOAHHead`.
        architecture: a name of `list_models()`. Needed if the model's own name does not start
            with it.

    Returns:
        The `Family`, and the `ReferenceTensor` of each weight in the order of the layers.

    Raises:
        TypeError: `model` is neither a model nor a head.
        ValueError: the architecture is unknown, the reference does not have a weight, or the head
            is not built.
    """
    if isinstance(model, NOAHHead):
        if not model.built:
            raise ValueError(
                f"A built head is needed, got {model.name} without weights: call it on "
                "features first."
            )
        return BARE_HEAD, _layer_tensors(model, "")
    if not isinstance(model, tf.keras.Model):
        raise TypeError(f"model must be a Keras model or a NOAHHead, got {type(model).__name__}.")
    family = _family_of(architecture or model.name)
    modules = {"noah_head": family.head, "gap_logits": family.linear}
    tensors: dict[str, ReferenceTensor] = {}
    for path, layer in weighted_layers(model):
        module = path.split("/")[-1]
        for tensor in _layer_tensors(layer, modules.get(module, module)):
            words = {part for part in tensor.name.split(".") if not part.isdigit()}
            if not words.issubset(family.words):
                raise ValueError(_no_counterpart(f"layer {path!r}"))
            if tensors.setdefault(tensor.name, tensor).variable is not tensor.variable:
                raise ValueError(
                    f"Each tensor must have one layer, got two layers of {model.name} for "
                    f"{tensor.name!r}."
                )
    if {id(tensor.variable) for tensor in tensors.values()} != {id(w) for w in model.weights}:
        raise ValueError(_no_counterpart(f"a weight of {model.name} outside of its layers"))
    return family, list(tensors.values())


def _family_of(architecture: str) -> Family:
    match = re.match(rf"(?:noah_)?({'|'.join(_FAMILIES)})", architecture)
    if not match:
        raise ValueError(
            "The model's name must start with an architecture of the reference, got "
            f"{architecture!r}: give architecture=, one of noah_tf.list_models()."
        )
    return _FAMILIES[match[1]]


def _layer_tensors(layer: tf.keras.layers.Layer, module: str) -> list[ReferenceTensor]:
    layouts = _LAYOUTS.get(type(layer), {})
    tensors = []
    for variable in layer.weights:
        weight = variable.name.split("/")[-1].split(":")[0]
        if weight not in layouts:
            raise ValueError(
                _no_counterpart(
                    f"weight {weight!r} of layer {layer.name!r} ({type(layer).__name__})"
                )
            )
        name = ".".join(part for part in (module, layouts[weight].name) if part)
        tensors.append(ReferenceTensor(name, layer, variable, layouts[weight]))
    return tensors


def _no_counterpart(weight: str) -> str:
    return (
        f"{weight} has no counterpart in the reference implementation: use a model of "
        "noah_tf.create_model, or one made of its layers."
    )
