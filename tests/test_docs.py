"""Every code block of the README and the pages is run or checked, and every link has a target.

Python blocks of a page run in order in one namespace; blocks that start with `>>>` are doctests.

Bash blocks are checked line by line. `kind` returns how:
    run: the trainers' commands of three pages run with tiny settings, one after the other, in an
        empty folder.
    parsed: the other commands of trainers, benchmarks and docs take minutes to days, or data that
        are not here. Their programs parse the arguments, and the trainers load the recipe.
    served: test_saved_models.py sends these requests to a server.
    demo: tests/serving/test_demo.py opens the demo page in a browser. Here its command runs.
    deployed: test_saved_models.py and test_kubernetes.py check the files, and the names in the
        commands of kubectl. Here the files exist.
    environment: for make and pip, the target and the extra exist; an environment is activated where
        it was made.
    cluster: no cluster is here. tests/trainers/test_cluster_files.py checks the files that the
        commands name, and the values of TF_CONFIG.
    tests: for pytest, the file exists and `-k` selects something in it.
    None: the command is in UNRUNNABLE.

Text blocks are a program's output. They are compared with what the program prints here, except for
the numbers.
"""

import configparser
import doctest
import importlib
import io
import re
import runpy
import shutil

import numpy as np
import pages
import pytest
import yaml
from forked_commands import run_forked
from recipes import SMALL
from shared_data import REPOSITORY
from stacks import slow_on_one_stack

import noah_tf
from noah_tf.serving.__main__ import main as serving

pytestmark = pytest.mark.one_stack

# Docker is not available to the tests.
UNRUNNABLE = {"docker run --detach --rm --name digits -p": "a server of one model"}
RUN_PAGES = ("README.md", "docs/attention.md", "docs/evaluation.md")
SERVED_PAGES = ("docs/serving.md", "docs/client.md")
# Replacements in a page's Python before it runs.
REPLACED = {
    'weights="imagenet"': "weights=None",  # a download
    'weights="official"': "weights=None",  # likewise
    "images[:1500], labels[:1500], epochs=5": "images[:64], labels[:64], epochs=1",
    ".pth.tar": ".safetensors",  # needs PyTorch, which has an environment of its own
    ".pth": ".safetensors",
}
# Flags that make the training of configs/finetune.py small.
TINY_FINETUNING = (
    "--config.model.backbone_args.weights=None",
    "--config.preprocess.image_size=(64, 64)",
    "--config.preprocess.resize_size=72",
    "--config.train.batch_size=8",
    "--config.train.epochs=1",
    "--config.train.frozen_epochs=0",
    "--config.schedule.warmup_epochs=0.0",
)
# These pages build models of Keras applications or of the paper.
PAGES_WITH_LARGE_MODELS = ("README.md", "docs/models.md")
PYTHON_PAGES = [page for page in pages.PAGES if pages.blocks(page, "python")]


def kind(page, words):
    """Returns how a command is checked, or None; see the docstring of this module."""
    program = words[0]
    if program in ("make", "pip", "source") or words[1:3] == ["-m", "venv"]:
        return "environment"
    if words[:2] == ["docker", "compose"] or (program == "kubectl" and page == "docs/serving.md"):
        return "deployed"
    if program in ("sbatch", "kubectl", "export"):
        return "cluster"
    shell = ("curl", "echo", "mkdir", "openssl")
    if program in shell or words[:3] == ["python", "-m", "noah_tf.serving"]:
        return "demo" if "demo" in words else "served" if page in SERVED_PAGES else None
    if words[1:3] == ["-m", "pytest"]:
        return "tests"
    if program != "python" or not re.match(r"(trainers|benchmarks|docs)/\w+\.py$", words[1]):
        return None
    quick = not any(w in ("imagenet_v2:test", "--dry_run") or w.startswith("study/") for w in words)
    return "run" if page in RUN_PAGES and "trainers" in words[1] and quick else "parsed"


def commands(*kinds):
    """Returns (page, words) of all commands of the given kinds."""
    return [
        (page, words)
        for page in pages.PAGES
        for words in pages.commands(page)
        if kind(page, words) in kinds
    ]


def test_only_one_command_is_unrunnable():
    unrunnable = [" ".join(words) for _, words in commands(None)]
    assert len(unrunnable) == len(UNRUNNABLE) == 1, unrunnable
    for start in UNRUNNABLE:
        assert sum(line.startswith(start) for line in unrunnable) == 1, start


