"""The model of a recipe: one of the paper's, or a backbone of a library with a head."""

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections
import tensorflow as tf

from noah_tf.models import (
    ABLATIONS,
    ARCHITECTURES,
    OFFICIAL,
    attach_noah,
    check_pooled_options,
    check_weights_options,
    create_model,
    in_precision,
    load_keras_file,
    model_from_json,
    official_file,
    sha256_of,
    with_input_shape,
)
from noah_tf.runs.library_backbones import (
    check_library_backbone,
    library_backbone,
    library_weights,
)
from noah_tf.runs.recipe import from_section
from noah_tf.utils.distribute import dtype_policy
from noah_tf.utils.validation import (
    check_key_ratio,
    check_positive_int,
    check_rate,
    error_messages,
)


class SavedBackbone(NamedTuple):
    """A backbone of a `.keras` file, as a run keeps it so that it no longer needs the file.

    Attributes:
        sha256: the SHA-256 of the file.
        config: the result of the backbone's `to_json` for the run's image size.
    """

    sha256: str
    config: str


def is_keras_file(backbone: str | None) -> bool:
    """Returns whether a recipe's backbone is the path of a `.keras` file."""
    return backbone is not None and backbone.endswith(".keras")


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """The `model` section of a recipe. Constructing it checks the values.

    Attributes:
        architecture: one of the paper's, a key of `ARCHITECTURES`; None to use `backbone`.
        drop_path: rate of stochastic depth, for an `architecture`.
        mlp_dropout: dropout rate of the MLP blocks, for an `architecture`.
        pre_logits: whether DeiT has its `pre_logits` layer, for an `architecture`; None for the
            paper's choice.
        backbone: a name for `library_backbone`, or the path of a `.keras` file, whose weights are
            the initial ones.
        backbone_args: the arguments of a backbone of a library; a file does not use them.
        head: "noah", or "gap" for global average pooling and a linear layer.
        init: "pooled" for a NOAH head that starts with the logits of the classifier of a
            `backbone`, as in `attach_noah`; None for random weights.
        num_groups: number of groups N of the NOAH head; None for the default.
        key_ratio: key ratio r of the NOAH head; None for the default.
        dropout: dropout rate of the head; None for the default.
        kernel_initializer: name of the Keras initializer of the head's kernels, or "reference" as
            in `NOAHHead`; None for the head's own. With head "gap" it is for a `backbone` only.
        split_groups: for ablations of the NOAH head, as in `NOAHHead`; None for the default.
        split_key_value: likewise.
        uniform_attention: likewise.
        batch_norm_group: number of examples whose statistics BatchNorm shares in training, which
            divides a replica's share of a batch; None for the whole share.
        synchronized_batch_norm: whether BatchNorm shares the statistics of all replicas.
        remat: whether the backward pass computes the blocks of an `architecture` again, which
            takes less memory and more time.
        weights: file or run folder that a new run starts from, or "official" for the authors'
            checkpoint of the `architecture`; None for those of the `backbone`, or random ones.
        weights_head: "load" the head's weights as well, or "skip" them.
        weights_ema: whether to take the averaged weights of the file or run.

    Raises:
        ValueError: values contradict each other; the message names all of them.
    """

    architecture: str | None = None
    drop_path: float = 0.0
    mlp_dropout: float = 0.0
    pre_logits: bool | None = None
    backbone: str | None = None
    backbone_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    head: str = "noah"
    init: str | None = None
    num_groups: int | None = None
    key_ratio: float | None = None
    dropout: float | None = None
    kernel_initializer: str | None = None
    split_groups: bool | None = None
    split_key_value: bool | None = None
    uniform_attention: bool | None = None
    batch_norm_group: int | None = None
    synchronized_batch_norm: bool = False
    remat: bool = False
    weights: str | None = None
    weights_head: str = "load"
    weights_ema: bool = False

    def __post_init__(self) -> None:
        problems = list(
            error_messages(
                self._check_head,
                self._check_head_options,
                self._check_init,
                self._check_batch_norm,
                self._check_remat,
                self._check_weights,
                self._check_architecture,
            )
        )
        if problems:
            raise ValueError("; ".join(problems) + ".")

    @classmethod
    def from_config(cls, section: ml_collections.ConfigDict) -> "ModelSpec":
        """Returns the spec of a recipe's `model` section; runs of earlier versions lack keys."""
        return from_section(cls, section)

    @property
    def start(self) -> str:
        """The origin of a new run's weights, in words: a file, a run, a library, or none."""
        if self.weights:
            return self.weights
        if self.architecture is None and is_keras_file(self.backbone):
            return str(self.backbone)
        weights = self.library_weights
        return f"the weights {weights!r} of {self.backbone}" if weights else "random weights"

    @property
    def library_weights(self) -> str | None:
        """The pretrained weights of a library's backbone that a new run starts from, or None."""
        if self.weights or self.architecture is not None or is_keras_file(self.backbone):
            return None
        return library_weights(str(self.backbone), self.backbone_args)

    def save_backbone(self, input_shape: tuple[int, int, int]) -> SavedBackbone | None:
        """Returns what a run keeps of its backbone's file, or None if the backbone has no file.

        Args:
            input_shape: (height, width, channels).

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: Keras cannot load the file, or it takes no images of this shape.
        """
        if not is_keras_file(self.backbone):
            return None
        backbone = with_input_shape(load_keras_file(str(self.backbone)), input_shape)
        return SavedBackbone(sha256_of(str(self.backbone)), backbone.to_json())

    def build(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        saved_backbone: SavedBackbone | None = None,
    ) -> tf.keras.Model:
        """Returns the classifier with random weights, or those of the backbone's file.

        Args:
            input_shape: (height, width, channels).
            num_classes: number of classes M.
            saved_backbone: what a run kept of its backbone's file; the backbone then has random
                weights. None to read the file.

        Returns:
            A Keras model, (B, height, width, channels) to logits (B, M).
        """
        if self.architecture is not None:
            return create_model(
                self._architecture_name,
                num_classes,
                input_shape,
                num_groups=self.num_groups,
                key_ratio=self.key_ratio,
                dropout=self.dropout,
                drop_path=self.drop_path,
                mlp_dropout=self.mlp_dropout,
                pre_logits=self.pre_logits,
                **self._head_options(),
            )
        if saved_backbone is not None:
            backbone = _of_file(lambda: model_from_json(saved_backbone.config))
        elif is_keras_file(self.backbone):
            path = str(self.backbone)
            backbone = _of_file(lambda: with_input_shape(load_keras_file(path), input_shape))
        else:
            backbone = library_backbone(
                str(self.backbone), input_shape=input_shape, **self.backbone_args
            )
        return attach_noah(
            backbone,
            num_classes=num_classes,
            num_groups=self.num_groups,
            key_ratio=self.key_ratio,
            dropout=self.dropout or 0.0,
            head=self.head,
            init=self.init,
            **self._head_options(),
        )

    @property
    def _architecture_name(self) -> str:
        """The name of the `architecture` and head in `list_models()`."""
        return f"noah_{self.architecture}" if self.head == "noah" else str(self.architecture)

    def _head_options(self) -> dict[str, Any]:
        """The options of the head that are set and that the layer itself takes."""
        options = {name: getattr(self, name) for name in ("kernel_initializer", *ABLATIONS)}
        return {name: value for name, value in options.items() if value is not None}

    def _check_head(self) -> None:
        if self.head not in ("noah", "gap"):
            raise ValueError(f"model.head must be 'noah' or 'gap', got {self.head!r}")
        if self.num_groups is not None:
            check_positive_int("model.num_groups", self.num_groups)
        if self.key_ratio is not None:
            check_key_ratio(self.key_ratio)
        for name in ("dropout", "drop_path", "mlp_dropout"):
            if getattr(self, name) is not None:
                check_rate(f"model.{name}", getattr(self, name))
        if self.head == "gap" and not self.num_groups is self.key_ratio is None:
            raise ValueError(
                f"model.num_groups={self.num_groups} and model.key_ratio={self.key_ratio} are for "
                "model.head='noah', got 'gap'"
            )

    def _check_head_options(self) -> None:
        for name, value in self._head_options().items():
            if self.head == "gap" and name in ABLATIONS:
                raise ValueError(f"model.{name}={value!r} is for model.head='noah', got 'gap'")
            if self.architecture is not None and self.head == "gap":
                raise ValueError(
                    f"model.{name}={value!r} is for a model.backbone, and {self.architecture} has "
                    "the paper's head: leave it out"
                )
        if self.kernel_initializer is not None:
            _check_initializer(self.kernel_initializer, self.head)

    def _check_init(self) -> None:
        if self.init is None:
            return
        if self.init != "pooled":
            raise ValueError(f"model.init must be None or 'pooled', got {self.init!r}")
        if self.architecture is not None:
            raise ValueError(
                "model.init='pooled' starts from the classifier of a model.backbone, got "
                f"model.architecture={self.architecture!r}"
            )
        options = self._head_options()
        check_pooled_options(self.head, "auto", [options.pop("kernel_initializer", None)], options)

    def _check_batch_norm(self) -> None:
        if self.batch_norm_group is None:
            return
        check_positive_int("model.batch_norm_group", self.batch_norm_group)
        if self.synchronized_batch_norm:
            raise ValueError(
                f"model.batch_norm_group={self.batch_norm_group} and "
                "model.synchronized_batch_norm=True contradict each other: leave one out"
            )

    def _check_remat(self) -> None:
        if not self.remat:
            return
        if self.architecture is None:
            raise ValueError(
                f"model.remat is for the paper's architectures, whose blocks are known, and "
                f"{self.backbone} is not one of them: set model.architecture, or leave remat out"
            )
        if self.synchronized_batch_norm:
            # The second pass of one replica would meet the first pass of another.
            raise ValueError(
                "model.remat=True and model.synchronized_batch_norm=True contradict each other: "
                "leave one out"
            )

    def _check_weights(self) -> None:
        check_weights_options(
            self.weights, self.weights_head, self.weights_ema, prefix="model.weights_"
        )
        if self.weights == OFFICIAL and self.architecture is None:
            raise ValueError(
                "model.weights='official' needs model.architecture, one of the paper's: set it, or "
                "name a .weights.h5 file or the folder of a run"
            )
        if self.weights == OFFICIAL and self.architecture in ARCHITECTURES:
            official_file(self._architecture_name)

    def _check_architecture(self) -> None:
        if self.architecture is None:
            self._check_library_model()
        elif self.architecture not in ARCHITECTURES:
            nearest = difflib.get_close_matches(self.architecture, ARCHITECTURES, n=1, cutoff=0)
            raise ValueError(
                f"model.architecture must be one of the paper's, such as {nearest[0]!r}, got "
                f"{self.architecture!r}; model.head says whether it has a NOAH head"
            )

    def _check_library_model(self) -> None:
        if self.backbone is None:
            raise ValueError(
                "model.architecture and model.backbone are both None: name one of the paper's "
                "architectures, or a backbone of a library"
            )
        if not is_keras_file(self.backbone):
            check_library_backbone(self.backbone)
        for option in ("drop_path", "mlp_dropout", "pre_logits"):
            if getattr(self, option):
                raise ValueError(
                    f"model.{option} is for the paper's architectures, and {self.backbone} has "
                    f"no such option: set model.architecture, or leave {option} out"
                )


