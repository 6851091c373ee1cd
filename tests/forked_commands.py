"""Runs command lines of this checkout, each in a fork of one process.

    python tests/forked_commands.py < orders.json

takes a list of [folder, only_parse, script, *arguments], and prints as many of [exit code, standard
output, standard error]. TensorFlow is imported once, for a process of one takes seconds. With
only_parse a program goes no further than its arguments and its recipe.
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
from typing import NamedTuple

from head_helpers import child_environment
from shared_data import REPOSITORY


class End(NamedTuple):
    """What is left of a program, named as in subprocess."""

    returncode: int
    stdout: str
    stderr: str


def run_forked(commands, only_parse=False):
    """Runs command lines and waits for all.

    Args:
        commands: a list of (folder to run it in, script in this checkout, *arguments).
        only_parse: see above.

    Returns:
        A list of `End`.
    """
    orders = [[str(folder), only_parse, *map(str, words)] for folder, *words in commands]
    process = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(orders),
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return [End(*end) for end in json.loads(process.stdout.splitlines()[-1])]


def _end(order):
    folder, only_parse, script, *arguments = order
    script = str(REPOSITORY / script)
    sys.path.insert(0, str(pathlib.Path(script).parent))
    sys.argv = [script, *arguments]
    if only_parse and "/trainers/" in script:
        sys.argv.append("--only_check_args")  # absl's: loads the recipe, too
    elif only_parse:
        argparse.ArgumentParser.parse_args = _parse_and_exit
    os.chdir(folder)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code or 0
            if isinstance(code, str):  # as the interpreter does
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

    # A process each: flags are defined once in a process.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        print(json.dumps(pool.map(_end, json.load(sys.stdin), chunksize=1)))
