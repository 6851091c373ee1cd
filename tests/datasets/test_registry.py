import io
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from imagenet_tars import make_imagenet_tars
from shared_data import SCENES
from training_batches import training_dataset

from noah_tf.datasets.registry import open_source
from noah_tf.datasets.tfds_sources import _class_boxes, prepare
from noah_tf.images.preprocessing import Preprocessing, decode

pytestmark = pytest.mark.one_stack


def uniform_png(value):
    return tf.io.encode_png(np.full((6, 5, 3), value, np.uint8)).numpy()


@pytest.fixture
def folder(tmp_path):
    """A folder with the classes "a" (3 photos) and "b" (2), and a validation split without "a"."""
    photos = {"train/a": 3, "train/b": 2, "val/b": 1}
    for name, count in photos.items():
        (tmp_path / name).mkdir(parents=True)
        for number in range(count):
            (tmp_path / name / f"{number}.PNG").write_bytes(uniform_png(number))
    (tmp_path / "train" / "a" / "notes.txt").write_text("not a photo")
    (tmp_path / "train" / ".hidden").mkdir()
    return tmp_path


def indices(source, **options):
    return [int(example["index"]) for example in source.examples(**options)]


# --- class folders


def test_folder(folder):
    source = open_source("folder", "train", data_dir=folder)
    assert (source.num_examples, source.num_classes, source.multi_label) == (5, 2, False)
    assert source.class_names == ("a", "b")
    examples = list(source.examples())
    assert [int(e["label"]) for e in examples] == [0, 0, 0, 1, 1]
    assert [int(decode(e["image"])[0, 0, 0]) for e in examples] == [0, 1, 2, 0, 1]
    assert indices(source) == list(range(5))
    assert source.describe(3) == (
        f"example 3 of 'folder', split 'train' ({folder / 'train' / 'b' / '0.PNG'})"
    )


def test_folder_splits_share_the_labels(folder):
    source = open_source("folder", "val", data_dir=str(folder))
    assert source.class_names == ("a", "b")
    assert [int(e["label"]) for e in source.examples()] == [1]


def test_folder_shuffle(folder):
    source = open_source("folder", "train", data_dir=folder)
    orders = {tuple(indices(source, shuffle_seed=seed)) for seed in range(10)}
    assert len(orders) > 5 and all(sorted(order) == list(range(5)) for order in orders)
    assert indices(source, shuffle_seed=3) == indices(source, shuffle_seed=3)
    labels = {int(e["index"]): int(e["label"]) for e in source.examples(shuffle_seed=1)}
    assert labels == {0: 0, 1: 0, 2: 0, 3: 1, 4: 1}


