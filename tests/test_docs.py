"""Every code block of the README and the pages is run or checked, and every link leads somewhere.

Python: run, a page's blocks in order and in one namespace, `>>>` as doctests.

Bash, line by line, as `kind` tells:
    run: the trainers' commands of quickstart on three pages, with tiny settings, one after the
        other in an empty folder.
    parsed: other commands of the trainers and the benchmarks, which take minutes to days or data
        that are not here: their own programs parse them, and load the recipe.
    served: what asks a server; test_saved_models.py sends it to one.
    page: the page to try a model, which stays until it is stopped; tests/serving/test_demo.py has
        it in a browser, here is its command.
    environment: make and pip, which set up environments: the target and the extras exist.
    UNRUNNABLE: neither.

Text: what a program prints, compared with what it prints here but for the numbers.
"""

import configparser
import doctest
import importlib
import io
import re
import runpy
import subprocess
import sys

import numpy as np
import pages
import pytest
from forked_commands import run_forked
from head_helpers import child_environment
from recipes import SMALL
from shared_data import REPOSITORY
from stacks import slow_on_one_stack

import noah_tf
from noah_tf.serving.__main__ import main as serving

# Docker is not where the tests are. test_saved_models.py reads the files that these are given.
UNRUNNABLE = {
    "docker run --rm -p 127.0.0.1:8501:8501 -v": "a server of one model",
    "docker compose -f saved_models/compose.yaml up": "the server with its configurations",
    "docker run --rm -p 127.0.0.1:8500:8500 -p 127.0.0.1:8501:8501": "the same without compose",
}
RUN_PAGES = ("README.md", "docs/attention.md", "docs/evaluation.md")
SERVED_PAGE = "docs/serving.md"
# What replaces a part of a page's Python where it is run.
REPLACED = {
    'weights="imagenet"': "weights=None",  # a download
    ".pth.tar": ".safetensors",  # needs PyTorch, which has an environment of its own
    ".pth": ".safetensors",
}
# What a page's Python takes as there.
GIVEN = {"README.md": "import tensorflow as tf\nimages = tf.zeros((8, 224, 224, 3))"}
PYTHON_PAGES = [page for page in pages.PAGES if pages.blocks(page, "python")]


def kind(page, words):
    """How a command is checked, or None; see the docstring above."""
    program = words[0]
    if program in ("make", "pip"):
        return "environment"
    if program in ("curl", "echo") or words[:3] == ["python", "-m", "noah_tf.serving"]:
        return "page" if "demo" in words else "served" if page == SERVED_PAGE else None
    if program != "python" or not re.match(r"(trainers|benchmarks)/\w+\.py$", words[1]):
        return None
    quick = not any(w in ("imagenet_v2:test", "--dry_run") or w.startswith("study/") for w in words)
    return "run" if page in RUN_PAGES and "trainers" in words[1] and quick else "parsed"


def commands(*kinds):
    """Page and words of all commands of some kinds."""
    return [
        (page, words)
        for page in pages.PAGES
        for words in pages.commands(page)
        if kind(page, words) in kinds
    ]


def test_at_most_three_commands_are_left_out_and_each_is_still_there():
    left_out = [" ".join(words) for _, words in commands(None)]
    assert len(left_out) == len(UNRUNNABLE) <= 3, left_out
    for start in UNRUNNABLE:
        assert sum(line.startswith(start) for line in left_out) == 1, start


@pytest.mark.parametrize("page", pages.PAGES)
def test_every_block_is_one_that_these_tests_see(page):
    assert {block.language for block in pages.blocks(page)} <= {"bash", "python", "text", "bibtex"}
    prose = pages.prose(page)
    assert not re.search(r"\n\n(    |\t)\S", prose)  # indented blocks
    assert "```" not in prose and "~~~" not in prose


def run_python(page):
    """Runs a page's Python in this folder."""
    code = "".join(block.code for block in pages.blocks(page, "python"))
    for name in set(re.findall(r'"(\w+)\.pth', code)):
        noah_tf.save_official_weights(noah_tf.create_model(name), f"{name}.safetensors")
    namespace = {}
    exec(GIVEN.get(page, ""), namespace)
    for block in pages.blocks(page, "python"):
        code = block.code
        for part, replacement in REPLACED.items():
            code = code.replace(part, replacement)
        if not code.startswith(">>> "):
            assert ">>>" not in code
            # At its line of the page, for tracebacks.
            code = "\n" * (block.line - 1) + code
            exec(compile(code, str(REPOSITORY / page), "exec"), namespace)
            continue
        test = doctest.DocTestParser().get_doctest(code, namespace, page, page, block.line - 1)
        said = io.StringIO()
        results = doctest.DocTestRunner().run(test, out=said.write, clear_globs=False)
        assert results.attempted and not results.failed, said.getvalue()
        namespace.update(test.globs)


@pytest.mark.parametrize(
    "page",
    [
        # It builds seven models of the paper.
        pytest.param(page, marks=[slow_on_one_stack] if page == "docs/models.md" else [])
        for page in PYTHON_PAGES
        if page != SERVED_PAGE
    ],
)
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python(page)


