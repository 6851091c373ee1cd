"""Photos whose labels are in CSV and TSV files."""

import re

import numpy as np
import pytest
import tensorflow as tf

from noah_tf.datasets import open_source, source_from_config
from noah_tf.runs import recipe
from noah_tf.training import recipe_checks
from noah_tf.utils.files import copy_folder
from noah_tf.utils.paths import as_path


@pytest.fixture
def root(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(6):
        pixels = np.full((4, 4, 3), number, np.uint8)
        (tmp_path / "photos" / f"{number}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return tmp_path


def write(root, name, *lines):
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_one_label_per_photo(root):
    write(root, "train.csv", "file,label", "photos/0.png,dog", "photos/1.png,cat")
    write(root, "val.csv", "label,file,note", "dog,photos/2.png,x")
    source = open_source("files", "train.csv", data_dir=root)
    assert source.class_names == ("cat", "dog") and not source.multi_label
    assert list(source.labels) == [1, 0]
    examples = list(source.examples())
    assert [int(example["label"]) for example in examples] == [1, 0]
    assert [int(tf.io.decode_png(example["image"])[0, 0, 0]) for example in examples] == [0, 1]
    assert source.describe(1).endswith(f"({root / 'photos' / '1.png'})")
    evaluation = open_source("files", "val.csv", data_dir=root, train_split="train.csv")
    assert evaluation.class_names == ("cat", "dog") and list(evaluation.labels) == [1]


def test_label_files_and_photos_elsewhere(root):
    remote = as_path("ram://label_files")
    copy_folder(root / "photos", remote / "photos", last="")
    local = root / "photos" / "3.png"
    text = f"file,label\n../photos/0.png,dog\n{local},cat\nram://label_files/photos/1.png,cat\n"
    (remote / "labels").mkdir()
    (remote / "labels" / "train.csv").write_text(text)
    (remote / "labels" / "names.txt").write_text("zebra\ndog\ncat\n")
    options = {"data_dir": str(remote / "labels"), "class_names": "names.txt"}
    source = open_source("files", "train.csv", **options)
    photos = [f"{remote}/photos/0.png", str(local), f"{remote}/photos/1.png"]
    assert list(source.files) == photos and list(source.labels) == [1, 2, 2]
    examples = list(source.examples())
    assert [int(tf.io.decode_png(example["image"])[0, 0, 0]) for example in examples] == [0, 3, 1]
    (remote / "labels" / "train.csv").write_text("file,label\n../photos/9.png,dog\n")
    with pytest.raises(ValueError, match=r"line 2 does not exist \(ram://label_files/photos/9"):
        open_source("files", "train.csv", **options)


def test_several_labels_per_photo(root):
    lines = ["file\tlabels", "photos/0.png\tb, a", "photos/1.png\t", "photos/2.png\tc|a"]
    write(root, "train.tsv", *lines)
    source = open_source("files", "train.tsv", data_dir=root)
    assert source.multi_label and source.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(source.labels, [[1, 1, 0], [0, 0, 0], [1, 0, 1]])
    labels = [example["label"].numpy() for example in source.examples()]
    np.testing.assert_array_equal(labels, source.labels)
    assert labels[0].dtype == np.float32


def test_class_names_of_a_text_file(root):
    write(root, "names.txt", "zebra", "dog", "", "cat")
    write(root, "train.csv", "file,label", "photos/0.png,dog")
    config = recipe.base().data
    config.update({"name": "files", "data_dir": str(root), "class_names": "names.txt"})
    source = source_from_config(config, "train.csv")
    assert source.class_names == ("zebra", "dog", "cat") and list(source.labels) == [1]
    write(root, "names.txt", "dog", "dog")
    with pytest.raises(ValueError, match="names.txt repeats dog; it must have each class name"):
        source_from_config(config, "train.csv")
    write(root, "names.txt", "")
    with pytest.raises(ValueError, match="names.txt is empty"):
        source_from_config(config, "train.csv")
    config.class_names = "none.txt"
    with pytest.raises(FileNotFoundError, match="none.txt does not exist; data.class_names must"):
        source_from_config(config, "train.csv")


def test_files_of_a_spreadsheet(root):
    text = '\ufefffile,label\r\n"photos/0.png","Müller, Jürgen"\r\n photos/1.png , cat \r\n'
    (root / "train.CSV").write_bytes(text.encode())
    source = open_source("files", "train.CSV", data_dir=root)
    assert source.class_names == ("Müller, Jürgen", "cat")


def test_all_problems_are_named_with_their_lines(root):
    write(
        root,
        "val.csv",
        "file,label",
        "photos/0.png,dog",
        "photos/9.png,dog",
        ",dog",
        "photos/1.png,",
        "photos/0.png,cat",
        "photos/2.png,wolf",
    )
    write(root, "train.csv", "file,label", "photos/0.png,dog", "photos/1.png,cat")
    with pytest.raises(ValueError) as error:
        open_source("files", "val.csv", data_dir=root, train_split="train.csv")
    message = str(error.value)
    assert message.startswith(f"{root / 'val.csv'} must be corrected: ")
    for part in (
        f"the file of line 3 does not exist ({root / 'photos' / '9.png'})",
        "line 4 has no file",
        "line 5 has no label",
        "line 6 repeats the file of line 2",
        "line 7 has the unknown class 'wolf'",
    ):
        assert part in message
    assert message.count("line") == 6


def test_many_problems_are_cut_off(root):
    write(root, "train.csv", "file,label", *(f"none{i}.png,dog" for i in range(50)))
    with pytest.raises(ValueError, match="line 21 .*; and 30 more.$"):
        open_source("files", "train.csv", data_dir=root)


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("a.csv", ["file,class", "x,y"], "its columns are 'file', 'class'"),
        ("a.csv", ["file,label,labels", "x,y,z"], "its columns are 'file', 'label', 'labels'"),
        ("a.csv", ["file\tlabel", "x\ty"], r"its columns are 'file\\tlabel'"),
        ("a.csv", [""], "its columns are none"),
        ("a.csv", ["file,label"], "must be corrected: it has no photos"),
        ("a.tsv", ["file\tlabels", "photos/0.png\ta,,b"], "line 2 has an empty label between its"),
        ("a.txt", ["file,label"], "must be a CSV or TSV file .* got 'a.txt'"),
    ],
)
def test_other_files_raise(root, name, lines, message):
    write(root, name, *lines)
    with pytest.raises(ValueError, match=message):
        open_source("files", name, data_dir=root)


