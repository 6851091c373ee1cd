import re

import ml_collections
import numpy as np
import pytest
import tensorflow as tf
from stacks import slow_on_one_stack
from training_batches import training_dataset

from noah_tf.datasets.batch_options import BatchOptions
from noah_tf.datasets.pipeline import eval_batches, train_batches
from noah_tf.datasets.registry import open_source
from noah_tf.images.augmentation import Augmentation
from noah_tf.images.preprocessing import Preprocessing, decode
from noah_tf.images.random_crop import RandomCrop
from noah_tf.images.train_transform import TrainTransform

PREPROCESSING = Preprocessing(64)
CACHES = pytest.mark.parametrize("cache", [False, True], ids=["streamed", "cached"])


def batches(source, size=32, rounds=1, **options):
    options = {"shuffle_buffer": 50, **options}
    results = []
    dataset = training_dataset(source, PREPROCESSING, size, **options).repeat(rounds)
    for images, labels, _, weights in dataset:
        np.testing.assert_array_equal(weights, np.ones(len(images), np.float32))
        results.append((images.numpy(), labels.numpy()))
    return results


def assert_same(got, want):
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        for part, expected in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, expected)


def image_set(results):
    return {image.tobytes() for images, _ in results for image in images}


@pytest.fixture(scope="module")
def cropped(scenes):
    """The center crops and the labels of all scenes, in natural order."""
    examples = scenes.examples()
    images = [PREPROCESSING.center_crop(decode(example["image"])) for example in examples]
    labels = np.array([int(example["label"]) for example in examples])
    return tf.cast(tf.stack(images), tf.uint8).numpy(), labels


@pytest.fixture(scope="module")
def evaluated(cropped):
    """The preprocessed images and the labels of all scenes, in natural order."""
    images, labels = cropped
    return PREPROCESSING.normalize(images).numpy(), labels


