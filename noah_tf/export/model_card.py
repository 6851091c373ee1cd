"""MODEL_CARD.md: what a served model is, for programs in its front matter and for people below it.

The front matter is YAML. `tags`, `datasets`, `library_name`, `license`, `pipeline_tag` and
`model-index` are as the Hugging Face Hub reads them; the other keys are ours:

    name, created (UTC, ISO 8601), architecture, weights, precision
    data            name, splits, what else is known of them; num_classes and classes, the names in
                    the order of the logits
    recipe          config, seed
    metrics         of the evaluation, shares from 0 to 1 (a mapping, where the Hub has a list)
    parameters      total, trainable, head
    head            kind (noah or gap), num_groups, key_ratio
    preprocessing   as `Preprocessing.from_dict` takes it
    signatures, limits, versions
    answers         kind (single_label or multi_label), top_k or threshold
    variants        file to images, top1, largest_difference: its agreement with the float32 model

What is not known is left out.
"""

import dataclasses
import datetime
import importlib.metadata
import numbers
import pathlib
import platform
import re

import numpy as np
import tensorflow as tf
import yaml

from noah_tf.export.model_card_text import METRICS, body
from noah_tf.head.layer import NOAHHead
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.version import __version__

CARD_FILE = "MODEL_CARD.md"
_PAPER = "arxiv:2402.02377"
# As their metrics are named in `model-index`.
_HUB_METRICS = {
    "top1": "accuracy",
    "top5": "top_5_accuracy",
    "mAP": "mean_average_precision",
}
# Sources of `datasets.registry` that are no data set that others have.
_NO_DATASETS = ("folder", "fake")


def model_card(
    name,
    *,
    model=None,
    preprocessing=None,
    class_names=None,
    signatures=None,
    answers=None,
    precision=None,
    limits=None,
    variants=None,
    architecture=None,
    weights=None,
    data=None,
    recipe=None,
    seed=None,
    metrics=None,
    versions=None,
    created=None,
    license=None,
):
    """The text of a model card; it depends on nothing but what is given.

    Args:
        name: the model's name.
        model: the Keras model, of which parameters and the head are described.
        preprocessing: its `Preprocessing`, or the same as a dict.
        class_names: names of the classes in the order of the logits.
        signatures: names of the SavedModel's signatures.
        answers: dict of what is in `classes`: `kind`, and its `top_k` or `threshold`.
        precision: policy that the SavedModel computes in.
        limits: dict of what a server refuses: `max_pixels`, `tolerant`, `tolerant_cost`.
        variants: dict of file name to `variants.Agreement`, or the same as a dict.
        architecture: its name in the zoo.
        weights: where the weights come from, such as the name of a checkpoint.
        data: dict about the training data: `name`, `train_split`, `eval_split`, `train_examples`
            and whatever else is known.
        recipe: the run's config, a dict.
        seed: the run's seed; None for the recipe's.
        metrics: the run's result.json or another evaluation, a dict.
        versions: dict of package to version, such as `running_versions` gives.
        created: when: an aware `datetime.datetime`, or text.
        license: its identifier, such as "apache-2.0".

    Returns:
        The text, front matter and body.

    Raises:
        TypeError: a value is nothing that YAML has.
        ValueError: `created` has no time zone, or the preprocessing is none.

    Example:

    >>> card = model_card("flowers", class_names=["rose", "tulip"], metrics={"top1": 0.97})
    """
    if isinstance(created, datetime.datetime):
        if created.tzinfo is None:
            raise ValueError(
                f"created must have a time zone, got {created}: use datetime.now(utc)."
            )
        created = created.astimezone(datetime.timezone.utc).isoformat(timespec="seconds")
    if isinstance(preprocessing, dict):
        preprocessing = Preprocessing.from_dict(preprocessing)
    if seed is None:
        seed = (recipe or {}).get("seed")
    head, parameters = _head_and_parameters(model)
    data = dict(data or {})
    if class_names is not None:
        data.update(num_classes=len(class_names), classes=list(class_names))
    noah = ["noah", _PAPER] if head.get("kind") == "noah" else []
    dataset = data.get("name") if data.get("name") not in _NO_DATASETS else None
    card = {
        "name": name,
        "library_name": "noah_tf",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "tensorflow", "keras", *noah],
        "license": license,
        "datasets": [dataset] if dataset else None,
        "model-index": _model_index(name, data, metrics or {}),
        "created": created,
        "architecture": architecture,
        "weights": weights,
        "precision": precision,
        "data": data,
        "recipe": _known({"seed": seed, "config": recipe}),
        "metrics": metrics,
        "parameters": parameters,
        "head": head,
        "preprocessing": preprocessing,
        "signatures": signatures,
        "answers": answers,
        "limits": limits,
        "variants": variants,
        "versions": versions,
    }
    card = _plain(_known(card), "")
    return f"---\n{_dump(card)}---\n\n{body(card)}"


def read_card(path):
    """The front matter of a model card.

    Args:
        path: of the card, or of the folder that MODEL_CARD.md is in.

    Returns:
        A dict.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no front matter, or one that is no YAML mapping.
    """
    path = pathlib.Path(path)
    path = path / CARD_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"There is no model card at {path}.")
    # Split at line feeds alone: names of classes may hold other ends of lines.
    text = path.read_bytes().decode("utf-8")
    match = re.match(r"---\n(.*?\n)---(\n|$)", text, re.DOTALL)
    if not match:
        raise ValueError(f"{path} has no front matter: a card begins with YAML between two ---.")
    try:
        card = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The front matter of {path} is no YAML: {reason}") from error
    if not isinstance(card, dict):
        raise ValueError(f"The front matter of {path} is no mapping, but {type(card).__name__}.")
    return card


def running_versions():
    """The versions of what runs: a dict for `model_card`."""
    return {
        "noah_tf": __version__,
        "tensorflow": tf.__version__,
        "keras": importlib.metadata.version("keras"),
        "python": platform.python_version(),
    }


def _head_and_parameters(model):
    """Kind and settings of the head, as far as attach_noah put it there, and counts."""
    head, parameters = {}, {}
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


def _model_index(name, data, metrics):
    values = [
        {"type": kind, "name": METRICS[key], "value": metrics[key]}
        for key, kind in _HUB_METRICS.items()
        if key in metrics
    ]
    if not values or not data.get("name"):
        return None
    task = {"type": "image-classification", "name": "Image Classification"}
    dataset = _known({"type": data["name"], "name": data["name"], "split": data.get("eval_split")})
    return [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": values}]}]


def _known(values):
    """Without what is None or empty."""
    return {key: value for key, value in values.items() if value is not None and value != {}}


def _plain(value, where):
    """Numbers, strings, lists and dicts in place of what means the same."""
    if value is None or isinstance(value, (bool, str)):
        # A plain str: YAML knows no subclasses, such as NumPy's.
        return str(value) if isinstance(value, str) else value
    if isinstance(value, np.ndarray | np.generic | tf.Tensor):
        return _plain(np.asarray(value).tolist(), where)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    elif dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise TypeError(
        f"A model card holds numbers, strings, lists and dicts, got {where.lstrip('.')}={value!r}."
    )


class _Dumper(yaml.SafeDumper):
    """Writes ends of lines within a text by their codes, for not all come back as themselves."""

    def represent_text(self, text):
        style = '"' if re.search("[\n\x85\u2028\u2029]", text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _dump(card):
    return yaml.dump(
        card,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=100,
    )
