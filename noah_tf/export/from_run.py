"""Exports training runs."""

import json
from collections.abc import Sequence
from typing import Any

from noah_tf.export.photos import Photo, photos_of_run
from noah_tf.export.savedmodel import export_savedmodel
from noah_tf.runs import Run, load_run
from noah_tf.utils.paths import Path, PathLike


def export_run(
    workdir: PathLike,
    model_dir: PathLike,
    version: int | None = None,
    weights: str = "last",
    photos: Sequence[Photo] | int | None = None,
    **options: Any,
) -> Path:
    """Exports a training run; see `export_savedmodel`.

    Args:
        workdir: the run's folder.
        model_dir: the folder of all versions.
        version: a positive integer. None is one more than the highest existing version.
        weights: "last", "ema" or "best", see `checkpoint.load_run`.
        photos: encoded photos or their paths, on which the export is compared with its model. An
            int takes that many photos of the split that the run was evaluated on.
        **options: other arguments of `export_savedmodel`, except those that the run determines:
            `preprocessing`, `class_names`, `multi_label` and `card`.

    Returns:
        The path of the version's folder.

    Raises:
        FileNotFoundError: there is no such run, or its data set cannot be read.
        ValueError: see `export_savedmodel`.
    """
    run = load_run(workdir, weights)
    if isinstance(photos, int):
        photos = photos_of_run(run, photos)
    card = {
        "weights": f"step {run.step} of its run ({weights})",
        "architecture": run.config.model.architecture or run.config.model.backbone,
        "data": _data_facts(run),
        "recipe": json.loads(run.config.to_json()),
        "metrics": _metrics(run, weights),
    }
    return export_savedmodel(
        run.model,
        model_dir,
        run.preprocessing,
        run.class_names,
        version,
        multi_label=run.multi_label,
        photos=photos,
        card=card,
        **options,
    )


def _data_facts(run: Run) -> dict[str, Any]:
    data = run.config.data
    return {
        "name": data.name,
        "train_split": data.train_split,
        "eval_split": data.eval_split,
        "train_examples": run.workdir.data().train_examples,
    }


def _metrics(run: Run, weights: str) -> dict[str, Any] | None:
    """Returns the run's evaluation of the exported weights, or None if there is none yet."""
    if weights == "best":
        return run.workdir.best()
    result = run.workdir.result()
    if result is None:
        return None
    if weights == "ema":
        return {
            key.removeprefix("ema_"): value
            for key, value in result.items()
            if key.startswith("ema_")
        }
    return {key: value for key, value in result.items() if not key.startswith("ema_")}
