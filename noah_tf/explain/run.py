"""Draws the maps of trained runs, and saves them as arrays."""

import dataclasses
import difflib
import logging
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import tensorflow as tf

from noah_tf.datasets import Source, random_order, reading_problem
from noah_tf.explain.boxes import box_areas, boxes_in_view, has_boxes
from noah_tf.explain.explainer import METHOD_TITLES, METHODS, SIGNED, Explainer
from noah_tf.explain.options import MapOptions
from noah_tf.explain.overlays import attention_grid
from noah_tf.images import Preprocessing
from noah_tf.runs import Run, short_names
from noah_tf.utils.files import save_atomically
from noah_tf.utils.paths import Path, PathLike, as_path
from noah_tf.utils.validation import check_choice, check_positive_int

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Maps:
    """Some examples with the predictions and maps of one or two runs.

    Attributes:
        runs: the R runs.
        examples: the B examples.
        photos: uint8 (B, height, width, 3), as the models see them.
        boxes: (B, M, 4), the box of each class, or None.
        captions: for each example, a line with its true classes, or with its file if they are
            unknown.
        classes: for each example, the indices of the K classes that are mapped.
        logits: for each run, (B, M).
        maps: for each run, a dict from a method to maps (B, H, W, K), or (B, H, W, N, K).
        predicted_and_true: whether the mapped classes are the predicted and the true one.
    """

    runs: list[Run]
    examples: Sequence[Mapping[str, Any]]
    photos: np.ndarray
    boxes: np.ndarray | None
    captions: list[str]
    classes: list[list[int]]
    logits: list[np.ndarray]
    maps: list[dict[str, np.ndarray]]
    predicted_and_true: bool


def explain_run(
    workdir: PathLike,
    output: PathLike | None = None,
    count: int = 6,
    classes: Sequence[str | int] | None = None,
    per_group: bool = False,
    arrays: PathLike | None = None,
    options: MapOptions | None = None,
) -> Path:
    """Draws the maps of the predicted and the true class for some images of a run's data set.

    Args:
        workdir: the run's folder.
        output: the PNG to write; None for explain.png in the run's folder.
        count: number of images.
        classes: names or indices of the classes to draw instead of the predicted and the true one.
        per_group: whether to draw a map for each group of a NOAH head; only for the true class,
            unless `classes` names others.
        arrays: an .npz file to write as well. It holds `photos`, `index` (of the example in the
            split), `label`, `class_names`, `classes` (B, K), `logits` (B, M) and the maps of each
            method (B, H, W, K), with `per_group` (B, H, W, N, K); and, if the data has boxes,
            `boxes` (B, M, 4), one for each class. The names of the other run's arrays begin with
            `compare_`.
        options: `MapOptions`. If it names another run to compare with, the maps of both runs are
            drawn side by side, only for the true class; both must have the same classes and center
            crops. Its `methods` are by default the head's first one, and all of each head if two
            runs are compared or `photos` are drawn, whose maps are those of the predicted class.

    Returns:
        `pathlib.Path` of the PNG.

    Raises:
        ValueError: a head does not have these maps, there is no such class, or the two runs have
            different classes or crops.

    Example:

    >>> explain_run("runs/noah", options=MapOptions(compare_workdir="runs/gap"))
    """
    check_positive_int("count", count)
    if arrays is not None and as_path(arrays).suffix != ".npz":
        raise ValueError(f"arrays must be the name of a file that ends in .npz, got {arrays}.")
    maps = _compute_maps(workdir, count, classes, per_group, options or MapOptions())
    if arrays is not None:
        _save_arrays(as_path(arrays), maps)
    columns = [
        (method, column)
        for run_maps in maps.maps
        for method, values in run_maps.items()
        for column in _columns(values)
    ]
    boxes = maps.boxes
    figure = attention_grid(
        maps.photos,
        [column for _, column in columns],
        _titles(maps),
        None if boxes is None else [b[box_areas(b) > 0] for b in boxes],
        [method in SIGNED for method, _ in columns],
    )
    output = as_path(output) if output else maps.runs[0].workdir.path / "explain.png"
    output.parent.mkdir(parents=True, exist_ok=True)
    save_atomically(lambda file: figure.savefig(file, dpi=80), output)
    return output