def test_what_is_replaced_and_given_is_asked_for():
    code = {page: "".join(b.code for b in pages.blocks(page, "python")) for page in PYTHON_PAGES}
    assert all(part in "".join(code.values()) for part in REPLACED)
    assert all("images" in code[page] for page in GIVEN)


def test_a_wrong_example_is_noticed(tmp_path, monkeypatch):
    for code in (">>> 1 + 1\n3\n", "raise ZeroDivisionError\n"):
        block = pages.Block("README.md", 1, "python", code)
        monkeypatch.setattr(pages, "blocks", lambda *_, block=block: [block])
        with pytest.raises((AssertionError, ZeroDivisionError)):
            run_python("README.md")


def test_commands_are_what_their_programs_take():
    found = [words[1:] for _, words in commands("run", "parsed")]
    wrong = [
        ["trainers/train.py", "--config", "configs/quickstart.py", "--workdri", "runs"],
        ["trainers/train.py", "--config", "configs/quickstart.py", "--config.train.epoch=3"],
        ["benchmarks/accuracy.py", "--output", "study", "--setting", "imagenet"],
    ]
    commands_here = [(REPOSITORY, *words) for words in found + wrong]
    ends = run_forked(commands_here, only_parse=True)
    for words, end in zip(found, ends, strict=False):
        assert end.returncode == 0, f"{words}: {end.stderr}"
    assert all(end.returncode > 0 for end in ends[len(found) :]), ends[len(found) :]


def test_what_sets_up_environments_exists():
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    makefile = (REPOSITORY / "Makefile").read_text()
    for page, words in commands("environment"):
        if words[0] == "make":
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in words[1:])
            continue
        assert words[:3] == ["pip", "install", "-e"], page
        extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", words[3])[1]
        assert set(filter(None, [extras])) <= set(setup["options.extras_require"]), page


def test_the_page_to_try_a_model_is_called_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _, words in commands("page"):
        assert serving(words[3:]) == 1
        # Behind its options it looks for the model.
        folder = words[words.index("--model-dir") + 1]
        assert capsys.readouterr().err == f"There is no folder {folder}.\n"


# On Keras 2 test_command_lines.py runs the same programs.
@slow_on_one_stack.with_args(minutes=2)
def test_commands_run(tfds_dir, tmp_path):
    for name in ("trainers", "configs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    data = f"--config.data.data_dir={tfds_dir}"
    tiny = {
        "trainers/train.py": (*SMALL, data, "--config.train.epochs=1"),
        "trainers/evaluate.py": ("--mistakes=1",),
        "trainers/explain.py": ("--images=4",),
        "trainers/export.py": ("--warmup_batch_sizes=1",),
    }
    done, printed = [], dict.fromkeys(RUN_PAGES, "")
    for page, words in commands("run"):
        if words in done:
            continue
        done.append(words)
        # There are 200 pictures.
        arguments = [word.replace("[:300]", "[:100]") for word in words[1:]]
        process = subprocess.run(
            [sys.executable, *arguments, *tiny[words[1]]],
            cwd=tmp_path,
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert process.returncode == 0, f"{words}: {process.stderr}"
        printed[page] += process.stdout
    for block in pages.blocks("docs/evaluation.md", "text"):
        assert pages.shape(block.code) <= pages.shape(printed[block.page])
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    assert {"maps.npz", "groups.png", "runs/noah/explain.png"} <= written
    assert "saved_models/digits/1/saved_model.pb" in written


@pytest.mark.parametrize("page", pages.PAGES)
def test_links_lead_somewhere(page):
    folder = (REPOSITORY / page).parent
    for link in pages.links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else REPOSITORY / page
        assert target.is_file() or target.is_dir(), link
        if anchor:
            assert anchor in pages.anchors(str(target.relative_to(REPOSITORY))), link


def test_the_api_has_all_public_names():
    named = re.findall(r"^::: (\S+)$", "".join(map(pages.text, pages.PAGES)), re.MULTILINE)
    assert len(named) == len(set(named))
    assert {f"noah_tf.{name}" for name in noah_tf.__all__} - {"noah_tf.__version__"} <= set(named)
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__, name


def test_the_figures_are_those_that_are_drawn(tmp_path):
    runpy.run_path(str(REPOSITORY / "docs" / "figures.py"))["draw"](tmp_path)
    drawn = {path.name: path for path in tmp_path.iterdir()}
    committed = {path.name: path for path in (REPOSITORY / "docs").glob("mathematics_*")}
    assert set(drawn) == set(committed)
    for name, path in committed.items():
        old, new = path.read_text(), drawn[name].read_text()
        version = re.compile("Matplotlib v[0-9.]+")
        if version.search(old)[0] == version.search(new)[0]:  # others draw otherwise
            old, new = (np.array(re.findall(r"-?\d+\.\d+", svg), float) for svg in (old, new))
            np.testing.assert_allclose(new, old, atol=0.01)


def test_figures_and_pictures_are_small():
    for path in (REPOSITORY / "docs").rglob("*.*"):
        assert path.stat().st_size < 300_000, path
