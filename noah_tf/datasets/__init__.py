"""Data sets: the registry opens sources of examples, and the pipeline makes batches of them."""

from noah_tf.datasets.batch_options import BatchOptions
from noah_tf.datasets.corrupt import naming_corrupt_examples, reading_problem
from noah_tf.datasets.fake import with_alpha
from noah_tf.datasets.photo_files import IMAGE_SUFFIXES, find_files, find_photos
from noah_tf.datasets.pipeline import eval_batches, photo_batches, train_batches
from noah_tf.datasets.registry import open_source, source_from_config
from noah_tf.datasets.source import Source, photos_source, random_order

__all__ = [
    "BatchOptions",
    "IMAGE_SUFFIXES",
    "Source",
    "eval_batches",
    "find_files",
    "find_photos",
    "naming_corrupt_examples",
    "open_source",
    "photo_batches",
    "photos_source",
    "random_order",
    "reading_problem",
    "source_from_config",
    "train_batches",
    "with_alpha",
]