def _check_initializer(name: str, head: str) -> None:
    if name == "reference" and head == "noah":
        return
    try:
        tf.keras.initializers.get(name)
    except ValueError:
        raise ValueError(
            f"model.kernel_initializer must be a name of Keras's initializers, such as "
            f"'glorot_uniform', or 'reference' for model.head='noah', got {name!r} for {head!r}"
        ) from None


def _of_file(load: Callable[[], tf.keras.Model]) -> tf.keras.Model:
    """Returns the model of a file with the current dtype policy and without frozen layers."""
    with dtype_policy("float32"):  # otherwise some of its layers would have the current policy
        backbone = load()
    backbone = in_precision(backbone, tf.keras.mixed_precision.global_policy().name)
    for layer in backbone.layers:
        layer.trainable = True
    return backbone


def model_from_config(
    section: ml_collections.ConfigDict,
    input_shape: tuple[int, int, int],
    num_classes: int,
    saved_backbone: SavedBackbone | None = None,
) -> tf.keras.Model:
    """Returns the classifier that the `model` section of a recipe describes, see `ModelSpec.build`.

    Args:
        section: the section, with the keys of `ModelSpec`.
        input_shape: (height, width, channels).
        num_classes: number of classes M.
        saved_backbone: what a run kept of its backbone's file, or None.

    Returns:
        A Keras model, (B, height, width, channels) to logits (B, M).

    Raises:
        ValueError: values of the section contradict each other.
    """
    return ModelSpec.from_config(section).build(input_shape, num_classes, saved_backbone)


def with_head(
    config: ml_collections.ConfigDict, model: tf.keras.Model
) -> ml_collections.ConfigDict:
    """Returns a copy of a recipe with N and r of its model's NOAH head.

    A run records them, so that it loads with later versions whose defaults differ.

    Args:
        config: the recipe.
        model: the model that was built from it.
    """
    config = ml_collections.ConfigDict(config.to_dict())
    if config.model.head == "noah":
        head = model.get_layer("noah_head")
        config.model.num_groups, config.model.key_ratio = head.num_groups, head.key_ratio
    return config
