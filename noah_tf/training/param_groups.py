"""Groups of weights: those that decay, those of the backbone, and their learning rates."""

import difflib
import fnmatch
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from noah_tf.models import feature_layer_name, weighted_layers
from noah_tf.utils.keras_compat import weight_path


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
    for pattern in exempt:
        if not any(fnmatch.fnmatchcase(path, pattern) for path in paths):
            nearest = difflib.get_close_matches(pattern, paths, n=3, cutoff=0)
            raise ValueError(
                f"the pattern {pattern!r} of optimizer.exempt matches no weight; the nearest are "
                f"{', '.join(repr(path) for path in nearest)}."
            )
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


def backbone_variables(model: tf.keras.Model) -> list:
    """Returns the trainable variables of the backbone, in the order of `trainable_variables`.

    Args:
        model: a model of `attach_noah` or `create_model`.

    Raises:
        ValueError: the model's head is unknown.
    """
    layers = backbone_layers(model)
    ids = {id(variable) for layer in layers for variable in layer.trainable_variables}
    return [variable for variable in model.trainable_variables if id(variable) in ids]


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
