"""Data sets as recipes name them."""

from noah_tf.datasets.sources import open_source


def source_from_config(config, split):
    """Opens a split of a recipe's data set.

    Args:
        config: the recipe's `data` section: `name`, `data_dir`, `image_key`, `label_key`.
        split: the split's name.

    Returns:
        A `Source`.
    """
    return open_source(
        config.name,
        split,
        data_dir=config.data_dir,
        image_key=config.image_key,
        label_key=config.label_key,
    )
