"""Evaluation of a model on a data set: every example counts exactly once."""

import numpy as np
import tensorflow as tf

from noah_tf.datasets.batch_options import BatchOptions
from noah_tf.datasets.corrupt import naming_corrupt_examples
from noah_tf.datasets.pipeline import eval_batches
from noah_tf.datasets.registry import open_source, source_from_config
from noah_tf.evaluation import metrics
from noah_tf.runs.checkpoint import load_run
from noah_tf.utils import distribute


class Evaluator:
    """Evaluates one model as often as wanted, tracing it once.

    Args:
        model: maps images to logits.
        strategy: the distribution strategy of the model; None for the current one.
        multi_label: whether the model was trained to give an image several classes.

    Example:

    >>> Evaluator(model)(source, preprocessing, batch_size=64)
    {'examples': 2000, 'loss': 0.31, 'top1': 0.91, 'top5': 0.99}
    """

    def __init__(self, model, strategy=None, multi_label=False):
        strategy = strategy or tf.distribute.get_strategy()
        self._strategy, self._multi_label = strategy, multi_label

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

    def __call__(self, source, preprocessing, batch_size, on_corrupt="error", check=lambda: None):
        """Metrics of all examples of a source.

        Args:
            source: a `datasets.registry.Source`.
            preprocessing: a `Preprocessing`.
            batch_size: images at once, over all replicas; it does not change the result.
            on_corrupt: what a photo is that does not decode: "error", or "skip", which leaves it
                out and counts it.
            check: called before every batch; it may raise an exception to leave.

        Returns:
            Dict of floats: "examples", "loss", "top1" and "top5" (five classes or more), or for
            a model of several labels "mAP" in place of these, see
            `metrics.multi_label_metrics`. Where such labels meet a model of one, an image is right
            if its class is one of them, and images without any are left out ("imagenet2012_real").
            "skipped" counts photos that do not decode, if there are.

        Raises:
            ValueError: a photo does not decode; the message names it. Or no example is left.
            FloatingPointError: a logit is not finite.
        """

        batches = self._batches(source, preprocessing, batch_size, on_corrupt, check)
        measure = self._multi_label_metrics if self._multi_label else self._metrics
        result, seen = measure(batches, source.num_classes)
        if seen < source.num_examples:
            result["skipped"] = int(source.num_examples - seen)
        return result

    def outputs(self, source, preprocessing, batch_size, on_corrupt="error", change=None):
        """Labels and logits of all examples of a source, in natural order, batch by batch.

        Args:
            source: a `datasets.registry.Source`.
            preprocessing: a `Preprocessing`.
            batch_size: images at once, over all replicas, which are of this machine.
            on_corrupt: see `__call__`; "skip" leaves their rows out.
            change: what is done to each picture, see `datasets.pipeline.eval_batches`.

        Yields:
            places (B,) in the natural order; labels (B,) or multi-hot (B, M); logits (B, M): numpy
            arrays.

        Raises:
            ValueError: a photo does not decode; the message names it.
        """
        start = 0
        batches = self._batches(source, preprocessing, batch_size, on_corrupt, change=change)
        for labels, logits, seen in self._rows(batches):
            yield start + np.flatnonzero(seen), labels[seen], logits[seen]
            start += len(seen)

    def _batches(
        self, source, preprocessing, batch_size, on_corrupt, check=lambda: None, change=None
    ):
        def make_batches(shard, replicas):
            return eval_batches(
                source,
                preprocessing,
                BatchOptions(batch_size, on_corrupt=on_corrupt),
                shard=shard,
                replicas=replicas,
                pixel_transform=change,
            )

        with naming_corrupt_examples(source):
            for batch in distribute.distribute_batches(self._strategy, make_batches):
                check()
                yield batch

    def _rows(self, batches):
        """Labels, logits, and whether a row is an example, of every batch as numpy arrays."""
        for batch in batches:
            labels, logits, mask = (value.numpy() for value in self._outputs(*batch))
            yield labels, logits, mask > 0

    def _metrics(self, batches, num_classes):
        # In float64, for thousands of batches add up in it.
        sums = sum(tf.cast(self._sums(*batch), tf.float64) for batch in batches).numpy()
        return metrics.metrics_from_sums(sums, num_classes), sums[-1]

    def _multi_label_metrics(self, batches, num_classes):
        parts = [(labels[seen], logits[seen]) for labels, logits, seen in self._rows(batches)]
        labels, logits = (np.concatenate(part) for part in zip(*parts, strict=True))
        return metrics.multi_label_metrics(labels, logits), len(labels)


def evaluate_run(
    workdir, split=None, batch_size=64, weights="last", data=None, data_dir=None, label_key=None
):
    """The metrics of one state of a training run on one set, without the report.

    Args:
        workdir: the run's folder.
        split: split of the data set; None for the one it was evaluated on while it trained.
        batch_size: images at once; it does not change the result.
        weights: "last", "ema" or "best", see `checkpoint.load_run`.
        data: see `open_set`, as for the next two.
        data_dir: see there.
        label_key: see there.

    Returns:
        Dict of metrics, and the path of the JSON file that has them.

    Raises:
        ValueError: the other data set has other classes.
    """
    run = load_run(workdir, weights)
    split = split or run.config.data.eval_split
    source = open_set(run.config.data, run.class_names, split, data, data_dir, label_key)
    evaluator = Evaluator(run.model, multi_label=run.multi_label)
    result = evaluator(source, run.preprocessing, batch_size, run.config.data.on_corrupt)
    parts = [*([data] if data else []), split, *([weights] if weights != "last" else [])]
    name = "".join(c if c.isalnum() else "_" for c in "_".join(parts))
    return result, run.workdir.write_result({**result, "step": run.step}, f"eval_{name}.json")


def open_set(config, class_names, split, data=None, data_dir=None, label_key=None):
    """Opens a set that a run can be evaluated on.

    Args:
        config: the `data` section of the run's config.
        class_names: the run's classes.
        split: split of the data set.
        data: another data set with the same classes, such as "imagenet_v2" or
            "imagenet2012_real"; None for the run's own.
        data_dir: where that is; None for the run's own or TFDS's.
        label_key: its label, where it has several.

    Returns:
        A `Source`.

    Raises:
        ValueError: it has other classes, or there is no such set.
    """
    if data is None:
        source = source_from_config(config, split)
    else:
        source = open_source(data, split, data_dir or config.data_dir, None, label_key)
    if tuple(source.class_names) != tuple(class_names):
        raise ValueError(
            f"{source.name} has {source.num_classes} classes, {', '.join(source.class_names[:3])} "
            f"..., and the run has {len(class_names)}, {', '.join(class_names[:3])} ...: give data "
            "with the same ones."
        )
    return source
