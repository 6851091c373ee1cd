"""Measures the memory of a head's training step in a process of its own.

TensorFlow's CPU allocator keeps freed memory, so the memory that is left from the initializers of a
large head hides what its steps take, and the heap is fragmented. With `return_freed` the allocators
return freed memory to the system at once.
"""

import json
import os
import pathlib
import subprocess
import sys

import head_cases
import numpy as np

STEPS = 5
RETURN_FREED_ENVIRONMENT = {
    "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1",
    # An option of glibc, which PyTorch uses as well: blocks of 1 MiB are never part of its heap.
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
}


def peak(shape, batch, kind, repeats=5, return_freed=False, **options):
    """Returns the highest resident size in training minus that before the first step, in MiB.

    Args:
        shape: `head_cases.Shape`.
        batch: B.
        kind: "noah", "gap" or "reference".
        repeats: the number of processes.
        return_freed: whether freed memory is returned to the system at once, see above.
        **options: arguments of the head.

    Returns:
        Array (repeats,), one value per process.
    """
    arguments = json.dumps([shape, batch, kind, options])
    return np.array([_in_new_process(arguments, return_freed) for _ in range(repeats)])


def _in_new_process(arguments, return_freed):
    script = pathlib.Path(__file__).resolve()
    process = subprocess.run(
        [sys.executable, str(script), arguments],
        env={**os.environ, **(RETURN_FREED_ENVIRONMENT if return_freed else {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise RuntimeError(f"The measurement of {arguments} failed: {process.stderr[-2000:]}")
    return float(process.stdout.split()[-1])


def _status(key):
    for line in pathlib.Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(f"/proc/self/status has no {key}.")


def _measure(arguments):
    shape, batch, kind, options = json.loads(arguments)
    _, train = getattr(head_cases, kind)(head_cases.Shape(*shape), batch, **options)
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets VmHWM
    before = _status("VmRSS")
    for _ in range(STEPS):
        train()
    print(_status("VmHWM") - before)


if __name__ == "__main__":
    _measure(sys.argv[1])
