"""The folders import downwards only, and files and signatures follow the rules of the project."""

import ast
import graphlib
import sys

import pytest
from shared_data import REPOSITORY

sys.path.append(str(REPOSITORY / "docs"))

import floors
from floors import Folder

pytestmark = pytest.mark.one_stack

ROOTS = ["noah_tf", "configs", "trainers", "benchmarks"]
PACKAGE = REPOSITORY / "noah_tf"
# The only files at the top of the package, and the only one that every floor may import.
TOP = {"__init__.py", "version.py", "py.typed"}
SHARED_BY_ALL = "noah_tf/version"


def violations(modules, folders, package="noah_tf"):
    """Yields one sentence for each import that does not run downwards, and for a circle."""
    graph = floors.import_graph(modules)
    for name, imported in sorted(graph.items()):
        folder = floors.folder_of(name, package)
        if folder not in folders:
            continue
        for other in sorted(imported):
            other_folder = floors.folder_of(other, package)
            if other_folder in (folder, SHARED_BY_ALL):
                continue
            # Command lines and benchmarks use the public names of `import noah_tf`.
            if other_folder is None and not folder.startswith(f"{package}/"):
                continue
            if other_folder not in folders or folders[other_folder].floor >= folders[folder].floor:
                yield f"{name} imports {other}, which is not on a lower floor"
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield f"circular imports: {' -> '.join(error.args[1])}"


def _public_functions(tree):
    """Yields (name, function) of the public functions of a module and of its public classes."""
    for node in tree.body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        if prefix.startswith("_"):
            continue
        for member in members:
            if not isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            special = member.name.startswith("__") and member.name.endswith("__")
            if special or not member.name.startswith("_"):
                yield prefix + member.name, member


def missing_annotations(path):
    """Yields the public functions of a file and their arguments that have no annotation."""
    for name, function in _public_functions(ast.parse(path.read_text("utf-8"))):
        spec = function.args
        arguments = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
        decorators = {d.id for d in function.decorator_list if isinstance(d, ast.Name)}
        if "." in name and "staticmethod" not in decorators:
            arguments = arguments[1:]  # self or cls
        missing = [a.arg for a in arguments if a is not None and a.annotation is None]
        if function.returns is None and function.name != "__init__":
            missing.append("return")
        if missing:
            yield f"{name}: {', '.join(missing)}"


def test_imports_run_downwards_and_in_no_circle():
    modules = floors.read_modules(REPOSITORY, ROOTS)
    assert list(violations(modules, floors.read_folders())) == []


def test_every_folder_has_a_floor_and_nothing_else_is_at_the_top():
    subfolders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    expected = {f"noah_tf/{name}" for name in subfolders} | set(ROOTS) - {"noah_tf"}
    assert set(floors.read_folders()) == expected
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} <= TOP


def test_no_module_is_longer_than_400_lines():
    lengths = {
        name: len(path.read_text("utf-8").splitlines())
        for name, path in floors.read_modules(REPOSITORY, ["noah_tf"]).items()
    }
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_public_functions_are_annotated():
    missing = {
        name: list(missing_annotations(path))
        for name, path in floors.read_modules(REPOSITORY, ["noah_tf"]).items()
    }
    assert {name: functions for name, functions in missing.items() if functions} == {}


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
        ({"low/a.py": "import house"}, "not on a lower floor"),
    ],
)
def test_a_wrong_import_is_reported(files, expected, tmp_path):
    for name, text in {**files, "__init__.py": "", "low/__init__.py": ""}.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folders = {"house/low": Folder(1, ""), "house/high": Folder(2, "")}
    (violation,) = violations(floors.read_modules(tmp_path, ["house"]), folders, "house")
    assert expected in violation


def test_missing_annotations_are_reported(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "def f(a: int, b, *c, d=1) -> None: pass\n"
        "class C:\n"
        "    def __init__(self, x): pass\n"
        "    def m(self) -> int: pass\n"
        "    def _private(self, y): pass\n"
        "    @staticmethod\n"
        "    def s(z: int): pass\n"
    )
    assert list(missing_annotations(path)) == ["f: b, d, c", "C.__init__: x", "C.s: return"]
