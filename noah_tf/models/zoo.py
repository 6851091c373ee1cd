"""The paper's models by name: `create_model`, and how each family is put together."""

import difflib
import fnmatch
import inspect
import pathlib
import warnings
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from noah_tf.images.preprocessing import Preprocessing
from noah_tf.models.attach import attach_noah
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
from noah_tf.models.paper_table import ARCHITECTURES
from noah_tf.utils.validation import check_positive_int, check_rate


class _Family(NamedTuple):
    """How the architectures of a family become models.

    Attributes:
        module: its module in `noah_tf.models.backbones`.
        noah: what the NOAH model's backbone is built with.
        standard: what the standard model's backbone is built with.
        head: the standard head, `attach_noah`'s pooling and linear layer or a function of
            features, num_classes, dropout, activation.
        head_initializers: channels → the initializers of the linear layer behind the pooling.
        noah_initializer: num_groups → the initializer of the NOAH head's kernels.
        preprocessing: what evaluation does besides cutting out the centre.
        crop: share of the short side that is left of it.
    """

    module: object
    noah: dict = {}
    standard: dict = {}
    head: Callable | None = None
    head_initializers: Callable = lambda channels: {"kernel_initializer": layers.normal(0.01)}
    noah_initializer: Callable = lambda num_groups: None
    preprocessing: dict = {}
    crop: float = 224 / 256


