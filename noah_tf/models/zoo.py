"""Creates the paper's models, and others of its code, by name."""

import dataclasses
import difflib
import fnmatch
import inspect
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from noah_tf.images import Preprocessing
from noah_tf.models.attach import attach_noah
from noah_tf.models.families import Family, family_of
from noah_tf.models.official_download import OFFICIAL
from noah_tf.models.paper_table import ARCHITECTURES, PaperRow
from noah_tf.utils.files import local_file
from noah_tf.utils.paths import PathLike, as_path
from noah_tf.utils.validation import check_positive_int, check_rate

# Options of `NOAHHead` that the paper's ablations change.
ABLATIONS = ("split_groups", "split_key_value", "uniform_attention")


@dataclasses.dataclass(frozen=True)
class _BackboneOptions:
    """The options of `create_model` that only some families have."""

    drop_path: float
    mlp_dropout: float
    pre_logits: bool | None

    def __post_init__(self) -> None:
        check_rate("drop_path", self.drop_path)
        check_rate("mlp_dropout", self.mlp_dropout)
        if self.pre_logits not in (None, True, False):
            raise ValueError(f"pre_logits must be None, True or False, got {self.pre_logits!r}.")

    def build_arguments(self, name: str, family: Family) -> dict[str, Any]:
        """Returns the options that are set. Raises ValueError if the family lacks one of them."""
        known = inspect.signature(family.module.build).parameters
        options = dataclasses.asdict(self).items()
        arguments = {key: value for key, value in options if value or value is False}
        for key, value in arguments.items():
            if key not in known:
                raise ValueError(f"{name} has no option {key}, got {key}={value!r}.")
        return arguments


@dataclasses.dataclass(frozen=True)
class _HeadOptions:
    """The options of `create_model` for the head. None is the paper's value."""

    num_classes: int
    num_groups: int | None
    key_ratio: float | None
    dropout: float | None
    activation: Any
    kernel_initializer: Any
    split_groups: bool | None
    split_key_value: bool | None
    uniform_attention: bool | None

    def __post_init__(self) -> None:
        check_positive_int("num_classes", self.num_classes)
        if self.num_groups is not None:
            check_positive_int("num_groups", self.num_groups)
        if self.dropout is not None:
            check_rate("dropout", self.dropout)
        for option, value in self.switches.items():
            if not isinstance(value, bool):
                raise ValueError(f"{option} must be None, True or False, got {value!r}.")

    @property
    def switches(self) -> dict[str, Any]:
        """The switches for ablations that are set, by name."""
        switches = {name: getattr(self, name) for name in ABLATIONS}
        return {name: value for name, value in switches.items() if value is not None}

    def with_defaults(self, row: PaperRow) -> "_HeadOptions":
        """Returns the options with the paper's values in place of None."""
        defaults = {
            name: getattr(row, name)
            for name in ("num_groups", "key_ratio", "dropout")
            if getattr(self, name) is None
        }
        return dataclasses.replace(self, **defaults)


def list_models(pattern: str = "*") -> list[str]:
    """Returns the model names that `create_model` takes.

    Args:
        pattern: a pattern with wildcards "*", "?" and "[...]", as for file names.

    Returns:
        The matching names. Each of the paper's architectures has two: its own name for the model
        with the standard head, and the name after "noah_" for the model with a NOAH head.

    Example:

    >>> noah_tf.list_models("*resnet18")
    ['resnet18', 'noah_resnet18']
    """
    names = [prefix + name for name in ARCHITECTURES for prefix in ("", "noah_")]
    return fnmatch.filter(names, pattern)


