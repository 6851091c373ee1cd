"""Measures the times of functions in turns, so that other load on the machine affects all alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def clocks() -> np.ndarray:
    """Returns the wall-clock time and the CPU time of this process, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def seconds_of(call: Callable[[], Any], calls: int = 1) -> np.ndarray:
    """Returns the mean wall-clock time and CPU time of a call, in seconds."""
    start = clocks()
    for _ in range(calls):
        call()
    return (clocks() - start) / calls


def seconds_in_turns(
    turns: Mapping[str, Callable[[], Any]], repeats: int, calls: int = 1, warm_up: bool = False
) -> dict[str, np.ndarray]:
    """Measures functions in turns.

    Args:
        turns: name → function without arguments.
        repeats: number of turns of each function.
        calls: number of calls in a turn.
        warm_up: whether each turn starts with a pause, because threads of the previous function
            may still be spinning, and with a call that is not measured, because the function's
            own threads may be asleep.

    Returns:
        A dict name → array (repeats, 2) with the wall-clock and CPU seconds per call.
    """
    times: dict[str, list[np.ndarray]] = {name: [] for name in turns}
    for repeat in range(repeats):
        # The order alternates, so that each function goes first equally often.
        for name in list(turns)[:: 1 if repeat % 2 else -1]:
            if warm_up:
                time.sleep(0.05)
                turns[name]()
            times[name].append(seconds_of(turns[name], calls))
    return {name: np.array(rows) for name, rows in times.items()}
