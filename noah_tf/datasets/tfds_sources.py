"""TFDS sets as sources: find the builder, prepare it, find photo and label among its features."""

import dataclasses
import difflib
import functools
import logging

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from noah_tf.datasets.records import read_records
from noah_tf.datasets.source import Source

logger = logging.getLogger(__name__)

# The label that a data set is for, where it is not the one that the rules below would choose.
_USUAL_LABELS = {"imagenet2012_real": "real_label"}


@dataclasses.dataclass(frozen=True)
class _Label:
    """A label among the features.

    Attributes:
        path: the keys that lead to it.
        class_names: its classes' names.
        kind: "class" (one int), "classes" (a sequence of ints) or "vector" (zeros and ones).
    """

    path: tuple
    class_names: tuple
    kind: str


def open_tfds(name, split, data_dir, image_key, label_key, download, manual_dir=None):
    """`open_source` for a TFDS set."""
    builder = _find_builder(name, data_dir)
    # Before anything is downloaded: which features are the photo and the label.
    features = builder.info.features
    image = _find_image(features, image_key, name)
    label = _find_label(features, label_key or _USUAL_LABELS.get(builder.name), name)
    if not builder.is_prepared():
        if not download:
            raise FileNotFoundError(
                f"{name!r} is not prepared in {builder.data_dir}; allow the download, pass the "
                f"data_dir that holds it, or run `{_build_command(builder)}`."
            )
        prepare(builder, manual_dir=manual_dir)
        # Some builders learn the names of the classes while they prepare, as COCO's does.
        features = builder.info.features
        label = _find_label(features, "/".join(label.path), name)
    files = _split_files(builder, split)
    return Source(
        name=name,
        split=split,
        num_examples=sum(take for _, _, take in files),
        class_names=label.class_names,
        multi_label=label.kind != "class",
        read=functools.partial(read_records, files, _parser(features, image, label)),
    )


def prepare(builder, max_examples_per_split=None, manual_dir=None):
    """Prepares a TFDS builder's data, also while another process does the same.

    Args:
        builder: a `tfds.core.DatasetBuilder`.
        max_examples_per_split: stop after this many; for tests.
        manual_dir: where archives lie that have to be downloaded by hand; None for TFDS's default.

    Raises:
        FileNotFoundError: it cannot be downloaded or made.
    """
    config = tfds.download.DownloadConfig(
        max_examples_per_split=max_examples_per_split,
        try_download_gcs=False,
        manual_dir=manual_dir,
    )
    logger.info("preparing %s in %s (once)", builder.info.full_name, builder.data_dir)
    try:
        builder.download_and_prepare(download_config=config)
    # Whatever a builder raises (its own assertions, network and file errors), the cure is named
    # here and the cause stays attached.
    except Exception as error:
        # TFDS writes to a directory of its own and renames it: of two at once the later fails.
        if not builder.is_prepared():
            raise FileNotFoundError(_how_to_prepare(builder, error, manual_dir)) from error
        builder.info.read_from_directory(builder.data_dir)


def _how_to_prepare(builder, error, manual_dir):
    searched = f"{builder.info.full_name!r} is not in {builder.data_dir}"
    cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return (
            f"{searched} and could not be prepared ({cause}); pass the data_dir that holds it, or "
            f"run `{_build_command(builder)}` where there is a network and copy the directory."
        )
    manual = manual_dir or f"{builder.data_dir_root}/downloads/manual"
    option = f" --manual_dir={manual}" if manual_dir else ""
    if builder.name == "imagenet2012":
        return (
            f"{searched} and could not be prepared ({cause}); log in at https://image-net.org, "
            "download the two archives of ILSVRC2012 and run:\n"
            f"  mkdir -p {manual}\n"
            f"  mv ILSVRC2012_img_train.tar ILSVRC2012_img_val.tar {manual}/\n"
            f"  tfds build imagenet2012 --data_dir={builder.data_dir_root}{option}"
        )
    return (
        f"{searched} and could not be prepared ({cause}); it has to be downloaded by hand to "
        f"{manual}: {builder.MANUAL_DOWNLOAD_INSTRUCTIONS.strip()}"
    )


def _build_command(builder):
    config = f"/{builder.builder_config.name}" if builder.builder_config else ""
    return f"tfds build {builder.name}{config} --data_dir={builder.data_dir_root}"


def _find_builder(name, data_dir):
    if name.split("/")[0].split(":")[0] == "digit_scenes":
        import noah_tf.datasets.digit_scenes  # noqa: F401  (importing registers the builder)
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = ["digit_scenes", *tfds.list_builders(with_community_datasets=False)]
        near = _nearest(name.split("/")[0], known)
        hint = f"the nearest names are {', '.join(near)}" if near else "`tfds.list_builders()`"
        raise ValueError(
            f"There is no data set {name!r} in TFDS or in {data_dir or 'its data directory'}; "
            f'{hint}; class folders are name="folder".'
        ) from error
    except (ValueError, AssertionError, RuntimeError) as error:
        # An unknown config or version; TFDS's last line says what exists.
        raise ValueError(f"TFDS cannot open {name!r}: {error}") from error


