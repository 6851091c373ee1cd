"""Measures the maps of trained runs: `localization.py` and `faithfulness.py` for whole runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from noah_tf.explain.explainer import Explainer
from noah_tf.explain.faithfulness import CURVES, areas_under, faithfulness_curves
from noah_tf.explain.localization import localize
from noah_tf.explain.options import MapOptions
from noah_tf.explain.run import select_methods
from noah_tf.runs import short_names
from noah_tf.utils.files import save_atomically
from noah_tf.utils.paths import Path, PathLike
from noah_tf.utils.validation import check_choice

MEASURES = ("localization", "faithfulness")
_COLUMNS = ("pointing", "energy", "deletion", "insertion")


def measure_run(
    workdir: PathLike,
    measures: Sequence[str] = MEASURES,
    count: int = 256,
    batch_size: int = 64,
    options: MapOptions | None = None,
) -> tuple[dict[str, dict[str, Any]], Path]:
    """Measures the maps of a run, or of two runs on the same data.

    Args:
        workdir: the run's folder.
        measures: any of `MEASURES`; "localization" needs data with boxes.
        count: number of images for the deletion and insertion curves; localization uses all.
        batch_size: images per batch; it does not change the result.
        options: `MapOptions`; its `methods` are all that the heads have by default.

    Returns:
        Dict from each run's folder to a dict of floats, see `localization.localize` and
        `faithfulness.faithfulness`, with "boxes" and "images", the numbers of examples, and with
        the curves under "curves"; and the path of the JSON file in the first folder that holds it.
        The curves are drawn to a PNG beside it.

    Raises:
        ValueError: there is no such measure, the data has no boxes, a head does not have these
            maps, or the runs have different classes.
    """
    for measure in measures:
        check_choice("measures", measure, MEASURES)
    options = options or MapOptions()
    if options.photos:
        raise ValueError("Maps are measured on labels, which photos do not have: give a split.")
    runs, source = options.load(workdir)
    methods = select_methods([Explainer(run.model) for run in runs], options.methods)
    results = {}
    for run, run_methods in zip(runs, methods, strict=True):
        result: dict[str, Any] = {}
        arguments = run.model, source, run.preprocessing, run_methods
        if "localization" in measures:
            values = localize(*arguments, batch_size=batch_size)
            result |= {"boxes": values.pop("examples"), **values}
        if "faithfulness" in measures:
            curves = faithfulness_curves(
                *arguments, count=count, seed=options.seed, batch_size=batch_size
            )
            result |= {"images": min(count, source.num_examples), **areas_under(curves)}
            result["curves"] = {name: values.tolist() for name, values in curves.items()}
        results[str(run.workdir.path)] = result
    split = "".join(c if c.isalnum() else "_" for c in source.split)
    suffix = "" if options.weights == "last" else f"_{options.weights}"
    path = runs[0].workdir.write_result(results, f"maps_{split}{suffix}.json")
    if "faithfulness" in measures:
        figure = curves_figure(results)
        save_atomically(lambda file: figure.savefig(file, dpi=100), figure_path(path))
    return results, path


def figure_path(path: Path) -> Path:
    """Returns the path of the PNG with the curves, beside the JSON file of the measures."""
    return path.with_suffix(".png")


def curves_figure(results: Mapping[str, Mapping[str, Any]]) -> Any:
    """Draws the deletion and insertion curves, one panel each.

    Args:
        results: the dict that `measure_run` returns, with the measure "faithfulness".

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    run_names = short_names(list(results))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axis, curve in zip(figure.subplots(1, 2, sharey=True), CURVES, strict=True):
        for number, (run_name, result) in enumerate(zip(run_names, results.values(), strict=True)):
            for key, values in result["curves"].items():
                method, _, kind = key.rpartition("_")
                if kind == curve:
                    style = {"linestyle": ":" if method == "random" else "-"}
                    if method == "random":
                        style["color"] = f"{0.4 + 0.3 * number}"  # a shade of gray
                    percent = np.linspace(0, 100, len(values))
                    label = f"{run_name}: {method}, {result[key]:.3f}"
                    axis.plot(percent, values, label=label, **style)
        axis.set_title(f"{curve.capitalize()} (area under the curve)")
        change = "deleted" if curve == "deletion" else "inserted"
        axis.set_xlabel(f"pixels {change} in the order of the map, %")
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("probability of the predicted class")
    return figure


def measures_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the measures as text.

    The rows "chance" hold the expected localization of a uniform map, and the deletion and
    insertion of a map of noise.

    Args:
        results: the dict that `measure_run` returns.
    """
    width = max(len(run) for run in results)
    lines = [f"{'run':{width}}  {'maps':12}" + "".join(f" {name:>9}" for name in _COLUMNS)]
    for run, result in results.items():
        chance = {"chance_pointing": result.get("chance"), "chance_energy": result.get("chance")}
        chance |= {f"chance_{curve}": result.get(f"random_{curve}") for curve in CURVES}
        values = {**result, **chance}
        methods = dict.fromkeys(key.rpartition("_")[0] for key in result if key.count("_"))
        for method in [*(name for name in methods if name != "random"), "chance"]:
            cells = [values.get(f"{method}_{column}") for column in _COLUMNS]
            lines.append(f"{run:{width}}  {method:12}" + "".join(map(_table_cell, cells)))
    return "\n".join(lines)


def _table_cell(value: float | None) -> str:
    return f" {'' if value is None else f'{value:.3f}':>9}"
