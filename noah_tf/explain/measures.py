"""Where trained runs look, as numbers: what `localization.py` and `faithfulness.py` measure."""

import io
import pathlib

import numpy as np

from noah_tf.datasets.registry import source_from_config
from noah_tf.explain.explainer import Explainer
from noah_tf.explain.faithfulness import CURVES, areas_under, faithfulness_curves
from noah_tf.explain.localization import localize
from noah_tf.explain.run import load_runs, methods_of
from noah_tf.runs.workdir import short_names
from noah_tf.utils.files import save_atomically

MEASURES = ("localization", "faithfulness")
_COLUMNS = ("pointing", "energy", "deletion", "insertion")


def measure_run(
    workdir,
    measures=MEASURES,
    split=None,
    weights="last",
    compare_workdir=None,
    methods=None,
    count=256,
    seed=0,
    batch_size=64,
):
    """Measures the maps of a run, or of two on the same data.

    Args:
        workdir: the run's folder.
        measures: of `MEASURES`; localization needs data with boxes.
        split: split of its data set; None for the one it was evaluated on.
        weights: "last", "ema" or "best", see `checkpoint.load_run`.
        compare_workdir: the folder of another run on the same classes, or None.
        methods: which maps, of `explainer.METHODS`; None for all that the heads have.
        count: how many images the deletion and insertion curves are of; localization takes all.
        seed: which images these are, and of the noise they are compared with.
        batch_size: images at once; it does not change the result.

    Returns:
        Dict of each folder to a dict of floats, see `localization.localize` and
        `faithfulness.faithfulness`, with the curves under "curves"; and the path of the JSON file
        that has it, in the first folder. Curves are drawn to a PNG beside it.

    Raises:
        ValueError: there is no such measure, the data has no boxes to measure by, a head has no
            such maps, or the runs have other classes.
    """
    for measure in measures:
        if measure not in MEASURES:
            raise ValueError(f"Measures are {' and '.join(MEASURES)}, got {measure!r}.")
    runs = load_runs(workdir, compare_workdir, weights)
    config = runs[0].config.data
    source = source_from_config(config, split or config.eval_split)
    chosen = methods_of([Explainer(run.model) for run in runs], methods)
    result = {}
    for run, names in zip(runs, chosen, strict=True):
        found = {}
        options = {"methods": names, "batch_size": batch_size}
        if "localization" in measures:
            boxes = localize(run.model, source, run.preprocessing, **options)
            found |= {"boxes": boxes.pop("examples"), **boxes}
        if "faithfulness" in measures:
            curves = faithfulness_curves(
                run.model, source, run.preprocessing, count=count, seed=seed, **options
            )
            found |= {"images": min(count, source.num_examples), **areas_under(curves)}
            found["curves"] = {name: values.tolist() for name, values in curves.items()}
        result[str(run.workdir.path)] = found
    name = "".join(c if c.isalnum() else "_" for c in source.split)
    suffix = "" if weights == "last" else f"_{weights}"
    path = runs[0].workdir.write_result(result, f"maps_{name}{suffix}.json")
    if "faithfulness" in measures:
        png = io.BytesIO()
        curves_figure(result).savefig(png, dpi=100)
        save_atomically(
            lambda partial: pathlib.Path(partial).write_bytes(png.getvalue()), picture(path)
        )
    return result, path


def picture(path):
    """The PNG of the curves, beside the JSON file of the measures."""
    return path.with_suffix(".png")


def curves_figure(result):
    """Deletion and insertion curves, one panel each.

    Args:
        result: what `measure_run` returns of runs whose faithfulness it measured.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    names = short_names(result)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axis, curve in zip(figure.subplots(1, 2, sharey=True), CURVES, strict=True):
        for number, (name_of_run, found) in enumerate(zip(names, result.values(), strict=True)):
            for name, values in found["curves"].items():
                method, _, kind = name.rpartition("_")
                if kind == curve:
                    style = {"linestyle": ":" if method == "random" else "-"}
                    if method == "random":
                        style["color"] = f"{0.4 + 0.3 * number}"
                    shares = np.linspace(0, 100, len(values))
                    label = f"{name_of_run}: {method}, {found[name]:.3f}"
                    axis.plot(shares, values, label=label, **style)
        axis.set_title(f"{curve.capitalize()} (area)")
        done = "grey" if curve == "deletion" else "sharp"
        axis.set_xlabel(f"pixels made {done}, the map's highest first, %")
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("score of the predicted class")
    return figure


def measures_table(result):
    """What `measure_run` returns, as lines of text.

    The rows "chance" have what a map without a preference would get, and what a map of noise got.
    """
    width = max(len(name) for name in result)
    lines = [f"{'run':{width}}  {'maps':12}" + "".join(f" {name:>9}" for name in _COLUMNS)]
    for run, found in result.items():
        chance = {"chance_pointing": found.get("chance"), "chance_energy": found.get("chance")}
        chance |= {f"chance_{c}": found.get(f"random_{c}") for c in ("deletion", "insertion")}
        figures = {**found, **chance}
        names = dict.fromkeys(key.rpartition("_")[0] for key in found if key.count("_"))
        for method in [*(name for name in names if name != "random"), "chance"]:
            cells = [figures.get(f"{method}_{column}") for column in _COLUMNS]
            lines.append(f"{run:{width}}  {method:12}" + "".join(map(_cell, cells)))
    return "\n".join(lines)


def _cell(value):
    return f" {'' if value is None else f'{value:.3f}':>9}"
