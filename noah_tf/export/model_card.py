"""The model card of an export, MODEL_CARD.md: front matter for programs, Markdown for people.

The front matter is YAML. The Hugging Face Hub defines the keys `tags`, `datasets`, `library_name`,
`license`, `pipeline_tag` and `model-index`. The other keys are our own:

    name, created (UTC, ISO 8601), architecture, weights, precision
    data            name, splits and other facts about the training data; num_classes; classes, the
                    class names in the order of the logits
    recipe          config, seed
    metrics         of the evaluation, as fractions from 0 to 1 (a mapping; the Hub has a list)
    parameters      total, trainable, head
    head            kind (noah or gap), num_groups, key_ratio
    preprocessing   the arguments of `Preprocessing.from_dict`
    signatures, limits, versions
    answers         kind (single_label or multi_label), top_k or threshold
    variants        file name to images, top1, largest_difference: its agreement with the float32
                    model

A card leaves out every fact that is unknown.
"""

import dataclasses
import datetime
import importlib.metadata
import numbers
import pathlib
import platform
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import yaml

from noah_tf.export.model_card_text import METRICS, body
from noah_tf.head import NOAHHead
from noah_tf.images import Preprocessing
from noah_tf.utils.paths import PathLike, as_path
from noah_tf.version import __version__

CARD_FILE = "MODEL_CARD.md"
_PAPER = "arxiv:2402.02377"
# The Hub's names of our metrics in `model-index`.
_HUB_METRICS = {
    "top1": "accuracy",
    "top5": "top_5_accuracy",
    "mAP": "mean_average_precision",
}
# Sources of `datasets.registry` that are not published data sets.
_PRIVATE_SOURCES = ("folder", "fake")


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """The facts that a model card states. None leaves a fact out.

    Args:
        name: the model's name.
        model: the Keras model, whose parameters and head the card describes.
        preprocessing: the model's `Preprocessing`.
        class_names: the names of the classes, in the order of the logits.
        signatures: the names of the SavedModel's signatures.
        answers: which classes a signature returns: `kind`, and `top_k` or `threshold`.
        precision: the policy that the SavedModel computes in.
        limits: which photos a server refuses: `max_pixels`, `tolerant`, `tolerant_cost` (the CPU
            time relative to the strict export).
        variants: mapping of a file name to its `variants.Agreement`.
        architecture: the model's name in the zoo.
        weights: where the weights come from, such as the name of a checkpoint.
        data: facts about the training data: `name`, `train_split`, `eval_split`,
            `train_examples` and any others.
        recipe: the run's config.
        seed: the run's seed. None takes the recipe's.
        metrics: the run's result.json or another evaluation.
        versions: mapping of a package to its version, as `running_versions` returns it.
        created: when the model was exported: a `datetime.datetime` with a time zone, or text.
        license: the license's identifier, such as "apache-2.0".

    Raises:
        ValueError: `created` has no time zone.
    """

    name: str
    model: tf.keras.Model | None = None
    preprocessing: Preprocessing | None = None
    class_names: Sequence[str] | None = None
    signatures: Sequence[str] | None = None
    answers: Mapping[str, Any] | None = None
    precision: str | None = None
    limits: Mapping[str, Any] | None = None
    variants: Mapping[str, Any] | None = None
    architecture: str | None = None
    weights: str | None = None
    data: Mapping[str, Any] | None = None
    recipe: Mapping[str, Any] | None = None
    seed: int | None = None
    metrics: Mapping[str, Any] | None = None
    versions: Mapping[str, str] | None = None
    created: datetime.datetime | str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        """Checks the time zone of `created`, and takes the seed from the recipe."""
        if isinstance(self.created, datetime.datetime) and self.created.tzinfo is None:
            raise ValueError(
                f"created must have a time zone, got {self.created}: use "
                "datetime.now(datetime.timezone.utc)."
            )
        if self.seed is None and self.recipe is not None:
            object.__setattr__(self, "seed", self.recipe.get("seed"))


def model_card(facts: CardFacts) -> str:
    """Returns the text of a model card, which depends only on the facts.

    Args:
        facts: the `CardFacts`.

    Returns:
        The front matter and the Markdown below it.

    Raises:
        TypeError: a fact contains a value that YAML cannot represent.

    Example:

    >>> model_card(CardFacts("flowers", class_names=["rose", "tulip"], metrics={"top1": 0.97}))
    """
    card = _plain(_without_unknown(_front_matter(facts)), "")
    return f"---\n{_dump(card)}---\n\n{body(card)}"


