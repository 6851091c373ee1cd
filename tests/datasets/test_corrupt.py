import numpy as np
import pytest
import tensorflow as tf
from numbered import fetch_source, photo, record_source
from training_batches import training_dataset

from noah_tf.datasets.batch_options import BatchOptions
from noah_tf.datasets.corrupt import corrupt_examples, naming_corrupt_examples
from noah_tf.datasets.pipeline import eval_batches
from noah_tf.datasets.registry import open_source
from noah_tf.images.augmentation import Augmentation
from noah_tf.images.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(8)


@pytest.fixture
def broken(tmp_path):
    """Six photos, of which 2 and 5 do not decode."""
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(3):
            data = tf.io.encode_png(np.full((8, 8, 3), number, np.uint8)).numpy()
            path = tmp_path / "train" / name / f"{number}.png"
            path.write_bytes(data[:30] if number == 2 else data)
    return open_source("folder", "train", data_dir=tmp_path)


def test_corrupt_examples_are_found(broken, scenes):
    found = corrupt_examples(broken)
    assert [index for index, _ in found] == [2, 5]
    assert all("PNG" in message for _, message in found)
    assert len(corrupt_examples(broken, limit=1)) == 1
    assert corrupt_examples(scenes) == []


@pytest.mark.parametrize("cache", [False, True], ids=["streamed", "cached"])
def test_error_names_the_file(broken, cache):
    for run in (
        lambda: batches(broken, size=2, cache=cache, on_corrupt="error"),
        lambda: list(eval_batches(broken, PREPROCESSING, BatchOptions(2, cache=cache))),
    ):
        message = r"example 2 of 'folder'.*a/2\.png\): .*PNG"
        with pytest.raises(ValueError, match=message), naming_corrupt_examples(broken):
            run()


def test_other_errors_pass_through(scenes):
    error = tf.errors.InvalidArgumentError(None, None, "mine")
    with pytest.raises(type(error), match="mine"), naming_corrupt_examples(scenes):
        raise error


# --- skipped and counted

BROKEN = (0, 7, 8, 9, 23)


@pytest.fixture(params=["records", "places"])
def mended(request, tmp_path, monkeypatch):
    """A function that opens 24 examples, with or without the broken ones."""

    def open_it(broken=()):
        def data(number):
            return photo(number)[: 40 if number in broken else None]

        monkeypatch.setattr("numbered.photo", data)
        if request.param == "places":
            return fetch_source(24)
        return record_source(tmp_path, [4] * 6)

    return open_it


def batches(source, size=8, **options):
    options = {"on_corrupt": "skip", "pad": 2, **options}
    made = training_dataset(source, PREPROCESSING, size, **options)
    return [[part.numpy() for part in batch] for batch in made]


def test_skipping_changes_nothing_where_all_are_good(mended):
    source = mended()
    for repeats in (1, 3):
        found = batches(source, repeats=repeats)
        strict = batches(source, repeats=repeats, on_corrupt="error")
        for one, other in zip(found, strict, strict=True):
            for part, expected in zip(one, other, strict=True):
                np.testing.assert_array_equal(part, expected)


def test_others_stand_in_for_corrupt_photos(mended):
    whole = batches(mended())
    source = mended(BROKEN)
    found = batches(source)
    assert sum((weights == 0).sum() for _, _, weights in found) == len(BROKEN)
    for (images, labels, weights), (all_images, all_labels, _) in zip(found, whole, strict=True):
        np.testing.assert_array_equal(weights == 0, np.isin(all_labels, BROKEN))
        good = weights > 0
        np.testing.assert_array_equal(images[good], all_images[good])
        np.testing.assert_array_equal(labels[good], all_labels[good])
        # The replacement is a good example of the batch, with its own label.
        for image, label in zip(images[~good], labels[~good], strict=True):
            assert image.tobytes() == all_images[list(all_labels).index(label)].tobytes()
            assert label in labels[good]
    later = batches(source, skip_batches=2, replicas=2, augmentation=Augmentation(mixup=0.5))
    assert [len(batch[0]) for batch in later] == [4, 4]
    np.testing.assert_array_equal(np.concatenate([w for _, _, w in later]), found[2][2])


def test_corrupt_photos_are_masked_in_evaluation(mended):
    source = mended(BROKEN)
    options = BatchOptions(10, on_corrupt="skip")
    found = list(eval_batches(source, PREPROCESSING, options, replicas=2))
    labels = np.concatenate([labels for _, labels, _ in found])
    mask = np.concatenate([mask for *_, mask in found])
    assert {len(part) for part, *_ in found} == {5} and len(found) == 6
    assert labels[mask > 0].tolist() == [n for n in range(24) if n not in BROKEN]
    np.testing.assert_array_equal(np.flatnonzero(mask == 0), [*BROKEN, *range(24, 30)])


def test_strict_batches_fail(mended):
    source = mended(BROKEN)
    with pytest.raises(tf.errors.InvalidArgumentError):
        batches(source, on_corrupt="error")
    with pytest.raises(tf.errors.InvalidArgumentError):
        list(eval_batches(source, PREPROCESSING, BatchOptions(8)))


def test_batch_without_a_good_photo(mended):
    source = mended(range(24))
    skip = BatchOptions(8, on_corrupt="skip")
    for make in (batches, lambda s: list(eval_batches(s, PREPROCESSING, skip))):
        with pytest.raises(tf.errors.InvalidArgumentError, match="No photo of a batch can be"):
            make(source)


def test_missing_file_is_an_error(broken):
    tf.io.gfile.remove(broken.files[0])
    with pytest.raises(tf.errors.NotFoundError):
        batches(broken, size=6)
