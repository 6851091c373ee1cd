"""Draws docs/architecture.svg: the folders of the project on their floors, and who imports whom.

python docs/floors.py

The floors are those of the table in docs/architecture.md, and the arrows are today's imports.
`tests/test_architecture.py` checks the imports with the functions of this file.
"""

import argparse
import ast
import collections
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
PACKAGE = "noah_tf"

_ROW = re.compile(r"^\| (\d) \| `([\w/]+)/` \| (.+) \|$", re.MULTILINE)


class Folder(NamedTuple):
    """A row of the table in docs/architecture.md."""

    floor: int
    holds: str


def read_folders(page: pathlib.Path = PAGE) -> dict[str, Folder]:
    """Returns {path of a folder: its row of the table}, highest floor first."""
    rows = _ROW.findall(page.read_text("utf-8"))
    return {folder: Folder(int(floor), holds) for floor, folder, holds in rows}


def read_modules(root: pathlib.Path, tops: list[str]) -> dict[str, pathlib.Path]:
    """Returns {dotted name: path} of the modules in the folders `tops` of `root`."""
    modules = {}
    for top in tops:
        for path in sorted((root / top).rglob("*.py")):
            dotted = ".".join(path.relative_to(root).with_suffix("").parts)
            modules[dotted.removesuffix(".__init__")] = path
    return modules


def imported_modules(path: pathlib.Path, modules: dict[str, pathlib.Path]) -> Iterator[str]:
    """Yields the names in `modules` that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path} has a relative import in line {node.lineno}.")
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in modules:
                name = name.rpartition(".")[0]
            if name:
                yield name


def import_graph(modules: dict[str, pathlib.Path]) -> dict[str, set[str]]:
    """Returns {module: the modules that it imports}."""
    return {name: set(imported_modules(path, modules)) - {name} for name, path in modules.items()}


def folder_of(module: str, root_package: str = PACKAGE) -> str | None:
    """Returns the folder of a module, or None for what is at the top of the package."""
    top, *rest = module.split(".")
    if top != root_package:
        return top
    return f"{top}/{rest[0]}" if rest else None


def count_imports(
    graph: dict[str, set[str]], folders: dict[str, Folder]
) -> collections.Counter[tuple[str, str]]:
    """Returns {(importing folder, imported folder): number of imports between their modules}."""
    pairs = ((folder_of(module), folder_of(other)) for module in graph for other in graph[module])
    return collections.Counter((a, b) for a, b in pairs if a in folders and b in folders and a != b)


# One color for each floor, from the first.
COLORS = ("#6b6b6b", "#3d6fa5", "#2f8f83", "#5b9135", "#a8851f", "#c46a22", "#b8453f", "#8d4c99")
COLORS += ("#4a4fa8",)
# Row height, distance of the columns, box width and height, and the room for the floor's number.
_ROW_HEIGHT, _COLUMN, _BOX_WIDTH, _BOX_HEIGHT, _MARGIN = 0.8, 0.74, 5.3, 0.66, 0.75
_CENTER = {"ha": "center", "va": "center"}
_LEGEND = """A folder's line runs to the right
and turns down into the folders
that it imports. A number says
how many imports there are."""


def draw_floors(folders: dict[str, Folder], counts: collections.Counter[tuple[str, str]]) -> Figure:
    """Draws a staircase of boxes, one for each folder, and the imports beside it.

    Each folder's line runs to the right, and turns down into the folders that it imports. The
    number at a corner is the number of imports.
    """
    names = sorted(folders, key=lambda name: -folders[name].floor)
    colors = {name: COLORS[(folders[name].floor - 1) % len(COLORS)] for name in names}
    # The column of a folder is where arrows come down to it, near the right end of its box.
    xs = {name: _MARGIN + _BOX_WIDTH + index * _COLUMN for index, name in enumerate(names)}
    ys = {name: (len(names) - index - 0.5) * _ROW_HEIGHT for index, name in enumerate(names)}
    width, height = xs[names[-1]] + 0.5, len(names) * _ROW_HEIGHT
    figure = Figure(figsize=(0.62 * width, 0.62 * height))
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axis.set_axis_off()
    axis.text(0.95, 0.5 * _ROW_HEIGHT, _LEGEND, fontsize=8.5, color="#555555", linespacing=1.5)
    for floor in sorted({folder.floor for folder in folders.values()}):
        heights = [ys[name] for name in names if folders[name].floor == floor]
        bottom, top = min(heights) - _ROW_HEIGHT / 2, max(heights) + _ROW_HEIGHT / 2
        shade = "#f1f1ee" if floor % 2 else "#fafaf8"
        axis.add_patch(Rectangle((0, bottom), width, top - bottom, facecolor=shade, lw=0, zorder=0))
        axis.text(0.38, (bottom + top) / 2, str(floor), fontsize=14, color="#9a9a9a", **_CENTER)
    for name in names:
        x, y, color = xs[name], ys[name], colors[name]
        left, line = x + 0.25 - _BOX_WIDTH, {"color": color, "lw": 1.1, "alpha": 0.75}
        corner, shape = (left, y - _BOX_HEIGHT / 2), "round,pad=0,rounding_size=0.1"
        box = FancyBboxPatch(corner, _BOX_WIDTH, _BOX_HEIGHT, boxstyle=shape, zorder=3)
        box.set(facecolor="white", edgecolor=color, linewidth=1.3)
        axis.add_patch(box)
        middle, title = left + _BOX_WIDTH / 2, {"color": color, "weight": "bold", "zorder": 4}
        axis.text(middle, y + 0.15, f"{name}/", fontsize=9.5, **title, **_CENTER)
        axis.text(middle, y - 0.14, folders[name].holds, fontsize=7, zorder=4, **_CENTER)
        importers = [ys[other] for other in names if counts[other, name]]
        if importers:
            arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, **line}
            end = (x, y + _BOX_HEIGHT / 2)
            axis.annotate("", end, (x, max(importers)), arrowprops=arrow, zorder=2)
        imported = [other for other in names if counts[name, other]]
        if imported:
            end = max(xs[other] for other in imported)
            axis.plot([x + 0.25, end], [y, y], zorder=2, **line)
        for other in imported:
            count, label = counts[name, other], {"color": "white", "weight": "bold", "zorder": 6}
            axis.scatter(xs[other], y, s=62 + 9 * min(count, 20), color=color, lw=0, zorder=5)
            axis.text(xs[other], y - 0.005, str(count), fontsize=6.6, **label, **_CENTER)
    return figure


def draw(folder: pathlib.Path) -> None:
    """Writes architecture.svg; one version of Matplotlib always writes the same bytes."""
    folders = read_folders()
    graph = import_graph(read_modules(ROOT, [PACKAGE, "configs", "trainers", "benchmarks"]))
    with matplotlib.rc_context({"svg.hashsalt": "noah_tf", "svg.fonttype": "path"}):
        figure = draw_floors(folders, count_imports(graph, folders))
        figure.savefig(folder / "architecture.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=pathlib.Path, default=PAGE.parent, help="folder; by default docs/"
    )
    draw(parser.parse_args().output)


if __name__ == "__main__":
    main()
