"""Photos on which an export is compared with its model."""

from collections.abc import Sequence

import tensorflow as tf

from noah_tf.datasets import find_photos, random_order, source_from_config
from noah_tf.images import Preprocessing, headers
from noah_tf.runs import Run
from noah_tf.utils.paths import Path, PathLike, as_path

# An encoded photo, or the path of one.
Photo = bytes | PathLike


def read_photos(
    photos: Sequence[Photo], preprocessing: Preprocessing, max_pixels: int
) -> tuple[bytes, ...]:
    """Returns the bytes of photos, after a check that an export accepts each of them.

    Args:
        photos: encoded photos, or paths of photos.
        preprocessing: the export's `Preprocessing`.
        max_pixels: the largest number of pixels that the export accepts.

    Raises:
        OSError: a file cannot be read.
        ValueError: a photo cannot be decoded, or has too many pixels.
    """
    contents = []
    for index, photo in enumerate(photos):
        if isinstance(photo, bytes):
            name, content = f"photo {index} of {len(photos)}", photo
        else:
            name, content = str(photo), as_path(photo).read_bytes()
        try:
            problem = preprocessing.problem(content, max_pixels).numpy().decode()
            if not problem:
                preprocessing.decode(content)
        except tf.errors.InvalidArgumentError:
            problem = headers.UNDECODABLE
        if problem:
            raise ValueError(
                f"The export cannot be compared with its model on {name}: {problem}. Give other "
                "photos, or raise max_pixels if the photo is too large."
            )
        contents.append(content)
    return tuple(contents)


def photos_in_folder(folder: PathLike, max_count: int) -> list[Path]:
    """Returns the paths of photos in a folder and its subfolders.

    Args:
        folder: the folder. If it has one subfolder per class, the photos come from all classes.
        max_count: the largest number of paths. If there are more photos, the paths are spread
            evenly over the sorted list of all of them.

    Raises:
        FileNotFoundError: the folder does not exist, or contains no photos.
    """
    folder = as_path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} to take photos from.")
    paths = [as_path(path) for path in find_photos(folder).photos]
    if not paths:
        raise FileNotFoundError(f"The folder {folder} contains no photos.")
    count = min(max_count, len(paths))
    return [paths[index * len(paths) // count] for index in range(count)]


def photos_of_run(run: Run, count: int) -> list[bytes]:
    """Returns random photos of the split that a run was evaluated on, the same ones each time.

    Args:
        run: the training run.
        count: the number of photos.

    Raises:
        FileNotFoundError: the data set cannot be read.
    """
    if not count:
        return []
    data = run.config.data
    try:
        source = source_from_config(data, data.eval_split)
    except (ValueError, OSError) as error:
        raise FileNotFoundError(
            f"The export is compared with its model on photos of {data.name} {data.eval_split}, "
            f"which cannot be read: {error} Give other photos (--photos=FOLDER), or skip the "
            "comparison (--count=0)."
        ) from error
    indices = random_order(0, size=source.num_examples)[:count]
    return [example["image"].numpy() for example in source.examples_at(indices)]
