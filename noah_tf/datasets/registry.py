"""Opens any data set: a TFDS set, `digit_scenes`, folders of photos, or synthetic photos."""

import os
from typing import Any

from noah_tf.datasets.fake import open_fake
from noah_tf.datasets.folders import open_folder
from noah_tf.datasets.source import Source


def open_source(
    name: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
    download: bool = True,
    manual_dir: str | os.PathLike | None = None,
    num_classes: int | None = None,
    num_examples: int | None = None,
) -> Source:
    """Opens one split of a data set, and prepares the data set first if necessary.

    Args:
        name: a TFDS name ("cifar10", "imagenet2012", "digit_scenes/multi", ...), "folder" for
            photos in `data_dir/SPLIT/CLASS/`, or "fake" for synthetic photos, see
            `fake.open_fake`.
        split: the name of the split. TFDS sets also have slices ("train[:90%]") and sums
            ("train+test").
        data_dir: the data directory of TFDS (default: that of TFDS itself), or the folder of the
            splits.
        image_key: the feature with the photo, if a TFDS set has several images.
        label_key: the feature with the label, if a TFDS set has several. "objects/label" is the
            label of each object in a sequence. A sequence of labels or a multi-hot vector makes
            the source multi-label. The labels of "coco/2017" are the classes of all objects,
            including crowds; a photo without objects has none. "imagenet2012_real" uses
            "real_label" by default, a set of labels that is empty for some photos.
        download: whether to download and prepare a TFDS set that is not prepared yet.
        manual_dir: the folder of the archives of a TFDS set that has to be downloaded by hand, such
            as "imagenet2012" (default: `data_dir/downloads/manual`).
        num_classes: number of classes, for "fake" only.
        num_examples: number of examples, for "fake" only.

    Returns:
        A `Source`.

    Raises:
        ValueError: the name, split or key does not exist or is ambiguous, or the split is empty.
        FileNotFoundError: the data does not exist and cannot be prepared.

    Example:
        source = open_source("cifar10", "train[:90%]", data_dir="/data/tfds")
        source.num_examples, source.class_names[0]  # 45000, "airplane"
    """
    if name != "fake" and not (num_classes is None and num_examples is None):
        raise ValueError(
            f'num_classes and num_examples are for name="fake"; leave them None for {name!r}, got '
            f"{num_classes!r} and {num_examples!r}."
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


def source_from_config(config: Any, split: str) -> Source:
    """Opens a split of a recipe's data set.

    Args:
        config: the recipe's `data` section. `num_classes` and `num_examples` define a "fake" set;
            for other sets they are only expectations, which `training.recipe_checks` compares with
            the data.
        split: the name of the split.
    """
    is_fake = config.name == "fake"
    return open_source(
        config.name,
        split,
        data_dir=config.data_dir,
        image_key=config.image_key,
        label_key=config.label_key,
        manual_dir=config.manual_dir,
        num_classes=config.num_classes if is_fake else None,
        num_examples=config.num_examples if is_fake else None,
    )
