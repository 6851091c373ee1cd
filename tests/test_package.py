"""The wheel holds the package and nothing else, and works when it is installed alone."""

import re
import subprocess
import sys
import zipfile

import pytest
from head_helpers import run_python
from shared_data import REPOSITORY
from stacks import slow_on_one_stack

sys.path.append(str(REPOSITORY / "docs"))

import floors

pytestmark = pytest.mark.one_stack


@slow_on_one_stack
def test_wheel_holds_only_the_package(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*command, str(REPOSITORY)], check=True, timeout=300, cwd=tmp_path)
    (wheel,) = tmp_path.glob("noah_tf-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert {name.split("/")[0] for name in names} <= {"noah_tf", f"{wheel.name[:13]}.dist-info"}
    sources = {str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "noah_tf").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert "noah_tf/models/official_checkpoints.tsv" in names
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "installed")!r})
import noah_tf, tensorflow as tf
assert noah_tf.__file__.startswith({str(tmp_path)!r}), noah_tf.__file__
print(noah_tf.NOAHHead(3)(tf.ones((1, 2, 2, 8))).shape)
"""
    process = run_python(code)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.strip() == "(1, 3)"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_files_folders_and_targets_exist(page):
    text = (REPOSITORY / page).read_text()
    for path in re.findall(r"(?:trainers|configs|benchmarks|docs|noah_tf|tests)/[\w/]+\.\w+", text):
        assert (REPOSITORY / path).exists(), path
    for target in re.findall(r"make ([a-z-]+)", "".join(re.findall("`.*?`", text))):
        makefile = (REPOSITORY / "Makefile").read_text()
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert "shared" + "/" not in text


def test_readme_is_short_and_has_a_row_for_each_folder():
    readme = (REPOSITORY / "README.md").read_text()
    assert len(readme.splitlines()) <= 150
    (table,) = re.findall(r"## Where things are\n(.*?)\n## ", readme, re.DOTALL)
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    folders = {name.rstrip("/") for cell in cells for name in re.findall(r"`(.+?)`", cell)}
    assert folders == {*floors.read_folders(), "saved_models", "docs", "tests"}
    assert all((REPOSITORY / folder).is_dir() for folder in folders)