def test_folder_errors(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    (empty / "train" / "cat").mkdir(parents=True)
    (folder / "val" / "zebra").mkdir()
    bad_seed, names, image_key = {"split_seed": -1}, {"class_names": "a"}, {"image_key": "image"}
    cases = [
        (ValueError, "needs data_dir, laid out as DATA_DIR/SPLIT/CLASS", "train", None, {}),
        (ValueError, "must be a name or a slice such as", "train[:3]", folder, {}),
        (ValueError, "must be a name or a slice such as", "train+val", folder, {}),
        (ValueError, "must increase from 0 to 100", "train[80%:20%]", folder, {}),
        (ValueError, "must increase from 0 to 100", "train[20%:101%]", folder, {}),
        (ValueError, "no photos in the split 'train[:1%]'", "train[:1%]", folder, {}),
        (ValueError, "split_seed must be an integer from 0, got -1", "train", folder, bad_seed),
        (FileNotFoundError, "a does not exist; data.class_names", "train", folder, names),
        (FileNotFoundError, "nowhere does not exist", "train", folder / "nowhere", {}),
        (ValueError, "no split 'test'; it has train, val.", "test", folder, {}),
        (ValueError, "has no photos in the split 'train'", "train", empty, {}),
        (ValueError, "train: zebra; rename or remove", "val", folder, {}),
        (ValueError, "image_key is for tfrecord and TFDS sets", "train", folder, image_key),
    ]
    for error, message, split, directory, options in cases:
        with pytest.raises(error, match=re.escape(message)):
            open_source("folder", split, data_dir=directory, **options)


# --- TFDS


def test_digit_scenes_single(scenes):
    assert (scenes.num_examples, scenes.multi_label) == (200, False)
    assert scenes.class_names == tuple("0123456789")
    example = next(iter(scenes.examples()))
    assert example["image"].dtype == tf.string and example["label"].dtype == tf.int64
    assert decode(example["image"]).shape == (64, 64, 3)
    assert example["bbox"].shape == (4,)
    assert indices(scenes) == list(range(200))


def test_digit_scenes_multi(tfds_dir):
    source = open_source("digit_scenes/multi", "test", data_dir=tfds_dir)
    assert source.multi_label and source.class_names == tuple("0123456789")
    vectors = open_source("digit_scenes/multi", "test", data_dir=tfds_dir, label_key="label")
    assert vectors.multi_label and vectors.class_names == source.class_names
    for example, stored in zip(source.examples(), vectors.examples(), strict=True):
        assert example["label"].dtype == tf.float32 and example["label"].shape == (10,)
        np.testing.assert_array_equal(example["label"], stored["label"])
        assert 1 <= tf.reduce_sum(example["label"]) <= 4
        assert example["boxes"].shape == (10, 4)
        np.testing.assert_array_equal(example["boxes"].numpy().any(axis=1), example["label"])
        np.testing.assert_array_equal(example["boxes"], stored["boxes"])


def test_slices_and_sums_of_splits(tfds_dir, scenes):
    tail = open_source("digit_scenes", "train[90%:]", data_dir=tfds_dir)
    assert (tail.num_examples, indices(tail)) == (20, list(range(20)))
    want = [e["image"].numpy() for e in scenes.examples()][180:]
    assert [e["image"].numpy() for e in tail.examples()] == want
    both = open_source("digit_scenes", "train+test", data_dir=tfds_dir)
    assert (both.num_examples, indices(both)) == (400, list(range(400)))


def test_in_memory_holds_the_examples(scenes):
    cached = scenes.in_memory
    assert cached is scenes.in_memory, "read once"
    examples = list(scenes.examples())
    assert cached["image"].numpy().tolist() == [e["image"].numpy() for e in examples]
    np.testing.assert_array_equal(cached["label"], [e["label"] for e in examples])


class ManyFiles(tfds.testing.DummyDataset):
    """Numbered photos, with the features that each test chooses."""

    FEATURES = {}
    COUNT = 40

    def _info(self):
        features = tfds.features.FeaturesDict(type(self).FEATURES)
        return tfds.core.DatasetInfo(builder=self, description="test", features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(type(self).COUNT):
            yield number, {k: self._value(k, number) for k in type(self).FEATURES}

    def _value(self, key, number):
        values = {
            "image": np.full((4, 4, 3), number, np.uint8),
            "photo": np.full((4, 4, 3), number, np.uint8),
            "label": number % 3,
            "coarse": number % 2,
            "tags": list(range(number % 4)),
            "box": tfds.features.BBox(0.0, 0.25, 0.5, 1.0),
            "parts": [{"kind": k} for k in range(number % 3)],
            "number": number,
        }
        return values[key]


CLASSES = tfds.features.ClassLabel(names=["x", "y", "z"])
IMAGE = tfds.features.Image(shape=(4, 4, 3))


def open_features(monkeypatch, directory, features, **options):
    monkeypatch.setattr(ManyFiles, "FEATURES", features)
    prepare(tfds.builder("many_files", data_dir=directory))
    return open_source("many_files", "train", data_dir=directory, **options)


def test_files_are_shuffled_and_indexed(monkeypatch, tmp_path):
    monkeypatch.setattr(ManyFiles, "FEATURES", {"image": IMAGE, "label": CLASSES})
    builder = tfds.builder("many_files", data_dir=tmp_path)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=8, try_download_gcs=False)
    )
    assert builder.info.splits["train"].num_shards == 8
    source = open_source("many_files", "train", data_dir=tmp_path)
    natural = {int(e["index"]): e["image"].numpy() for e in source.examples()}
    assert list(natural) == list(range(40))
    shuffled = list(source.examples(shuffle_seed=4))
    order = [int(e["index"]) for e in shuffled]
    assert order != list(range(40)) and sorted(order) == list(range(40))
    assert all(natural[int(e["index"])] == e["image"].numpy() for e in shuffled)
    tf.random.set_seed(123)
    assert indices(source, shuffle_seed=4) == order != indices(source, shuffle_seed=5)


