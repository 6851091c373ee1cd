"""Runs command lines of this checkout, each in a fork of one process.

    python tests/forked_commands.py < commands.json

takes a list of [folder, only_parse, script, *arguments], and prints a list of [exit code, standard
output, standard error]. Importing TensorFlow takes seconds, and the forks share one import.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import traceback

from head_helpers import child_environment
from shared_data import REPOSITORY


def run_forked(commands, only_parse=False, timeout=540):
    """Runs command lines one after the other.

    Args:
        commands: a list of (folder to run it in, script in this checkout, *arguments).
        only_parse: whether each program ends as soon as it has parsed its arguments and loaded its
            recipe.
        timeout: seconds for all commands together.

    Returns:
        A list of `subprocess.CompletedProcess`.
    """
    commands = [[str(folder), only_parse, *map(str, words)] for folder, *words in commands]
    process = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(commands),
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    results = json.loads(process.stdout.splitlines()[-1])
    return [
        subprocess.CompletedProcess(command[2:], *result)
        for command, result in zip(commands, results, strict=True)
    ]


def run_trainers(folder, *commands):
    """Runs programs of trainers/ one after the other, each of which has to succeed.

    Args:
        folder: the folder to run them in.
        *commands: tuples of a program's name and its arguments, such as ("train", "--dry_run").

    Returns:
        A list of `subprocess.CompletedProcess`.
    """
    processes = run_forked(
        [(folder, f"trainers/{name}.py", *arguments) for name, *arguments in commands]
    )
    for process in processes:
        assert process.returncode == 0, (process.args, process.stderr)
    return processes


def run_command(folder, name, *arguments):
    """Runs trainers/NAME.py in a fresh interpreter, as a user does."""
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "trainers" / f"{name}.py"), *map(str, arguments)],
        cwd=folder,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )


def error_lines(process):
    """Returns the standard error of a program without what TensorFlow and absl log."""
    lines = process.stderr.strip().splitlines()
    return "\n".join(line for line in lines if line[:5] not in ("I0000", "W0000", "E0000", "WARNI"))


def _run(command):
    folder, only_parse, script, *arguments = command
    script = str(REPOSITORY / script)
    sys.path.insert(0, str(pathlib.Path(script).parent))
    sys.argv = [script, *arguments]
    if only_parse and "/trainers/" in script:
        sys.argv.append("--only_check_args")  # This flag of absl also loads the recipe.
    elif only_parse:
        argparse.ArgumentParser.parse_args = _parse_and_exit
    os.chdir(folder)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as error:
            code = error.code or 0
            if isinstance(code, str):  # The interpreter prints such a code, and exits with 1.
                print(code, file=sys.stderr)
                code = 1
        except BaseException:
            traceback.print_exc()
            code = 1
    return code, out.getvalue(), err.getvalue()


def _parse_and_exit(parser, _parse=argparse.ArgumentParser.parse_args):
    _parse(parser)
    sys.exit()


if __name__ == "__main__":
    import noah_tf.evaluation.report
    import noah_tf.explain.measures
    import noah_tf.training.dry_run  # noqa: F401

    # Each command needs a process of its own, because absl defines each flag once per process.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        print(json.dumps(pool.map(_run, json.load(sys.stdin), chunksize=1)))
