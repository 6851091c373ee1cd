"""The results of `accuracy.py` as Markdown and as CSV."""

import csv
import io
import itertools
import json
import statistics

from accuracy_runs import RECORD
from accuracy_settings import HEADS, SETTINGS, VARIANTS
from scipy import stats

from noah_tf.utils.files import write_text_atomically

COLUMNS = (
    "setting",
    "part",
    "variant",
    "seed",
    "rate",
    "metric",
    "value",
    "loss",
    "parameters",
    "steps",
    "batch_size",
    "step_ms",
    "seconds",
    "processor_seconds",
    "threads",
    "date",
    "tensorflow",
)


# With so many digits as the CSV has, so that its rows give the same tables.
_DIGITS = {"value": 6, "loss": 6, "step_ms": 2}


def records(output):
    """The records of all runs that are done, in the order of their folders."""
    found = [json.loads(path.read_text()) for path in sorted(output.glob(f"*/*/*/*/{RECORD}"))]
    for record, (key, digits) in itertools.product(found, _DIGITS.items()):
        if record[key] is not None:
            record[key] = round(record[key], digits)
    return found


def read_csv(path):
    """The records of a CSV that `write_csv` wrote.

    Raises:
        ValueError: the file has other columns.
    """
    with open(path, newline="") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise ValueError(
                f"{path} is no file that --csv wrote: its columns are "
                f"{', '.join(rows.fieldnames or ()) or 'none'}, not {', '.join(COLUMNS)}."
            )
        return [{key: _read(key, text) for key, text in row.items()} for row in rows]


def _read(key, text):
    if key in ("setting", "part", "variant", "metric", "date", "tensorflow"):
        return text
    if not text:
        return None
    return (
        int(text)
        if key in ("seed", "parameters", "steps", "batch_size", "threads")
        else float(text)
    )


def paired_difference(values, others):
    """What is gained, seed by seed.

    Args:
        values: dict seed → value.
        others: the same of what it is compared with.

    Returns:
        The mean of the differences over the seeds that both have, the bounds of its 95 % interval
        by Student's t (None for less than two seeds), and how many seeds there are.

    Example:

    >>> paired_difference({0: 0.9, 1: 0.8}, {0: 0.85, 1: 0.77})
    """
    seeds = sorted(set(values) & set(others))
    if not seeds:
        return None, None, 0
    differences = [values[seed] - others[seed] for seed in seeds]
    mean = statistics.fmean(differences)
    if len(seeds) < 2:
        return mean, None, 1
    error = statistics.stdev(differences) / len(seeds) ** 0.5
    half = float(stats.t.ppf(0.975, len(seeds) - 1)) * error
    return mean, (mean - half, mean + half), len(seeds)


def tables(found):
    """The tables of some records.

    Returns:
        A dict name → Markdown, "study_heads", "study_ablations" and so on, without those that no
        run is of.
    """
    parts = {
        "heads": _heads(found),
        **{part: _variants(found, part) for part in VARIANTS},
        "search": _search(found),
    }
    return {f"study_{name}": text for name, text in parts.items() if text}


def csv_text(found):
    """The records as CSV, one row a run."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: record[key] for key in COLUMNS} for record in found)
    return text.getvalue()


def write_csv(found, path):
    """Writes `csv_text` to a file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, csv_text(found))


def _heads(found):
    rows = []
    for name, setting in SETTINGS.items():
        runs = {head: _runs(found, name, "heads", head) for head in HEADS}
        if not any(runs.values()):
            continue
        metric = next(run["metric"] for group in runs.values() for run in group)
        rows.append(
            [
                setting.title,
                metric,
                *(_spread(runs[head]) for head in HEADS),
                _difference(runs["noah"], runs["gap"]),
                " → ".join(_parameters(runs[head]) for head in HEADS),
                " → ".join(_step(runs[head]) for head in HEADS),
                " → ".join(f"{setting.best[head]:g}" for head in HEADS),
            ]
        )
    if not rows:
        return ""
    header = ["setting", "metric, %", "pooled head", "NOAH", "difference, points"]
    header += ["parameters", "ms a step", "learning rate"]
    return _table(header, rows) + "\n\n" + _footer(found, "heads")


