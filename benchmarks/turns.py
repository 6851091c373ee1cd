"""Times of several things that take turns, so that what else the machine does meets all alike."""

import time

import numpy as np


def clocks():
    """Seconds of the wall's clock, and of all processors together."""
    return np.array([time.perf_counter(), time.process_time()])


def seconds_of(call, calls=1):
    """Seconds that a call takes, by both clocks, on the average of several."""
    before = clocks()
    for _ in range(calls):
        call()
    return (clocks() - before) / calls


def seconds_in_turns(turns, repeats, calls=1, warm_up=False):
    """Seconds that each call takes, by both clocks.

    Args:
        turns: dict of name to a function without arguments.
        repeats: how often each has its turn.
        calls: how often it is called in a turn.
        warm_up: whether each turn begins with a rest, as threads of the one before may still spin,
            and with a call that is not measured, as its own may sleep.

    Returns:
        Dict of name to an array (repeats, 2).
    """
    times = {name: [] for name in turns}
    for repeat in range(repeats):
        # Each goes first as often as the other.
        for name in list(turns)[:: 1 if repeat % 2 else -1]:
            if warm_up:
                time.sleep(0.05)
                turns[name]()
            times[name].append(seconds_of(turns[name], calls))
    return {name: np.array(rows) for name, rows in times.items()}
