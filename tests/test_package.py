"""The wheel: the package and nothing else, and it works where it is installed alone."""

import re
import subprocess
import sys
import zipfile

from head_helpers import run_python
from shared_data import REPOSITORY
from stacks import slow_on_one_stack


@slow_on_one_stack
def test_the_wheel_holds_the_package_alone(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*command, str(REPOSITORY)], check=True, timeout=300, cwd=tmp_path)
    (wheel,) = tmp_path.glob("noah_tf-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert {name.split("/")[0] for name in names} <= {"noah_tf", f"{wheel.name[:13]}.dist-info"}
    sources = {str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "noah_tf").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
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


def test_files_and_targets_that_the_readme_names_exist():
    """Names in the README's tables and commands exist."""
    readme = (REPOSITORY / "README.md").read_text()
    for path in re.findall(r"(?:trainers|configs|benchmarks|docs|noah_tf)/[\w/]+\.\w+", readme):
        assert (REPOSITORY / path).exists(), path
    (table,) = re.findall(r"## Where things are\n(.*?)\n## ", readme, re.DOTALL)
    for column in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        for name in re.findall(r"`(.+?)`", column):
            assert (REPOSITORY / name).exists() or (REPOSITORY / "noah_tf" / name).exists(), name
    targets = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", readme):
        assert re.search(rf"^{target}:", targets, re.MULTILINE), target
    assert "shared" + "/" not in readme
