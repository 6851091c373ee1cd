"""Opens any data set: of TFDS, `digit_scenes`, or folders of photos, one a class."""

from noah_tf.datasets.folders import open_folder


def open_source(name, split, data_dir=None, image_key=None, label_key=None, download=True):
    """Opens one split of a data set, preparing it first where that is needed and possible.

    Args:
        name: a TFDS name ("cifar10", "imagenet2012", "digit_scenes/multi" ...), or "folder" for
            photos in `data_dir/SPLIT/CLASS/`.
        split: the split; for TFDS also its slices ("train[:90%]") and sums ("train+test").
        data_dir: TFDS's data directory (default: TFDS's own), or the folder of the splits.
        image_key: the photo's feature where a TFDS set has several.
        label_key: the label's feature where a TFDS set has several; "objects/label" reaches into
            a sequence. Sequences of labels and 0/1 vectors make the source multi-label.
        download: whether to download and prepare a TFDS set that is not there.

    Returns:
        A `Source`.

    Raises:
        ValueError: name, split or key does not exist, is ambiguous, or the split is empty.
        FileNotFoundError: the data is not there and cannot be prepared.

    Example:
        source = open_source("cifar10", "train[:90%]", data_dir="/data/tfds")
        source.num_examples, source.class_names[0]  # 45000, "airplane"
    """
    if name == "folder":
        if image_key or label_key:
            raise ValueError("image_key and label_key are for TFDS sets; a folder has none.")
        return open_folder(split, data_dir)
    from noah_tf.datasets import tfds_sources  # TensorFlow Datasets is slow to import

    return tfds_sources.open_tfds(name, split, data_dir, image_key, label_key, download)


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
