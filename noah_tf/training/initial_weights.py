"""What a new run starts from: a file of weights, or another run."""

import pathlib

import tensorflow as tf

from noah_tf.models.zoo import load_weights_file
from noah_tf.runs.checkpoint import load_run
from noah_tf.training.param_groups import backbone_layers, weight_path


def check_initial_weights(config):
    """Raises FileNotFoundError where the `model` section names weights that are not there."""
    if config.weights and not pathlib.Path(config.weights).expanduser().exists():
        raise FileNotFoundError(f"There are no weights at model.weights={config.weights}.")


def load_initial_weights(model, config):
    """Loads the weights that the `model` section of a recipe names, if it names any.

    Args:
        model: what `model_from_config` made of the section.
        config: the section: `weights`, None or the path of a file as `create_model` takes it, or
            of the folder of another run; `weights_head` ("load" or "skip") and `weights_ema`.

    Raises:
        ValueError: the weights are not the model's.
        FileNotFoundError: there is no such file or run.
    """
    if not config.weights:
        return
    check_initial_weights(config)
    path = pathlib.Path(config.weights).expanduser()
    if path.is_dir():
        run = load_run(path, "ema" if config.weights_ema else "last")
        copy_weights(run.model, model, config.weights_head)
        return
    if config.architecture is None and not config.weights.endswith(".h5"):
        raise ValueError(
            f"model.weights={config.weights!r} is of the reference implementation, and needs "
            "model.architecture: give a .weights.h5 file, the folder of a run, or the architecture."
        )
    load_weights_file(model, config.weights, config.weights_head, config.weights_ema)


def copy_weights(source, model, head="load"):
    """Gives a model the weights of another one with the same backbone.

    Args:
        source: a model of `attach_noah` or `create_model`.
        model: such a model, which gets the weights.
        head: "load", or "skip" to leave the model's head as it is, for another number of classes.

    Raises:
        ValueError: the models differ, with the first weight that does.
    """
    pairs = [_weights(each, head) for each in (source, model)]
    if len(pairs[0]) != len(pairs[1]):
        raise ValueError(
            f"{source.name} has {len(pairs[0])} weights to copy, and {model.name} has "
            f"{len(pairs[1])}: give weights of the same backbone."
        )
    for old, new in zip(*pairs, strict=True):
        if old.shape != new.shape:
            skip = "" if head == "skip" else ", or skip the head, if only the classes differ"
            raise ValueError(
                f"{weight_path(new)} has the shape {tuple(new.shape)} in {model.name}, and "
                f"{tuple(old.shape)} in {source.name}: give weights of the same model{skip}."
            )
    for old, new in zip(*pairs, strict=True):
        new.assign(tf.convert_to_tensor(old))


def _weights(model, head):
    if head == "load":
        return model.weights
    return [weight for layer in backbone_layers(model) for weight in layer.weights]