@pytest.mark.parametrize("page", pages.PAGES)
def test_all_blocks_are_fenced_and_of_known_languages(page):
    assert {block.language for block in pages.blocks(page)} <= {"bash", "python", "text", "bibtex"}
    prose = pages.prose(page)
    assert not re.search(r"\n\n(    |\t)\S", prose)  # indented blocks
    assert "```" not in prose and "~~~" not in prose


def run_python(page):
    """Runs a page's Python in the current folder."""
    code = "".join(block.code for block in pages.blocks(page, "python"))
    for name in set(re.findall(r'"(\w+)\.pth', code)):
        noah_tf.save_official_weights(noah_tf.create_model(name), f"{name}.safetensors")
    namespace = {}
    for block in pages.blocks(page, "python"):
        code = block.code
        for part, replacement in REPLACED.items():
            code = code.replace(part, replacement)
        if not code.startswith(">>> "):
            assert ">>>" not in code
            # Tracebacks then show the line of the page.
            code = "\n" * (block.line - 1) + code
            exec(compile(code, str(REPOSITORY / page), "exec"), namespace)
            continue
        test = doctest.DocTestParser().get_doctest(code, namespace, page, page, block.line - 1)
        report = io.StringIO()
        results = doctest.DocTestRunner().run(test, out=report.write, clear_globs=False)
        assert results.attempted and not results.failed, report.getvalue()
        namespace.update(test.globs)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[slow_on_one_stack] if page in PAGES_WITH_LARGE_MODELS else [])
        for page in PYTHON_PAGES
        if page not in SERVED_PAGES
    ],
)
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python(page)


def test_all_replacements_occur():
    code = "".join(b.code for page in PYTHON_PAGES for b in pages.blocks(page, "python"))
    assert all(part in code for part in REPLACED)


def test_wrong_examples_fail(tmp_path, monkeypatch):
    for code in (">>> 1 + 1\n3\n", "raise ZeroDivisionError\n"):
        block = pages.Block("README.md", 1, "python", code)
        monkeypatch.setattr(pages, "blocks", lambda *_, block=block: [block])
        with pytest.raises((AssertionError, ZeroDivisionError)):
            run_python("README.md")


@pytest.mark.slow
def test_programs_parse_the_commands():
    correct = [words[1:] for _, words in commands("run", "parsed")]
    wrong = [
        ["trainers/train.py", "--config", "configs/quickstart.py", "--workdri", "runs"],
        ["trainers/train.py", "--config", "configs/quickstart.py", "--config.train.epoch=3"],
        ["benchmarks/accuracy.py", "--output", "study", "--setting", "imagenet"],
    ]
    results = run_forked([(REPOSITORY, *words) for words in correct + wrong], only_parse=True)
    for words, result in zip(correct, results, strict=False):
        assert result.returncode == 0, f"{words}: {result.stderr}"
    refused = results[len(correct) :]
    assert all(result.returncode > 0 for result in refused), refused


def test_make_targets_and_extras_exist():
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    makefile = (REPOSITORY / "Makefile").read_text()
    for page, words in commands("environment"):
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in targets), page
            continue
        if words[0] in ("python", "source"):
            assert words in (["python", "-m", "venv", ".venv"], ["source", ".venv/bin/activate"])
            continue
        assert words[:3] == ["pip", "install", "-e"], page
        extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", words[3])[1]
        assert set(filter(None, [extras])) <= set(setup["options.extras_require"]), page


def test_deployed_files_and_profiles_exist():
    for _, words in commands("deployed"):
        if words[0] == "kubectl" and words[1] != "apply":
            continue
        file = REPOSITORY / words[words.index("-f") + 1]
        documents = list(yaml.safe_load_all(file.read_text()))
        if words[0] == "kubectl":
            assert all("kind" in document for document in documents)
        elif "--profile" in words:
            profile = words[words.index("--profile") + 1]
            services = documents[0]["services"].values()
            assert any(profile in service.get("profiles", ()) for service in services)


def test_pytest_commands_select_tests():
    for page, words in commands("tests"):
        code = (REPOSITORY / words[3]).read_text()
        keyword = words[words.index("-k") + 1] if "-k" in words else ""
        assert re.search(rf"def test_\w*{keyword}", code), (page, words)


