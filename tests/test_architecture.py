"""The folders of the package import downwards only, and what each file may hold."""

import ast
import graphlib

import pytest
from shared_data import REPOSITORY

# A folder may import from folders of a lower floor. docs/architecture.md draws them.
FLOORS = {
    "utils": 1,
    "head": 2,
    "images": 2,
    "datasets": 3,
    "models": 3,
    "runs": 4,
    "explain": 5,
    "export": 6,
    "evaluation": 7,
    "serving": 7,
    "training": 8,
}
PACKAGE = REPOSITORY / "noah_tf"
# What may stand at the top of the package, and what any floor may import of it.
TOP = {"__init__.py", "version.py", "py.typed"}
SHARED_BY_ALL = {"version"}


def modules(root):
    """{dotted name: path} of a package and of what is in it."""
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path, known):
    """The modules of `known` that a file imports, also inside of its functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name:
                yield name


def violations(root, floors):
    """One sentence for each import that does not run downwards, and for a circle."""
    known = modules(root)
    graph = {name: set(imports(path, known)) - {name} for name, path in known.items()}
    for name, imported in sorted(graph.items()):
        room = name.split(".")[1] if "." in name else None
        for other in sorted(imported):
            other_room = other.split(".")[1] if "." in other else None
            if room not in floors or other_room == room or other_room in SHARED_BY_ALL:
                continue
            if other_room not in floors or floors[other_room] >= floors[room]:
                yield f"{name} imports {other}, which is not on a lower floor"
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield f"circular imports: {' -> '.join(error.args[1])}"


def test_imports_run_downwards_and_in_no_circle():
    assert list(violations(PACKAGE, FLOORS)) == []


def test_every_folder_has_a_floor_and_nothing_else_is_at_the_top():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(FLOORS)
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} <= TOP


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"low/a.py": "from house.high import b", "high/b.py": ""},
            "house.low.a imports house.high.b",
        ),
        (
            {"low/a.py": "def f():\n    import house.high.b", "high/b.py": ""},
            "not on a lower floor",
        ),
        ({"low/a.py": "import house.low.c", "low/c.py": "import house.low.a"}, "circular imports"),
        ({"low/a.py": "from house.other import x", "other/x.py": ""}, "not on a lower floor"),
    ],
)
def test_an_import_that_runs_up_or_in_a_circle_is_noticed(files, expected, tmp_path):
    for name, text in {**files, "__init__.py": "", "low/__init__.py": ""}.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (violation,) = violations(tmp_path / "house", {"low": 1, "high": 2})
    assert expected in violation
