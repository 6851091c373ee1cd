"""ImageNet in ArrayRecord files, prepared from small archives in the layout of the originals."""

import collections

import numpy as np
import pytest
from array_record.python import array_record_data_source
from imagenet_tars import make_imagenet_tars
from recipes import recipe
from shared_data import shared_folder

from noah_tf.datasets import source_from_config
from noah_tf.training.plan import TrainingPlan

pytestmark = [pytest.mark.one_stack, pytest.mark.slow]

EXAMPLES, BATCH = 26, 8  # the last batch of an epoch has 2
STEPS = 4


class CountingRecords(array_record_data_source.ArrayRecordDataSource):
    """Counts the records that are read, and their bytes."""

    sizes = collections.defaultdict(list)  # {position: [bytes of each time that it is read]}

    def __getitem__(self, position):
        record = super().__getitem__(position)
        self.sizes[position].append(len(record))
        return record


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Returns the paper's recipe of ResNet, for the small archives and small batches."""
    folder = tmp_path_factory.mktemp("imagenet")
    make_imagenet_tars(shared_folder() / "imagenet_sample", folder, EXAMPLES)
    config = recipe("resnet")
    config.data.data_dir = str(folder / "tfds")
    config.data.manual_dir = str(folder)
    config.data.file_format = "array_record"
    config.data.num_examples = EXAMPLES
    config.preprocess.image_size = (32, 32)
    config.train.batch_size, config.model.batch_norm_group = BATCH, 4
    return config


@pytest.fixture
def source(config, monkeypatch):
    monkeypatch.setattr(array_record_data_source, "ArrayRecordDataSource", CountingRecords)
    source = source_from_config(config.data, "train")
    CountingRecords.sizes.clear()
    return source


def batches(config, source, step, num_epochs=1):
    """Returns (images, labels) of the batches from a step of the run on."""
    plan = TrainingPlan.from_config(config)
    assert plan.steps_per_epoch(source.num_examples) == STEPS
    made = plan.train_batches(source, step, num_epochs)()
    return [(images.numpy(), labels.numpy()) for images, labels, *_ in made]


def test_each_epoch_is_a_permutation(config, source):
    """Each photo of the small archives has a class of its own."""
    made = batches(config, source, 0, num_epochs=3)
    assert [len(labels) for _, labels in made] == [8, 8, 8, 2] * 3
    labels = np.concatenate([labels for _, labels in made]).reshape(3, EXAMPLES)
    assert all(len(set(epoch)) == EXAMPLES for epoch in labels)
    assert len({epoch.tobytes() for epoch in labels}) == 3, "each epoch has its own order"
    # Each record is read once in an epoch, wherever it is in the files.
    assert {position: len(sizes) for position, sizes in CountingRecords.sizes.items()} == (
        dict.fromkeys(range(EXAMPLES), 3)
    )


@pytest.mark.parametrize("step", [1, 3, STEPS + 2])
def test_a_resumed_run_does_not_read_what_it_skips(config, source, step):
    epoch, skipped = divmod(step, STEPS)
    whole = batches(config, source, epoch * STEPS)
    size_of = {position: sizes[0] for position, sizes in CountingRecords.sizes.items()}
    CountingRecords.sizes.clear()
    rest = batches(config, source, step)
    for (images, labels), (expected_images, expected_labels) in zip(
        rest, whole[skipped:], strict=True
    ):
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(images, expected_images)
    assert len(CountingRecords.sizes) == EXAMPLES - skipped * BATCH
    total, read = sum(size_of.values()), sum(map(sum, CountingRecords.sizes.values()))
    unread = sum(size_of[position] for position in size_of.keys() - CountingRecords.sizes.keys())
    print(f"from step {step}: {read:,} of the {total:,} bytes of the epoch")
    assert read == total - unread < total
