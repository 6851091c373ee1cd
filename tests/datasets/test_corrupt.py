import numpy as np
import pytest
import tensorflow as tf
from numbered import fetch_source, photo, record_source
from training_batches import training_dataset

from noah_tf.datasets.batch_options import BatchOptions
from noah_tf.datasets.corrupt import corrupt_examples, naming_corrupt_examples
from noah_tf.datasets.pipeline import eval_batches
from noah_tf.datasets.registry import open_source
from noah_tf.images.preprocessing import Preprocessing

pytestmark = pytest.mark.one_stack

PREPROCESSING = Preprocessing(8)


@pytest.fixture
def broken(tmp_path):
    """Returns a folder of six photos, of which 2 and 5 are corrupt."""
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(3):
            data = tf.io.encode_png(np.full((8, 8, 3), number, np.uint8)).numpy()
            path = tmp_path / "train" / name / f"{number}.png"
            path.write_bytes(data[:30] if number == 2 else data)
    return open_source("folder", "train", data_dir=tmp_path)


def test_corrupt_examples(broken, scenes):
    corrupt = corrupt_examples(broken)
    assert [index for index, _ in corrupt] == [2, 5]
    assert all("PNG" in message for _, message in corrupt)
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


# --- on_corrupt="skip"

CORRUPT = (0, 7, 8, 9, 23)


@pytest.fixture(params=["records", "fetched"])
def open_source_with(request, tmp_path, monkeypatch):
    """Returns a function that opens a source of 24 examples, some of which are corrupt."""

    def open_numbered(corrupt=()):
        def data(number):
            return photo(number)[: 40 if number in corrupt else None]

        monkeypatch.setattr("numbered.photo", data)
        if request.param == "fetched":
            return fetch_source(24)
        return record_source(tmp_path, [4] * 6)

    return open_numbered


def batches(source, size=8, **options):
    options = {"on_corrupt": "skip", "pad": 2, **options}
    made = training_dataset(source, PREPROCESSING, size, **options)
    return [[part.numpy() for part in batch] for batch in made]


@pytest.mark.slow
def test_skipping_changes_nothing_if_all_are_good(open_source_with):
    source = open_source_with()
    for repeats in (1, 3):
        skipping = batches(source, repeats=repeats)
        strict = batches(source, repeats=repeats, on_corrupt="error")
        for one, other in zip(skipping, strict, strict=True):
            for part, expected in zip(one, other, strict=True):
                np.testing.assert_array_equal(part, expected)


def test_good_examples_replace_corrupt_ones(open_source_with):
    whole = batches(open_source_with())
    source = open_source_with(CORRUPT)
    results = batches(source)
    assert sum((weights == 0).sum() for *_, weights in results) == len(CORRUPT)
    for (images, labels, seeds, weights), (all_images, all_labels, all_seeds, _) in zip(
        results, whole, strict=True
    ):
        np.testing.assert_array_equal(weights == 0, np.isin(all_labels, CORRUPT))
        good = weights > 0
        np.testing.assert_array_equal(images[good], all_images[good])
        np.testing.assert_array_equal(labels[good], all_labels[good])
        np.testing.assert_array_equal(seeds[good], all_seeds[good])
        # The substitute is a good example of the batch, with its own label.
        for image, label in zip(images[~good], labels[~good], strict=True):
            assert image.tobytes() == all_images[list(all_labels).index(label)].tobytes()
            assert label in labels[good]
    later = batches(source, skip_batches=2, replicas=2)
    assert [len(batch[0]) for batch in later] == [4, 4]
    np.testing.assert_array_equal(np.concatenate([w for *_, w in later]), results[2][3])


def test_corrupt_photos_are_masked_in_evaluation(open_source_with):
    source = open_source_with(CORRUPT)
    options = BatchOptions(10, on_corrupt="skip")
    results = list(eval_batches(source, PREPROCESSING, options, replicas=2))
    labels = np.concatenate([labels for _, labels, _ in results])
    mask = np.concatenate([mask for *_, mask in results])
    assert {len(part) for part, *_ in results} == {5} and len(results) == 6
    assert labels[mask > 0].tolist() == [n for n in range(24) if n not in CORRUPT]
    np.testing.assert_array_equal(np.flatnonzero(mask == 0), [*CORRUPT, *range(24, 30)])


def test_corrupt_photo_raises_by_default(open_source_with):
    source = open_source_with(CORRUPT)
    with pytest.raises(tf.errors.InvalidArgumentError):
        batches(source, on_corrupt="error")
    with pytest.raises(tf.errors.InvalidArgumentError):
        list(eval_batches(source, PREPROCESSING, BatchOptions(8)))


def test_batch_without_a_good_photo_raises(open_source_with):
    source = open_source_with(range(24))
    skip = BatchOptions(8, on_corrupt="skip")
    for make in (batches, lambda s: list(eval_batches(s, PREPROCESSING, skip))):
        with pytest.raises(tf.errors.InvalidArgumentError, match="No photo of a batch can be"):
            make(source)


def test_missing_file_raises(broken):
    tf.io.gfile.remove(broken.files[0])
    with pytest.raises(tf.errors.NotFoundError):
        batches(broken, size=6)
