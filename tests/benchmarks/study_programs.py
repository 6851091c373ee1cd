"""Runs the studies' programs in benchmarks/, and checks what they say about wrong arguments."""

import subprocess
import sys

import pytest
from head_helpers import child_environment
from shared_data import REPOSITORY


def run_program(name, *arguments, timeout=300, **environment):
    """Runs benchmarks/NAME.py in a process of its own, and returns the completed process."""
    command = [sys.executable, str(REPOSITORY / "benchmarks" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(
        command,
        env=child_environment(CUDA_VISIBLE_DEVICES="-1", **environment),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def check_argument_error(program, arguments, message, output, monkeypatch, capsys):
    """Checks that a program exits with a message, and does not make its --output folder."""
    monkeypatch.setattr(sys, "argv", [f"{program.__name__}.py", f"--output={output}", *arguments])
    with pytest.raises(SystemExit) as raised:
        program.main()
    assert raised.value.code == 2
    assert message in capsys.readouterr().err
    assert not output.exists()
