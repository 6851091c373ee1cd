"""Converts a checkpoint of the reference implementation to a .keras file and a SavedModel.

    python trainers/import_official.py --model noah_resnet18 --checkpoint noah_resnet18.pth.tar \\
        --output imported/noah_resnet18

With --checkpoint official it downloads the authors' checkpoint of the model. With a data set, it
also evaluates the model as the paper does:

    python trainers/import_official.py --model noah_resnet18 --checkpoint official \\
        --output imported/noah_resnet18 --data imagenet2012 --split validation
"""

import json

import command_line
from absl import flags

from noah_tf.datasets import Source, open_source
from noah_tf.evaluation import Evaluator
from noah_tf.export import import_official
from noah_tf.models import zoo
from noah_tf.utils.files import write_text_atomically
from noah_tf.utils.paths import as_path

_MODEL = flags.DEFINE_string("model", None, "Name of the model, such as noah_resnet18.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A .pth, .pt, .tar or .safetensors file, or 'official' to download it."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write.")
_EMA = flags.DEFINE_bool("ema", False, "Use the averaged weights of the checkpoint.")
_NUM_CLASSES = flags.DEFINE_integer("num_classes", 1000, "Number of classes of the checkpoint.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Side of the images, in pixels.")
_PRE_LOGITS = flags.DEFINE_bool(
    "pre_logits", None, "DeiT x0.75 and x0.5: whether the checkpoint has the pre-logits layer."
)
_CLASS_NAMES = flags.DEFINE_string(
    "class_names", None, "File with one class name per line, in the order of the logits."
)
_DATA = flags.DEFINE_string("data", None, "TFDS name, or 'folder', of data to evaluate on.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the data; by default that of TFDS.")
_SPLIT = flags.DEFINE_string("split", "validation", "Split of the data.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Batch size of the evaluation.", lower_bound=1)


def main(_: list[str]) -> None:
    row, is_noah = zoo.model_info(_MODEL.value)
    class_names = command_line.class_names(_CLASS_NAMES.value)
    source = _open_source() if _DATA.value else None
    if source and not class_names:
        class_names = source.class_names
    evaluation = as_path(_OUTPUT.value) / "evaluation.json"
    if evaluation.parent.is_dir():
        evaluation.unlink(missing_ok=True)  # It describes the model that is about to be replaced.
    imported = import_official(
        _MODEL.value,
        _CHECKPOINT.value,
        _OUTPUT.value,
        ema=_EMA.value,
        num_classes=_NUM_CLASSES.value,
        image_size=_IMAGE_SIZE.value,
        pre_logits=_PRE_LOGITS.value,
        class_names=class_names,
    )
    released = row.noah_parameters if is_noah else row.parameters
    printed = row.noah_printed_millions if is_noah else row.printed_millions
    paper = f"the paper prints {printed:.2f} million" if printed else "the paper prints no number"
    print(
        f"{_MODEL.value}: {imported.num_parameters:,} parameters. With 1000 classes and 224 "
        f"pixels, the released code builds {released:,}, and {paper}."
    )
    if source:
        metrics = Evaluator(imported.model)(source, imported.preprocessing, _BATCH_SIZE.value)
        write_text_atomically(evaluation, json.dumps(metrics, indent=2) + "\n")
        print(", ".join(f"{name} {value:.6g}" for name, value in metrics.items()))
        if _NUM_CLASSES.value == 1000 and row.top1:
            top1 = row.noah_top1 if is_noah else row.top1
            print(f"The paper reports top1 {top1 / 100:.4f} on ImageNet's validation split.")
    print(f"Wrote {imported.keras_file} and {imported.saved_model}.")


def _open_source() -> Source:
    source = open_source(_DATA.value, _SPLIT.value, data_dir=_DATA_DIR.value)
    if source.num_classes != _NUM_CLASSES.value:
        raise ValueError(
            f"The model has {_NUM_CLASSES.value} classes, but {source.name} has "
            f"{source.num_classes}: evaluate on the data that the checkpoint was trained on."
        )
    return source


if __name__ == "__main__":
    command_line.run(main, required=["model", "checkpoint", "output"])
