"""What ends a run early: SIGTERM and SIGINT as a request to stop, and the loss of a worker."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from noah_tf.utils import distribute
from noah_tf.utils.paths import Path

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# The errors that a worker raises when another worker is gone.
_LOST_WORKER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class Interrupted(Exception):
    """A run was asked to stop, and has saved its state.

    Args:
        message: what was saved, and how to resume.
        signum: the signal that asked; None if another worker was asked.
    """

    def __init__(self, message: str, signum: int | None = None) -> None:
        super().__init__(message)
        self.signum = signum


class StopRequest:
    """True once the process was asked to stop.

    Attributes:
        signum: the signal that asked, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    def __bool__(self) -> bool:
        return self.signum is not None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within it, the first SIGTERM or SIGINT only sets the `StopRequest` that it yields.

    A second signal works as usual. Python handles signals in the main thread, so in another thread
    the request is never set.

    Example:

    >>> with stop_requests() as stop:
    ...     while not stop:
    ...         step()
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    old_handlers = {signum: signal.getsignal(signum) for signum in _SIGNALS}

    def handle(signum: int, _: Any) -> None:
        request.signum = signum
        # print fails if the signal arrives while another print runs.
        os.write(1, f"\n{signal.Signals(signum).name}: saving after this step.\n".encode())
        _restore(old_handlers)

    for signum in _SIGNALS:
        signal.signal(signum, handle)
    try:
        yield request
    finally:
        _restore(old_handlers)


def _restore(handlers: dict) -> None:
    for signum, handler in handlers.items():
        # None is a handler that was not installed from Python, which Python cannot restore.
        if handler is not None:
            signal.signal(signum, handler)


@contextlib.contextmanager
def lost_workers_named(strategy: tf.distribute.Strategy, workdir: Path) -> Iterator[None]:
    """Within it, the loss of another worker raises ConnectionError.

    Args:
        strategy: the distribution strategy of the run.
        workdir: the folder of the run.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if not distribute.is_multi_worker(strategy) or not isinstance(error, _LOST_WORKER):
            raise
        raise ConnectionError(
            f"Another worker is gone ({str(error).splitlines()[0][:200]}): start all workers "
            f"again with the same command; they go on from the last checkpoint in {workdir}."
        ) from error
