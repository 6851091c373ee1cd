"""Hosts, replicas, repeats, mixing: the batches do not depend on where and when they are made."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from numbered import SIDE, fetch_source, record_source
from training_batches import training_dataset

from noah_tf.datasets.batch_options import BatchOptions
from noah_tf.datasets.pipeline import eval_batches
from noah_tf.images.augmentation import Augmentation
from noah_tf.images.preprocessing import Preprocessing

pytestmark = pytest.mark.one_stack

PREPROCESSING = Preprocessing(SIDE)
PLAIN = {"crop_scale": None, "flip": False}
EVERYTHING = {
    "crop_interpolation": "random",
    "pad": 1,
    "augmentation": Augmentation(color_jitter=0.4, rand_augment="rand-m9-n1-mstd0.5"),
}


@pytest.fixture
def records(tmp_path):
    """100 examples in 30 files, which can only be read in order."""
    return record_source(tmp_path, [2, 3, 5] * 10)


@pytest.fixture(scope="module")
def fetched():
    """100 examples that can be read in any order."""
    return fetch_source(100)


@pytest.fixture(params=["records", "fetched"])
def source(request):
    return request.getfixturevalue(request.param)


def batches(source, size=20, **options):
    options = {"shuffle_buffer": 30, **options}
    return [
        [part.numpy() for part in batch]
        for batch in training_dataset(source, PREPROCESSING, size, **options)
    ]


def concat(results, part=1):
    return np.concatenate([batch[part] for batch in results])


def assert_same(got, want):
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        for part, expected in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, expected)


# --- hosts


@pytest.mark.parametrize("repeats", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("cache", [False, True], ids=["fetched", "cached"])
def test_hosts_share_the_batches_of_one_host(fetched, repeats, cache):
    options = {"repeats": repeats, "cache": cache}
    whole = batches(fetched, **options)
    hosts = [batches(fetched, shard=(index, 4), **options) for index in range(4)]
    for number, batch in enumerate(whole):
        parts = [host[number] for host in hosts]
        assert {len(part[0]) for part in parts} == {5}
        for part in range(4):
            np.testing.assert_array_equal(np.concatenate([p[part] for p in parts]), batch[part])


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_hosts_read_different_records(records, count):
    hosts = [concat(batches(records, 12, shard=(i, count), **PLAIN)) for i in range(count)]
    assert {len(labels) for labels in hosts} == {100 // 12 * 12 // count}
    assert len(set(np.concatenate(hosts))) == 100 // 12 * 12
    again = concat(batches(records, 12, shard=(1, count), epoch=1, **PLAIN))
    assert set(again) != set(hosts[1]), "each epoch shuffles the files"


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_evaluation_has_each_example_once(source, count, cache):
    shares = []
    for index in range(count):
        options = BatchOptions(24, cache=cache)
        dataset = eval_batches(source, PREPROCESSING, options, shard=(index, count), replicas=2)
        shares.append(list(dataset))
    assert len({len(share) for share in shares}) == 1
    seen = []
    for _, labels, mask in sum(shares, []):
        assert len(labels) == 24 // count // 2
        seen += labels.numpy()[mask.numpy() > 0].tolist()
    assert seen == list(range(100))


@pytest.mark.slow
def test_all_hosts_evaluate_the_same_number_of_batches():
    # The hosts have 1, 2 and 2 of the five examples, and batches of one.
    source = fetch_source(5)
    for on_corrupt in ("error", "skip"):
        masks = [
            [
                mask.numpy().tolist()
                for _, _, mask in eval_batches(
                    source,
                    PREPROCESSING,
                    BatchOptions(3, on_corrupt=on_corrupt),
                    shard=(index, 3),
                )
            ]
            for index in range(3)
        ]
        assert masks == [[[1], [0]], [[1], [1]], [[1], [1]]]


# --- repeats


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repeats", "distinct"), [(2, 10), pytest.param(3, 7, marks=pytest.mark.exhaustive)]
)
def test_repeats_are_blocks_of_the_same_examples(source, repeats, distinct):
    whole = batches(source, repeats=repeats)
    assert len(whole) == 5, "an epoch has the same number of steps"
    for images, labels, seeds, _ in whole:
        assert len(set(labels)) == distinct
        assert len({seed.tobytes() for seed in seeds}) == 20
        np.testing.assert_array_equal(labels, np.tile(labels[:distinct], repeats)[:20])
        assert len({image.tobytes() for image in images}) == 20, "each copy has its own pixels"
    seen = concat(whole)
    assert len(set(seen)) == 5 * distinct
    other = batches(source, repeats=repeats, epoch=1)
    assert set(concat(other)) != set(seen)
    assert_same(batches(source, repeats=repeats, skip_batches=3), whole[3:])


def test_first_copies_are_the_batch_without_repeats(fetched):
    single, repeated = batches(fetched, 10), batches(fetched, 20, repeats=2)
    assert_same([[part[:10] for part in batch] for batch in repeated], single[:5])


# --- mixing, replicas, positions


@pytest.mark.slow
def test_random_pixels_do_not_depend_on_the_start(source):
    whole = batches(source, **EVERYTHING)
    for skipped in (0, 3):
        parts = batches(source, skip_batches=skipped, replicas=2, **EVERYTHING)
        assert {len(part[0]) for part in parts} == {10} and len(parts) == 2 * (5 - skipped)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        merged = [[np.concatenate(part) for part in zip(*pair, strict=True)] for pair in pairs]
        assert_same(merged, whole[skipped:])


def test_seeds_are_those_of_the_example_and_the_epoch(fetched):
    """Erasing and mixing on the device are functions of them."""
    runs = [batches(fetched, epoch=epoch, **PLAIN) for epoch in range(2)]
    numbers = {}
    for epoch, whole in enumerate(runs):
        assert len({int(seed[0]) for batch in whole for seed in batch[2]}) == 1
        for _, labels, seeds, _ in whole:
            numbers.update(
                {(epoch, label): seed[1] for label, seed in zip(labels, seeds, strict=True)}
            )
    assert len(set(numbers.values())) == 100
    assert all(numbers[0, label] == numbers[1, label] for label in range(100))
    assert runs[0][0][2][0, 0] != runs[1][0][2][0, 0]


TWO_REPLICAS = """
import sys
import numpy as np
import tensorflow as tf
from noah_tf.datasets.batch_options import BatchOptions
from noah_tf.datasets.pipeline import eval_batches, train_batches
from noah_tf.datasets.registry import open_source
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.images.train_transform import TrainTransform

cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
source = open_source("digit_scenes", "train", data_dir=sys.argv[1], download=False)
preprocessing = Preprocessing(64)

def compare(make, count):
    def share(context):
        shard = (context.input_pipeline_id, context.num_input_pipelines)
        return make(shard=shard, replicas=context.num_replicas_in_sync // shard[1])

    distributed = strategy.distribute_datasets_from_function(share)
    batches = list(zip(make(), distributed))
    assert len(batches) == count, len(batches)
    for one_device, replicas in batches:
        for want, part in zip(one_device, replicas):
            got = strategy.experimental_local_results(part)
            assert len(got) == 2 and got[0].shape == got[1].shape, got
            np.testing.assert_array_equal(np.concatenate(got), want)

def train(transform, cache):
    def make(**share):
        options = BatchOptions(32, cache=cache)
        return train_batches(source, transform, options, seed=1, epoch=0, skip_batches=2, **share)
    return make

def evaluate(**share):
    return eval_batches(source, preprocessing, BatchOptions(48, cache=True), **share)

repeated = TrainTransform(preprocessing, repeats=2)
compare(train(TrainTransform(preprocessing), cache=False), 4)
compare(train(repeated, cache=True), 4)
compare(evaluate, 5)
"""


@pytest.mark.slow
def test_two_replicas_share_the_batches(tfds_dir):
    subprocess.run([sys.executable, "-c", TWO_REPLICAS, str(tfds_dir)], check=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": (2, 2)}, r"0 <= index < count, got \(2, 2\)"),
        (
            {"shard": (0, 3)},
            "20 does not divide among 3 hosts with 1 replicas each: use a multiple",
        ),
        ({"shard": (0, 2), "replicas": 4}, "use a multiple of 8"),
        ({"replicas": 0}, "replicas must be a positive integer, got 0"),
        ({"repeats": 1.5}, "repeats must be a positive integer, got 1.5"),
        ({"threads": 0}, "threads must be a positive integer, got 0"),
        ({"prefetch": -1}, "prefetch must be a positive integer, got -1"),
        ({"on_corrupt": "ignore"}, "one of error, skip, got 'ignore'"),
        ({"crop_interpolation": "bilinear"}, "one of same, random, got 'bilinear'"),
    ],
)
def test_bad_arguments_raise(fetched, options, message):
    with pytest.raises(ValueError, match=message):
        batches(fetched, **options)


def test_threads_and_prefetch_do_not_change_the_batches(fetched):
    assert_same(batches(fetched, threads=1, prefetch=3), batches(fetched))
    dataset = training_dataset(fetched, PREPROCESSING, 20, threads=3)
    assert dataset.options().threading.private_threadpool_size == 3
    assert dataset.options().deterministic
    assert isinstance(dataset, tf.data.Dataset)


# --- smaller last batches


@pytest.mark.parametrize("hosts", [1, 2])
def test_the_last_batch_of_an_epoch_is_kept(source, hosts):
    options = {"last_batch_multiple": 4, "num_epochs": 2, **PLAIN}
    shares = [
        batches(source, 24, shard=(index, hosts), replicas=2, **options) for index in range(hosts)
    ]
    # 100 examples are four batches of 24 and one of 4, for each replica 12 and 2.
    sizes = [[len(images) for images, *_ in share] for share in shares]
    assert sizes == [([24 // hosts // 2] * 8 + [4 // hosts // 2] * 2) * 2] * hosts
    for epoch in range(2):
        seen = np.concatenate([concat(share[10 * epoch :][:10]) for share in shares])
        assert sorted(seen) == list(range(100))
    first = np.concatenate([concat(share[:10]) for share in shares])
    assert not np.array_equal(first, seen)


def test_examples_are_repeated_until_the_last_batch_can_be_divided(source):
    results = batches(source, 24, last_batch_multiple=8, **PLAIN)
    assert [len(images) for images, *_ in results] == [24] * 4 + [8]
    counts = np.bincount(concat(results), minlength=100)
    assert counts.sum() == 104 and counts.min() == 1 and counts.max() == 2


@pytest.mark.parametrize("skipped", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_skipped_batches_of_an_epoch_with_a_smaller_one(source, skipped):
    options = {"last_batch_multiple": 4, "num_epochs": 2, "replicas": 2, **PLAIN}
    whole = batches(source, 24, **options)
    assert_same(batches(source, 24, skip_batches=skipped, **options), whole[2 * skipped :])


def test_a_smaller_batch_cannot_be_mixed(fetched):
    with pytest.raises(ValueError, match="only without mixup, CutMix, repeats and on_corrupt"):
        batches(fetched, 24, last_batch_multiple=4, repeats=2, **PLAIN)