def test_features_are_chosen_by_type(monkeypatch, tmp_path):
    features = {"photo": IMAGE, "coarse": CLASSES, "box": tfds.features.BBoxFeature()}
    source = open_features(monkeypatch, tmp_path, features)
    assert source.class_names == ("x", "y", "z")
    example = next(iter(source.examples()))
    assert int(example["label"]) == int(decode(example["image"])[0, 0, 0]) % 2
    np.testing.assert_array_equal(example["bbox"], [0, 0.25, 0.5, 1])


def test_class_box_surrounds_all_objects_of_the_class():
    boxes = tf.constant([[0.1, 0.2, 0.3, 0.4], [0.5, 0.1, 0.6, 0.3], [0.0, 0.0, 1.0, 1.0]])
    got = _class_boxes(boxes, tf.constant([2, 2, 0]), 4)
    expected = [[0, 0, 1, 1], [0] * 4, [0.1, 0.1, 0.6, 0.4], [0] * 4]
    np.testing.assert_allclose(got, expected)
    np.testing.assert_array_equal(_class_boxes(boxes[:0], tf.zeros(0, tf.int32), 2), 0)


def test_usual_names_take_precedence(monkeypatch, tmp_path):
    features = {"photo": IMAGE, "image": IMAGE, "coarse": CLASSES, "label": CLASSES}
    source = open_features(monkeypatch, tmp_path, features)
    for example in source.examples():
        assert int(example["label"]) == int(decode(example["image"])[0, 0, 0]) % 3


def test_sequence_of_labels_is_multi_label(monkeypatch, tmp_path):
    tags = tfds.features.Sequence(tfds.features.ClassLabel(num_classes=3))
    source = open_features(monkeypatch, tmp_path, {"image": IMAGE, "tags": tags})
    assert source.multi_label
    for example in source.examples():
        count = int(decode(example["image"])[0, 0, 0]) % 4
        np.testing.assert_array_equal(example["label"], np.arange(3) < count)


def test_label_key_reaches_into_a_sequence(monkeypatch, tmp_path):
    parts = tfds.features.Sequence({"kind": CLASSES})
    features = {"image": IMAGE, "parts": parts, "label": CLASSES}
    source = open_features(monkeypatch, tmp_path, features, label_key="parts/kind")
    assert source.multi_label
    counts = {float(tf.reduce_sum(e["label"])) for e in source.examples()}
    assert counts == {0, 1, 2}


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        ({"image": IMAGE, "number": np.int64}, {}, "no label; choose a feature with label_key"),
        ({"label": CLASSES, "number": np.int64}, {}, "no image; choose a feature with image_key"),
        ({"image": IMAGE, "coarse": CLASSES, "number": CLASSES}, {}, "several labels (coarse, n"),
        (
            {"image": IMAGE, "label": CLASSES},
            {"label_key": "lable"},
            "has no label 'lable' (label",
        ),
        ({"image": IMAGE, "label": CLASSES}, {"image_key": "label"}, "features are image (Image)"),
    ],
)
def test_ambiguous_features_raise(monkeypatch, tmp_path, features, options, message):
    monkeypatch.setattr(ManyFiles, "COUNT", 2)
    with pytest.raises(ValueError, match=re.escape(message)):
        open_features(monkeypatch, tmp_path, features, **options)


