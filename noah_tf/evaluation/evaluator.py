"""Evaluates a model on a data set, counting every example exactly once."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from noah_tf.datasets import (
    BatchOptions,
    Source,
    eval_batches,
    naming_corrupt_examples,
    open_source,
    source_from_config,
)
from noah_tf.evaluation import metrics
from noah_tf.images import Preprocessing
from noah_tf.runs import describe_classes, load_run
from noah_tf.utils import distribute
from noah_tf.utils.paths import Path, PathLike


class Evaluator:
    """Evaluates one model any number of times, and traces it only once.

    Args:
        model: maps images to logits.
        strategy: the distribution strategy of the model; None for the current one.
        multi_label: whether the model was trained to predict several classes for an image.

    Example:

    >>> Evaluator(model)(source, preprocessing, batch_size=64)
    {'examples': 2000, 'loss': 0.31, 'top1': 0.91, 'top5': 0.99}
    """

    def __init__(
        self,
        model: tf.keras.Model,
        strategy: tf.distribute.Strategy | None = None,
        multi_label: bool = False,
    ) -> None:
        strategy = strategy or tf.distribute.get_strategy()
        self._strategy, self._multi_label = strategy, multi_label
        # The arguments of the last pipeline, and its batches.
        self._pipeline: tuple[tuple[Any, ...], Any] | None = None

        def replica_sums(images, labels, mask):
            logits = model(images, training=False)
            return metrics.metric_sums(labels, logits, mask)

        @tf.function
        def sums(images, labels, mask):
            per_replica = strategy.run(replica_sums, args=(images, labels, mask))
            return strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)

        @tf.function
        def outputs(images, labels, mask):
            logits = strategy.run(lambda images: model(images, training=False), args=(images,))
            return tuple(strategy.gather(value, axis=0) for value in (labels, logits, mask))

        self._sums, self._outputs = sums, outputs

    def __call__(
        self,
        source: Source,
        preprocessing: Preprocessing,
        batch_size: int,
        on_corrupt: str = "error",
        check: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Computes the metrics over all examples of a source.

        Args:
            source: a `datasets.source.Source`.
            preprocessing: a `Preprocessing`.
            batch_size: images per batch, over all replicas; it does not change the result.
            on_corrupt: how to handle an image that cannot be decoded: "error" raises, "skip"
                leaves it out and counts it.
            check: called before every batch; it may raise an exception to stop the evaluation.

        Returns:
            Dict of floats. A single-label model has "examples", "loss", "top1" and, with at least
            five classes, "top5". A multi-label model has those of `metrics.multi_label_metrics`.
            If the labels are multi-label and the model is single-label ("imagenet2012_real"), a
            prediction is correct if it is any of the labels, and examples without a label are left
            out. "skipped" is the number of images that cannot be decoded, if there are any.

        Raises:
            ValueError: an image cannot be decoded (the message names it), or no example is left.
            FloatingPointError: a logit is not finite.
        """
        options = BatchOptions(batch_size, on_corrupt=on_corrupt)
        batches = self._batches(source, preprocessing, options, check=check)
        measure = self._multi_label_metrics if self._multi_label else self._metrics
        result, num_examples = measure(batches, source.num_classes)
        if num_examples < source.num_examples:
            result["skipped"] = int(source.num_examples - num_examples)
        return result

    def outputs(
        self,
        source: Source,
        preprocessing: Preprocessing,
        batch_size: int,
        on_corrupt: str = "error",
        pixel_transform: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields the labels and logits of all examples in natural order, batch by batch.

        Args:
            source: a `datasets.source.Source`.
            preprocessing: a `Preprocessing`.
            batch_size: images per batch, over all replicas, which must be on this machine.
            on_corrupt: see `__call__`; with "skip", images that cannot be decoded are left out.
            pixel_transform: a function that is applied to every image, see
                `datasets.pipeline.eval_batches`; or None.

        Yields:
            NumPy arrays: indices (B,) of the examples in the natural order; labels (B,) or
            multi-hot (B, M); logits (B, M).

        Raises:
            ValueError: an image cannot be decoded; the message names it.
        """
        start = 0
        options = BatchOptions(batch_size, on_corrupt=on_corrupt)
        batches = self._batches(source, preprocessing, options, pixel_transform)
        for labels, logits, is_example in self._numpy_outputs(batches):
            yield start + np.flatnonzero(is_example), labels[is_example], logits[is_example]
            start += len(is_example)

    def _batches(
        self, source, preprocessing, options, pixel_transform=None, check=lambda: None
    ) -> Iterator[Any]:
        arguments = source, preprocessing, options, pixel_transform
        # Every evaluation of a run uses the same pipeline: a new one for each would need more and
        # more memory.
        if self._pipeline is None or self._pipeline[0] != arguments:
            make_batches = functools.partial(
                eval_batches, source, preprocessing, options, pixel_transform=pixel_transform
            )
            batches = distribute.distribute_batches(self._strategy, make_batches)
            self._pipeline = arguments, batches
        with naming_corrupt_examples(source, preprocessing.decode):
            for batch in self._pipeline[1]:
                check()
                yield batch

    def _numpy_outputs(
        self, batches: Iterable[Any]
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields labels, logits, and a bool per row that is False for padding."""
        for batch in batches:
            labels, logits, mask = (value.numpy() for value in self._outputs(*batch))
            yield labels, logits, mask > 0

    def _metrics(self, batches, num_classes) -> tuple[dict[str, float], float]:
        # float64 because float32 sums over thousands of batches lose digits.
        sums = sum(tf.cast(self._sums(*batch), tf.float64) for batch in batches).numpy()
        return metrics.metrics_from_sums(sums, num_classes), sums[-1]

    def _multi_label_metrics(self, batches, num_classes) -> tuple[dict[str, float], float]:
        examples = [
            (labels[is_example], logits[is_example])
            for labels, logits, is_example in self._numpy_outputs(batches)
        ]
        labels, logits = (np.concatenate(arrays) for arrays in zip(*examples, strict=True))
        if labels.ndim == 1:  # other data, with one label per image
            labels = np.eye(logits.shape[1], dtype=np.float32)[labels]
        return metrics.multi_label_metrics(labels, logits), len(labels)


def evaluate_run(
    workdir: PathLike,
    split: str | None = None,
    batch_size: int = 64,
    weights: str = "last",
    data: str | None = None,
    data_dir: PathLike | None = None,
    label_key: str | None = None,
) -> tuple[dict[str, float], Path]:
    """Computes the metrics of a training run on one set, without a report.

    Args:
        workdir: the run's folder.
        split: split of the data set; None for the split the run was evaluated on during training.
        batch_size: images per batch; it does not change the result.
        weights: "last", "ema" or "best", see `checkpoint.load_run`.
        data: name of another data set, see `open_set`; None for the run's own.
        data_dir: folder of the other data set, see `open_set`.
        label_key: which label of the other data set to use, see `open_set`.

    Returns:
        Dict of metrics, and the path of the JSON file they were written to.

    Raises:
        ValueError: the other data set has different classes.
    """
    run = load_run(workdir, weights)
    split = split or default_split(run.config.data, data)
    source = open_set(run.config.data, run.class_names, split, data, data_dir, label_key)
    evaluator = Evaluator(run.model, multi_label=run.multi_label)
    result = evaluator(source, run.preprocessing, batch_size, run.config.data.on_corrupt)
    words = [*([data] if data else []), split, *([weights] if weights != "last" else [])]
    name = "".join(c if c.isalnum() else "_" for c in "_".join(words))
    return result, run.workdir.write_result({**result, "step": run.step}, f"eval_{name}.json")


def default_split(config: Any, data: str | None) -> str:
    """Returns the split that is evaluated if none is named.

    Args:
        config: the `data` section of a run's config.
        data: name of another data set, or None. All photos of another folder are evaluated.
    """
    return "all" if data == "folder" else config.eval_split


def open_set(
    config: Any,
    class_names: Sequence[str],
    split: str,
    data: str | None = None,
    data_dir: PathLike | None = None,
    label_key: str | None = None,
) -> Source:
    """Opens a set that a run can be evaluated on.

    Args:
        config: the `data` section of the run's config.
        class_names: the run's classes.
        split: split of the data set.
        data: name of another data set with the same classes, such as "imagenet_v2",
            "imagenet2012_real", "folder" or "files"; None for the run's own.
        data_dir: folder of the other data set; None for the run's own or the default of TFDS.
        label_key: which label of the other data set to use, if it has several.

    Returns:
        A `Source`.

    Raises:
        ValueError: there is no such set, or it has different classes.
    """
    if data is None:
        source = source_from_config(config, split)
    else:
        options = {"data_dir": data_dir or config.data_dir, "label_key": label_key}
        if data in ("files", "folder", "tfrecord"):
            # Such a set may lack photos of some classes.
            options["class_names"] = class_names
        source = open_source(data, split, **options)
    if tuple(source.class_names) != tuple(class_names):
        raise ValueError(
            f"{source.name} has {describe_classes(source.class_names)} and the run has "
            f"{describe_classes(class_names)}: use data with the same classes in the same order."
        )
    return source
