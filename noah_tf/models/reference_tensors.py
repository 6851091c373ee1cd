"""Which tensor of the reference implementation each weight of a Keras model is.

The layers of the zoo's models are named as the reference's modules, so a layer's name and a
weight's give the name of a tensor. What else differs between the two is in the tables below.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from noah_tf.head.layer import NOAHHead
from noah_tf.models.backbones.layers import ClassToken, PositionEmbedding
from noah_tf.models.feature_map import weighted_layers


class Family(NamedTuple):
    """What a family's checkpoints have of their own.

    Attributes:
        order: the modules' names, each before those that follow it inside the same module.
        linear: name of the standard head's linear layer.
        head: name of the head.
        script_key: where the family's training script reads the weights in a checkpoint; None
            where it reads a bare mapping into DataParallel.
        resize: how a table of positions is interpolated; None where there is none.
    """

    order: str
    linear: str
    head: str = "head"
    script_key: str | None = None
    resize: str | None = None

    @property
    def words(self):
        """The words that names are made of, in the order of a state_dict."""
        return [*self.order.split(), *_TENSORS]

    def rank(self, name):
        """What state_dicts are sorted by: numbers by value, words by their order."""
        words = self.words
        return [int(part) if part.isdigit() else words.index(part) for part in name.split(".")]

    def is_head(self, name):
        """Whether a tensor or module is of the head."""
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
        "conv1 bn1 conv2 bn2 conv3 bn3 downsample layer1 layer2 layer3 layer4 head", "head.2"
    ),
    "mobilenetv2": Family("features conv head", "head.2"),
    "mobilenetv3": Family("features conv fc classifier", "classifier.1", "classifier"),
    "shufflenetv2": Family("conv1 stage2 stage3 stage4 branch1 branch2 conv5 head", "head.2"),
    "deit": Family(
        "cls_token pos_embed patch_embed blocks norm1 attn qkv proj norm2 mlp fc1 fc2 norm "
        "pre_logits fc head",
        "head",
        script_key="model",
        resize="bicubic",
    ),
    "pvt": Family(
        "pos_embed1 pos_embed2 pos_embed3 pos_embed4 cls_token patch_embed1 block1 patch_embed2 "
        "block2 patch_embed3 block3 patch_embed4 block4 norm1 attn q kv proj sr norm norm2 mlp "
        "fc1 fc2 head",
        "head",
        script_key="model",
        resize="bilinear",
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
# The reference has no ViT. Its DeiT is one, and checkpoints of others have the same names.
_FAMILIES["vit"] = _FAMILIES["deit"]
# The family of a NOAHHead by itself, whose tensors' names have no module in front.
BARE_HEAD = Family("", "", head="")


class _Layout(NamedTuple):
    """How the reference keeps a weight.

    Attributes:
        name: of the tensor in its module; "" where the module's name is the tensor's.
        axes: the weight's axes in the reference's order; () leaves the weight as it is.
        shape: from the sizes of those axes to the tensor's shape.
    """

    name: str
    axes: tuple = ()
    shape: Callable = lambda *sizes: sizes


_BIAS = _Layout("bias")
_SCALE_AND_SHIFT = {"gamma": _Layout("weight"), "beta": _BIAS}
_DEPTHWISE = _Layout(
    "weight", (2, 3, 0, 1), lambda channels, copies, h, w: (channels * copies, 1, h, w)
)
# By the class of a layer and the name of a weight in it.
_LAYOUTS = {
    tf.keras.layers.Conv2D: {"kernel": _Layout("weight", (3, 2, 0, 1)), "bias": _BIAS},
    # Keras 2 has another name for the kernel than Keras 3.
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
    # Output n * M + m of the reference's convolutions belongs to group n and class m.
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
    """A weight of a model, and the tensor of the reference that it is.

    Attributes:
        name: of the tensor in a state_dict.
        layer: the weight's layer.
        variable: the weight.
        layout: how the reference keeps it.
    """

    name: str
    layer: Any
    variable: Any
    layout: _Layout

    @property
    def shape(self):
        """The tensor's shape."""
        return self.layout.shape(*(self.variable.shape[axis] for axis in self._axes))

    @property
    def _axes(self):
        return self.layout.axes or tuple(range(len(self.variable.shape)))

    def as_tensor(self, array):
        """The weight, or what has its shape, laid out as the tensor; a copy."""
        array = np.asarray(array).transpose(self._axes).reshape(self.shape)
        return np.array(array, order="C")

    def as_weight(self, array):
        """The tensor laid out as the weight, in its dtype."""
        array = array.reshape([self.variable.shape[axis] for axis in self._axes])
        dtype = tf.as_dtype(self.variable.dtype).as_numpy_dtype
        return array.transpose(np.argsort(self._axes)).astype(dtype)


def reference_tensors(model, architecture=None):
    """The tensor of each weight of a model.

    Args:
        model: a Keras model whose layers have the reference's names, or a `NOAHHead`.
        architecture: name of the zoo's model, where the model's own does not start with it.

    Returns:
        The `Family` and a list of `ReferenceTensor`, in the order of the layers.

    Raises:
        TypeError: `model` is neither.
        ValueError: the architecture is unknown, a weight is none of the reference's, or the head
            has no weights yet.
    """
    if isinstance(model, NOAHHead):
        if not model.built:
            raise ValueError(f"{model.name} has no weights yet: call it on features first.")
        return BARE_HEAD, _layer_tensors(model, "")
    if not isinstance(model, tf.keras.Model):
        raise TypeError(f"expected a Keras model or a NOAHHead, got {type(model).__name__}.")
    family = _family_of(architecture or model.name)
    modules = {"noah_head": family.head, "gap_logits": family.linear}
    tensors = {}
    for path, layer in weighted_layers(model):
        module = path.split("/")[-1]
        for tensor in _layer_tensors(layer, modules.get(module, module)):
            words = {part for part in tensor.name.split(".") if not part.isdigit()}
            if not words.issubset(family.words):
                raise ValueError(_foreign(f"layer {path!r}"))
            if tensors.setdefault(tensor.name, tensor).variable is not tensor.variable:
                raise ValueError(f"{model.name} has several layers for {tensor.name!r}.")
    if {id(tensor.variable) for tensor in tensors.values()} != {id(w) for w in model.weights}:
        raise ValueError(_foreign(f"a weight of {model.name} outside of its layers"))
    return family, list(tensors.values())


def _family_of(architecture):
    match = re.match(rf"(?:noah_)?({'|'.join(_FAMILIES)})", architecture)
    if not match:
        raise ValueError(
            f"{architecture!r} names no architecture of the reference: give architecture=, the "
            "name of the zoo's model, such as 'noah_resnet18'."
        )
    return _FAMILIES[match[1]]


def _layer_tensors(layer, module):
    layouts = _LAYOUTS.get(type(layer), {})
    tensors = []
    for variable in layer.weights:
        weight = variable.name.split("/")[-1].split(":")[0]
        if weight not in layouts:
            raise ValueError(
                _foreign(f"weight {weight!r} of layer {layer.name!r} ({type(layer).__name__})")
            )
        name = ".".join(part for part in (module, layouts[weight].name) if part)
        tensors.append(ReferenceTensor(name, layer, variable, layouts[weight]))
    return tensors


def _foreign(what):
    return (
        f"{what} has no counterpart in the reference implementation: official weights fit the "
        "models of noah_tf.create_model, and others made of their layers."
    )
