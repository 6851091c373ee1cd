"""The initial weights of a new run: those of a file, or of another run."""

import tensorflow as tf

from noah_tf.models import OFFICIAL, load_weights_file, sha256_of
from noah_tf.runs import ModelSpec, SavedBackbone, Workdir, is_keras_file, load_run
from noah_tf.training.param_groups import backbone_layers, weight_path
from noah_tf.training.plan import TrainingPlan
from noah_tf.utils.paths import as_path


def check_initial_weights(spec: ModelSpec) -> None:
    """Raises FileNotFoundError if the weights that a recipe names do not exist."""
    if not spec.weights or spec.weights == OFFICIAL:
        return
    if not as_path(spec.weights).exists():
        raise FileNotFoundError(f"There are no weights at model.weights={spec.weights}.")


def backbone_of_run(plan: TrainingPlan, workdir: Workdir) -> SavedBackbone | None:
    """Returns what a new or resumed run keeps of its backbone's file, or None without a file.

    Args:
        plan: the plan of the run.
        workdir: the folder of the run.

    Raises:
        FileNotFoundError: a new run needs the file, and it does not exist.
        ValueError: Keras cannot load the file, or the run was begun with another file.
    """
    if not is_keras_file(plan.model.backbone):
        return None
    path = str(plan.model.backbone)
    saved = workdir.backbone() if workdir.has_progress() else None
    if saved is None:
        return plan.model.save_backbone(plan.preprocessing.input_shape)
    if as_path(path).is_file() and sha256_of(path) != saved.sha256:
        raise ValueError(
            f"{workdir.path} was begun with another file {path}: its SHA-256 was {saved.sha256}. "
            "Restore that file or remove it, or give another --workdir."
        )
    return saved


def load_initial_weights(model: tf.keras.Model, spec: ModelSpec) -> None:
    """Loads the weights that the `model` section of a recipe names, if it names any.

    Args:
        model: the model that was built from the section.
        spec: the section: `weights` is None, the folder of another run, "official", or the path of
            a file that `create_model` takes; `weights_head` is "load" or "skip"; `weights_ema`
            takes the averaged weights.

    Raises:
        ValueError: the weights do not fit the model.
        FileNotFoundError: there is no such file or run.
        ConnectionError: the authors' checkpoint could not be downloaded.
    """
    if not spec.weights:
        return
    check_initial_weights(spec)
    path = as_path(spec.weights)
    if spec.weights != OFFICIAL and path.is_dir():
        run = load_run(path, "ema" if spec.weights_ema else "last")
        copy_weights(run.model, model, spec.weights_head)
        return
    if spec.architecture is None and not spec.weights.endswith(".h5"):
        raise ValueError(
            f"model.weights={spec.weights!r} is a file of named tensors, which needs "
            "model.architecture: set it, or give a .weights.h5 file or the folder of a run."
        )
    load_weights_file(model, spec.weights, spec.weights_head, spec.weights_ema)


def copy_weights(source: tf.keras.Model, model: tf.keras.Model, head: str = "load") -> None:
    """Copies the weights of a model into another one with the same backbone.

    Args:
        source: a model of `attach_noah` or `create_model`.
        model: the model that receives the weights, made in the same way.
        head: "load", or "skip" to leave the model's head as it is, for another number of classes.

    Raises:
        ValueError: the models differ; the message names the first weight that does.
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


def _weights(model: tf.keras.Model, head: str) -> list:
    if head == "load":
        return model.weights
    return [weight for layer in backbone_layers(model) for weight in layer.weights]
