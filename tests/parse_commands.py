"""Parses command lines of this checkout with their own programs, which go no further.

    python tests/parse_commands.py < commands.json

takes a list of lists, script and arguments, and prints a list of pairs, exit code and what stood on
standard error. TensorFlow is imported once, for a process of one takes seconds.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import pathlib
import runpy
import sys

import noah_tf.evaluation.report
import noah_tf.map_measures
import noah_tf.plan  # noqa: F401


def parse(words):
    """Exit code and standard error of one."""
    script, *arguments = words
    sys.path.insert(0, str(pathlib.Path(script).parent.resolve()))
    if script.startswith("trainers/"):
        arguments.append("--only_check_args")  # absl's: loads the recipe, too
    else:
        argparse.ArgumentParser.parse_args = _parse_and_exit
    sys.argv = [script, *arguments]
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            return end.code or 0, stderr.getvalue()
    return -1, f"{script} did not stop behind its arguments"


def _parse_and_exit(parser, _parse=argparse.ArgumentParser.parse_args):
    _parse(parser)
    sys.exit()


if __name__ == "__main__":
    # A process each: flags are defined once in a process.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        print(json.dumps(pool.map(parse, json.load(sys.stdin), chunksize=1)))