def create_model(
    name: str,
    num_classes: int = 1000,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    weights: PathLike | None = None,
    num_groups: int | None = None,
    key_ratio: float | None = None,
    dropout: float | None = None,
    drop_path: float = 0.0,
    mlp_dropout: float = 0.0,
    pre_logits: bool | None = None,
    include_top: bool = True,
    activation: str | Callable[..., Any] | None = None,
    weights_head: str = "load",
    weights_ema: bool = False,
    kernel_initializer: Any = None,
    split_groups: bool | None = None,
    split_key_value: bool | None = None,
    uniform_attention: bool | None = None,
) -> tf.keras.Model:
    """Creates one of the paper's models, built and initialized as in the reference implementation.

    The reference implementation also has architectures for which the paper reports no results.
    They work the same way, except that the authors published no checkpoints of them.

    The layers of the backbone that have weights are named as the reference's modules.

    Args:
        name: one of `list_models()`. A name that starts with "noah_" has a NOAH head.
        num_classes: number of classes M.
        input_shape: (height, width, channels). Height and width must be multiples of 16 pixels
            for DeiT, ViT, Mixer and gMLP and of 32 for PVT. The other families take any size,
            even None. The weights of Mixer and gMLP depend on the number of patches, so that a
            checkpoint fits its own image size only.
        weights: "official" for the authors' checkpoint, which is downloaded on first use (this
            needs `pip install gdown 'torch>=2.6'`); or the path of a file with initial weights: a
            Keras .weights.h5 file, or a checkpoint of the authors, timm, torchvision, DeiT or PVT
            (.pth, .pt, .tar, .safetensors). None initializes the weights at random. See
            `load_official_weights`.
        num_groups: number of groups N of the NOAH head. None is the paper's.
        key_ratio: key ratio r of the NOAH head. None is the paper's.
        dropout: dropout rate of the head during training. None is the paper's.
        drop_path: rate of stochastic depth: the probability that an example skips a block during
            training. It increases linearly from 0 in the first block to `drop_path` in the last.
            In Mixer and gMLP it is the same in every block.
        mlp_dropout: dropout rate of the MLPs in DeiT, ViT, PVT, Mixer and gMLP. (The reference's
            option also applies after positions and attention in DeiT and PVT. Its recipes leave
            it at 0 there.)
        pre_logits: for DeiT, whether a linear layer with 192 units and tanh precede the head. None
            follows the released code, which has them in the x0.75 and x0.5 models. The paper's
            parameter counts are those without them.
        include_top: whether the model has a head. False returns a backbone for `attach_noah`, from
            images to the last feature map or tokens, and ignores the head's options.
        activation: activation of the output. None returns logits.
        weights_head: "load" loads the head's weights too. "skip" leaves the head as initialized,
            for another number of classes or kind of head.
        weights_ema: whether to load the averaged weights of the checkpoint.
        kernel_initializer: initializer of the NOAH head's kernels. None is the default of
            `NOAHHead`, which equals the reference's for at least 1,000 classes. For Mixer and gMLP,
            None is the reference's LeCun normal. "reference" is the reference's standard deviation
            sqrt(2 / (N * M)) for any number of classes.
        split_groups: for ablations of the NOAH head, as in `NOAHHead`. None is the default, True.
        split_key_value: likewise.
        uniform_attention: likewise. None is the default, False.

    Returns:
        A functional `tf.keras.Model` named `name`, from normalized images (see
        `preprocessing_for`) to logits (B, num_classes).

    Raises:
        ValueError: the name is unknown, the model lacks an option, the sizes do not fit, or the
            weights are not those of the model.
        FileNotFoundError: the weights file does not exist.
        ConnectionError: the authors' checkpoint could not be downloaded.

    Example:

    >>> model = noah_tf.create_model("noah_resnet18")
    >>> model.count_params()
    11706112
    >>> backbone = noah_tf.create_model("mobilenetv2_050", include_top=False)
    >>> model = noah_tf.attach_noah(backbone, num_classes=10)

    Reference: arXiv 2402.02377, section 4.
    """
    row, is_noah = model_info(name)
    head = _HeadOptions(
        num_classes,
        num_groups,
        key_ratio,
        dropout,
        activation,
        kernel_initializer,
        split_groups,
        split_key_value,
        uniform_attention,
    )
    check_weights_options(weights, weights_head, weights_ema)
    options = _BackboneOptions(drop_path, mlp_dropout, pre_logits)
    family = family_of(name)
    backbone = family.module.build(
        name.removeprefix("noah_"),
        input_shape,
        **(family.noah_backbone if is_noah else family.standard_backbone),
        **options.build_arguments(name, family),
    )
    if not include_top:
        model = backbone
    elif is_noah:
        model = _with_noah_head(name, family, backbone, head.with_defaults(row))
    else:
        model = _with_standard_head(name, family, backbone, head)
    if weights is not None:
        # A checkpoint has a head. A Keras file of a backbone has none.
        has_head = include_top or str(weights).endswith(".h5")
        head_part = weights_head if has_head else "skip"
        load_weights_file(model, weights, head_part, weights_ema, architecture=name)
    return model