@CACHES
def test_shapes(scenes, cache):
    results = batches(scenes, cache=cache)
    assert len(results) == 6, "200 examples fill six batches of 32"
    images, labels = results[0]
    assert (images.shape, images.dtype) == ((32, 64, 64, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((32,), np.int32)


def test_multi_label_shapes(tfds_dir):
    source = open_source("digit_scenes/multi", "train", data_dir=tfds_dir)
    _, labels = batches(source)[0]
    assert (labels.shape, labels.dtype) == ((32, 10), np.float32)


@CACHES
def test_every_example_once(scenes, cropped, cache):
    plain = {"crop_scale": None, "flip": False, "cache": cache}
    results = batches(scenes, size=10, **plain)
    want = {image.tobytes() for image in cropped[0]}
    assert len(results) == 20 and image_set(results) == want and len(want) == 200


@CACHES
def test_labels_stay_with_their_images(scenes, cropped, cache):
    label_of = {image.tobytes(): label for image, label in zip(*cropped, strict=True)}
    for images, labels in batches(scenes, crop_scale=None, flip=False, cache=cache):
        assert [label_of[image.tobytes()] for image in images] == labels.tolist()


@CACHES
def test_batches_are_a_function_of_seed_and_epoch(scenes, cache):
    first = batches(scenes, cache=cache, pad=3)
    tf.random.set_seed(77)
    # The batches of BatchNorm's statistics are those of a pipeline that begins again.
    assert_same(batches(scenes, cache=cache, pad=3, rounds=2), first + first)
    for other in ({"seed": 2}, {"epoch": 1}):
        changed = batches(scenes, cache=cache, pad=3, **other)
        assert (changed[0][1] != first[0][1]).any(), "the order differs"
        assert not image_set(changed) & image_set(first), "the crops differ"


@CACHES
def test_skipping_continues_the_epoch(scenes, cache):
    whole = batches(scenes, cache=cache)
    for skipped in (1, 4, 6):
        assert_same(batches(scenes, cache=cache, skip_batches=skipped), whole[skipped:])


@slow_on_one_stack
def test_skipped_examples_are_not_decoded(tmp_path):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    good = tf.io.encode_png(np.zeros((64, 64, 3), np.uint8)).numpy()
    for number in range(8):
        (folder / f"{number}.png").write_bytes(good)
    source = open_source("folder", "train", data_dir=tmp_path)
    used = []
    for number in range(8):
        (folder / f"{number}.png").write_bytes(b"broken")
        try:
            batches(source, size=4, skip_batches=1)
        except tf.errors.InvalidArgumentError:
            used.append(number)
        (folder / f"{number}.png").write_bytes(good)
    assert len(used) == 4, "the four photos of the skipped batch are never decoded"


class Counted(Preprocessing):
    """Records how often it is traced."""

    traced = []

    def random_crop(self, *args, **options):
        self.traced.append("training")
        return super().random_crop(*args, **options)

    def evaluation(self, *args):
        self.traced.append("evaluation")
        return super().evaluation(*args)


@pytest.mark.slow
@pytest.mark.parametrize(("on_corrupt", "size"), [("error", 16), ("skip", 17)])
def test_graphs_are_traced_once_for_all_epochs(scenes, on_corrupt, size):
    preprocessing = Counted(size)
    options = {"crop_scale": [0.3, 0.7], "on_corrupt": on_corrupt}
    Counted.traced.clear()
    first = []
    for epoch in range(2):
        made = training_dataset(scenes, preprocessing, 20, epoch=epoch, **options)
        first.append(next(iter(made))[0].numpy())
        batch_options = BatchOptions(20, on_corrupt=on_corrupt)
        next(iter(eval_batches(scenes, preprocessing, batch_options)))
    assert sorted(Counted.traced) == ["evaluation", "training"]
    assert (first[0] != first[1]).mean() > 0.9, "the pixels of the epochs differ"


def test_shuffle_buffer_changes_the_order_but_not_the_pixels(scenes):
    small, large = (batches(scenes, size=200, shuffle_buffer=size)[0] for size in (1, 200))
    assert image_set([small]) == image_set([large])
    assert (small[1] != large[1]).any()


@pytest.mark.parametrize("size", [32, 64, 200, 256])
def test_eval_has_every_example_once_in_order(scenes, evaluated, size):
    results = list(eval_batches(scenes, PREPROCESSING, BatchOptions(size)))
    assert {tuple(images.shape) for images, _, _ in results} == {(size, 64, 64, 3)}
    images, labels, masks = (np.concatenate(part) for part in zip(*results, strict=True))
    assert len(results) == -(-200 // size) and masks.sum() == 200 and masks[:200].all()
    np.testing.assert_array_equal(images[:200], evaluated[0])
    np.testing.assert_array_equal(labels[:200], evaluated[1])


def test_cache_does_not_change_the_evaluation(scenes):
    for streamed, cached in zip(
        eval_batches(scenes, PREPROCESSING, BatchOptions(48)),
        eval_batches(scenes, PREPROCESSING, BatchOptions(48, cache=True)),
        strict=True,
    ):
        for one, other in zip(streamed, cached, strict=True):
            np.testing.assert_array_equal(one, other)


@CACHES
def test_static_shapes(scenes, cache):
    train = training_dataset(scenes, PREPROCESSING, 16, cache=cache)
    shapes = [[16, 64, 64, 3], [16], [16, 2], [16]]
    assert [spec.shape.as_list() for spec in train.element_spec] == shapes
    evaluation = eval_batches(scenes, PREPROCESSING, BatchOptions(16, cache=cache))
    assert [s.shape.as_list() for s in evaluation.element_spec] == [[16, 64, 64, 3], [16], [16]]


@pytest.mark.slow
def test_shared_cifar10(shared):
    source = open_source("cifar10", "test", data_dir=shared / "tfds", download=False)
    preprocessing = Preprocessing(32)
    options = {"seed": 0, "epoch": 3, "crop_scale": None, "pad": 4}
    images, labels, *_ = next(iter(training_dataset(source, preprocessing, 64, **options)))
    assert images.shape == (64, 32, 32, 3) and len(set(labels.numpy())) > 5
    masks = [mask for _, _, mask in eval_batches(source, preprocessing, BatchOptions(3_000))]
    assert np.sum(masks) == 10_000


# --- bad arguments


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (201, {}, "201 is larger than the 200 examples of 'digit_scenes', split 'train'"),
        (0, {}, "batch_size must be a positive integer, got 0"),
        (2.0, {}, "batch_size must be a positive integer, got 2.0"),
        (2, {"skip_batches": -1}, "must be 0 or more"),
        (2, {"shuffle_buffer": 0}, "shuffle_buffer must be a positive integer, got 0"),
        (2, {"crop_scale": (2, 3)}, "crop_scale must be two numbers"),
    ],
)
def test_bad_arguments_raise(scenes, size, options, message):
    with pytest.raises(ValueError, match=message):
        batches(scenes, size=size, **options)


# --- the transform of a recipe


def test_transform_of_a_recipe():
    bicubic = Preprocessing(8, interpolation="bicubic")
    transform = TrainTransform.from_config(
        {"crop_scale": [0.5, 1.0], "flip": False, "repeats": 3, "mixup": 0.8, "erasing": 0.25},
        bicubic,
    )
    assert transform == TrainTransform(
        bicubic,
        RandomCrop(crop_scale=(0.5, 1.0), flip=False),
        Augmentation(interpolation="bicubic", mixup=0.8, erasing=0.25),
        repeats=3,
    )
    random = TrainTransform.from_config({"crop_interpolation": "random"}, Preprocessing(8))
    assert random.augmentation.interpolation == "random"
    assert TrainTransform.from_config({}, Preprocessing(8)) == TrainTransform(Preprocessing(8))


def test_augmentation_has_the_references_order(scenes):
    """The pipeline crops and jitters; the device normalizes, erases and mixes, in this order."""
    preprocessing, crop = Preprocessing(8), RandomCrop()
    augmentation = Augmentation(color_jitter=0.4, erasing=0.7, mixup=0.8)
    transform = TrainTransform(preprocessing, crop, augmentation)
    batch = next(iter(train_batches(scenes, transform, BatchOptions(20), seed=1, epoch=0)))
    images, labels, seeds, _ = batch
    photos = {e["index"].numpy(): e["image"] for e in scenes.examples()}
    for image, seed in zip(images[:4], seeds, strict=False):
        want = preprocessing.random_crop(photos[int(seed[1]) % 200], seed, crop)
        want = augmentation.image(want, seed, fill=(124, 116, 104))
        np.testing.assert_array_equal(image, want)
    got, targets = transform.on_device(images, labels, seeds, scenes.num_classes)
    want = augmentation.erase(preprocessing.normalize(images), seeds)
    want, mixed = augmentation.mix(want, tf.one_hot(labels, scenes.num_classes), seeds)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(targets, mixed)


@pytest.mark.parametrize("antialias", [True, False])
def test_crop_antialias_reaches_the_crop(scenes, antialias):
    preprocessing = Preprocessing(40)
    section = {"crop_antialias": antialias, "crop_scale": (1.0, 1.0), "flip": False}
    transform = TrainTransform.from_config(section, preprocessing)
    want = {  # the crop is the whole photo, whatever the seed
        transform(e["image"], (0, 0)).numpy().tobytes() for e in scenes.examples().take(40)
    }
    dataset = train_batches(scenes, transform, BatchOptions(200), seed=1, epoch=0)
    images, *_ = next(iter(dataset))
    assert len(want & {image.numpy().tobytes() for image in images}) == len(want) == 40


def test_transform_of_a_config_dict():
    section = ml_collections.ConfigDict({"crop_scale": (0.08, 1.0), "color_jitter": 0.4})
    section.rand_augment = ml_collections.config_dict.placeholder(str)
    transform = TrainTransform.from_config(section, Preprocessing(8))
    assert transform.augmentation == Augmentation(color_jitter=0.4)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"mixupp": 0.8}, "There is no augment.mixupp; the nearest is augment.mixup "),
        ({"interpolation": "bicubic"}, "There is no augment.interpolation"),
        ({"crop_scale": (2, 3)}, "augment.crop_scale must be two numbers"),
        ({"crop_scale": (0.1, 1.0), "crop_ratio": 3}, "augment.crop_ratio must be two numbers"),
        ({"crop_interpolation": "area"}, "augment.crop_interpolation must be one of same, random"),
        ({"pad": -1}, "augment.pad must be an integer of at least 0, got -1"),
        ({"repeats": 0}, "augment.repeats must be a positive integer, got 0"),
        ({"crop_antialias": 1}, "augment.crop_antialias must be True or False, got 1"),
        ({"flip": 0.5}, "augment.flip must be True or False, got 0.5"),
        ({"mixup": -1}, "augment.mixup"),
        ({"rand_augment": "strong"}, "augment.rand_augment"),
        ({"erasing_mode": "white"}, "augment.erasing_mode"),
    ],
)
def test_bad_augment_section_raises(section, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainTransform.from_config(section, Preprocessing(8))
