"""Which weights are decayed, frozen, or trained at a rate of their own."""

import difflib
import fnmatch

from noah_tf.models.attach import feature_layer_name
from noah_tf.models.feature_map import weighted_layers
from noah_tf.utils.keras_compat import weight_path


def decay_mask(weights, exempt_1d=True, exempt=()):
    """Which weights are decayed: `is_decayed` of each, and a check that every pattern is of use.

    Args:
        weights: a model's weights.
        exempt_1d: see `is_decayed`.
        exempt: see `is_decayed`; each pattern must match at least one weight.

    Returns:
        A list of bool.

    Raises:
        ValueError: a pattern matches no weight, with the nearest paths.

    Example:

    >>> decay_mask(model.trainable_variables, exempt=("pos_embed/*", "cls_token/*"))
    """
    if isinstance(exempt, str):
        raise ValueError(f"optimizer.exempt must be a tuple of patterns, got {exempt!r}.")
    paths = [weight_path(weight) for weight in weights]
    for pattern in exempt:
        if not any(fnmatch.fnmatchcase(path, pattern) for path in paths):
            near = difflib.get_close_matches(pattern, paths, n=3, cutoff=0)
            raise ValueError(
                f"the pattern {pattern!r} of optimizer.exempt matches no weight; the nearest are "
                f"{', '.join(repr(path) for path in near)}."
            )
    return [is_decayed(weight, exempt_1d, exempt) for weight in weights]


def is_decayed(weight, exempt_1d=True, exempt=()):
    """Whether weight decay shrinks a weight.

    Args:
        weight: a weight of a Keras model.
        exempt_1d: whether to spare biases (of any rank, by their name) and weights of rank 1,
            which are those of normalization.
        exempt: patterns (wildcards as in file names) of the paths of other weights to spare.

    Returns:
        A bool.
    """
    path = weight_path(weight)
    if exempt_1d and (len(weight.shape) <= 1 or "bias" in path.split("/")[-1]):
        return False
    return not any(fnmatch.fnmatchcase(path, pattern) for pattern in exempt)


def layer_factors(model, decay, groups=12):
    """Layer-wise decay of the learning rate: the nearer to the image, the slower.

    The head has the factor 1. The backbone's layers with weights, in their order from input to
    output, are divided into runs of equal length, which stand for the blocks of a transformer: the
    last run has the factor decay, the one before decay ** 2, the first decay ** groups.

    Args:
        model: a model of `attach_noah` or `create_model`.
        decay: in (0, 1].
        groups: number of runs; a backbone of fewer layers has one for each.

    Returns:
        A list of floats, one for each of `model.trainable_variables`.

    Raises:
        ValueError: the model's head cannot be told from its backbone.

    Example:

    >>> factors = layer_factors(model, 0.75)

    Source: BEiT (arXiv 2106.08254), after ELECTRA (arXiv 2003.10555).
    """
    layers = backbone_layers(model)
    groups = min(groups, len(layers))
    factors = {}
    for place, layer in enumerate(layers):
        for variable in layer.trainable_variables:
            factors[id(variable)] = decay ** (groups - place * groups // len(layers))
    return [factors.get(id(variable), 1.0) for variable in model.trainable_variables]


def backbone_variables(model):
    """The trainable variables in front of the head, for freezing them.

    Args:
        model: a model of `attach_noah` or `create_model`.

    Returns:
        A list, in the order of `model.trainable_variables`.

    Raises:
        ValueError: the model's head cannot be told from its backbone.
    """
    layers = backbone_layers(model)
    ours = {id(variable) for layer in layers for variable in layer.trainable_variables}
    return [variable for variable in model.trainable_variables if id(variable) in ours]


def backbone_layers(model):
    """The layers with weights up to the one that feeds the head, those of nested models in turn.

    Args:
        model: a model of `attach_noah` or `create_model`.

    Returns:
        A list, from input to output.

    Raises:
        ValueError: the model's head cannot be told from its backbone.
    """
    # Files do not keep the attribute; its first part names a layer of the model itself.
    name = getattr(model, "noah_feature_layer", None) or feature_layer_name(model)
    last = [layer.name for layer in model.layers].index(name.split("/")[0])
    # Layers are in the order of depth, and all that the features need is deeper than they are.
    ours = {id(weight) for layer in model.layers[: last + 1] for weight in layer.weights}
    return [
        layer
        for _, layer in weighted_layers(model)
        if any(id(weight) in ours for weight in layer.weights)
    ]