def _compute_maps(
    workdir: PathLike,
    count: int,
    classes: Sequence[str | int] | None,
    per_group: bool,
    options: MapOptions,
) -> _Maps:
    """Loads the runs and computes their maps, see `explain_run`."""
    runs, source = options.load(workdir)
    _check_same_crops(runs)
    is_comparison = len(runs) > 1
    class_names = runs[0].class_names
    explainers = [Explainer(run.model) for run in runs]
    # One class per photo leaves room for all methods.
    only_first = not is_comparison and not options.photos
    methods = select_methods(explainers, options.methods, only_first)
    indices = None if classes is None else [_class_index(class_names, name) for name in classes]
    if options.photos:
        examples = _readable_examples(source, count, runs[0].preprocessing)
    else:
        order = random_order(options.seed, size=source.num_examples)
        examples = source.examples_at(order[:count])
    photos, images, boxes = _views(runs, source, examples)
    true_names = [source.label_names(example["label"]) for example in examples]
    captions = [f"true: {', '.join(names) or 'none'}" for names in true_names]
    if options.photos:
        captions = [as_path(source.files[int(e["index"])]).name for e in examples]
    logits = [
        explainer.forward(batch)[1].numpy()
        for explainer, batch in zip(explainers, images, strict=True)
    ]

    predicted_and_true = (
        indices is None and not is_comparison and not per_group and not options.photos
    )
    mapped_classes = []
    for names, scores in zip(true_names, logits[0], strict=True):
        predicted = int(scores.argmax())
        true = _true_class(class_names, names, predicted)
        mapped_classes.append(indices or ([predicted, true] if predicted_and_true else [true]))
    maps = [
        {method: explainer(batch, mapped_classes, method, per_group)[1] for method in run_methods}
        for explainer, batch, run_methods in zip(explainers, images, methods, strict=True)
    ]
    return _Maps(
        runs,
        examples,
        photos,
        boxes,
        captions,
        mapped_classes,
        logits,
        maps,
        predicted_and_true,
    )