def test_tfds_errors(tfds_dir, tmp_path):
    def message(name, split, error=ValueError, **options):
        with pytest.raises(error) as caught:
            open_source(name, split, **{"data_dir": tfds_dir, **options})
        return str(caught.value)

    assert "nearest names are cifar10" in message("cifar1O", "train")
    assert "nearest names are digit_scenes" in message("digit_scene", "train")
    assert "TFDS cannot open 'digit_scenes/triple'" in message("digit_scenes/triple", "train")
    assert f"it has train: {SCENES}, validation: {SCENES}, test" in message("digit_scenes", "val")
    larger = message("digit_scenes", f"train[:{SCENES + 1}]")
    assert f"[:{SCENES + 1}] incompatible with {SCENES} examples); it has train" in larger
    assert "'train[:0]' of 'digit_scenes' is empty; the sizes are" in message(
        "digit_scenes", "train[:0]"
    )
    assert "has no split 'train[:'" in message("digit_scenes", "train[:")
    missing = message("digit_scenes", "train", FileNotFoundError, data_dir=tmp_path, download=False)
    assert str(tmp_path / "digit_scenes") in missing and "allow the download" in missing
    imagenet = message("imagenet2012", "train", FileNotFoundError, data_dir=tmp_path)
    assert f"mv ILSVRC2012_img_train.tar ILSVRC2012_img_val.tar {tmp_path}" in imagenet
    assert f"tfds build imagenet2012 --data_dir={tmp_path}" in imagenet
    assert "manual_dir" not in imagenet
    manual = tmp_path / "archives"
    manual.mkdir()
    imagenet = message(
        "imagenet2012", "train", FileNotFoundError, data_dir=tmp_path, manual_dir=manual
    )
    assert f"mv ILSVRC2012_img_train.tar ILSVRC2012_img_val.tar {manual}/" in imagenet
    assert f"--data_dir={tmp_path} --manual_dir={manual}" in imagenet


def test_skip_and_shard(scenes, folder):
    for source in (scenes, open_source("folder", "train", data_dir=folder)):
        size = source.num_examples
        for seed in (None, 3):
            whole = indices(source, shuffle_seed=seed)
            assert indices(source, shuffle_seed=seed, skip=3) == whole[3:]
            halves = [indices(source, shuffle_seed=seed, shard=(i, 2)) for i in range(2)]
            assert sum(halves, []) == whole[: size if seed is None else size // 2 * 2]


# --- sets with the features of well-known ones


class LookAlike(tfds.testing.DummyDataset):
    """Eight photos with the name and the features of a well-known set."""

    FEATURES = {}

    def _info(self):
        features = tfds.features.FeaturesDict(type(self).FEATURES)
        return tfds.core.DatasetInfo(builder=self, description="test", features=features)

    def _split_generators(self, dl_manager):
        return {"validation": self._generate_examples()}

    def _generate_examples(self):
        for number in range(8):
            values = {
                "image": uniform_png(10 * number),
                "file_name": f"{number}.JPEG",
                "id": str(number),
                "original_label": 9,
                "coarse_label": 1,
                "label": number,
                "real_label": list(range(number % 3)),
            }
            features = type(self).FEATURES
            yield (
                number,
                {
                    k: io.BytesIO(v) if k == "image" else v
                    for k, v in values.items()
                    if k in features
                },
            )


def tens(count=10):
    return tfds.features.ClassLabel(num_classes=count)


def open_look_alike(monkeypatch, directory, name, features):
    image = tfds.features.Image(encoding_format="png")
    monkeypatch.setattr(LookAlike, "name", name)
    monkeypatch.setattr(LookAlike, "FEATURES", {"image": image, **features})
    monkeypatch.setattr(tfds, "builder", lambda _, data_dir: LookAlike(data_dir=data_dir))
    return open_source(name, "validation", data_dir=directory)


def test_imagenet2012_real(monkeypatch, tmp_path):
    features = {
        "original_label": tens(),
        "real_label": tfds.features.Sequence(tens()),
        "file_name": tfds.features.Text(),
    }
    source = open_look_alike(monkeypatch, tmp_path, "imagenet2012_real", features)
    assert source.multi_label and source.num_classes == 10
    labels = np.stack([e["label"] for e in source.examples()])
    # The reassessed labels of a photo are none, one or two.
    np.testing.assert_array_equal(np.sort(labels.sum(1)), [0, 0, 0, 1, 1, 1, 2, 2])
    original = open_source(
        "imagenet2012_real", "validation", data_dir=tmp_path, label_key="original_label"
    )
    assert {int(e["label"]) for e in original.examples()} == {9} and not original.multi_label


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("imagenet_v2", {"label": tens(), "file_name": tfds.features.Text()}),
        ("imagenette", {"label": tens()}),
        ("cifar10", {"id": tfds.features.Text(), "label": tens()}),
        (
            "cifar100",
            {"id": tfds.features.Text(), "label": tens(), "coarse_label": tens(2)},
        ),
    ],
)
def test_well_known_sets(monkeypatch, tmp_path, name, features):
    source = open_look_alike(monkeypatch, tmp_path, name, features)
    assert (source.num_examples, source.num_classes, source.multi_label) == (8, 10, False)
    for example in source.examples():
        assert int(decode(example["image"])[0, 0, 0]) == 10 * int(example["label"])


