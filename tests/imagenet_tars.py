"""Small archives in the layout of the ImageNet downloads."""

import pathlib
import tarfile

import tensorflow_datasets as tfds


def make_imagenet_tars(photos, manual, train_examples=5, validation_examples=6):
    """Writes small tars of sample photos in the layout of the originals.

    TFDS reads the labels of the validation files from a list of its own, in order.

    Returns:
        For each split, a dict from synset to the photo's file.
    """
    files = {path.name.split("_")[0]: path for path in sorted(photos.glob("n*.JPEG"))}
    label_lists = pathlib.Path(tfds.__file__).parent / "datasets" / "imagenet2012"
    validation = (label_lists / "validation_labels.txt").read_text().split()[:validation_examples]
    training = sorted(files)[:train_examples]
    with tarfile.open(manual / "ILSVRC2012_img_train.tar", "w") as outer:
        for synset in training:
            inner = manual / f"{synset}.tar"
            with tarfile.open(inner, "w") as tar:
                tar.add(files[synset], f"{synset}_1.JPEG")
            outer.add(inner, inner.name)
            inner.unlink()
    with tarfile.open(manual / "ILSVRC2012_img_val.tar", "w") as tar:
        for number, synset in enumerate(validation):
            tar.add(files[synset], f"ILSVRC2012_val_{number + 1:08}.JPEG")
    return {
        "train": {synset: files[synset] for synset in training},
        "validation": {synset: files[synset] for synset in validation},
    }
