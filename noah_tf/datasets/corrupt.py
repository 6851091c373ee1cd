"""Photos that do not decode: found and named, or replaced and counted."""

import contextlib

import tensorflow as tf

from noah_tf.images.preprocessing import decode

ON_CORRUPT = ("error", "skip")


def corrupt_examples(source, limit=10):
    """Finds the examples whose photo does not decode, by decoding them all.

    Args:
        source: a `Source`.
        limit: stop after this many.

    Returns:
        A list of (index in natural order, what the decoder says).
    """

    def decoded(example):
        return example["index"], tf.shape(decode(example["image"]))

    examples = source.examples().map(decoded, tf.data.AUTOTUNE, deterministic=True)
    # A decoder's error does not say which photo it was about, so the gaps are looked for.
    good = {int(index) for index, _ in examples.ignore_errors()}
    bad = [index for index in range(source.num_examples) if index not in good][:limit]
    return (
        [(int(e["index"]), _decoder_message(e["image"])) for e in source.pick(bad)] if bad else []
    )


@contextlib.contextmanager
def naming_corrupt_examples(source):
    """Where a batch fails for a photo that does not decode, says which photo it is.

    Nothing is paid for it until then; the search decodes the whole split once.

    Args:
        source: the `Source` that is read inside.

    Raises:
        ValueError: a photo does not decode.

    Example:
        with naming_corrupt_examples(source):
            for images, labels in train_batches(source, ...):
                ...
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = corrupt_examples(source)
        if not found:
            raise
        lines = [f"{source.describe(index)}: {message}" for index, message in found]
        raise ValueError(
            "Photos that do not decode; replace or remove them:\n" + "\n".join(lines)
        ) from error


def _decoder_message(image_bytes):
    try:
        decode(image_bytes)
    except tf.errors.InvalidArgumentError as error:
        return error.message.split("} ")[-1].split(" [Op:")[0]
    return "decodes"


def replacing_corrupt(examples, view, size):
    """Batches of views in which other photos stand in for those that do not decode.

    A photo that fails must not move the others: each slot of a batch is filled with its own view,
    or else with the next good one of the batch (the last one after it), whose weight is 0 there.

    Args:
        examples: dataset of what `view` takes.
        view: function from an example to a tuple of tensors of fixed shapes.
        size: examples in a batch; what is missing in the last one counts as failed.

    Returns:
        A dataset of the tuple of batches, with the weights, float32 (size,), at its end.
    """

    def good(batch):
        found = tf.data.Dataset.from_tensor_slices(batch).enumerate()
        found = found.map(lambda slot, e: (slot, *view(e)), tf.data.AUTOTUNE, deterministic=True)
        found = found.ignore_errors().batch(size)
        # Read only where not one was found.
        return found.concatenate(tf.data.Dataset.from_tensors(0).map(refuse)).take(1)

    def refuse(_):
        nothing = tf.debugging.Assert(
            False, ["No photo of a batch decodes: on_corrupt='skip' is for a few broken ones."]
        )
        with tf.control_dependencies([nothing]):
            return tuple(tf.zeros([0, *spec.shape[1:]], spec.dtype) for spec in specs)

    def fill(slots, *views):
        wanted = tf.range(size, dtype=tf.int64)
        found = tf.minimum(tf.searchsorted(slots, wanted), tf.size(slots) - 1)
        weights = tf.cast(tf.gather(slots, found) == wanted, tf.float32)
        return *(tf.gather(value, found) for value in views), weights

    slots = tf.TensorSpec([None], tf.int64)
    specs = (
        slots,
        *(tf.TensorSpec([None, *s.shape], s.dtype) for s in examples.map(view).element_spec),
    )
    return examples.batch(size).flat_map(good).map(fill, tf.data.AUTOTUNE, deterministic=True)
