"""The latencies of a load test as a picture, and as lines of text."""

import pathlib

import numpy as np

from noah_tf.serving.load_report import LoadReport


def text_bars(latencies: np.ndarray, count: int = 10, width: int = 40) -> list[str]:
    """Returns a histogram as lines of text, one bar each.

    Args:
        latencies: sorted latencies in seconds.
        count: number of bars.
        width: characters of the longest bar.
    """
    edges = _edges(latencies, count)
    counts, _ = np.histogram(latencies, edges)
    lines = []
    for low, high, number in zip(edges[:-1], edges[1:], counts, strict=True):
        bar = "#" * int(np.ceil(width * number / counts.max()))
        lines.append(f"{1000 * low:9.1f} to {1000 * high:9.1f} ms  {number:7d}  {bar}".rstrip())
    return lines


def draw(report: LoadReport, path: str | pathlib.Path, title: str) -> pathlib.Path:
    """Draws the latencies of the successful requests, and returns the path of the picture.

    Args:
        report: a report with at least one latency.
        path: where to write the PNG.
        title: first line above the picture.
    """
    from matplotlib.figure import Figure

    milliseconds = 1000 * report.latencies
    edges = 1000 * _edges(report.latencies, 60)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(milliseconds, edges.tolist(), color="#9ecae1", edgecolor="#6baed6", linewidth=0.5)
    if _is_skewed(report.latencies):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    # The percentiles are in the legend, since names beside the lines would overlap.
    colors = {50: "#31a354", 95: "#e6550d", 99: "#a50f15"}
    for percent, color in colors.items():
        value = 1000 * report.percentile(percent)
        axes.axvline(value, color=color, label=f"p{percent}: {value:.1f} ms")
    axes.legend()
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("requests")
    axes.set_title(
        f"{title}\n{report.concurrency} at a time, {report.images_each}: "
        f"{report.requests_per_second:.1f} requests/s, {report.images_per_second:.1f} images/s"
        + (f"; {report.num_failed} failed, not shown" if report.num_failed else ""),
        fontsize="medium",
    )
    path = pathlib.Path(path)
    figure.savefig(path, dpi=150, format="png")
    return path


def _is_skewed(latencies: np.ndarray) -> bool:
    """Returns whether a few slow requests would squeeze the others into one bar."""
    return latencies[-1] > 10 * np.median(latencies)


def _edges(latencies: np.ndarray, count: int) -> np.ndarray:
    """Returns the `count` + 1 edges of the bars, (count + 1,), in seconds."""
    low, high = latencies[0], latencies[-1]
    if high <= low:
        low, high = 0.9 * low, 1.1 * high
    if _is_skewed(latencies):
        edges = np.geomspace(low, high, count + 1)
    else:
        edges = np.linspace(low, high, count + 1)
    # Rounding must not exclude the smallest or the largest latency.
    edges[0], edges[-1] = low, high
    return edges
