"""SIGTERM and SIGINT as a wish that a loop can look at, instead of the end of the process."""

import contextlib
import os
import signal
import threading

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """A run was asked to stop, and has saved its state.

    Args:
        message: what was saved, and how to go on.
        signum: the signal that asked; None if another worker was asked.
    """

    def __init__(self, message, signum=None):
        super().__init__(message)
        self.signum = signum


class StopRequest:
    """Whether the process was asked to stop.

    Attributes:
        signum: the signal that asked, or None.
    """

    def __init__(self):
        self.signum = None

    def __bool__(self):
        return self.signum is not None


@contextlib.contextmanager
def stop_requests():
    """Within it, the first SIGTERM or SIGINT is noted in the `StopRequest` that it yields.

    A second one works as usual. In a thread, where Python does not handle signals, none is noted.

    Example:

    >>> with stop_requests() as stop:
    ...     while not stop:
    ...         step()
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}

    def note(signum, _):
        request.signum = signum
        # Not print, which fails where the signal came in the middle of another one.
        os.write(1, f"\n{signal.Signals(signum).name}: saving after this step.\n".encode())
        _restore(before)

    for signum in _SIGNALS:
        signal.signal(signum, note)
    try:
        yield request
    finally:
        _restore(before)


def _restore(handlers):
    for signum, handler in handlers.items():
        # None: a handler that was not installed from Python, which cannot be put back.
        if handler is not None:
            signal.signal(signum, handler)
