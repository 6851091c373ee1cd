"""Writes the results of `accuracy.py` as Markdown tables and as CSV."""

import itertools
import json
import pathlib
import statistics
from collections.abc import Iterable, Sequence

import records_csv
from accuracy_runs import RECORD
from accuracy_settings import SETTINGS, VARIANTS
from records_csv import Record
from scipy import stats

COLUMNS = {
    "setting": str,
    "part": str,
    "variant": str,
    "seed": int,
    "rate": float,
    "metric": str,
    "value": float,
    "loss": float,
    "parameters": int,
    "steps": int,
    "batch_size": int,
    "step_ms": float,
    "seconds": float,
    "cpu_seconds": float,
    "threads": int,
    "date": str,
    "tensorflow": str,
}

# Records are rounded to the digits of the CSV, so that both give the same tables.
_DIGITS = {"value": 6, "loss": 6, "step_ms": 2}

_METRIC_TITLES = {"top1": "top-1"}
_DIFFERENCE = (
    "mean ± standard deviation over the seeds; the difference is the mean over pairs of the same "
    "seed, with its 95 % interval by Student's t"
)
_SEARCH = "one seed outside the study, with a part of the training data and of the steps"


def read_records(output: pathlib.Path) -> list[Record]:
    """Returns the records of all finished runs of a study, in the order of their folders.

    Args:
        output: the study's folder.
    """
    records = [json.loads(path.read_text()) for path in sorted(output.glob(f"*/*/*/*/{RECORD}"))]
    for record, (key, digits) in itertools.product(records, _DIGITS.items()):
        if record[key] is not None:
            record[key] = round(record[key], digits)
    return records


def read_csv(path: pathlib.Path) -> list[Record]:
    """Returns the records of a file that --csv wrote.

    Raises:
        ValueError: the file has other columns.
    """
    return records_csv.read_csv(path, COLUMNS)


def paired_difference(
    values: dict[int, float], baseline: dict[int, float]
) -> tuple[float | None, tuple[float, float] | None, int]:
    """Computes the mean difference between two results over the seeds that both have.

    Args:
        values: seed → value.
        baseline: seed → value of what it is compared with.

    Returns:
        The mean of `values - baseline`, the bounds of its 95 % interval by Student's t (None for
        fewer than two seeds), and the number of common seeds.

    Example:

    >>> paired_difference({0: 0.9, 1: 0.8}, {0: 0.85, 1: 0.77})
    """
    seeds = sorted(set(values) & set(baseline))
    if not seeds:
        return None, None, 0
    differences = [values[seed] - baseline[seed] for seed in seeds]
    mean = statistics.fmean(differences)
    if len(seeds) < 2:
        return mean, None, 1
    standard_error = statistics.stdev(differences) / len(seeds) ** 0.5
    half_width = float(stats.t.ppf(0.975, len(seeds) - 1)) * standard_error
    return mean, (mean - half_width, mean + half_width), len(seeds)


def make_tables(records: Sequence[Record]) -> dict[str, str]:
    """Returns the study's tables as Markdown.

    Args:
        records: the records of the finished runs.

    Returns:
        A dict name → Markdown: "study_summary" for the README, and "study_heads",
        "study_ablations", "study_causes", "study_starts" and "study_search" for docs/study.md.
        Tables without runs are left out.
    """
    sections = {
        "summary": _summary_table(records),
        "heads": _heads_table(records),
        **{part: _variants_table(records, part) for part in VARIANTS},
        "search": _search_table(records),
    }
    return {f"study_{name}": text for name, text in sections.items() if text}


def _heads_by_setting(records: Sequence[Record]) -> Iterable[tuple[str, dict[str, list[Record]]]]:
    """Yields each setting that has runs, with its runs by head."""
    for name in SETTINGS:
        heads = SETTINGS[name].learning_rates
        runs = {head: _select(records, name, "heads", head) for head in heads}
        if any(runs.values()):
            yield name, runs


def _summary_table(records: Sequence[Record]) -> str:
    rows = []
    for name, runs in _heads_by_setting(records):
        cells = [_mean(runs[head]) for head in ("gap", "noah")]
        difference = _difference(runs["noah"], runs["gap"])
        rows.append([SETTINGS[name].title, _metric(runs), *cells, difference])
    if not rows:
        return ""
    header = ["setting", "metric, %", "pooling", "NOAH", "difference, points (95 % interval)"]
    return markdown_table(header, rows)