def _front_matter(facts: CardFacts) -> dict[str, Any]:
    data = dict(facts.data or {})
    if facts.class_names is not None:
        data.update(num_classes=len(facts.class_names), classes=list(facts.class_names))
    is_published = data.get("name") and data["name"] not in _PRIVATE_SOURCES
    head, parameters = _head_and_parameters(facts.model)
    noah_tags = ["noah", _PAPER] if head.get("kind") == "noah" else []
    created = facts.created
    if isinstance(created, datetime.datetime):
        created = created.astimezone(datetime.timezone.utc).isoformat(timespec="seconds")
    return {
        "name": facts.name,
        "library_name": "noah_tf",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "tensorflow", "keras", *noah_tags],
        "license": facts.license,
        "datasets": [data["name"]] if is_published else None,
        "model-index": _model_index(facts.name, data, facts.metrics or {}),
        "created": created,
        "architecture": facts.architecture,
        "weights": facts.weights,
        "precision": facts.precision,
        "data": data,
        "recipe": _without_unknown({"seed": facts.seed, "config": facts.recipe}),
        "metrics": facts.metrics,
        "parameters": parameters,
        "head": head,
        "preprocessing": facts.preprocessing,
        "signatures": facts.signatures,
        "answers": facts.answers,
        "limits": facts.limits,
        "variants": facts.variants,
        "versions": facts.versions,
    }


def read_card(path: PathLike) -> dict[str, Any]:
    """Returns the front matter of a model card.

    Args:
        path: the card, or the folder that contains MODEL_CARD.md.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has no front matter, or its front matter is not a YAML mapping.
    """
    path = as_path(path)
    path = path / CARD_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"There is no model card at {path}.")
    # Bytes, because read_text() would change the other line ends that class names may contain.
    text = path.read_bytes().decode("utf-8")
    match = re.match(r"---\n(.*?\n)---(\n|$)", text, re.DOTALL)
    if not match:
        raise ValueError(
            f"{path} has no front matter: a model card begins with YAML between two lines of ---."
        )
    try:
        card = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The front matter of {path} is not valid YAML: {reason}") from error
    if not isinstance(card, dict):
        raise ValueError(
            f"The front matter of {path} must be a mapping, got {type(card).__name__}."
        )
    return card


def running_versions() -> dict[str, str]:
    """Returns the versions of noah_tf, TensorFlow, Keras and Python that are running."""
    return {
        "noah_tf": __version__,
        "tensorflow": tf.__version__,
        "keras": importlib.metadata.version("keras"),
        "python": platform.python_version(),
    }


def _head_and_parameters(
    model: tf.keras.Model | None,
) -> tuple[dict[str, Any], dict[str, int]]:
    """Returns the settings of a head that `attach_noah` made, and numbers of parameters."""
    head: dict[str, Any] = {}
    parameters: dict[str, int] = {}
    if model is not None:
        parameters["total"] = model.count_params()
        parameters["trainable"] = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
        for layer in model.layers:
            if isinstance(layer, NOAHHead):
                settings = {"num_groups": layer.num_groups, "key_ratio": layer.key_ratio}
                head = {"kind": "noah", **settings}
            elif layer.name == "gap_logits":
                head = {"kind": "gap"}
            else:
                continue
            parameters["head"] = layer.count_params()
    return head, parameters


def _model_index(
    name: str, data: Mapping[str, Any], metrics: Mapping[str, Any]
) -> list[dict[str, Any]] | None:
    hub_metrics = [
        {"type": hub_name, "name": METRICS[key], "value": metrics[key]}
        for key, hub_name in _HUB_METRICS.items()
        if key in metrics
    ]
    if not hub_metrics or not data.get("name"):
        return None
    task = {"type": "image-classification", "name": "Image Classification"}
    dataset = _without_unknown(
        {"type": data["name"], "name": data["name"], "split": data.get("eval_split")}
    )
    return [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": hub_metrics}]}]


def _without_unknown(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the items whose value is neither None nor an empty mapping."""
    return {key: value for key, value in values.items() if value is not None and value != {}}


def _plain(value: Any, path: str) -> Any:
    """Returns a value as numbers, strings, lists and dicts; `path` names it in the error."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)  # YAML cannot represent subclasses, such as NumPy's.
    if isinstance(value, np.ndarray | np.generic | tf.Tensor):
        return _plain(np.asarray(value).tolist(), path)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    raise TypeError(
        "A model card can contain numbers, strings, lists and dicts, got "
        f"{path.lstrip('.')}={value!r}."
    )


class _Dumper(yaml.SafeDumper):
    """Escapes line ends within a string, because YAML readers do not preserve all of them."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = '"' if re.search("[\n\x85\u2028\u2029]", text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _dump(card: dict[str, Any]) -> str:
    return yaml.dump(
        card,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=100,
    )
