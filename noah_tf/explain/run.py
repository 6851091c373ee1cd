"""Where trained runs look, as pictures and arrays; `map_measures.py` has it as numbers."""

import dataclasses
import difflib
import pathlib
from itertools import product

import numpy as np
import tensorflow as tf

from noah_tf.datasets.registry import source_from_config
from noah_tf.datasets.source import random_order
from noah_tf.explain.boxes import areas, boxes_in_view, has_boxes
from noah_tf.explain.explainer import METHODS, SIGNED, Explainer
from noah_tf.explain.overlays import attention_grid
from noah_tf.runs.checkpoint import load_run
from noah_tf.runs.workdir import short_names
from noah_tf.utils.files import save_atomically
from noah_tf.utils.validation import check_positive_int

_WORDS = dict(zip(METHODS, ("attention", "contribution", "class activation"), strict=True))


def explain_run(
    workdir,
    output=None,
    split=None,
    count=6,
    seed=0,
    weights="last",
    compare_workdir=None,
    classes=None,
    methods=None,
    per_group=False,
    arrays=None,
):
    """Draws, for some images of a run's data set, where it saw the predicted and the true class.

    Args:
        workdir: the run's folder.
        output: the PNG to write; None for explain.png in the run's folder.
        split: split of its data set; None for the one it was evaluated on.
        count: how many images.
        seed: which ones.
        weights: "last", "ema" or "best", see `checkpoint.load_run`.
        compare_workdir: the folder of another run on the same classes and crops, such as one with
            the other head. Its maps are drawn beside the first one's, of the true class alone.
        classes: names or indices of the classes to draw in place of these.
        methods: which maps, of `explainer.METHODS`; None for the head's usual one, or where two
            runs are compared for all that each head has.
        per_group: whether to draw a map for each of a NOAH head's groups; of the true class alone,
            unless `classes` says which.
        arrays: an .npz file to write as well. It has `photos`, `index` (places in the split),
            `label`, `class_names`, `classes` (B, K), `logits` (B, M) and each method's maps
            (B, H, W, K), with `per_group` (B, H, W, N, K); and `boxes` (B, M, 4), of each class,
            where the data has them. What is the other run's begins with `compare_`.

    Returns:
        `pathlib.Path` of the PNG.

    Raises:
        ValueError: a head has no such maps, there is no such class, or the two runs have other
            classes or crops.
    """
    check_positive_int("count", count)
    if arrays is not None and pathlib.Path(arrays).suffix != ".npz":
        raise ValueError(f"Arrays are written to a file that ends in .npz, got {arrays}.")
    runs = load_runs(workdir, compare_workdir, weights)
    first, compared = runs[0], len(runs) > 1
    _check_crops(runs)
    explainers = [Explainer(run.model) for run in runs]
    chosen = methods_of(explainers, methods, usual=not compared)
    if classes is not None:
        classes = [_class_index(first.class_names, name) for name in classes]
    source = source_from_config(first.config.data, split or first.config.data.eval_split)
    examples = source.examples_at(random_order(seed, size=source.num_examples)[:count])
    photos, images, boxes = _views(runs, source, examples)
    truth = [source.label_names(example["label"]) for example in examples]

    logits = [e.forward(x)[1].numpy() for e, x in zip(explainers, images, strict=True)]
    usual = classes is None and not compared and not per_group
    wanted = []
    for names, scores in zip(truth, logits[0], strict=True):
        true = _true_class(first.class_names, names, scores.argmax())
        wanted.append(classes or ([scores.argmax(), true] if usual else [true]))
    maps = [
        {method: explainer(x, wanted, method, per_group)[1] for method in names}
        for explainer, x, names in zip(explainers, images, chosen, strict=True)
    ]
    if arrays is not None:
        found = {"class_names": first.class_names, "photos": photos, "classes": wanted}
        found |= {key: np.stack([e[key] for e in examples]) for key in ("index", "label")}
        found |= {} if boxes is None else {"boxes": boxes}
        for prefix, scores, own in zip(("", "compare_"), logits, maps, strict=False):
            found |= {f"{prefix}{name}": array for name, array in {"logits": scores, **own}.items()}
        _save_arrays(pathlib.Path(arrays), found)
    drawn = [(name, column) for own in maps for name in own for column in _columns(own[name])]
    figure = attention_grid(
        photos,
        [column for _, column in drawn],
        _titles(runs, logits, maps, truth, wanted, usual),
        None if boxes is None else [found[areas(found) > 0] for found in boxes],
        [name in SIGNED for name, _ in drawn],
    )
    output = pathlib.Path(output) if output else first.workdir.path / "explain.png"
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=80)
    return output