def _heads_table(records: Sequence[Record]) -> str:
    rows = []
    for name, runs in _heads_by_setting(records):
        setting = SETTINGS[name]
        rows.append(
            [
                setting.title,
                _metric(runs),
                *(_spread(runs[head]) for head in ("gap", "noah")),
                _difference(runs["noah"], runs["gap"]),
                _difference(runs[setting.paper_head], runs["gap"]),
                " → ".join(_parameters(runs[head]) for head in ("gap", "noah")),
                " → ".join(f"{setting.learning_rates[head]:g}" for head in ("gap", "noah")),
            ]
        )
    if not rows:
        return ""
    header = ["setting", "metric, %", "pooling", "NOAH", "difference, points"]
    header += ["difference of the paper's head", "parameters", "learning rate"]
    return markdown_table(header, rows) + "\n\n" + _footer(records, "heads")


def _variants_table(records: Sequence[Record], part: str) -> str:
    setting, default_options, _, changes = VARIANTS[part]
    noah = _select(records, setting, "heads", SETTINGS[setting].paper_head)
    variants = {name: _select(records, setting, part, name) for name in changes}
    if not any(variants.values()):
        return ""
    pooling = _select(records, setting, "heads", "gap")
    variants = {"pooling": pooling, f"NOAH as in the paper: {default_options}": noah, **variants}
    rows = [
        [
            name,
            _spread(runs),
            "" if runs is noah else _difference(runs, noah),
            _parameters(runs),
        ]
        for name, runs in variants.items()
        if runs
    ]
    header = [SETTINGS[setting].title, f"{_metric(variants)}, %", "difference to NOAH, points"]
    table = markdown_table([*header, "parameters"], rows)
    return table + "\n\n" + _footer(records, part)


def _search_table(records: Sequence[Record]) -> str:
    rows = []
    for name, setting in SETTINGS.items():
        for head in setting.learning_rates:
            runs = {run["rate"]: run for run in _select(records, name, "search", head)}
            if runs:
                cells = [
                    f"{rate:g}: {_percent(runs[rate])}" if rate in runs else f"{rate:g}:"
                    for rate in setting.searched_rates
                ]
                rows.append([setting.title, head, *cells, f"{setting.learning_rates[head]:g}"])
    if not rows:
        return ""
    num_rates = max(len(setting.searched_rates) for setting in SETTINGS.values())
    rows = [[*row[:-1], *[""] * (num_rates + 3 - len(row)), row[-1]] for row in rows]
    header = ["setting", "head", *["learning rate: metric, %"] * num_rates, "chosen"]
    return markdown_table(header, rows) + "\n\n" + _footer(records, "search")


def _select(records: Sequence[Record], setting: str, part: str, variant: str) -> list[Record]:
    key = (setting, part, variant)
    return [run for run in records if (run["setting"], run["part"], run["variant"]) == key]


def _metric(groups: dict[str, list[Record]]) -> str:
    name = next(run["metric"] for runs in groups.values() for run in runs)
    return _METRIC_TITLES.get(name, name)


def _difference(runs: Sequence[Record], baseline: Sequence[Record]) -> str:
    values = {run["seed"]: run["value"] for run in runs}
    mean, interval, num_seeds = paired_difference(
        values, {run["seed"]: run["value"] for run in baseline}
    )
    if not num_seeds:
        return ""
    if interval is None:
        return f"{100 * mean:+.2f}"
    low, high = interval
    return f"{100 * mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def _mean(runs: Sequence[Record]) -> str:
    return f"{100 * statistics.fmean(run['value'] for run in runs):.2f}" if runs else ""


def _spread(runs: Sequence[Record]) -> str:
    if len(runs) < 2:
        return _mean(runs)
    return f"{_mean(runs)} ± {100 * statistics.stdev(run['value'] for run in runs):.2f}"


def _percent(run: Record) -> str:
    return "diverged" if run["value"] is None else f"{100 * run['value']:.1f}"


def _parameters(runs: Sequence[Record]) -> str:
    return f"{runs[0]['parameters']:,}" if runs else ""


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def dates_and_versions(runs: Sequence[Record]) -> str:
    """Returns when runs were trained, and with which TensorFlow."""
    dates = sorted({run["date"] for run in runs})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{when}, TensorFlow {', '.join(sorted({run['tensorflow'] for run in runs}))}"


def _footer(records: Sequence[Record], part: str) -> str:
    """Returns the line below a table: the command, dates, versions, seeds and the statistics."""
    runs = [run for run in records if run["part"] == part]
    num_seeds = len({run["seed"] for run in runs})
    option = "" if part == "heads" else f" --{part}"
    notes = _SEARCH if part == "search" else _DIFFERENCE
    return (
        f"<sub>`python benchmarks/accuracy.py --output DIR --data_dir TFDS_DIR{option}`, "
        f"{dates_and_versions(runs)}, seeds: {num_seeds}; {notes}</sub>"
    )
