"""How much memory a training step of a head takes, each in a fresh process.

TensorFlow's CPU allocator keeps what is freed, so that what the initialisers of a large head have
left hides what its steps take; and a heap has holes. With `give_back` all of it goes back to the
system at once.
"""

import json
import os
import pathlib
import subprocess
import sys

import head_cases
import numpy as np

STEPS = 5
GIVING_BACK = {
    "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1",
    # Of glibc, for PyTorch too: blocks of 1 MiB are never part of its heap.
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
}


def peak(shape, batch, kind, repeats=5, give_back=False, **options):
    """The highest resident size in training over that before the first step, in MiB.

    Args:
        shape: `head_cases.Shape`.
        batch: B.
        kind: "noah", "gap" or "reference".
        repeats: how many processes to measure.
        give_back: whether freed memory is given back to the system at once, see above.
        **options: of the head.

    Returns:
        Array (repeats,), one of each process.
    """
    order = json.dumps([shape, batch, kind, options])
    return np.array([_in_a_process(order, give_back) for _ in range(repeats)])


def _in_a_process(order, give_back):
    here = pathlib.Path(__file__).resolve()
    done = subprocess.run(
        [sys.executable, str(here), order],
        env={**os.environ, **(GIVING_BACK if give_back else {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"The measurement of {order} failed: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def _status(key):
    for line in pathlib.Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(f"/proc/self/status has no {key}.")


def _measure(order):
    shape, batch, kind, options = json.loads(order)
    _, train = getattr(head_cases, kind)(head_cases.Shape(*shape), batch, **options)
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets VmHWM
    before = _status("VmRSS")
    for _ in range(STEPS):
        train()
    print(_status("VmHWM") - before)


if __name__ == "__main__":
    _measure(sys.argv[1])
