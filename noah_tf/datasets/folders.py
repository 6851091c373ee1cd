"""The source "folder": photos in one folder per class."""

import logging
from collections.abc import Sequence

from noah_tf.datasets.photo_files import IMAGE_SUFFIXES, find_photos, is_ignored, subfolders
from noah_tf.datasets.slices import Slice, stratified_indices
from noah_tf.datasets.source import Source, files_source
from noah_tf.utils.paths import PathLike, as_path

logger = logging.getLogger(__name__)

# The split of photos that are in DATA_DIR/CLASS/, without a folder for the split.
ALL = "all"
_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing", "eval", "dev"}
_LAYOUT = (
    f"DATA_DIR/SPLIT/CLASS/*{{{','.join(IMAGE_SUFFIXES)}}}, or DATA_DIR/CLASS/ with the splits "
    f"'{ALL}[:80%]' and '{ALL}[80%:]'"
)


def open_folder(
    split: str,
    data_dir: PathLike | None,
    labels_from: str | None = None,
    split_seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> Source:
    """Opens one split of a folder of photos, for `registry.open_source`.

    Args:
        split: the name of the split's folder; "all" for photos without a folder for their split; or
            a slice of either, such as "all[:80%]". A slice has the same share of each class.
        data_dir: the folder that holds `SPLIT/CLASS/PHOTO`, or `CLASS/PHOTO` for "all".
        labels_from: the split that has all classes. None is "train" if it exists, otherwise the
            split itself.
        split_seed: the seed by which slices divide the photos.
        class_names: the names of the classes, instead of `labels_from`.

    Raises:
        ValueError: `data_dir` is None, or the split or its photos do not exist, or a class is
            missing in the split that has all classes.
        FileNotFoundError: `data_dir` does not exist.
    """
    if data_dir is None:
        raise ValueError(f'name="folder" needs data_dir, laid out as {_LAYOUT}.')
    root = as_path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} does not exist; photos go to {_LAYOUT}.")
    part = Slice.parse(split)
    folder = _split_folder(root, part.name)
    source = ""
    if class_names is None:
        labels_folder = _labels_folder(root, folder, labels_from)
        class_names, source = subfolders(labels_folder), f" of {labels_folder}"
    unknown = sorted(set(subfolders(folder)) - set(class_names))
    if unknown:
        raise ValueError(
            f"{folder} has folders that are none of the {len(class_names)} classes{source}: "
            f"{', '.join(unknown)}; rename or remove them."
        )
    files, labels = _list_photos(folder, class_names)
    indices = stratified_indices(labels, part, split_seed) if files else ()
    if not len(indices):
        raise ValueError(f"{root} has no photos in the split {split!r}; they go to {_LAYOUT}.")
    logger.info("%s, split %s: %d photos, %d classes", root, split, len(indices), len(class_names))
    return files_source(
        "folder",
        split,
        [files[index] for index in indices],
        [labels[index] for index in indices],
        class_names,
    )


def _split_folder(root, name):
    if (root / name).is_dir():
        return root / name
    splits = subfolders(root)
    if name == ALL:
        if splits and {split.lower() for split in splits} <= _SPLIT_NAMES:
            raise ValueError(
                f"{root} has the folders {', '.join(splits)}, which are splits and not classes: "
                "name one of them as data.train_split and another as data.eval_split."
            )
        return root
    raise ValueError(
        f"{root} has no split {name!r}; it has {', '.join(splits) or 'no folders'}. "
        f"Photos go to {_LAYOUT}."
    )


def _labels_folder(root, folder, labels_from):
    if labels_from is not None:
        return _split_folder(root, Slice.parse(labels_from).name)
    return root / "train" if folder != root and (root / "train").is_dir() else folder


def _list_photos(folder, class_names):
    files, labels = [], []
    ignored = [str(path) for path in folder.iterdir() if is_ignored(path.name) or path.is_file()]
    for label, name in enumerate(class_names):
        if not (folder / name).is_dir():
            continue
        found = find_photos(folder / name)
        files += found.photos
        labels += [label] * len(found.photos)
        ignored += found.ignored
    if ignored:
        logger.info(
            "%s: ignored %d files and folders, such as %s", folder, len(ignored), ignored[0]
        )
    return files, labels