def _readable_examples(
    source: Source, count: int, preprocessing: Preprocessing
) -> list[dict[str, Any]]:
    """Returns photos that can be read, spread over all files, and logs those that cannot."""
    examples: list[dict[str, Any]] = []
    num_files = len(source.files)
    count = min(count, num_files)
    for part in range(count):
        # The first readable one of this part of the files.
        for index in range(part * num_files // count, (part + 1) * num_files // count):
            file = source.files[index]
            problem = reading_problem(file, preprocessing)
            if not problem:
                examples += source.examples_at([index])
                break
            logger.warning("%s is left out: %s.", file, problem)
    if not examples:
        raise ValueError(f"None of the {len(source.files)} photos can be read: {file}: {problem}.")
    return examples


def select_methods(
    explainers: Sequence[Explainer],
    methods: Sequence[str] | None = None,
    only_first: bool = False,
) -> list[tuple[str, ...]]:
    """Selects the methods of each explainer.

    Args:
        explainers: list of `Explainer`.
        methods: names of methods. Every name must be a method of at least one explainer, and every
            explainer must have at least one of them. None for all methods of each explainer.
        only_first: whether None stands for the first method of each explainer instead.

    Returns:
        For each explainer, a tuple with those of the methods that it has.

    Raises:
        ValueError: no explainer has a method of that name, or an explainer has none of them.
    """
    if methods is None:
        return [e.methods[:1] if only_first else e.methods for e in explainers]
    known = [m for m in METHODS if any(m in explainer.methods for explainer in explainers)]
    for method in methods:
        check_choice("methods", method, known)
    selected = [tuple(m for m in methods if m in e.methods) for e in explainers]
    for explainer, names in zip(explainers, selected, strict=True):
        if not names:
            raise ValueError(
                f"methods must include one of {', '.join(explainer.methods)} for model "
                f"{explainer.model_name!r}, got {list(methods)}."
            )
    return selected


def _views(
    runs: Sequence[Run], source: Source, examples: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, list[tf.Tensor], np.ndarray | None]:
    """Returns the cropped photos as uint8, the images of each run, and boxes (B, M, 4) or None."""
    preprocessing = runs[0].preprocessing
    decoded = [preprocessing.decode(example["image"]) for example in examples]
    photos = tf.stack([preprocessing.center_crop(photo) for photo in decoded])
    boxes = None
    if has_boxes(examples[0]):
        boxes = np.stack(
            [
                boxes_in_view(example, photo.shape[:2], preprocessing, source.num_classes)
                for example, photo in zip(examples, decoded, strict=True)
            ]
        )
    images = [run.preprocessing.normalize(photos) for run in runs]
    return tf.cast(tf.round(photos), tf.uint8).numpy(), images, boxes


def _columns(maps: np.ndarray) -> list[np.ndarray]:
    """Splits maps (B, H, W, K) or (B, H, W, N, K) into maps (B, H, W), by class and then group."""
    by_class = np.moveaxis(maps, -1, 0)
    if maps.ndim == 4:
        return list(by_class)
    return [group for class_maps in by_class for group in np.moveaxis(class_maps, -1, 0)]


def _titles(maps: _Maps) -> list[list[str]]:
    """Returns for each image the title of the photo and of each map of `_columns`."""
    is_comparison = len(maps.runs) > 1
    folders = short_names([run.workdir.path for run in maps.runs])
    titles = []
    for row, true in enumerate(maps.captions):
        predicted = f"predicted: {maps.runs[0].class_names[maps.logits[0][row].argmax()]}"
        if maps.predicted_and_true:
            titles.append(["photo"])
        else:
            titles.append([true if is_comparison else f"{true}\n{predicted}"])
        for folder, run, logits, run_maps in zip(
            folders, maps.runs, maps.logits, maps.maps, strict=True
        ):
            labels = [predicted, true]
            if not maps.predicted_and_true:
                labels = _class_probabilities(run, logits[row], maps.classes[row])
            for method, values in run_maps.items():
                only_attention = list(run_maps) == ["attention"] and not is_comparison
                kind = "" if only_attention else METHOD_TITLES[method]
                if is_comparison:
                    kind = f"{folder}: {kind}"
                num_groups = values.shape[3] if values.ndim == 5 else 0
                groups = [f"group {n + 1}" for n in range(num_groups)] or [""]
                titles[-1] += [
                    "\n".join(filter(None, lines)) for lines in product(labels, [kind], groups)
                ]
    return titles


def _class_probabilities(run: Run, logits: np.ndarray, classes: Sequence[int]) -> list[str]:
    """Returns the names of classes with their probabilities for one image."""
    probabilities = (tf.sigmoid if run.multi_label else tf.nn.softmax)(logits).numpy()
    return [f"{run.class_names[c]}: {probabilities[c]:.0%}" for c in classes]


def _save_arrays(path: Path, maps: _Maps) -> None:
    arrays: dict[str, Any] = {
        "class_names": maps.runs[0].class_names,
        "photos": maps.photos,
        "classes": maps.classes,
        **{key: np.stack([e[key] for e in maps.examples]) for key in ("index", "label")},
    }
    if maps.boxes is not None:
        arrays["boxes"] = maps.boxes
    for prefix, logits, run_maps in zip(("", "compare_"), maps.logits, maps.maps, strict=False):
        for name, array in {"logits": logits, **run_maps}.items():
            arrays[f"{prefix}{name}"] = array
    path.parent.mkdir(parents=True, exist_ok=True)
    save_atomically(lambda partial: np.savez_compressed(partial, **arrays), path)


def _class_index(class_names: tuple[str, ...], name_or_index: str | int) -> int:
    """Returns the index of a class that is given by its name or its index."""
    if name_or_index in class_names:
        return class_names.index(name_or_index)
    if str(name_or_index).isdecimal() and int(name_or_index) < len(class_names):
        return int(name_or_index)
    nearest = difflib.get_close_matches(str(name_or_index), class_names, n=3, cutoff=0)
    raise ValueError(
        f"There is no class {name_or_index!r}: the nearest of the {len(class_names)} names are "
        f"{', '.join(nearest)}, and indices go from 0 to {len(class_names) - 1}."
    )


def _check_same_crops(runs: Sequence[Run]) -> None:
    """Raises ValueError unless all runs see the same crop of a photo."""
    first, last = (
        dataclasses.replace(preprocessing, mean=(0.0,) * channels, std=(1.0,) * channels)
        for preprocessing, channels in (
            (run.preprocessing, run.preprocessing.crop_shape[-1]) for run in (runs[0], runs[-1])
        )
    )
    if first != last:
        raise ValueError(
            f"{runs[0].workdir.path} and {runs[-1].workdir.path} crop photos differently "
            f"(image_size {first.image_size} and {last.image_size}, resize_size "
            f"{first.resize_size} and {last.resize_size}): compare runs with the same "
            "preprocessing."
        )


def _true_class(class_names: tuple[str, ...], true_names: Sequence[str], predicted: int) -> int:
    """Returns the true class to map: the predicted one if it is true or there is no true class."""
    if not true_names or class_names[predicted] in true_names:
        return predicted
    return class_names.index(true_names[0])