def test_missing_files_and_other_encodings_raise(root):
    with pytest.raises(FileNotFoundError, match="train.csv does not exist; it must be a CSV or"):
        open_source("files", "train.csv", data_dir=root)
    with pytest.raises(ValueError, match="needs data_dir, the folder of a CSV or TSV file"):
        open_source("files", "train.csv")
    (root / "train.csv").write_bytes("file,label\nphotos/0.png,Bär\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"train.csv cannot be read .*; save it as UTF-8"):
        open_source("files", "train.csv", data_dir=root)


def test_labels_that_a_multi_label_file_does_not_have(root):
    write(root, "train.tsv", "file\tlabels", "photos/0.png\t")
    source = open_source("files", "train.tsv", data_dir=root)
    assert source.class_names == () and re.fullmatch(r"\(1, 0\)", str(source.labels.shape))


def test_commas_outside_of_quotes_are_named(root):
    write(root, "train.csv", "file,labels", "photos/0.png,cat,dog", "photos/1.png,cat|dog")
    with pytest.raises(ValueError, match="line 2 has more cells than columns .put a cell with com"):
        open_source("files", "train.csv", data_dir=root)
    write(root, "train.csv", "file,labels", 'photos/0.png,"cat,dog"', "photos/../photos/1.png,cat")
    source = open_source("files", "train.csv", data_dir=root)
    assert source.class_names == ("cat", "dog") and source.files[1].endswith("s/1.png")
    (root / "names.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match="names.txt cannot be read .* save it as UTF-8"):
        open_source("files", "train.csv", data_dir=root, class_names="names.txt")


def test_both_splits_have_one_label_or_several(root):
    write(root, "train.csv", "file,labels", "photos/0.png,cat", "photos/1.png,dog")
    write(root, "val.csv", "file,label", "photos/2.png,cat", "photos/3.png,dog")
    config = recipe.base()
    config.data.update({"name": "files", "data_dir": str(root)})
    config.data.update({"train_split": "train.csv", "eval_split": "val.csv"})
    config.train.batch_size = 2
    sources = [source_from_config(config.data, split) for split in ("train.csv", "val.csv")]
    with pytest.raises(ValueError, match="must both have one label per image, or both have sev"):
        recipe_checks.check_data(config, *sources)