def model_info(name: str) -> tuple[PaperRow, bool]:
    """Returns what the paper reports about a model, and whether the model has a NOAH head.

    Args:
        name: one of `list_models()`.

    Returns:
        The `paper_table.PaperRow` of the model's architecture, and True for a NOAH head.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in list_models():
        near = difflib.get_close_matches(str(name), list_models(), n=3, cutoff=0)
        raise ValueError(
            f"name must be one of noah_tf.list_models(), such as {', '.join(near)}, got {name!r}."
        )
    return ARCHITECTURES[name.removeprefix("noah_")], name.startswith("noah_")


def preprocessing_for(name: str, image_size: int | tuple[int, int] = (224, 224)) -> Preprocessing:
    """Returns the preprocessing with which the paper evaluates a model.

    It resizes the short side of the image, takes the central crop and normalizes the pixels.

    Args:
        name: one of `list_models()`.
        image_size: (height, width) of the model's input in pixels, or one int for a square.
    """
    model_info(name)
    family = family_of(name)
    image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
    resize_size = int(min(image_size) / family.crop)
    return Preprocessing(image_size, resize_size, **family.preprocessing)


def load_weights_file(
    model: tf.keras.Model,
    path: PathLike,
    head: str = "load",
    ema: bool = False,
    architecture: str | None = None,
) -> None:
    """Loads a file of weights into a model. The file name's suffix decides the format.

    Args:
        model: a Keras model.
        path: a .weights.h5 file of either Keras, or a checkpoint for `load_official_weights`, or
            "official" for that of the authors.
        head: "load", or "skip" to leave the head as it is. Only for checkpoints.
        ema: whether to load the averaged weights. Only for checkpoints.
        architecture: as for `load_official_weights`.

    Raises:
        ValueError: the weights are not those of the model.
        FileNotFoundError: the file does not exist.
        ConnectionError: the authors' checkpoint could not be downloaded.
    """
    path = as_path(path)
    if not path.name.endswith(".h5"):
        if str(path) != OFFICIAL and path.suffix not in (".pth", ".pt", ".tar", ".safetensors"):
            raise ValueError(
                "weights must be 'official' or a path that ends in .pth, .pt, .tar, .safetensors "
                f"or .weights.h5, got {path}."
            )
        from noah_tf.models.official import load_official_weights

        load_official_weights(model, str(path), ema, head, architecture)
        return
    if head != "load" or ema:
        raise ValueError(
            "weights_head='skip' and weights_ema=True need a file of named tensors (.pth, "
            f".safetensors), got {path}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"There are no weights at {path}.")
    with local_file(path) as file:
        problem = _keras_load_problem(model, file)
    if problem is not None:
        reason = " ".join(problem.split())
        reason = reason if len(reason) <= 400 else f"{reason[:397]}..."
        raise ValueError(f"{path} does not fit {model.name}: {reason}")


def check_weights_options(weights: Any, head: str, ema: bool, prefix: str = "weights_") -> None:
    """Checks the options that say how to load initial weights.

    Args:
        weights: the path of the weights, or None.
        head: must be "load" or "skip".
        ema: must be a bool.
        prefix: the part of the options' names before "head" and "ema", for error messages.

    Raises:
        ValueError: an option has another value, or is set without `weights`.
    """
    if head not in ("load", "skip"):
        raise ValueError(f"{prefix}head must be 'load' or 'skip', got {head!r}.")
    if not isinstance(ema, bool):
        raise ValueError(f"{prefix}ema must be True or False, got {ema!r}.")
    if not weights and (head != "load" or ema):
        raise ValueError(f"{prefix}head={head!r} and {prefix}ema={ema} need weights, got none.")


def _with_noah_head(
    name: str, family: Family, backbone: tf.keras.Model, head: _HeadOptions
) -> tf.keras.Model:
    initializer = head.kernel_initializer
    if initializer is None:
        is_split = head.split_groups is not False
        initializer = family.noah_initializer(head.num_groups if is_split else 1)
    return attach_noah(
        backbone,
        num_classes=head.num_classes,
        num_groups=head.num_groups,
        key_ratio=head.key_ratio,
        dropout=head.dropout or 0.0,
        drop_class_token=False,
        activation=head.activation,
        kernel_initializer=initializer,
        name=name,
        **head.switches,
    )


def _with_standard_head(
    name: str, family: Family, backbone: tf.keras.Model, head: _HeadOptions
) -> tf.keras.Model:
    for option in ("num_groups", "key_ratio", "kernel_initializer", *ABLATIONS):
        value = getattr(head, option)
        if value is not None:
            raise ValueError(
                f"{name} has no NOAH head, got {option}={value!r}: create 'noah_{name}', or leave "
                f"{option} out."
            )
    dropout = head.dropout or 0.0
    if family.standard_head is None:
        return attach_noah(
            backbone,
            num_classes=head.num_classes,
            dropout=dropout,
            head="gap",
            drop_class_token=False,
            activation=head.activation,
            name=name,
            **family.linear_initializers(backbone.output_shape[-1]),
        )
    logits = family.standard_head(backbone, head.num_classes, dropout, head.activation)
    model = tf.keras.Model(backbone.input, logits, name=name)
    model.noah_feature_layer = backbone.layers[-1].name
    model.noah_discarded_layers = ()
    return model


def _keras_load_problem(model: tf.keras.Model, path: pathlib.Path) -> str | None:
    """Loads a .weights.h5 file and returns what did not fit, or None."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.load_weights(str(path))
        except (ValueError, OSError, KeyError, IndexError) as error:
            return str(error)
    # Keras 3 only warns about some layers that are missing in the file.
    return next((str(w.message) for w in caught if w.category is UserWarning), None)
