"""Opens any data set: of TFDS, `digit_scenes`, folders of photos (one a class), or drawn ones."""

from noah_tf.datasets.fake import open_fake
from noah_tf.datasets.folders import open_folder


def open_source(
    name,
    split,
    data_dir=None,
    image_key=None,
    label_key=None,
    download=True,
    manual_dir=None,
    num_classes=None,
    num_examples=None,
):
    """Opens one split of a data set, preparing it first where that is needed and possible.

    Args:
        name: a TFDS name ("cifar10", "imagenet2012", "digit_scenes/multi" ...), "folder" for
            photos in `data_dir/SPLIT/CLASS/`, or "fake" for drawn photos, see `fake.open_fake`.
        split: the split; for TFDS also its slices ("train[:90%]") and sums ("train+test").
        data_dir: TFDS's data directory (default: TFDS's own), or the folder of the splits.
        image_key: the photo's feature where a TFDS set has several.
        label_key: the label's feature where a TFDS set has several; "objects/label" reaches into
            a sequence. Sequences of labels and 0/1 vectors make the source multi-label; of
            "coco/2017", these are the classes of the objects, crowds among them, and none where
            there is no object.
            "imagenet2012_real" takes "real_label" by default: a set, of some photos empty.
        download: whether to download and prepare a TFDS set that is not there.
        manual_dir: where the archives lie of a TFDS set that has to be downloaded by hand, as
            "imagenet2012" (default: `data_dir/downloads/manual`).
        num_classes: for "fake", how many classes.
        num_examples: for "fake", how many examples.

    Returns:
        A `Source`.

    Raises:
        ValueError: name, split or key does not exist, is ambiguous, or the split is empty.
        FileNotFoundError: the data is not there and cannot be prepared.

    Example:
        source = open_source("cifar10", "train[:90%]", data_dir="/data/tfds")
        source.num_examples, source.class_names[0]  # 45000, "airplane"
    """
    if name != "fake" and not (num_classes is None and num_examples is None):
        raise ValueError(
            f'num_classes and num_examples are for name="fake"; {name!r} has its own: leave them '
            f"None; received {num_classes!r} and {num_examples!r}."
        )
    if name in ("folder", "fake"):
        if image_key or label_key or manual_dir:
            raise ValueError(
                f"image_key, label_key and manual_dir are for TFDS sets; {name!r} has none."
            )
        if name == "fake":
            return open_fake(split, num_examples, num_classes)
        return open_folder(split, data_dir)
    from noah_tf.datasets import tfds_sources  # TensorFlow Datasets is slow to import

    return tfds_sources.open_tfds(name, split, data_dir, image_key, label_key, download, manual_dir)


def source_from_config(config, split):
    """Opens a split of a recipe's data set.

    Args:
        config: the recipe's `data` section: `name`, `data_dir`, `manual_dir`, `image_key`,
            `label_key`, and for fake photos `num_classes` and `num_examples`, which of other data
            say what `recipe_checks.validate_data` expects.
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
        manual_dir=config.manual_dir,
        num_classes=config.num_classes if config.name == "fake" else None,
        num_examples=config.num_examples if config.name == "fake" else None,
    )
