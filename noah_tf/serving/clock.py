"""The time that the client and the load test measure with, and wait by."""

import dataclasses
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Clock:
    """The functions that tell the time and let it pass. Tests replace them.

    Attributes:
        now: returns the seconds since some fixed moment.
        sleep: waits for a number of seconds.
        cpu: returns the CPU seconds that this process has used.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    cpu: Callable[[], float] = time.process_time


SYSTEM_CLOCK = Clock()