@pytest.mark.slow
def test_imagenet2012(shared, tmp_path):
    manual = tmp_path / "archives"
    manual.mkdir()
    wanted = make_imagenet_tars(shared / "imagenet_sample", manual)
    order = pathlib.Path(tfds.__file__).parent / "datasets" / "imagenet2012" / "labels.txt"
    synsets = order.read_text().split()
    for split, files in wanted.items():
        source = open_source("imagenet2012", split, data_dir=tmp_path / "tfds", manual_dir=manual)
        assert (source.num_examples, source.num_classes) == (len(files), 1000)
        photos = {synsets[int(e["label"])]: e["image"].numpy() for e in source.examples()}
        assert photos == {synset: path.read_bytes() for synset, path in files.items()}
    (images, labels, _, weights), *_ = training_dataset(source, Preprocessing(64), 4)
    assert images.shape == (4, 64, 64, 3) and len(labels) == 4 and weights.numpy().all()


def test_shared_cifar10(shared):
    source = open_source("cifar10", "train[:90%]", data_dir=shared / "tfds", download=False)
    assert (source.num_examples, source.num_classes) == (45_000, 10)
    assert source.class_names[0] == "airplane"
    example = next(iter(source.examples()))
    assert set(example) == {"image", "label", "index"}
    assert decode(example["image"]).shape == (32, 32, 3)


def test_array_records_are_read_in_any_order(monkeypatch, tmp_path):
    monkeypatch.setattr(ManyFiles, "FEATURES", {"image": IMAGE, "label": CLASSES})
    sources = []
    for file_format in ("tfrecord", "array_record"):
        data_dir = tmp_path / file_format
        builder = tfds.builder("many_files", data_dir=data_dir, file_format=file_format)
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(num_shards=3, try_download_gcs=False)
        )
        sources.append(open_source("many_files", "train[10%:]", data_dir=data_dir))
    expected, examples = (list(source.examples()) for source in sources)
    assert len(examples) == 36
    for one, other in zip(examples, expected, strict=True):
        assert {key: value.numpy() for key, value in one.items()} == {
            key: value.numpy() for key, value in other.items()
        }
    source = sources[1]
    order = indices(source, shuffle_seed=3)
    assert sorted(order) == list(range(36)) and order == indices(source, shuffle_seed=3)
    assert indices(source, shuffle_seed=3, skip=20) == order[20:]
    assert source.fetch(tf.constant(7, tf.int64))["image"] == expected[7]["image"]


def test_other_formats_of_tfds_raise(monkeypatch, tmp_path):
    monkeypatch.setattr(ManyFiles, "FEATURES", {"image": IMAGE, "label": CLASSES})
    builder = tfds.builder("many_files", data_dir=tmp_path, file_format="riegeli")
    monkeypatch.setattr(type(builder), "is_prepared", lambda self: True)
    monkeypatch.setattr(tfds, "builder", lambda *args, **kwargs: builder)
    with pytest.raises(ValueError, match="stored as riegeli.* tfds build .*--file_format=tfrecord"):
        open_source("many_files", "train", data_dir=tmp_path)


def test_a_set_is_prepared_in_the_format_of_the_recipe(monkeypatch, tmp_path):
    monkeypatch.setattr(ManyFiles, "FEATURES", {"image": IMAGE, "label": CLASSES})
    source = open_source("many_files", "train", data_dir=tmp_path, file_format="array_record")
    assert list(tmp_path.glob("many_files/1.0.0/*.array_record-*")) and source.fetch is not None
    again = open_source("many_files", "train", data_dir=tmp_path)
    assert indices(again, shuffle_seed=1) == indices(source, shuffle_seed=1)
    with pytest.raises(ValueError, match="stored as array_record in .* got file_format='tfrecord'"):
        open_source("many_files", "train", data_dir=tmp_path, file_format="tfrecord")
    with pytest.raises(ValueError, match="file_format must be one of .*, got 'riegeli'"):
        open_source("many_files", "train", data_dir=tmp_path, file_format="riegeli")
