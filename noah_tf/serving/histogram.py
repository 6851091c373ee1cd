"""The latencies of a load test as a picture, and as lines of text."""

import pathlib

import numpy as np


def bars(latencies, count=10, width=40):
    """Lines of text with a bar each.

    Args:
        latencies: sorted seconds.
        count: number of bars.
        width: characters of the longest one.

    Returns:
        List of strings.
    """
    edges = _edges(latencies, count)
    counts, _ = np.histogram(latencies, edges)
    lines = []
    for low, high, number in zip(edges[:-1], edges[1:], counts, strict=True):
        bar = "#" * int(np.ceil(width * number / counts.max()))
        lines.append(f"{1000 * low:9.1f} to {1000 * high:9.1f} ms  {number:7d}  {bar}".rstrip())
    return lines


def draw(report, path, title):
    """Draws the latencies of the requests that succeeded.

    Args:
        report: a `load.LoadReport` with at least one latency.
        path: where to write the PNG.
        title: first line over the picture.

    Returns:
        `pathlib.Path` of the picture.
    """
    from matplotlib.figure import Figure

    milliseconds = 1000 * report.latencies
    edges = 1000 * _edges(report.latencies, 60)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(milliseconds, edges, color="#9ecae1", edgecolor="#6baed6", linewidth=0.5)
    if _skewed(report.latencies):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    # Percentiles that lie close to each other would hide each other's names in the picture.
    colours = {50: "#31a354", 95: "#e6550d", 99: "#a50f15"}
    for percent, colour in colours.items():
        value = 1000 * report.percentile(percent)
        axes.axvline(value, color=colour, label=f"p{percent}: {value:.1f} ms")
    axes.legend()
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("requests")
    failed = sum(map(len, report.failures.values()))
    axes.set_title(
        f"{title}\n{report.concurrency} at a time, {report.images_each}: "
        f"{report.requests_per_second:.1f} requests/s, {report.images_per_second:.1f} images/s"
        + (f"; {failed} failed, not shown" if failed else ""),
        fontsize="medium",
    )
    path = pathlib.Path(path)
    figure.savefig(path, dpi=150, format="png")
    return path


def _skewed(latencies):
    """Whether a few slow requests would squeeze all others into one corner."""
    return latencies[-1] > 10 * np.median(latencies)


def _edges(latencies, count):
    low, high = latencies[0], latencies[-1]
    if high <= low:
        low, high = 0.9 * low, 1.1 * high
    if _skewed(latencies):
        edges = np.geomspace(low, high, count + 1)
    else:
        edges = np.linspace(low, high, count + 1)
    # Rounding must not leave the smallest or the largest out.
    edges[0], edges[-1] = low, high
    return edges
