"""Writes the results of `finetuning.py` as Markdown tables, as CSV and as a picture."""

import json
import pathlib
import statistics
from collections.abc import Sequence

import records_csv
from accuracy_tables import dates_and_versions, markdown_table, paired_difference
from finetuning_settings import FULL_HEADS, HEADS, SETTINGS, TITLES, TRIED, TRIED_SETTINGS
from records_csv import Record

COLUMNS = {
    "setting": str,
    "part": str,
    "head": str,
    "seed": int,
    "rate": float,
    "full_rate": float,
    "searched": str,
    "top1": float,
    "parameters": int,
    "seconds": float,
    "date": str,
    "tensorflow": str,
}
_CURVE = [name for name in SETTINGS if name.startswith("cifar10_")]


def read_records(output: pathlib.Path) -> list[Record]:
    """Returns the records of all finished runs of a study, in the order of their paths."""
    paths = sorted(output.glob("*/*/*/seed*.json"))
    return [json.loads(path.read_text()) for path in paths]


def read_csv(path: pathlib.Path) -> list[Record]:
    """Returns the records of a file that --csv wrote."""
    return records_csv.read_csv(path, COLUMNS)


def make_tables(records: Sequence[Record]) -> dict[str, str]:
    """Returns the tables as Markdown.

    Args:
        records: the records of the finished runs.

    Returns:
        A dict name → Markdown: "finetuning_probe" and "finetuning_full" with the difference of
        each head to the pooled head; "finetuning_attention" with what attention adds; and
        "finetuning_tried" with other options of the head. Tables without runs are left out.
    """
    heads = [head for head in HEADS if head != "noah_uniform"]
    sections = {
        "probe": _differences_table(records, "probe", heads),
        "full": _differences_table(records, "full", FULL_HEADS),
        "attention": _attention_table(records),
        "tried": _tried_table(records),
    }
    return {f"finetuning_{name}": text for name, text in sections.items() if text}


def difference(
    records: Sequence[Record], setting: str, part: str, head: str, baseline: str
) -> tuple[float | None, tuple[float, float] | None, int]:
    """Returns the mean difference of two heads in points, its 95 % interval, and the seeds."""
    values, baselines = (_by_seed(records, setting, part, name) for name in (head, baseline))
    return paired_difference(
        {seed: 100 * value for seed, value in values.items()},
        {seed: 100 * value for seed, value in baselines.items()},
    )


def _by_seed(records: Sequence[Record], setting: str, part: str, head: str) -> dict[int, float]:
    key = (setting, part, head)
    return {
        run["seed"]: run["top1"]
        for run in records
        if (run["setting"], run["part"], run["head"]) == key
    }


def _differences_table(records: Sequence[Record], part: str, heads: Sequence[str]) -> str:
    """Returns a table of the pooled head's accuracy and the differences of the others to it."""
    baseline, *others = heads
    rows, means = [], {head: [] for head in others}
    for name, setting in SETTINGS.items():
        values = _by_seed(records, name, part, baseline)
        if not values:
            continue
        row = [setting.title, str(len(values)), f"{100 * statistics.fmean(values.values()):.1f}"]
        for head in others:
            result = difference(records, name, part, head, baseline)
            row.append(_interval_text(*result))
            if result[0] is not None:
                means[head].append(result[0])
        rows.append(row)
    if not rows:
        return ""
    averages = [f"{statistics.fmean(means[head]):+.1f}" if means[head] else "" for head in others]
    rows.append(["mean of the settings", "", "", *averages])
    header = ["setting", "seeds", f"{TITLES[baseline]}, top-1, %", *(TITLES[h] for h in others)]
    return markdown_table(header, rows) + "\n\n" + _footer(records, part)


def _attention_table(records: Sequence[Record]) -> str:
    """Returns a table of what attention adds: NOAH against the same head without attention."""
    rows = []
    for name in SETTINGS:
        results = [
            difference(records, name, "probe", "noah", baseline)
            for baseline in ("noah_uniform", "gap_zero")
        ]
        if results[0][2]:
            rows.append([SETTINGS[name].title, *(_interval_text(*result) for result in results)])
    if not rows:
        return ""
    header = ["NOAH minus", "the same head with uniform attention", "pooling with a zero start"]
    return markdown_table(header, rows) + "\n\n" + _footer(records, "probe")


def _tried_table(records: Sequence[Record]) -> str:
    """Returns a table of NOAH heads with one other option, against NOAH with its defaults."""
    probes = [run for run in records if run["part"] == "probe"]
    tried = [{**run, "part": "probe"} for run in records if run["part"] == "tried"]
    if not tried:
        return ""
    rows = []
    for head in ("gap_zero", *TRIED):
        results = [
            difference([*probes, *tried], name, "probe", head, "noah") for name in TRIED_SETTINGS
        ]
        if any(num_seeds for _, _, num_seeds in results):
            rows.append([TITLES.get(head, head), *(_interval_text(*result) for result in results)])
    header = ["minus NOAH with its defaults", *(SETTINGS[name].title for name in TRIED_SETTINGS)]
    return markdown_table(header, rows) + "\n\n" + _footer(records, "tried")


def _interval_text(mean: float | None, interval: tuple[float, float] | None, num_seeds: int) -> str:
    if mean is None:
        return ""
    if interval is None:
        return f"{mean:+.1f}"
    return f"{mean:+.1f} ± {(interval[1] - interval[0]) / 2:.1f}"


def _footer(records: Sequence[Record], part: str) -> str:
    runs = [run for run in records if run["part"] == part]
    return (
        f"<sub>`python benchmarks/finetuning.py --output DIR --backbone FILE --photos PHOTOS "
        f"--data_dir TFDS_DIR --part {part}`, {dates_and_versions(runs)}; differences in points "
        "of top-1 accuracy, mean over pairs of the same seed, with their 95 % interval by "
        "Student's t</sub>"
    )


def draw_curve(records: Sequence[Record], path: pathlib.Path) -> None:
    """Draws the differences to pooling over the number of CIFAR-10 photos per class, as a PNG.

    Args:
        records: the records of the finished runs.
        path: the PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="black", linewidth=0.8)
    for offset, head in enumerate(("gap_zero", "noah_uniform", "noah")):
        points = []
        for name in _CURVE:
            mean, interval, _ = difference(records, name, "probe", head, "gap")
            if mean is not None and interval is not None:
                # Shifted a little, so that the intervals do not cover each other.
                count = SETTINGS[name].per_class * 1.06 ** (offset - 1)
                points.append((count, mean, (interval[1] - interval[0]) / 2))
        if points:
            counts, means, widths = zip(*points, strict=True)
            axes.errorbar(counts, means, widths, marker="o", capsize=3, label=TITLES[head])
    axes.set_xscale("log")
    counts = [SETTINGS[name].per_class for name in _CURVE]
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.set_xlim(3.5, 2900)
    axes.minorticks_off()
    axes.set_xlabel("CIFAR-10 photos per class")
    axes.set_ylabel("top-1, points above pooling\nwith Keras's start")
    axes.set_title("Linear probe on EfficientNet-Lite0, 128 pixels: mean and 95 % interval")
    axes.legend()
    figure.savefig(path, dpi=120)
