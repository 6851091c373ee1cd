"""TFDS sets as sources: finds and prepares the builder, and finds the features to use."""

import dataclasses
import difflib
import functools
import logging
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from noah_tf.datasets.records import read_records
from noah_tf.datasets.source import Source, read_by_index
from noah_tf.utils.paths import PathLike

logger = logging.getLogger(__name__)

# The intended label of a data set, if `_find_label` would choose another one.
_DEFAULT_LABELS = {"imagenet2012_real": "real_label"}


@dataclasses.dataclass(frozen=True)
class _Label:
    """A feature that can be a label.

    Attributes:
        path: the keys that lead to the feature.
        class_names: the names of its classes.
        kind: "class" (one int), "classes" (a sequence of ints) or "vector" (multi-hot).
    """

    path: tuple[str, ...]
    class_names: tuple[str, ...]
    kind: str


def open_tfds(
    name: str,
    split: str,
    data_dir: PathLike | None,
    image_key: str | None,
    label_key: str | None,
    download: bool,
    manual_dir: PathLike | None = None,
    file_format: str | None = None,
) -> Source:
    """Opens one split of a TFDS set; the arguments are those of `registry.open_source`."""
    builder = _find_builder(name, data_dir, file_format)
    # Ambiguous keys are an error before anything is downloaded.
    features = builder.info.features
    image = _find_image(features, image_key, name)
    label = _find_label(features, label_key or _DEFAULT_LABELS.get(builder.name), name)
    if not builder.is_prepared():
        if not download:
            raise FileNotFoundError(
                f"{name!r} is not prepared in {builder.data_dir}; allow the download, pass the "
                f"data_dir that holds it, or run `{_build_command(builder)}`."
            )
        prepare(builder, manual_dir=manual_dir)
        # Some builders, such as COCO's, know the class names only once they are prepared.
        features = builder.info.features
        label = _find_label(features, "/".join(label.path), name)
    files = _split_files(builder, split)
    num_examples = sum(file.take for file in files)
    parse = _parser(features, image, label)
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        fetch = _fetch_array_record(files, parse)
        read = functools.partial(read_by_index, fetch, num_examples)
    else:
        fetch = None
        ranges = tuple((str(file.filename), file.skip, file.take) for file in files)
        read = functools.partial(read_records, ranges, parse)
    return Source(
        name=name,
        split=split,
        num_examples=num_examples,
        class_names=label.class_names,
        multi_label=label.kind != "class",
        read=read,
        fetch=fetch,
    )


def prepare(
    builder: Any,
    max_examples_per_split: int | None = None,
    manual_dir: PathLike | None = None,
) -> None:
    """Downloads and prepares a TFDS set. Another process may prepare the same set meanwhile.

    Args:
        builder: a `tfds.core.DatasetBuilder`.
        max_examples_per_split: the largest number of examples per split, for tests.
        manual_dir: the folder of archives that have to be downloaded by hand; None uses the default
            of TFDS.

    Raises:
        FileNotFoundError: the set cannot be downloaded or prepared.
    """
    config = tfds.download.DownloadConfig(
        max_examples_per_split=max_examples_per_split,
        try_download_gcs=False,
        manual_dir=manual_dir,
    )
    logger.info("preparing %s in %s (once)", builder.info.full_name, builder.data_dir)
    try:
        builder.download_and_prepare(download_config=config)
    # Builders raise many kinds of errors (assertions, network and file errors). The message below
    # says what to do in each case.
    except Exception as error:
        # TFDS writes to a temporary folder and renames it, which fails if another process was
        # first.
        if not builder.is_prepared():
            raise FileNotFoundError(_how_to_prepare(builder, error, manual_dir)) from error
        builder.info.read_from_directory(builder.data_dir)


def _how_to_prepare(builder, error, manual_dir):
    missing = f"{builder.info.full_name!r} is not in {builder.data_dir}"
    cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return (
            f"{missing} and could not be prepared ({cause}); pass the data_dir that holds it, or "
            f"run `{_build_command(builder)}` on a machine with network access and copy the folder."
        )
    manual = manual_dir or f"{builder.data_dir_root}/downloads/manual"
    option = f" --manual_dir={manual}" if manual_dir else ""
    if builder.name == "imagenet2012":
        return (
            f"{missing} and could not be prepared ({cause}); log in at https://image-net.org, "
            "download the two archives of ILSVRC2012 and run:\n"
            f"  mkdir -p {manual}\n"
            f"  mv ILSVRC2012_img_train.tar ILSVRC2012_img_val.tar {manual}/\n"
            f"  tfds build imagenet2012 --data_dir={builder.data_dir_root}{option}"
        )
    return (
        f"{missing} and could not be prepared ({cause}); download it by hand to "
        f"{manual}: {builder.MANUAL_DOWNLOAD_INSTRUCTIONS.strip()}"
    )


