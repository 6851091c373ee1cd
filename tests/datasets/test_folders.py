"""Folders of photos as users have them: without splits, from archives, with all kinds of files."""

import io
import logging
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from recipes import small_recipe

from noah_tf.datasets import open_source
from noah_tf.datasets.photo_files import find_photos
from noah_tf.images import decode
from noah_tf.images.headers import DECODES_WEBP
from noah_tf.training import recipe_checks


def encoded(value, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(np.full((6, 5, 3), value, np.uint8)).save(file, kind)
    return file.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def photos(tmp_path):
    """Two classes of 20 and 10 photos without splits."""
    for name, count in (("cat", 20), ("dog", 10)):
        for number in range(count):
            write(tmp_path / name / f"{number:02}.png", encoded(number))
    return tmp_path


def test_every_kind_of_photo_is_found(tmp_path):
    kinds = {"a.JPG": "JPEG", "b.png": "PNG", "c.bmp": "BMP", "d.GIF": "GIF", "e.webp": "WEBP"}
    kinds |= {"Grüße an Jürgen.jpeg": "JPEG", "no suffix": "JPEG", "webp.dat": "WEBP"}
    kinds |= {"png named.jpg": "PNG", "bmp.x": "BMP", "sub folder/f.png": "PNG"}
    for name, kind in kinds.items():
        write(tmp_path / "class one" / name, encoded(200, kind))
    source = open_source("folder", "all", data_dir=tmp_path)
    assert source.class_names == ("class one",)
    folder = tmp_path / "class one"
    assert {str(folder / name) for name in kinds} == set(source.files)
    for example in source.examples():
        name = source.files[int(example["index"])].removeprefix(f"{folder}/")
        if kinds[name] != "WEBP" or DECODES_WEBP:
            assert abs(int(decode(example["image"])[3, 2, 1]) - 200) < 8


def test_what_file_managers_and_archives_add_is_ignored_and_counted(photos, caplog):
    for name in ("__MACOSX/cat/._00.jpg", ".ipynb_checkpoints/a.png", "cat/.hidden.png"):
        write(photos / name, b"not a photo")
    for name in ("cat/Thumbs.db", "dog/__MACOSX/._1.png", "dog/notes.txt", "readme.txt"):
        write(photos / name, b"not a photo")
    with caplog.at_level(logging.INFO):
        source = open_source("folder", "all", data_dir=photos)
    assert source.class_names == ("cat", "dog") and source.num_examples == 30
    (line,) = [text for text in caplog.messages if "ignored" in text]
    assert "ignored 7 files and folders, such as" in line


def test_splits_are_not_taken_for_classes(shapes):
    with pytest.raises(ValueError, match="the folders test, train, which are splits and not class"):
        open_source("folder", "all[:80%]", data_dir=shapes)


def test_slices_have_the_same_share_of_each_class(photos):
    splits = [f"all[{start}%:{start + 20}%]" for start in range(0, 100, 20)]
    sources = [open_source("folder", split, data_dir=photos) for split in splits]
    for source in sources:
        assert list(np.bincount(source.labels)) == [4, 2]
        assert source.class_names == ("cat", "dog")
        assert list(source.files) == sorted(source.files)
        labels = [int(example["label"]) for example in source.examples()]
        assert labels == list(source.labels)
    files = [file for source in sources for file in source.files]
    assert len(files) == len(set(files)) == 30


def test_slices_are_a_function_of_the_split_seed(photos):
    def files(seed):
        return open_source("folder", "all[:50%]", data_dir=photos, split_seed=seed).files

    assert files(0) == files(0) != files(1)
    assert open_source("folder", "all[:50%]", data_dir=photos).files == files(0)
    # A slice is not the first photos by name.
    assert files(0) != open_source("folder", "all", data_dir=photos).files[:15]


def test_slices_of_a_folder_with_splits(photos, tmp_path_factory):
    root = tmp_path_factory.mktemp("splits")
    shutil.copytree(photos, root / "training")
    source = open_source("folder", "training[:80%]", data_dir=root, train_split="training[:80%]")
    assert source.num_examples == 24
    (root / "val" / "dog").mkdir(parents=True)
    shutil.copy(photos / "dog" / "00.png", root / "val" / "dog")
    evaluation = open_source("folder", "val", data_dir=root, train_split="training[:80%]")
    assert evaluation.class_names == ("cat", "dog") and list(evaluation.labels) == [1]


def test_splits_that_overlap_are_refused(photos, shapes):
    config = small_recipe(shapes)
    config.data.update({"name": "folder", "data_dir": str(photos), "num_classes": None})
    config.train.batch_size = 4

    def check(train, evaluation):
        sources = [open_source("folder", split, data_dir=photos) for split in (train, evaluation)]
        config.data.update({"train_split": train, "eval_split": evaluation})
        recipe_checks.check_data(config, *sources)

    check("all[:80%]", "all[80%:]")
    with pytest.raises(ValueError, match=r"'all\[:80%\]' and .*'all\[70%:\]' share 3 photos, such"):
        check("all[:80%]", "all[70%:]")


def test_a_folder_without_splits_is_explained(photos):
    with pytest.raises(ValueError, match=r"no split 'train'; it has cat, dog.* 'all\[:80%\]'"):
        open_source("folder", "train", data_dir=photos)


def test_find_photos_of_an_empty_folder(tmp_path):
    assert find_photos(tmp_path) == ((), ())


def test_cached_and_uncached_examples_are_equal(photos):
    source = open_source("folder", "all[:30%]", data_dir=photos)
    for index, example in enumerate(source.examples()):
        assert source.in_memory["image"][index] == example["image"]
        assert tf.equal(source.in_memory["label"][index], example["label"])


def test_links_that_form_a_circle(photos):
    (photos / "cat" / "loop").symlink_to(photos / "cat")
    assert open_source("folder", "all", data_dir=photos).num_examples == 30


def test_names_that_are_not_utf8(photos):
    name = os.fsencode(photos / "cat") + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write(encoded(7))
    source = open_source("folder", "all", data_dir=photos)
    assert source.num_examples == 31 and len(list(source.examples())) == 31