def test_files_of_cluster_commands_exist():
    names = [
        word for _, words in commands("cluster") for word in words if word.startswith("trainers/")
    ]
    assert {name.rpartition("/")[2] for name in names} == {"kubernetes_job.yaml", "slurm.sbatch"}
    assert all((REPOSITORY / name).is_file() for name in names)


def test_demo_page_commands_parse(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _, words in commands("demo"):
        assert serving(words[3:]) == 1
        # After parsing its options, the program looks for the model.
        folder = words[words.index("--model-dir") + 1]
        assert capsys.readouterr().err == f"There is no folder {folder}.\n"


# On Keras 2, test_command_lines.py runs the same programs.
@slow_on_one_stack.with_args(minutes=2)
def test_commands_run(tfds_dir, shapes, tmp_path):
    for name in ("trainers", "configs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    shutil.copytree(shapes / "train", tmp_path / "photos")
    shutil.copytree(shapes / "test", tmp_path / "new_photos")
    tiny = {
        "configs/finetune.py": TINY_FINETUNING,
        "configs/quickstart.py": (
            *SMALL,
            f"--config.data.data_dir={tfds_dir}",
            "--config.train.epochs=1",
        ),
        "trainers/predict.py": (),
        "trainers/evaluate.py": ("--mistakes=1",),
        "trainers/explain.py": ("--images=4",),
        "trainers/export.py": ("--warmup_batch_sizes=1",),
    }
    unique = []
    for page, words in commands("run"):
        if words not in [known for _, known in unique]:
            unique.append((page, words))

    def key(words):
        is_training = words[1] == "trainers/train.py"
        return words[words.index("--config") + 1].split(":")[0] if is_training else words[1]

    # The test split has 200 images.
    processes = run_forked(
        [
            (tmp_path, *(word.replace("[:300]", "[:100]") for word in words[1:]), *tiny[key(words)])
            for _, words in unique
        ],
        timeout=900,
    )
    printed = dict.fromkeys(RUN_PAGES, "")
    for (page, words), process in zip(unique, processes, strict=True):
        assert process.returncode == 0, f"{words}: {process.stderr}"
        printed[page] += process.stdout
    for block in pages.blocks("docs/evaluation.md", "text"):
        assert pages.shape(block.code) <= pages.shape(printed[block.page])
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    assert {"maps.npz", "groups.png", "runs/noah/explain.png", "answers.csv"} <= written
    assert "saved_models/digits/1/saved_model.pb" in written


@pytest.mark.parametrize("page", pages.PAGES)
def test_links_have_targets(page):
    folder = (REPOSITORY / page).parent
    for link in pages.links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else REPOSITORY / page
        assert target.is_file() or target.is_dir(), link
        if anchor:
            assert anchor in pages.anchors(str(target.relative_to(REPOSITORY))), link


def test_api_pages_have_all_public_names():
    names = re.findall(r"^::: (\S+)$", "".join(map(pages.text, pages.PAGES)), re.MULTILINE)
    assert len(names) == len(set(names))
    assert {f"noah_tf.{name}" for name in noah_tf.__all__} - {"noah_tf.__version__"} <= set(names)
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__, name


@pytest.mark.parametrize(
    ("script", "pattern"), [("figures", "mathematics_*.svg"), ("floors", "architecture.svg")]
)
def test_committed_figures_are_current(script, pattern, tmp_path):
    runpy.run_path(str(REPOSITORY / "docs" / f"{script}.py"))["draw"](tmp_path)
    drawn = {path.name: path for path in tmp_path.iterdir()}
    committed = {path.name: path for path in (REPOSITORY / "docs").glob(pattern)}
    assert set(drawn) == set(committed)
    for name, path in committed.items():
        old, new = path.read_text(), drawn[name].read_text()
        version = re.compile("Matplotlib v[0-9.]+")
        if version.search(old)[0] != version.search(new)[0]:
            continue  # another version draws the same figure with other numbers
        old, new = (np.array(re.findall(r"-?\d+\.\d+", svg), float) for svg in (old, new))
        hint = f"{name} is not what `python docs/{script}.py` draws today: run it."
        assert old.shape == new.shape, hint
        np.testing.assert_allclose(new, old, atol=0.01, err_msg=hint)


def test_files_of_the_pages_are_small():
    for path in (REPOSITORY / "docs").rglob("*.*"):
        assert path.stat().st_size < 300_000, path