def _variants(found, part):
    setting, usual, _, changes = VARIANTS[part]
    noah = _runs(found, setting, "heads", "noah")
    variants = {name: _runs(found, setting, part, name) for name in changes}
    if not any(variants.values()):
        return ""
    pooled = _runs(found, setting, "heads", "gap")
    variants = {"pooled head": pooled, f"NOAH: {usual}": noah, **variants}
    rows = [
        [
            name,
            _spread(runs),
            "" if runs is noah else _difference(runs, noah),
            _parameters(runs),
            _step(runs),
        ]
        for name, runs in variants.items()
        if runs
    ]
    metric = next(run["metric"] for runs in variants.values() for run in runs)
    header = [SETTINGS[setting].title, f"{metric}, %", "against NOAH, points", "parameters"]
    return _table([*header, "ms a step"], rows) + "\n\n" + _footer(found, part)


def _search(found):
    rows = []
    for name, setting in SETTINGS.items():
        for head in HEADS:
            tried = {run["rate"]: run for run in _runs(found, name, "search", head)}
            if tried:
                cells = [
                    f"{rate:g}: {_percent(tried[rate])}" if rate in tried else f"{rate:g}:"
                    for rate in setting.rates
                ]
                rows.append([setting.title, head, *cells, f"{setting.best[head]:g}"])
    if not rows:
        return ""
    tries = max(len(setting.rates) for setting in SETTINGS.values())
    rows = [[*row[:-1], *[""] * (tries + 3 - len(row)), row[-1]] for row in rows]
    header = ["setting", "head", *["learning rate: metric, %"] * tries, "taken"]
    return _table(header, rows) + "\n\n" + _footer(found, "search")


def _runs(found, setting, part, variant):
    wanted = (setting, part, variant)
    return [run for run in found if (run["setting"], run["part"], run["variant"]) == wanted]


def _by_seed(runs):
    return {run["seed"]: run["value"] for run in runs}


def _difference(runs, others):
    mean, interval, seeds = paired_difference(_by_seed(runs), _by_seed(others))
    if not seeds:
        return ""
    if interval is None:
        return f"{100 * mean:+.2f}"
    low, high = interval
    return f"{100 * mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def _spread(runs):
    values = [100 * run["value"] for run in runs]
    if len(values) < 2:
        return "".join(f"{value:.2f}" for value in values)
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"


def _percent(run):
    return "diverged" if run["value"] is None else f"{100 * run['value']:.1f}"


def _parameters(runs):
    return f"{runs[0]['parameters']:,}" if runs else ""


def _step(runs):
    return f"{statistics.median(run['step_ms'] for run in runs):.0f}" if runs else ""


def _table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _footer(found, part):
    runs = [run for run in found if run["part"] == part]
    dates = sorted({run["date"] for run in runs})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    seeds = len({run["seed"] for run in runs})
    option = "" if part == "heads" else f" --{part}"
    what = _HOW_SEARCHED if part == "search" else _HOW
    return (
        f"<sub>`python benchmarks/accuracy.py --output DIR --data_dir TFDS_DIR{option}`, {when}, "
        f"TensorFlow {', '.join(sorted({run['tensorflow'] for run in runs}))}, seeds: {seeds}; "
        f"{what}</sub>"
    )


_HOW_SEARCHED = "one seed outside of the study, a part of the training data and of the steps"
_HOW = (
    "mean ± standard deviation over seeds; the difference is the mean over seeds, in brackets its "
    "95 % interval by Student's t of the pairs; the time of a step is the median, in a process "
    "with one thread beside another"
)
