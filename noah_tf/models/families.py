"""How each family of the paper's architectures becomes a model."""

import types
from collections.abc import Callable
from typing import Any, NamedTuple

from noah_tf.models.backbones import (
    deit,
    gmlp,
    layers,
    mixer,
    mobilenet_v2,
    mobilenet_v3,
    pvt,
    resnet,
    shufflenet_v2,
    vit,
)


class Family(NamedTuple):
    """How the architectures of one family become models.

    Attributes:
        module: the family's module in `noah_tf.models.backbones`.
        noah_backbone: arguments of `module.build` for a model with a NOAH head.
        standard_backbone: arguments of `module.build` for a model with the standard head.
        standard_head: a function of (backbone, num_classes, dropout, activation) that returns the
            logits of the standard head. None is pooling and a linear layer.
        linear_initializers: a function of the number of channels that returns the initializers of
            the linear layer after the pooling.
        noah_initializer: a function of num_groups that returns the initializer of the NOAH head's
            kernels. None is the head's default.
        preprocessing: arguments of `Preprocessing` that differ from its defaults.
        crop: side of the central crop relative to the short side of the resized image.
    """

    module: types.ModuleType
    noah_backbone: dict[str, Any] = {}
    standard_backbone: dict[str, Any] = {}
    standard_head: Callable[..., Any] | None = None
    linear_initializers: Callable[[int], dict[str, Any]] = lambda channels: {
        "kernel_initializer": layers.normal(0.01)
    }
    noah_initializer: Callable[[Any], Any] = lambda num_groups: None
    preprocessing: dict[str, Any] = {}
    crop: float = 224 / 256


_TRANSFORMER: dict[str, Any] = {
    "standard_backbone": {"class_token": True},
    "standard_head": layers.class_token_head,
    "preprocessing": {"interpolation": "bicubic"},
}
_MLP: dict[str, Any] = {
    "linear_initializers": lambda channels: {"kernel_initializer": "zeros"},
    "noah_initializer": layers.lecun_normal_per_group,
    "preprocessing": {"interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3},
    "crop": 0.9,
}
_FAMILY_LIST = (
    Family(resnet),
    Family(mobilenet_v2),
    Family(
        mobilenet_v3,
        noah_backbone={"expand_map": True},
        standard_backbone={"expand_map": False},
        standard_head=mobilenet_v3.standard_head,
    ),
    Family(
        shufflenet_v2,
        linear_initializers=lambda channels: {
            "kernel_initializer": layers.torch_uniform(channels),
            "bias_initializer": layers.torch_uniform(channels),
        },
    ),
    Family(deit, **_TRANSFORMER),
    Family(vit, **{**_TRANSFORMER, "preprocessing": _MLP["preprocessing"]}),
    Family(pvt, **_TRANSFORMER),
    Family(mixer, **_MLP),
    Family(gmlp, **_MLP),
)
_FAMILIES = {name: family for family in _FAMILY_LIST for name in family.module.VARIANTS}


def family_of(name: str) -> Family:
    """Returns the family of a model.

    Args:
        name: one of `zoo.list_models()`.
    """
    return _FAMILIES[name.removeprefix("noah_")]
