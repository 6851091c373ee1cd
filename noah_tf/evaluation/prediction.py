"""Predictions of a model for photos in files: logits and embeddings."""

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from noah_tf.datasets import photo_batches, reading_problem
from noah_tf.explain import Explainer
from noah_tf.export import LABELS_FILE, OK, latest_version, read_card
from noah_tf.images import Preprocessing
from noah_tf.runs import Run


class Prediction(NamedTuple):
    """What a model says about one photo.

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
        ValueError: the number of names is not that of the logits.

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
        if len(class_names) != model.output_shape[-1]:
            raise ValueError(
                f"{model.name} has {model.output_shape[-1]} classes, got {len(class_names)} names."
            )
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
                yield from (_failed(file) for file in files[done:index])
                yield Prediction(files[index], "", *values)
                done = index + 1
        yield from (_failed(file) for file in files[done:])


class ExportPredictor:
    """Predicts with an exported model.

    Args:
        model_dir: the folder of the model's versions, such as saved_models/NAME; the newest version
            is used.

    Raises:
        FileNotFoundError: there is no version in the folder.
    """

    def __init__(self, model_dir: str | pathlib.PurePath) -> None:
        path = latest_version(model_dir)
        self._model = tf.saved_model.load(str(path))
        self._signature = self._model.signatures["serving_default"]
        names = (path / "assets" / LABELS_FILE).read_text("utf-8").removesuffix("\n")
        self.class_names = tuple(names.split("\n"))
        self.multi_label = read_card(path)["answers"]["kind"] == "multi_label"

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
                    except (OSError, tf.errors.OpError):
                        yield _failed(file)

    def _predict(self, files: Sequence[str]) -> list[Prediction]:
        contents = [pathlib.Path(file).read_bytes() for file in files]
        outputs = self._signature(image_bytes=tf.constant(contents))
        statuses = outputs["status"].numpy() if "status" in outputs else [OK.encode()] * len(files)
        return [
            Prediction(file, "", logits)
            if status == OK.encode()
            else Prediction(file, status.decode())
            for file, logits, status in zip(files, outputs["logits"].numpy(), statuses, strict=True)
        ]


def _failed(file: str) -> Prediction:
    return Prediction(file, reading_problem(file))


def _logits(model: tf.keras.Model) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
    return lambda images: (tf.cast(model(images, training=False), tf.float32),)


def _embeddings(explainer: Explainer) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
    """Returns a function from images to logits and embeddings."""

    def compute(images: tf.Tensor) -> tuple[tf.Tensor, ...]:
        features, logits = explainer.forward(images)
        features, logits = (tf.cast(x, tf.float32) for x in (features, logits))
        positions = tf.reshape(features, (tf.shape(features)[0], -1, features.shape[-1]))
        pooled = tf.reduce_mean(positions, axis=1)
        if "attention" not in explainer.methods:
            return logits, pooled
        attention = explainer.attention_of(features, tf.argmax(logits, axis=-1))
        return logits, pooled, tf.einsum("bp,bpc->bc", attention, positions)

    return compute
