"""Photos that cannot be decoded: named in an error, or replaced and counted."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from noah_tf.datasets.source import Source
from noah_tf.images import Preprocessing, decode, headers
from noah_tf.utils.paths import as_path

_ANY_SIZE = 2**40  # pixels


def corrupt_examples(
    source: Source, limit: int = 10, decode_photo: Callable[[tf.Tensor], tf.Tensor] = decode
) -> list[tuple[int, str]]:
    """Returns the examples whose photo cannot be decoded, by decoding the whole split.

    Args:
        source: the examples.
        decode_photo: the decoder.
        limit: the largest number of examples to return.

    Returns:
        A list of (index in natural order, message of the decoder).
    """

    def decoded(example):
        return example["index"], tf.shape(decode_photo(example["image"]))

    examples = source.examples().map(decoded, tf.data.AUTOTUNE, deterministic=True)
    # The error of a decoder does not name the photo, so the missing indices are the corrupt ones.
    good = {int(index) for index, _ in examples.ignore_errors()}
    corrupt = [index for index in range(source.num_examples) if index not in good][:limit]
    if not corrupt:
        return []
    return [
        (int(example["index"]), _decoder_message(example["image"], decode_photo))
        for example in source.examples_at(corrupt)
    ]


@contextlib.contextmanager
def naming_corrupt_examples(
    source: Source, decode_photo: Callable[[tf.Tensor], tf.Tensor] = decode
) -> Iterator[None]:
    """Replaces the error about a photo that cannot be decoded by one that names the photo.

    It costs nothing until a batch fails. It then decodes the whole split once to find the photo.

    Args:
        source: the `Source` that is read in the block.
        decode_photo: the decoder that is used in the block, such as `Preprocessing.decode`.

    Raises:
        ValueError: a photo cannot be decoded.

    Example:
        with naming_corrupt_examples(source):
            for images, labels, mask in eval_batches(source, ...):
                ...
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        corrupt = corrupt_examples(source, decode_photo=decode_photo)
        if not corrupt:
            raise
        lines = [f"{source.describe(index)}: {message}" for index, message in corrupt]
        raise ValueError(
            "Some photos cannot be decoded; replace or remove them:\n" + "\n".join(lines)
        ) from error


def reading_problem(path: str, preprocessing: Preprocessing, max_pixels: int = _ANY_SIZE) -> str:
    """Returns why the photo in a file cannot be read or decoded; an empty string if it can.

    Args:
        path: the file.
        preprocessing: the `Preprocessing` that decodes it.
        max_pixels: the largest number of pixels allowed.
    """
    try:
        image_bytes = as_path(path).read_bytes()
        problem = preprocessing.problem(image_bytes, max_pixels).numpy().decode()
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    except tf.errors.InvalidArgumentError:
        return headers.UNDECODABLE
    return problem or _decoder_message(image_bytes, preprocessing.decode)


def _decoder_message(image_bytes, decode_photo):
    """Returns the decoder's message, or an empty string if the photo can be decoded."""
    try:
        decode_photo(image_bytes)
    except tf.errors.InvalidArgumentError as error:
        message = error.message.split("} ")[-1].split(" [Op:")[0]
        # An assertion quotes its texts behind these words.
        _, _, data = message.partition("Summarized data: ")
        return " ".join(re.findall("b'(.*?)'", data)) or message
    return ""


def replacing_corrupt(
    examples: tf.data.Dataset,
    transform: Callable[[dict[str, Any]], tuple[tf.Tensor, ...]],
    batch_size: int,
) -> tf.data.Dataset:
    """Returns batches in which other examples stand in for those with a corrupt photo.

    A corrupt photo does not move the other examples to other slots of the batch. Its own slot gets
    the next good example of the batch, or the last good one if none follows, with weight 0.

    Args:
        examples: a dataset of the arguments of `transform`.
        transform: a function from an example to a tuple of tensors of fixed shapes. It raises
            InvalidArgumentError for a corrupt photo.
        batch_size: examples per batch. If the last batch is smaller, its missing examples count as
            corrupt.

    Returns:
        A dataset of the tuples in batches, with the weights, float32 (batch_size,), at their end.
    """

    def transform_good(batch):
        numbered = tf.data.Dataset.from_tensor_slices(batch).enumerate()
        transformed = numbered.map(
            lambda slot, example: (slot, *transform(example)), tf.data.AUTOTUNE, deterministic=True
        )
        good = transformed.ignore_errors().batch(batch_size)
        # The error is read only if the batch has no good example.
        error = tf.data.Dataset.from_tensors(0).map(raise_error)
        return good.concatenate(error).take(1)

    def raise_error(_):
        message = "No photo of a batch can be decoded: on_corrupt='skip' is for a few broken ones."
        failure = tf.debugging.Assert(False, [message])
        with tf.control_dependencies([failure]):
            return tuple(tf.zeros([0, *spec.shape[1:]], spec.dtype) for spec in specs)

    def fill_slots(good_slots, *values):
        slots = tf.range(batch_size, dtype=tf.int64)
        rows = tf.minimum(tf.searchsorted(good_slots, slots), tf.size(good_slots) - 1)
        weights = tf.cast(tf.gather(good_slots, rows) == slots, tf.float32)
        return *(tf.gather(value, rows) for value in values), weights

    element_spec = examples.map(transform).element_spec
    specs = (
        tf.TensorSpec([None], tf.int64),
        *(tf.TensorSpec([None, *spec.shape], spec.dtype) for spec in element_spec),
    )
    batches = examples.batch(batch_size).flat_map(transform_good)
    return batches.map(fill_slots, tf.data.AUTOTUNE, deterministic=True)
