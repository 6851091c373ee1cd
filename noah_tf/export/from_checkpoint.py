"""From a checkpoint of the reference implementation to the files that Keras and TF Serving take."""

import dataclasses
import json
import math
import pathlib

from noah_tf.evaluation.evaluator import Evaluator
from noah_tf.export.savedmodel import export_savedmodel
from noah_tf.models.official import load_official_weights
from noah_tf.runs.workdir import save_whole, write_whole
from noah_tf.models.zoo import create_model, preprocessing_for


@dataclasses.dataclass(frozen=True)
class Imported:
    """What `import_official` made.

    Attributes:
        keras_file: `pathlib.Path` of the .keras file.
        saved_model: `pathlib.Path` of the SavedModel, a version that TF Serving loads.
        parameters: trainable parameters of the model.
        metrics: the evaluation, a dict; None without a data set.
    """

    keras_file: pathlib.Path
    saved_model: pathlib.Path
    parameters: int
    metrics: dict | None


def import_official(
    name,
    checkpoint,
    output,
    ema=False,
    num_classes=1000,
    image_size=224,
    pre_logits=None,
    class_names=None,
    source=None,
    batch_size=64,
):
    """Makes a .keras file and a SavedModel of a checkpoint of the reference implementation.

    Writes output/model.keras, output/saved_model/VERSION/ and, with a data set,
    output/evaluation.json. A model.keras that is there is replaced once the new one is complete,
    and its evaluation.json goes with it; a version of the SavedModel never is replaced, the next
    one is written.

    Args:
        name: one of `list_models()`.
        checkpoint: what `load_official_weights` takes.
        output: the folder to write.
        ema: whether to take the checkpoint's averaged weights.
        num_classes: number of classes of the checkpoint.
        image_size: side of the model's images, in pixels.
        pre_logits: as in `create_model`.
        class_names: one name a class, for the SavedModel; None for the data set's, or without
            one the indices.
        source: a `datasets.source.Source` to evaluate on, as the paper evaluates; or None.
        batch_size: images at once in the evaluation; it does not change the result.

    Returns:
        An `Imported`.

    Raises:
        ValueError: the checkpoint is not the model's, or names or data are of other classes.
        FileNotFoundError: there is no such checkpoint.
    """
    if source is not None and source.num_classes != num_classes:
        raise ValueError(
            f"The model has {num_classes} classes and {source.name} has {source.num_classes}: "
            "evaluate on the data that the checkpoint was trained for."
        )
    if class_names is None and source is not None:
        class_names = source.class_names
    if class_names is not None and len(class_names) != num_classes:
        raise ValueError(f"There are {len(class_names)} class names for {num_classes} classes.")
    model = create_model(
        name, num_classes, input_shape=(image_size, image_size, 3), pre_logits=pre_logits
    )
    load_official_weights(model, checkpoint, ema=ema)
    preprocessing = preprocessing_for(name, (image_size, image_size))

    output = pathlib.Path(output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    evaluation = output / "evaluation.json"
    evaluation.unlink(missing_ok=True)
    keras_file = output / "model.keras"
    save_whole(model.save, keras_file)
    card = {"architecture": name}
    if isinstance(checkpoint, (str, pathlib.PurePath)):
        card["weights"] = pathlib.Path(checkpoint).name
    saved_model = export_savedmodel(
        model, output / "saved_model", preprocessing, class_names, card=card
    )
    metrics = None
    if source is not None:  # Last, for it can take hours.
        metrics = Evaluator(model)(source, preprocessing, batch_size)
        write_whole(evaluation, json.dumps(metrics, indent=2) + "\n")
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return Imported(keras_file, saved_model, parameters, metrics)
