"""Evaluation of a model on a data set: every example counts exactly once."""

import numpy as np
import tensorflow as tf

from noah_tf.checkpoint import load_run
from noah_tf.datasets.pipeline import eval_batches, naming_corrupt_examples
from noah_tf.datasets.sources import source_from_config
from noah_tf.metrics import classification_metrics


class Evaluator:
    """Evaluates one model as often as wanted, tracing it once.

    Args:
        model: maps images to logits.
        strategy: the distribution strategy of the model; None for the current one.

    Example:

    >>> Evaluator(model)(source, preprocessing, batch_size=64)
    {'examples': 2000, 'loss': 0.31, 'top1': 0.91, 'top5': 0.99}
    """

    def __init__(self, model, strategy=None):
        self._strategy = strategy or tf.distribute.get_strategy()
        self._predict = tf.function(lambda images: model(images, training=False))

    def __call__(self, source, preprocessing, batch_size):
        """Metrics of all examples of a source, see `metrics.classification_metrics`.

        Args:
            source: a `datasets.sources.Source`.
            preprocessing: a `Preprocessing`.
            batch_size: images at once, over all replicas; it does not change the result.

        Raises:
            ValueError: a photo does not decode; the message names it.
        """
        with naming_corrupt_examples(source):
            return classification_metrics(
                *self.predict(eval_batches(source, preprocessing, batch_size))
            )

    def predict(self, batches):
        """Labels, (E,) or multi-hot (E, M), and logits (E, M) of all examples.

        Args:
            batches: dataset of (images, labels, mask), as `datasets.pipeline.eval_batches` makes
                it; what fills the last batch is left out.
        """
        parts = []
        for images, labels, mask in self._strategy.experimental_distribute_dataset(batches):
            logits = self._gathered(self._strategy.run(self._predict, args=(images,)))
            kept = self._gathered(mask) > 0
            parts.append((self._gathered(labels)[kept], logits[kept]))
        labels, logits = zip(*parts, strict=True)
        return np.concatenate(labels), np.concatenate(logits)

    def _gathered(self, value):
        parts = self._strategy.experimental_local_results(value)
        return np.concatenate([part.numpy() for part in parts])


def evaluate_run(workdir, split=None, batch_size=64):
    """Evaluates the newest state of a training run.

    Args:
        workdir: the run's folder.
        split: split of its data set; None for the one it was evaluated on while it trained.
        batch_size: images at once; it does not change the result.

    Returns:
        Dict of metrics, and the path of the JSON file that has them.
    """
    run = load_run(workdir)
    source = source_from_config(run.config.data, split or run.config.data.eval_split)
    metrics = Evaluator(run.model)(source, run.preprocessing, batch_size)
    name = "".join(c if c.isalnum() else "_" for c in source.split)
    return metrics, run.workdir.write_result({**metrics, "step": run.step}, f"eval_{name}.json")