def load_runs(workdir, compare_workdir=None, weights="last"):
    """Loads a run, and another one if it has the same classes: a list of `checkpoint.Run`.

    Raises:
        ValueError: they have other classes.
    """
    folders = [workdir, *([compare_workdir] if compare_workdir else [])]
    runs = [load_run(folder, weights) for folder in folders]
    if runs[0].class_names != runs[-1].class_names:
        raise ValueError(
            f"{workdir} has the classes {_some(runs[0].class_names)} and {compare_workdir} "
            f"{_some(runs[-1].class_names)}: compare runs on the same data."
        )
    return runs


def methods_of(explainers, wanted=None, usual=False):
    """Which maps each of some explainers shall make.

    Args:
        explainers: `Explainer`s.
        wanted: names of maps, which one of the explainers at least can make, and each of them one;
            None for all that they can, or with `usual` the first.

    Returns:
        A tuple of names for each.

    Raises:
        ValueError: nobody makes a map of that name, or somebody makes none.
    """
    if wanted is None:
        return [e.methods[:1] if usual else e.methods for e in explainers]
    known = {method for explainer in explainers for method in explainer.methods}
    for method in wanted:
        if method not in known:
            raise ValueError(
                f"No head here makes maps by {method!r}: there are "
                f"{', '.join(m for m in METHODS if m in known)}."
            )
    chosen = [tuple(m for m in wanted if m in e.methods) for e in explainers]
    for explainer, methods in zip(explainers, chosen, strict=True):
        if not methods:
            raise ValueError(
                f"{explainer.model_name} makes no map by {', '.join(wanted) or 'nothing'}: add one "
                f"of {', '.join(explainer.methods)}."
            )
    return chosen


def _views(runs, source, examples):
    """Photos as the models see them, uint8; each run's images; and boxes (B, M, 4) or None."""
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


def _columns(maps):
    """The single maps (B, H, W) of (B, H, W, K) or (B, H, W, N, K): by class, then group."""
    by_class = np.moveaxis(maps, -1, 0)
    if maps.ndim == 4:
        return list(by_class)
    return [group for own in by_class for group in np.moveaxis(own, -1, 0)]


def _titles(runs, logits, maps, truth, wanted, usual):
    """For each image what stands over the photo and over each column of `_columns`."""
    titles = []
    folders = short_names(run.workdir.path for run in runs)
    for row, names in enumerate(truth):
        true = f"true: {', '.join(names) or 'none'}"
        said = f"predicted: {runs[0].class_names[logits[0][row].argmax()]}"
        if usual:
            titles.append(["photo"])
        else:
            titles.append([true if len(runs) > 1 else f"{true}\n{said}"])
        for folder, run, scores, own in zip(folders, runs, logits, maps, strict=True):
            labels = [said, true] if usual else _probabilities(run, scores[row], wanted[row])
            for name, values in own.items():
                kind = "" if list(own) == ["attention"] and len(runs) == 1 else _WORDS[name]
                if len(runs) > 1:
                    kind = f"{folder}: {kind}"
                groups = range(values.shape[3]) if values.ndim == 5 else ()
                groups = [f"group {n + 1}" for n in groups] or [""]
                titles[-1] += [
                    "\n".join(filter(None, lines)) for lines in product(labels, [kind], groups)
                ]
    return titles


def _probabilities(run, logits, classes):
    """Some classes of an image with their probabilities."""
    probabilities = (tf.sigmoid if run.multi_label else tf.nn.softmax)(logits).numpy()
    return [f"{run.class_names[c]}: {probabilities[c]:.0%}" for c in classes]


def _save_arrays(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_atomically(lambda partial: np.savez_compressed(partial, **arrays), path)


def _class_index(class_names, wanted):
    """The index of a class that is named, or given by its index."""
    if wanted in class_names:
        return class_names.index(wanted)
    if str(wanted).isdecimal() and int(wanted) < len(class_names):
        return int(wanted)
    near = difflib.get_close_matches(str(wanted), class_names, n=3, cutoff=0)
    raise ValueError(
        f"There is no class {wanted!r}: the nearest of the {len(class_names)} names are "
        f"{', '.join(near)}, and indices go from 0 to {len(class_names) - 1}."
    )


def _check_crops(runs):
    views = [
        dataclasses.replace(run.preprocessing, mean=(0.0,) * 3, std=(1.0,) * 3) for run in runs
    ]
    if views[0] != views[-1]:
        raise ValueError(
            f"{runs[0].workdir.path} sees photos at {views[0].image_size} of "
            f"{views[0].resize_size} pixels and {runs[1].workdir.path} at {views[1].image_size} of "
            f"{views[1].resize_size}, or scales them otherwise: compare runs with the same "
            "preprocessing."
        )


def _some(class_names):
    return f"{', '.join(class_names[:3])} ... ({len(class_names)})"


def _true_class(class_names, true_names, predicted):
    """Of an image's true classes the one to map: the predicted one, if it is true or none is."""
    if not true_names or class_names[predicted] in true_names:
        return predicted
    return class_names.index(true_names[0])