def _build_command(builder, data_dir=None):
    config = f"/{builder.builder_config.name}" if builder.builder_config else ""
    return f"tfds build {builder.name}{config} --data_dir={data_dir or builder.data_dir_root}"


def _find_builder(name, data_dir, file_format):
    if name.split("/")[0].split(":")[0] == "digit_scenes":
        import noah_tf.datasets.digit_scenes  # noqa: F401  (importing registers the builder)
    options = {} if file_format is None else {"file_format": file_format}
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        stored = builder.info.file_format.value if builder.is_prepared() else file_format
        if stored == file_format or file_format is None:
            return tfds.builder(name, data_dir=data_dir, **options)
    except tfds.core.DatasetNotFoundError as error:
        known = ["digit_scenes", *tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(name.split("/")[0], known, n=3, cutoff=0.4)
        hint = f"the nearest names are {', '.join(near)}" if near else "`tfds.list_builders()`"
        raise ValueError(
            f"There is no data set {name!r} in TFDS or in {data_dir or 'its data directory'}; "
            f'{hint}; for a folder of photos, use name="folder".'
        ) from error
    except (ValueError, AssertionError, RuntimeError) as error:
        # The config or version is unknown; the message of TFDS lists those that exist.
        raise ValueError(f"TFDS cannot open {name!r}: {error}") from error
    raise ValueError(
        f"{name!r} is stored as {stored} in {builder.data_dir}, got file_format={file_format!r}: "
        f"prepare it in another folder ({_build_command(builder, 'FOLDER')} "
        f"--file_format={file_format}) and give that folder as data_dir."
    )


def _split_files(builder, split):
    """Returns the split's files, a list of TFDS's `FileInstruction`."""
    splits = builder.info.splits
    file_format = builder.info.file_format
    if file_format not in (tfds.core.FileFormat.TFRECORD, tfds.core.FileFormat.ARRAY_RECORD):
        raise ValueError(
            f"{builder.name!r} is stored as {file_format.value}, and only TFRecord and ArrayRecord "
            f"are read; prepare it again: {_build_command(builder)} --file_format=tfrecord"
        )
    sizes = ", ".join(f"{key}: {value.num_examples}" for key, value in splits.items())
    try:
        instructions = splits[split].file_instructions
    except (KeyError, ValueError, AssertionError, NotImplementedError) as error:
        cause = str(error).splitlines()[-1].rstrip(".")
        raise ValueError(
            f"{builder.name!r} has no split {split!r} ({cause}); it has {sizes}, their slices "
            "(train[:90%]) and their sums (train+test)."
        ) from error
    files = [file for file in instructions if file.take]
    if not files:
        raise ValueError(f"Split {split!r} of {builder.name!r} is empty; the sizes are {sizes}.")
    return files


def _fetch_array_record(files, parse):
    """Returns `Source.fetch` for the records of ArrayRecord files, which are read by position."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    records = ArrayRecordDataSource(files)

    def fetch(index):
        record = tf.numpy_function(lambda i: records[int(i)], [index], tf.string)
        record.set_shape([])
        return {**parse(record), "index": index}

    return fetch


def _find_image(features, wanted, name):
    keys = [
        key
        for key, feature in features.items()
        if type(feature) is tfds.features.Image and feature.np_dtype != np.float32
    ]
    return _choose_key(keys, wanted, "image", features, name)


def _find_label(features, wanted, name):
    labels = {"/".join(label.path): label for label in _possible_labels(features)}
    vectors = {key: label for key, label in labels.items() if label.kind == "vector"}
    if wanted in vectors:
        return vectors[wanted]
    keys = [key for key in labels if key not in vectors]
    # One label per example takes precedence over several, and a label of the photo over labels of
    # its objects.
    ranks = {key: (labels[key].kind != "class", len(labels[key].path)) for key in keys}
    best = [key for key in keys if ranks[key] == min(ranks.values())]
    return labels[_choose_key(keys if wanted else best, wanted, "label", features, name)]


def _choose_key(keys, wanted, role, features, name):
    """Returns the wanted key, the only key, or the key that is named like its role."""
    option = f"{role}_key"
    if wanted is not None:
        if wanted in keys:
            return wanted
        raise ValueError(
            f"{name!r} has no {role} {wanted!r} ({option}); its features are {_summary(features)}."
        )
    if len(keys) == 1:
        return keys[0]
    if role in keys:
        return role
    count = f"several {role}s ({', '.join(keys)})" if keys else f"no {role}"
    raise ValueError(
        f"{name!r} has {count}; choose a feature with {option}. Its features are "
        f"{_summary(features)}."
    )


def _summary(features):
    return ", ".join(f"{key} ({type(value).__name__})" for key, value in features.items())


def _possible_labels(features):
    """Yields a `_Label` for each feature that can be one."""
    classes = _class_labels(features)
    for path, feature, in_sequence in classes:
        yield _Label(path, tuple(feature.names), "classes" if in_sequence else "class")
    for key, feature in features.items():
        shape = feature.shape if type(feature) is tfds.features.Tensor else ()
        if len(shape) == 1 and shape[0]:
            same_size = [f.names for _, f, _ in classes if f.num_classes == shape[0]]
            names = same_size[0] if same_size else [str(i) for i in range(shape[0])]
            yield _Label((key,), tuple(names), "vector")


def _class_labels(features):
    """Returns triples (path, ClassLabel, whether it is in a sequence), two levels deep."""
    labels = []
    for key, feature in features.items():
        in_sequence = isinstance(feature, tfds.features.Sequence)
        inner = feature.feature if in_sequence else feature
        if isinstance(inner, tfds.features.ClassLabel):
            labels.append(((key,), inner, in_sequence))
        elif isinstance(inner, tfds.features.FeaturesDict):
            labels += [
                ((key, name), child, in_sequence)
                for name, child in inner.items()
                if isinstance(child, tfds.features.ClassLabel)
            ]
    return [label for label in labels if label[1].num_classes]


def _parser(features, image_key, label):
    """Returns a function from a serialized record to an example, see `Source.examples`.

    The crowds of COCO count as objects: their class is visible somewhere in the crowd's box.
    """
    box_keys = [k for k, f in features.items() if isinstance(f, tfds.features.BBoxFeature)][:1]
    object_keys = [] if box_keys else _labeled_boxes(features, len(label.class_names))
    wanted = dict.fromkeys((image_key, *box_keys), True)
    wanted[label.path[0]] = {label.path[1]: True} if len(label.path) == 2 else True
    for key, box_key, name_key in object_keys:
        wanted[key] = {**wanted.get(key, {}), box_key: True, name_key: True}
    decoding = tfds.decode.PartialDecoding(wanted, {image_key: tfds.decode.SkipDecoding()})
    wanted_features = decoding.extract_features(features)
    num_classes = len(label.class_names)

    def parse(record):
        values = wanted_features.deserialize_example(record, decoders=decoding.decoders)
        value = functools.reduce(lambda tree, key: tree[key], label.path, values)
        if label.kind == "classes":
            value = tf.clip_by_value(tf.reduce_sum(tf.one_hot(value, num_classes), 0), 0.0, 1.0)
        dtype = tf.int64 if label.kind == "class" else tf.float32
        example = {"image": values[image_key], "label": tf.cast(value, dtype)}
        if box_keys:
            example["bbox"] = values[box_keys[0]]
        for key, box_key, name_key in object_keys:
            objects = values[key]
            example["boxes"] = _class_boxes(objects[box_key], objects[name_key], num_classes)
        return example

    return parse


def _labeled_boxes(features, num_classes):
    """Returns [(key, key of the box, key of the label)] of the first sequence that has both."""
    for key, feature in features.items():
        inner = getattr(feature, "feature", None)
        if not isinstance(inner, tfds.features.FeaturesDict):
            continue
        boxes = [k for k, f in inner.items() if isinstance(f, tfds.features.BBoxFeature)]
        labels = [
            k
            for k, f in inner.items()
            if isinstance(f, tfds.features.ClassLabel) and f.num_classes == num_classes
        ]
        if boxes and labels:
            return [(key, boxes[0], labels[0])]
    return []


def _class_boxes(boxes, labels, num_classes):
    """Returns the smallest box around all objects of each class, (num_classes, 4).

    A class without objects has zeros.
    """
    top_left = tf.math.unsorted_segment_min(boxes[:, :2], labels, num_classes)
    bottom_right = tf.math.unsorted_segment_max(boxes[:, 2:], labels, num_classes)
    has_objects = tf.math.unsorted_segment_sum(tf.ones_like(boxes), labels, num_classes) > 0
    return tf.where(has_objects, tf.concat([top_left, bottom_right], 1), 0.0)