_TRANSFORMER = {
    "standard": {"class_token": True},
    "head": layers.class_token_head,
    "preprocessing": {"interpolation": "bicubic"},
}
_MLP = {
    "head_initializers": lambda channels: {"kernel_initializer": "zeros"},
    "noah_initializer": layers.lecun_normal_per_group,
    "preprocessing": {"interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3},
    "crop": 0.9,
}
_FAMILIES = (
    _Family(resnet),
    _Family(mobilenet_v2),
    _Family(
        mobilenet_v3,
        noah={"expand_map": True},
        standard={"expand_map": False},
        head=mobilenet_v3.standard_head,
    ),
    _Family(
        shufflenet_v2,
        head_initializers=lambda channels: {
            "kernel_initializer": layers.torch_uniform(channels),
            "bias_initializer": layers.torch_uniform(channels),
        },
    ),
    _Family(deit, **_TRANSFORMER),
    _Family(vit, **{**_TRANSFORMER, "preprocessing": _MLP["preprocessing"]}),
    _Family(pvt, **_TRANSFORMER),
    _Family(mixer, **_MLP),
    _Family(gmlp, **_MLP),
)
_FAMILY_OF = {name: family for family in _FAMILIES for name in family.module.VARIANTS}


def list_models(pattern="*"):
    """The names that `create_model` takes, those that match a pattern.

    Args:
        pattern: wildcards as in file names: "*", "?", "[...]".

    Returns:
        A list of names: of each of the paper's architectures the standard model and "noah_" of it.

    Example:

    >>> noah_tf.list_models("*resnet18")
    ['resnet18', 'noah_resnet18']
    """
    names = [prefix + name for name in ARCHITECTURES for prefix in ("", "noah_")]
    return fnmatch.filter(names, pattern)


def create_model(
    name,
    num_classes=1000,
    input_shape=(224, 224, 3),
    weights=None,
    num_groups=None,
    key_ratio=None,
    dropout=None,
    drop_path=0.0,
    mlp_dropout=0.0,
    pre_logits=None,
    include_top=True,
    activation=None,
    weights_head="load",
    weights_ema=False,
):
    """One of the paper's models, as the reference implementation builds and initialises it.

    Where weights come from, the first that there is: the checkpoint of a run that is resumed (in
    training only), `weights`, the reference's random initialisation.

    Args:
        name: one of `list_models()`; with "noah_" in front the model has a NOAH head.
        num_classes: number of classes.
        input_shape: (height, width, channels). DeiT and ViT want multiples of 16 pixels, PVT of
            32;
            Mixer and gMLP take 224x224 alone; the others take any size, even None.
        weights: path of weights to start from: a checkpoint of the authors (.pth, .pt, .tar), the
            same as .safetensors, or a Keras .weights.h5; see `load_official_weights`.
        num_groups: N of the NOAH head; None is the paper's.
        key_ratio: r of the NOAH head; None is the paper's.
        dropout: rate of the head's dropout while training; None is the paper's.
        drop_path: rate at which images skip a block while training (stochastic depth). Rises
            linearly from 0 to it; in Mixer and gMLP all blocks have it.
        mlp_dropout: rate of the dropout in the MLPs of DeiT, ViT, PVT, Mixer and gMLP. (The
            reference's option drops in DeiT and PVT behind positions and attention, too; its
            recipes leave it at 0 there.)
        pre_logits: DeiT: whether a linear layer to 192 channels and a tanh stand before the head.
            None is as released: in the x0.75 and x0.5 models. The parameters that the paper
            prints are without.
        include_top: whether the model has a head. Without, it is a backbone for `attach_noah`,
            images to the last feature map or tokens, and what says how the head is has no effect.
        activation: what to apply to the logits; None leaves logits.
        weights_head: "load", or "skip" to leave the head fresh, as for another num_classes or
            kind of head.
        weights_ema: whether to take the averaged weights of the checkpoint.

    Returns:
        A functional `tf.keras.Model` named `name`, normalised images (see `preprocessing_for`) to
        logits (B, num_classes). The backbone's layers with weights have the reference's names.

    Raises:
        ValueError: there is no such model, it has no such option, the sizes do not fit it, or the
            weights are not its own.
        FileNotFoundError: there is no file of weights.

    Example:

    >>> model = noah_tf.create_model("noah_resnet18")
    >>> model.count_params()
    11706112
    >>> backbone = noah_tf.create_model("mobilenetv2_050", include_top=False)
    >>> model = noah_tf.attach_noah(backbone, num_classes=10)

    Reference: arXiv 2402.02377, section 4.
    """
    row, is_noah = model_info(name)
    architecture = name.removeprefix("noah_")
    family = _FAMILY_OF[architecture]
    check_positive_int("num_classes", num_classes)
    dropout = check_rate(
        "dropout", (row.dropout if is_noah else 0.0) if dropout is None else dropout
    )
    check_weights_options(weights, weights_head, weights_ema)
    if pre_logits not in (None, True, False):
        raise ValueError(f"pre_logits must be None, True or False, got {pre_logits!r}.")
    options = {
        "drop_path": check_rate("drop_path", drop_path),
        "mlp_dropout": check_rate("mlp_dropout", mlp_dropout),
        "pre_logits": pre_logits,
    }
    backbone = family.module.build(
        architecture,
        input_shape,
        **(family.noah if is_noah else family.standard),
        **_known_options(name, family, options),
    )
    if not include_top:
        model = backbone
    elif is_noah:
        num_groups = row.num_groups if num_groups is None else num_groups
        model = attach_noah(
            backbone,
            num_classes,
            check_positive_int("num_groups", num_groups),
            row.key_ratio if key_ratio is None else key_ratio,
            dropout,
            drop_class_token=False,
            activation=activation,
            kernel_initializer=family.noah_initializer(num_groups),
            name=name,
        )
    else:
        _refuse_noah_options(name, num_groups=num_groups, key_ratio=key_ratio)
        model = _standard_model(family, backbone, num_classes, dropout, activation, name)
    if weights is not None:
        # A checkpoint has a head, a Keras file of a backbone has none.
        has_top = include_top or str(weights).endswith(".h5")
        load_weights(model, weights, weights_head if has_top else "skip", weights_ema)
    return model


def model_info(name):
    """What the paper says of a model.

    Args:
        name: one of `list_models()`.

    Returns:
        The `architectures.Row` of its architecture, and whether the model has a NOAH head.

    Raises:
        ValueError: there is no such model.
    """
    if name not in list_models():
        near = difflib.get_close_matches(str(name), list_models(), n=3, cutoff=0)
        raise ValueError(
            f"There is no model {name!r}; the nearest are {', '.join(near)}. "
            "noah_tf.list_models() has all."
        )
    return ARCHITECTURES[name.removeprefix("noah_")], name.startswith("noah_")


def preprocessing_for(name, image_size=(224, 224)):
    """How the paper evaluates a model: scale the short side, cut out the centre, normalise.

    Args:
        name: one of `list_models()`.
        image_size: (height, width) that the model takes, in pixels, or one int for a square.

    Returns:
        A `preprocess.Preprocessing`.
    """
    model_info(name)
    family = _FAMILY_OF[name.removeprefix("noah_")]
    image_size = (image_size,) * 2 if isinstance(image_size, int) else image_size
    resize_size = int(min(image_size) / family.crop)
    return Preprocessing(image_size, resize_size, **family.preprocessing)


def load_weights(model, path, head="load", ema=False):
    """Loads a file of weights into a model, by the end of its name.

    Args:
        model: a Keras model.
        path: .weights.h5 of either Keras, or a checkpoint for `load_official_weights`.
        head: "load", or "skip" to leave the head as it is; for checkpoints.
        ema: whether to take the averaged weights; for checkpoints.

    Raises:
        ValueError: the weights are not the model's.
        FileNotFoundError: there is no such file.
    """
    path = pathlib.Path(path).expanduser()
    if not path.name.endswith(".h5"):
        if path.suffix not in (".pth", ".pt", ".tar", ".safetensors"):
            raise ValueError(
                f"weights must end in .pth, .pt, .tar, .safetensors or .weights.h5, got {path}."
            )
        from noah_tf.models.official import load_official_weights

        load_official_weights(model, path, head=head, ema=ema)
        return
    if head != "load" or ema:
        raise ValueError(
            f"weights_head='skip' and weights_ema are for checkpoints of the reference "
            f"implementation, got {path}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"There are no weights at {path}.")
    misfit = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.load_weights(str(path))
        except (ValueError, OSError, KeyError, IndexError) as error:
            misfit = str(error)
    if misfit is None:
        # Keras 3 only warns of some layers that a file does not have.
        misfit = next((str(w.message) for w in caught if w.category is UserWarning), None)
    if misfit is not None:
        reason = " ".join(misfit.split())
        reason = reason if len(reason) <= 400 else f"{reason[:397]}..."
        raise ValueError(f"{path} does not fit {model.name}: {reason}")


def check_weights_options(weights, head, ema, prefix="weights_"):
    """Refuses options of weights that have no meaning; `prefix` is before their names."""
    if head not in ("load", "skip"):
        raise ValueError(f"{prefix}head must be 'load' or 'skip', got {head!r}.")
    if not isinstance(ema, bool):
        raise ValueError(f"{prefix}ema must be True or False, got {ema!r}.")
    if not weights and (head != "load" or ema):
        raise ValueError(f"{prefix}head={head!r} and {prefix}ema={ema} need weights, got none.")


def _known_options(name, family, options):
    """The options that are set; refuses those that the family has not."""
    known = inspect.signature(family.module.build).parameters
    given = {key: value for key, value in options.items() if value or value is False}
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"{name} has no {key}, and got {key}={value!r}.")
    return given


def _refuse_noah_options(name, **options):
    for key, value in options.items():
        if value is not None:
            raise ValueError(
                f"{name} has no NOAH head, so {key}={value!r} has no meaning: create "
                f"'noah_{name}', or leave it out."
            )


def _standard_model(family, backbone, num_classes, dropout, activation, name):
    (features,) = backbone.outputs
    if family.head is None:
        return attach_noah(
            backbone,
            num_classes,
            dropout=dropout,
            head="gap",
            drop_class_token=False,
            activation=activation,
            name=name,
            **family.head_initializers(features.shape[-1]),
        )
    logits = family.head(features, num_classes, dropout, activation)
    model = tf.keras.Model(backbone.input, logits, name=name)
    model.noah_feature_layer = backbone.layers[-1].name
    model.noah_discarded_layers = ()
    return model