def _split_files(builder, split):
    """The split's files as a tuple of (path, records to skip, records to take)."""
    splits = builder.info.splits
    file_format = builder.info.file_format
    if file_format != tfds.core.FileFormat.TFRECORD:
        raise ValueError(
            f"{builder.name!r} is stored as {file_format.value}; prepare it with "
            "file_format='tfrecord'."
        )
    sizes = ", ".join(f"{key}: {value.num_examples}" for key, value in splits.items())
    try:
        instructions = splits[split].file_instructions
    except (KeyError, ValueError, AssertionError) as error:
        cause = str(error).splitlines()[-1].rstrip(".")
        raise ValueError(
            f"{builder.name!r} has no split {split!r} ({cause}); it has {sizes}, their slices "
            "(train[:90%]) and their sums (train+test)."
        ) from error
    files = tuple((str(f.filename), f.skip, f.take) for f in instructions if f.take)
    if not files:
        raise ValueError(f"Split {split!r} of {builder.name!r} is empty; the sizes are {sizes}.")
    return files


def _find_image(features, wanted, name):
    found = [
        key
        for key, feature in features.items()
        if type(feature) is tfds.features.Image and feature.np_dtype != np.float32
    ]
    return _choose(found, wanted, "image", features, name)


def _find_label(features, wanted, name):
    labels = {"/".join(label.path): label for label in _labels(features)}
    vectors = {k: v for k, v in labels.items() if v.kind == "vector"}
    if wanted in vectors:
        return vectors[wanted]
    named = [key for key in labels if key not in vectors]
    # One label an example before several; those of the photo before those of its parts.
    ranks = {key: (labels[key].kind != "class", len(labels[key].path)) for key in named}
    best = [key for key in named if ranks[key] == min(ranks.values())]
    return labels[_choose(named if wanted else best, wanted, "label", features, name)]


def _choose(found, wanted, what, features, name):
    """The wanted key, or the only one found, or the one with the usual name."""
    option = f"{what}_key"
    if wanted is not None:
        if wanted in found:
            return wanted
        raise ValueError(
            f"{option}={wanted!r} is no {what} of {name!r}; its features are {_summary(features)}."
        )
    if len(found) == 1:
        return found[0]
    if what in found:
        return what
    amount = f"several {what}s ({', '.join(found)})" if found else f"no {what}"
    raise ValueError(
        f"{name!r} has {amount}; say which feature with {option}. Its features are "
        f"{_summary(features)}."
    )


def _summary(features):
    return ", ".join(f"{key} ({type(value).__name__})" for key, value in features.items())


def _labels(features):
    """Every feature that can be a label."""
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
    """Triples (path, ClassLabel, whether it is repeated), two levels deep."""
    found = []
    for key, feature in features.items():
        repeated = isinstance(feature, tfds.features.Sequence)
        inner = feature.feature if repeated else feature
        if isinstance(inner, tfds.features.ClassLabel):
            found.append(((key,), inner, repeated))
        elif isinstance(inner, tfds.features.FeaturesDict):
            found += [
                ((key, name), part, repeated)
                for name, part in inner.items()
                if isinstance(part, tfds.features.ClassLabel)
            ]
    return [entry for entry in found if entry[1].num_classes]


def _parser(features, image, label):
    """A function from a serialised record to {"image", "label"} and perhaps "bbox" or "boxes".

    COCO's crowds are objects as others: the class is in the image, somewhere in the crowd's box.
    """
    boxes = [k for k, f in features.items() if isinstance(f, tfds.features.BBoxFeature)][:1]
    objects = [] if boxes else _labelled_boxes(features, len(label.class_names))
    wanted = dict.fromkeys((image, *boxes), True)
    wanted[label.path[0]] = {label.path[1]: True} if len(label.path) == 2 else True
    for key, box, name in objects:
        wanted[key] = {**wanted.get(key, {}), box: True, name: True}
    decoding = tfds.decode.PartialDecoding(wanted, {image: tfds.decode.SkipDecoding()})
    kept = decoding.extract_features(features)
    num_classes = len(label.class_names)

    def parse(record):
        values = kept.deserialize_example(record, decoders=decoding.decoders)
        value = functools.reduce(lambda tree, key: tree[key], label.path, values)
        if label.kind == "classes":
            value = tf.clip_by_value(tf.reduce_sum(tf.one_hot(value, num_classes), 0), 0.0, 1.0)
        dtype = tf.int64 if label.kind == "class" else tf.float32
        example = {"image": values[image], "label": tf.cast(value, dtype)}
        if boxes:
            example["bbox"] = values[boxes[0]]
        for key, box, name in objects:
            example["boxes"] = _class_boxes(values[key][box], values[key][name], num_classes)
        return example

    return parse


def _labelled_boxes(features, num_classes):
    """(key, key of the box, key of the label) of the first sequence of boxes with labels."""
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
    """Of each class the smallest box around all its objects, (num_classes, 4), else zeros."""
    least = tf.math.unsorted_segment_min(boxes[:, :2], labels, num_classes)
    most = tf.math.unsorted_segment_max(boxes[:, 2:], labels, num_classes)
    found = tf.math.unsorted_segment_sum(tf.ones_like(boxes), labels, num_classes) > 0
    return tf.where(found, tf.concat([least, most], 1), 0.0)


def _nearest(wanted, known):
    """Up to three of the known words, the most similar first."""
    return difflib.get_close_matches(wanted, list(known), n=3, cutoff=0.4)
