"""`train_batches` with its options as keywords."""

import dataclasses

import tensorflow as tf

from noah_tf.datasets.batch_options import BatchOptions
from noah_tf.datasets.pipeline import train_batches
from noah_tf.images.random_crop import RandomCrop
from noah_tf.images.train_transform import TrainTransform


def training_dataset(
    source, preprocessing, batch_size, *, seed=1, epoch=0, **options
) -> tf.data.Dataset:
    """Calls `train_batches`; `options` are fields of its option classes, or its own keywords."""

    def pop_fields(option_class):
        names = [field.name for field in dataclasses.fields(option_class)]
        return {name: options.pop(name) for name in names if name in options}

    crop = RandomCrop(**pop_fields(RandomCrop))
    transform = TrainTransform(preprocessing, crop, **pop_fields(TrainTransform))
    batch_options = BatchOptions(batch_size, **pop_fields(BatchOptions))
    return train_batches(source, transform, batch_options, seed=seed, epoch=epoch, **options)
