"""Opens any data set: TFDS sets, folders of photos, label files, TFRecords, synthetic photos."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

from noah_tf.datasets.fake import open_fake
from noah_tf.datasets.folders import open_folder
from noah_tf.datasets.label_files import open_label_file, read_class_names
from noah_tf.datasets.source import Source
from noah_tf.datasets.tfrecord_files import open_tfrecord
from noah_tf.utils.paths import PathLike
from noah_tf.utils.validation import check_choice, is_int

FILE_FORMATS = ("tfrecord", "array_record")

# The options that only some sources have. A TFDS set has the options of "tfds".
_OPTIONS = {
    "folder": ("class_names", "split_seed"),
    "files": ("class_names",),
    "tfrecord": ("class_names", "image_key", "label_key", "num_classes"),
    "fake": ("num_classes", "num_examples"),
    "tfds": ("file_format", "image_key", "label_key", "manual_dir"),
}


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set, whose splits are sources of examples. Constructing it checks the options.

    Attributes:
        name: a TFDS name ("cifar10", "imagenet2012", "digit_scenes/multi", ...); "folder" for
            photos in `data_dir/SPLIT/CLASS/` or `data_dir/CLASS/`, see `folders.open_folder`;
            "files" for photos whose labels are in a CSV or TSV file, see
            `label_files.open_label_file`; "tfrecord" for TFRecord files, see
            `tfrecord_files.open_tfrecord`; or "fake" for synthetic photos, see `fake.open_fake`.
        data_dir: the data directory of TFDS (default: that of TFDS itself), or the folder of the
            photos, label files or TFRecord files.
        train_split: the split that has all classes, for "folder" and "files"; None for the split
            that is opened (or the folder "train", if it exists).
        image_key: the feature with the photo, if a TFDS set has several images or TFRecords have
            another key than "image/encoded".
        label_key: the feature with the label, if a TFDS set has several or TFRecords have another
            key than "image/class/label". "objects/label" is the label of each object in a sequence.
            A sequence of labels or a multi-hot vector makes a TFDS set multi-label. The labels of
            "coco/2017" are the classes of all objects, including crowds; a photo without objects
            has none. "imagenet2012_real" uses "real_label" by default, a set of labels that is
            empty for some photos.
        download: whether to download and prepare a TFDS set that is not prepared yet.
        manual_dir: the folder of the archives of a TFDS set that has to be downloaded by hand, such
            as "imagenet2012" (default: `data_dir/downloads/manual`).
        file_format: "tfrecord" or "array_record", the format of a TFDS set; None for the format
            that it has, or TFRecord. A set in ArrayRecord files is shuffled as a whole.
        class_names: the names of the classes in the order of their labels, or a text file in
            `data_dir` with one name per line; for "folder", "files" and "tfrecord".
        split_seed: the seed by which slices of folders divide the photos.
        num_classes: number of classes, for "fake", and for "tfrecord" without `class_names`.
        num_examples: number of examples, for "fake".

    Raises:
        ValueError: an option is not for this kind of data set.

    Example:
        data = DataSet("folder", "photos", train_split="all[:80%]")
        train, evaluation = data.open("all[:80%]"), data.open("all[80%:]")
    """

    name: str
    data_dir: PathLike | None = None
    train_split: str | None = None
    image_key: str | None = None
    label_key: str | None = None
    download: bool = True
    manual_dir: PathLike | None = None
    file_format: str | None = None
    class_names: str | os.PathLike | Sequence[str] | None = None
    split_seed: int = 0
    num_classes: int | None = None
    num_examples: int | None = None

    def __post_init__(self) -> None:
        if not is_int(self.split_seed) or self.split_seed < 0:
            raise ValueError(f"split_seed must be an integer from 0, got {self.split_seed!r}.")
        if self.file_format is not None:
            check_choice("file_format", self.file_format, FILE_FORMATS)
        kind = self.name if self.name in _OPTIONS else "tfds"
        for option in dict.fromkeys(name for names in _OPTIONS.values() for name in names):
            value = getattr(self, option)
            if option in _OPTIONS[kind] or not value:
                continue
            kinds = [name for name, options in _OPTIONS.items() if option in options]
            raise ValueError(
                f"{option} is for {' and '.join(kinds).replace('tfds', 'TFDS sets')}; leave it out "
                f"for {self.name!r}, got {value!r}."
            )

    @classmethod
    def from_config(cls, config: Any) -> "DataSet":
        """Returns the data set of a recipe's `data` section.

        In other recipes than those for "fake" and "tfrecord", `num_classes` and `num_examples` are
        only expectations, which `training.recipe_checks` compares with the data.

        Args:
            config: the section; sections of earlier versions lack keys.
        """
        names = [field.name for field in dataclasses.fields(cls) if field.name in config]
        values = {name: config[name] for name in names}
        kind = config.name if config.name in _OPTIONS else "tfds"
        for expectation in ("num_classes", "num_examples"):
            if expectation not in _OPTIONS[kind]:
                values.pop(expectation, None)
        return cls(**values)

    def open(self, split: str) -> Source:
        """Opens one split, and prepares a TFDS set first if necessary.

        Args:
            split: the name of the split. TFDS sets also have slices ("train[:90%]") and sums
                ("train+test"), and folders have slices. For "files" it is the label file, and for
                "tfrecord" a file or a pattern such as "train-*".

        Returns:
            A `Source`.

        Raises:
            ValueError: the name, split or key does not exist or is ambiguous, or the split is
                empty.
            FileNotFoundError: the data does not exist and cannot be prepared.
        """
        openers: dict[str, Callable[[str], Source]] = {
            "folder": self._open_folder,
            "files": self._open_files,
            "tfrecord": self._open_tfrecord,
            "fake": lambda split: open_fake(split, self.num_examples, self.num_classes),
        }
        return openers.get(self.name, self._open_tfds)(split)

    def _open_folder(self, split: str) -> Source:
        return open_folder(
            split, self.data_dir, self.train_split, self.split_seed, self._class_names()
        )

    def _open_files(self, split: str) -> Source:
        return open_label_file(split, self.data_dir, self.train_split, self._class_names())

    def _open_tfrecord(self, split: str) -> Source:
        names = self._class_names()
        if names is None and self.num_classes is not None:
            names = tuple(str(number) for number in range(self.num_classes))
        if names is None:
            raise ValueError(
                "name='tfrecord' needs data.class_names, a text file with one class name per line, "
                "or data.num_classes: TFRecords do not have the names of their classes."
            )
        return open_tfrecord(split, self.data_dir, names, self.image_key, self.label_key)

    def _class_names(self) -> tuple[str, ...] | None:
        """Returns the names of the classes if they are given."""
        if isinstance(self.class_names, (str, os.PathLike)):
            return read_class_names(self.data_dir, self.class_names)
        return None if self.class_names is None else tuple(self.class_names)

    def _open_tfds(self, split: str) -> Source:
        from noah_tf.datasets import tfds_sources  # TensorFlow Datasets is slow to import

        return tfds_sources.open_tfds(
            self.name,
            split,
            self.data_dir,
            self.image_key,
            self.label_key,
            self.download,
            self.manual_dir,
            self.file_format,
        )


def open_source(name: str, split: str, **options: Any) -> Source:
    """Opens one split of a data set, and prepares a TFDS set first if necessary.

    Args:
        name: see `DataSet`.
        split: see `DataSet.open`.
        **options: the other attributes of `DataSet`.

    Returns:
        A `Source`.

    Raises:
        ValueError: the name, split or key does not exist or is ambiguous, or the split is empty.
        FileNotFoundError: the data does not exist and cannot be prepared.

    Example:
        source = open_source("cifar10", "train[:90%]", data_dir="/data/tfds")
        source.num_examples, source.class_names[0]  # 45000, "airplane"
    """
    return DataSet(name, **options).open(split)


def source_from_config(config: Any, split: str) -> Source:
    """Opens a split of a recipe's data set.

    Args:
        config: the recipe's `data` section, see `DataSet.from_config`.
        split: the name of the split.
    """
    return DataSet.from_config(config).open(split)
