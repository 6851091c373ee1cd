"""Predictions of a model for photos in files: logits and embeddings."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from noah_tf.datasets import photo_batches, reading_problem
from noah_tf.explain import Explainer
from noah_tf.export import LABELS_FILE, OK, check_model_fits, latest_version, read_card
from noah_tf.images import Preprocessing
from noah_tf.runs import Run
from noah_tf.utils.paths import PathLike, as_path


class Prediction(NamedTuple):
    """The prediction of a model for one photo.

    Attributes:
        file: the path of the photo.
        error: why there is no prediction, otherwise empty.
        logits: float32 (M,), or None if there is an error.
        pooled: float32 (C,), the features under the head, averaged over the positions; None if
            they were not asked for, or if there is an error.
        attended: float32 (C,), the features under a NOAH head, weighted by its attention for the
            predicted class; None as for `pooled`, and for a pooled head.
    """

    file: str
    error: str = ""
    logits: np.ndarray | None = None
    pooled: np.ndarray | None = None
    attended: np.ndarray | None = None


class KerasPredictor:
    """Predicts with a Keras model.

    Args:
        model: from images to logits.
        preprocessing: the `Preprocessing` of the model's images.
        class_names: names of the classes, in the order of the logits.
        multi_label: whether a photo can have several classes.
        with_embeddings: whether predictions have `pooled` and `attended`.

    Raises:
        ValueError: the number of names is not that of the logits, or the model takes other images.

    Example:

    >>> run = load_run("runs/photos")
    >>> predictor = KerasPredictor(run.model, run.preprocessing, run.class_names)
    >>> [prediction.logits.argmax() for prediction in predictor(["cat.jpg", "dog.jpg"], 64)]
    [0, 1]
    """

    def __init__(
        self,
        model: tf.keras.Model,
        preprocessing: Preprocessing,
        class_names: Sequence[str],
        multi_label: bool = False,
        with_embeddings: bool = False,
    ) -> None:
        check_model_fits(model, preprocessing, class_names)
        self.class_names, self.multi_label = tuple(class_names), multi_label
        self._preprocessing = preprocessing
        compute = _embeddings(Explainer(model)) if with_embeddings else _logits(model)
        self._compute = tf.function(compute, reduce_retracing=True)

    @classmethod
    def from_run(cls, run: Run, with_embeddings: bool = False) -> "KerasPredictor":
        """Returns the predictor of a training run."""
        return cls(run.model, run.preprocessing, run.class_names, run.multi_label, with_embeddings)

    def __call__(self, files: Sequence[str], batch_size: int) -> Iterator[Prediction]:
        """Yields the prediction of each file, in their order.

        Args:
            files: the paths of photos.
            batch_size: photos per batch.
        """
        done = 0
        for indices, images in photo_batches(files, self._preprocessing, batch_size):
            outputs = [np.asarray(output) for output in self._compute(images)]
            for index, *values in zip(indices.numpy().tolist(), *outputs, strict=True):
                yield from (self._failed(file) for file in files[done:index])
                yield Prediction(files[index], "", *values)
                done = index + 1
        yield from (self._failed(file) for file in files[done:])

    def _failed(self, file: str) -> Prediction:
        problem = reading_problem(file, self._preprocessing)
        return Prediction(file, problem or "the model's preprocessing failed")


class ExportPredictor:
    """Predicts with an exported model.

    Args:
        model_dir: the folder of the model's versions, such as saved_models/NAME; the newest version
            is used.
        with_embeddings: whether predictions have `pooled` and `attended`.

    Raises:
        FileNotFoundError: there is no version in the folder.
        ValueError: the export has no signature `embed`, and embeddings are asked for.
    """

    def __init__(self, model_dir: PathLike, with_embeddings: bool = False) -> None:
        path = latest_version(model_dir)
        self._model = tf.saved_model.load(str(path))
        name = "embed" if with_embeddings else "serving_default"
        if name not in self._model.signatures:
            raise ValueError(
                f"{path} has no signature {name!r}: export the model again with this version, and "
                "with a NOAH head or a pooled one."
            )
        self._signature = self._model.signatures[name]
        names = (path / "assets" / LABELS_FILE).read_text("utf-8").removesuffix("\n")
        self.class_names = tuple(names.split("\n"))
        card = read_card(path)
        self.multi_label = card["answers"]["kind"] == "multi_label"
        self._preprocessing = Preprocessing.from_dict(card["preprocessing"])
        self._max_pixels = card["limits"]["max_pixels"]

    def __call__(self, files: Sequence[str], batch_size: int) -> Iterator[Prediction]:
        """Yields the prediction of each file, in their order; see `KerasPredictor`."""
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            try:
                yield from self._predict(batch)
            except (OSError, tf.errors.OpError):
                # A single photo fails its batch.
                for file in batch:
                    try:
                        yield from self._predict([file])
                    except (OSError, tf.errors.OpError) as error:
                        problem = reading_problem(file, self._preprocessing, self._max_pixels)
                        yield Prediction(file, problem or str(error).splitlines()[0])

    def _predict(self, files: Sequence[str]) -> list[Prediction]:
        contents = [as_path(file).read_bytes() for file in files]
        outputs = self._signature(image_bytes=tf.constant(contents))
        statuses = outputs["status"].numpy() if "status" in outputs else [OK.encode()] * len(files)
        names = [name for name in ("logits", "pooled", "attended") if name in outputs]
        rows = zip(*(outputs[name].numpy() for name in names), strict=True)
        return [
            Prediction(file, "", *values)
            if status == OK.encode()
            else Prediction(file, status.decode())
            for file, values, status in zip(files, rows, statuses, strict=True)
        ]


def _logits(model: tf.keras.Model) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
    return lambda images: (tf.cast(model(images, training=False), tf.float32),)


def _embeddings(explainer: Explainer) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
    """Returns a function from images to logits and embeddings."""

    def compute(images: tf.Tensor) -> tuple[tf.Tensor, ...]:
        features, logits = explainer.forward(images)
        return tf.cast(logits, tf.float32), *explainer.embeddings(features, logits).values()

    return compute
