"""The time that the client and the load test measure with, and wait by."""

import dataclasses
import time
from collections.abc import Callable

_MIN_PAUSE, _MAX_PAUSE = 0.1, 1.0  # seconds between two calls of `Clock.wait_for`


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

    def wait_for(
        self, check: Callable[[float], tuple[bool, str]], seconds: float
    ) -> tuple[bool, str, float]:
        """Calls a function, at least once, until it returns True or the time is over.

        Args:
            check: function of a timeout in seconds that returns whether to stop, and the state in
                words.
            seconds: how long to wait at most.

        Returns:
            Whether the function returned True, the state in words, and the seconds that it took.
        """
        begin, pause = self.now(), _MIN_PAUSE
        while True:
            remaining = begin + seconds - self.now()
            done, state = check(max(remaining, _MAX_PAUSE))
            elapsed = self.now() - begin
            if done or elapsed >= seconds:
                return done, state, elapsed
            self.sleep(min(pause, seconds - elapsed))
            pause = min(2 * pause, _MAX_PAUSE)


SYSTEM_CLOCK = Clock()
