"""Groups of weights: those that decay, those that are frozen, and their learning rates."""

import difflib
import fnmatch
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from noah_tf.models import feature_layer_name, weighted_layers
from noah_tf.utils.keras_compat import weight_path

# The start of a layer that is never trained: no run reaches this step.
NEVER = 2**63 - 1


class LayerStart(NamedTuple):
    """A layer that is frozen at first, and the step from which it is trained."""

    layer: Any
    step: int


def decay_mask(
    weights: Sequence[Any], exempt_1d: bool = True, exempt: Sequence[str] = ()
) -> list[bool]:
    """Returns `is_decayed` of each weight.

    Args:
        weights: a model's weights.
        exempt_1d: see `is_decayed`.
        exempt: see `is_decayed`; each pattern must match at least one weight.

    Returns:
        A list of bool.

    Raises:
        ValueError: a pattern matches no weight; the message has the nearest paths.

    Example:

    >>> decay_mask(model.trainable_variables, exempt=("pos_embed/*", "cls_token/*"))
    """
    if isinstance(exempt, str):
        raise ValueError(f"optimizer.exempt must be a tuple of patterns, got {exempt!r}.")
    paths = [weight_path(weight) for weight in weights]
    _check_patterns("optimizer.exempt", exempt, "weight", paths)
    return [is_decayed(weight, exempt_1d, exempt) for weight in weights]


def is_decayed(weight: Any, exempt_1d: bool = True, exempt: Sequence[str] = ()) -> bool:
    """Returns whether weight decay applies to a weight.

    Args:
        weight: a weight of a Keras model.
        exempt_1d: whether biases and weights of rank 1 are exempt. A bias is a weight of any rank
            with "bias" in its name; the weights of rank 1 are those of normalization.
        exempt: patterns, with wildcards as in file names, of the paths of other exempt weights.
    """
    path = weight_path(weight)
    if exempt_1d and (len(weight.shape) <= 1 or "bias" in path.split("/")[-1]):
        return False
    return not any(fnmatch.fnmatchcase(path, pattern) for pattern in exempt)


def layer_factors(model: tf.keras.Model, decay: float, groups: int = 12) -> list[float]:
    """Returns the factors of layer-wise learning-rate decay: layers near the image learn slower.

    The head has the factor 1. The backbone's layers with weights, in their order from input to
    output, are divided into groups of equal size, which stand for the blocks of a transformer. The
    last group has the factor decay, the one before it decay ** 2, and the first decay ** groups.

    Args:
        model: a model of `attach_noah` or `create_model`.
        decay: in (0, 1].
        groups: number of groups; a backbone with fewer layers has one group per layer.

    Returns:
        A list of floats, one for each of `model.trainable_variables`.

    Raises:
        ValueError: the model's head is unknown.

    Example:

    >>> factors = layer_factors(model, 0.75)

    Source: BEiT (arXiv 2106.08254), after ELECTRA (arXiv 2003.10555).
    """
    layers = backbone_layers(model)
    groups = min(groups, len(layers))
    factors = {}
    for index, layer in enumerate(layers):
        for variable in layer.trainable_variables:
            factors[id(variable)] = decay ** (groups - index * groups // len(layers))
    return [factors.get(id(variable), 1.0) for variable in model.trainable_variables]


def layer_starts(
    model: tf.keras.Model, frozen_steps: int = 0, frozen_layers: Sequence[str] = ()
) -> list[LayerStart]:
    """Returns the layers that are frozen at first, with the step from which each is trained.

    Args:
        model: a model of `attach_noah` or `create_model`.
        frozen_steps: first steps of the run, in which only the head is trained.
        frozen_layers: patterns, with wildcards as in file names, of the names of layers that are
            never trained. The name of a layer of a nested model begins with that model's name and
            a slash. Each pattern must match at least one layer that has weights.

    Raises:
        ValueError: a pattern matches no layer, or the patterns match all layers; or the model's
            head is unknown.

    Example:

    >>> layer_starts(model, frozen_layers=("Conv1*", "block_[0-9]_*"))
    """
    layers = dict(weighted_layers(model))
    _check_patterns("train.frozen_layers", frozen_layers, "layer", list(layers))
    never = {
        name: layer
        for name, layer in layers.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in frozen_layers)
    }
    if len(never) == len(layers):
        raise ValueError(f"train.frozen_layers={frozen_layers!r} freezes all layers: leave some.")
    starts = [LayerStart(layer, NEVER) for layer in never.values()]
    if frozen_steps:
        ids = {id(layer) for layer in never.values()}
        starts += [
            LayerStart(layer, frozen_steps)
            for layer in backbone_layers(model)
            if id(layer) not in ids
        ]
    waiting = {id(weight) for layer, _ in starts for weight in layer.weights}
    if all(id(weight) in waiting for weight in model.trainable_weights):
        raise ValueError(
            f"train.frozen_layers={frozen_layers!r} and the frozen backbone of the first epochs "
            "leave no layer to train: leave the head out of the patterns."
        )
    return starts


def _check_patterns(option: str, patterns: Sequence[str], noun: str, names: Sequence[str]) -> None:
    """Raises ValueError if a pattern of an option matches none of the names."""
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            nearest = difflib.get_close_matches(pattern, names, n=3, cutoff=0)
            raise ValueError(
                f"the pattern {pattern!r} of {option} matches no {noun}; the nearest are "
                f"{', '.join(map(repr, nearest))}."
            )


def backbone_layers(model: tf.keras.Model) -> list:
    """Returns the layers with weights up to the one that feeds the head, from input to output.

    Nested models are replaced by their layers.

    Args:
        model: a model of `attach_noah` or `create_model`.

    Raises:
        ValueError: the model's head is unknown.
    """
    # Model files do not keep the attribute. Its first part is the name of a layer of the model.
    name = getattr(model, "noah_feature_layer", None) or feature_layer_name(model)
    last = [layer.name for layer in model.layers].index(name.split("/")[0])
    # Keras sorts layers by depth, so the layers that the features depend on come before `last`.
    ids = {id(weight) for layer in model.layers[: last + 1] for weight in layer.weights}
    return [
        layer
        for _, layer in weighted_layers(model)
        if any(id(weight) in ids for weight in layer.weights)
    ]
